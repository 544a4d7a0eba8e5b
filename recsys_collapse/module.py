"""CTRModule: the one LightningModule, for every backbone, SE or ME.

Shapes: B batch, N fields, n rows of a split.
"""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_collapse.embedding import coalesced
from recsys_collapse.model.backbone import Backbone, Stages
from recsys_collapse.score import SplitScore
from recsys_collapse.seeding import derive

Optimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
Regularizer = Callable[[Backbone, Stages], Tensor]
LOWEST_LR = 1e-6  # of the plateau schedule, as in FuxiCTR
STEPS_BETWEEN_CHECKS = 64  # of the loss, on an accelerator: reading it there makes the device wait for the host


class DivergedError(ValueError):
    """The loss is not a finite number."""

    kind = "diverged"

    def __init__(self, step: int, lr: float) -> None:
        super().__init__(
            f"the loss is not finite at step {step} with learning rate {lr:g}: expected a finite loss; "
            "lower the learning rate or look for extreme values in the initialisation"
        )
        self.step, self.lr = step, lr


class CTRModule(lightning.LightningModule):
    """Binary cross-entropy on logits, plus what the regularizer adds; validation AUC and log-loss on all rows at once.

    Args:
        backbone: ids (B, N) -> logits (B,).
        optimizer: parameter groups -> optimizer; see `parameter_groups`.
        seed: dropout of epoch e depends on (seed, e) alone, whatever ran before.
        fields: name of every field, for whoever reports on the embedding.
        regularizer: backbone and the stages of a batch -> what is added to the loss; None: nothing.
        lr_plateau: factor on the learning rate after an epoch without a better validation AUC; None: constant.
    """

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Optimizer,
        seed: int,
        fields: list[str],
        regularizer: Regularizer | None = None,
        lr_plateau: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.make_optimizer, self.seed, self.fields = backbone, optimizer, seed, fields
        self.regularizer, self.lr_plateau = regularizer, lr_plateau
        self.valid_score = SplitScore()
        self.epoch_metrics: dict[str, float] = {}
        """What the last finished epoch measured, in float64 (Lightning rounds what it logs to float32)."""
        self.rows = 0
        """Training rows of the running epoch so far."""
        self.train_count_D: Tensor | None = None
        """How often every id of the embedding occurs in the training data, for whoever measures; None: not known."""
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._unread: list[Tensor] = []
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group per table, `params` and `num_sets`, then one with all other parameters."""
        tables = [{"params": [table.weight], "num_sets": table.num_sets} for table in self.backbone.tables()]
        own = {id(table.weight) for table in self.backbone.tables()}
        return [*tables, {"params": [parameter for parameter in self.parameters() if id(parameter) not in own]}]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.lr_plateau is not None:
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=self.lr_plateau, patience=0, threshold=0.0, min_lr=LOWEST_LR
            )
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
        return optimizer

    def on_train_epoch_end(self) -> None:
        # Not left to Lightning: it would step after the checkpoint of the epoch was taken, and not make up for it.
        if self._plateau is not None:
            self._plateau.step(self.epoch_metrics["val/auc"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._plateau is not None:
            checkpoint["lr_plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._plateau_state = checkpoint.get("lr_plateau")  # the optimizer is not there yet

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """To a norm over all parameters, sparse gradients and fused optimizers included, which Lightning refuses."""
        if gradient_clip_val is None:
            return
        values = []
        for parameter in self.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)  # the same row may stand several times
                values.append(parameter.grad.values())
            elif parameter.grad is not None:
                values.append(parameter.grad)
        scale = gradient_clip_val / (torch.nn.utils.get_total_norm(values) + 1e-6)
        for value in values:
            value.mul_(scale.clamp(max=1.0))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x_BN, y_B = batch
        if batch_idx == 0:
            # Not in on_train_epoch_start: there, whatever fetched the first batch has moved the generator.
            torch.manual_seed(derive(self.seed, "epoch", self.current_epoch))
            self._sums, self.rows = torch.zeros(2, dtype=torch.float64), 0
        stages = self.backbone.stages(x_BN)
        loss = binary_cross_entropy_with_logits(stages.logit_B, y_B.to(torch.float32))
        penalty = self._penalty(stages)
        self._unread.append(torch.stack([loss.detach(), penalty.detach()]) * len(y_B))
        self.rows += len(y_B)
        if self.device.type == "cpu" or len(self._unread) == STEPS_BETWEEN_CHECKS:
            self._read_losses(self.global_step + 1)
        return loss if self.regularizer is None else loss + penalty

    def _penalty(self, stages: Stages) -> Tensor:
        """What the regularizer adds; never in the lower precision of mixed training, as small norms would vanish."""
        if self.regularizer is None:
            return stages.logit_B.new_zeros((), dtype=torch.float32)
        with torch.autocast(self.device.type, enabled=False):
            return self.regularizer(self.backbone, stages).to(torch.float32)

    def _read_losses(self, steps: int) -> None:
        """Add losses and penalties since the last call to the epoch's sums; stop at the first that is not finite.

        `steps` is the number of training steps begun so far: Lightning counts one when it is done.
        """
        found_S2 = torch.stack(self._unread).double().cpu()
        first_step = steps - len(found_S2)
        self._unread.clear()
        wrong = (~found_S2.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if wrong:
            raise DivergedError(first_step + wrong[0], self._lr())
        self._sums += found_S2.sum(dim=0)

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        if self._unread:  # before a best checkpoint could be taken from them
            self._read_losses(self.global_step)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x_BN, y_B = batch
        self.valid_score.update(self.backbone(x_BN), y_B)

    def on_validation_epoch_end(self) -> None:
        found = self.valid_score.compute()
        self.valid_score.reset()
        assert found.auc is not None  # a store has both classes among its validation rows
        if not math.isfinite(found.logloss):  # the epoch's last step can break weights after a finite loss
            raise DivergedError(self.global_step, self._lr())
        loss, penalty = (self._sums / self.rows).tolist()
        self.epoch_metrics = {"train/loss": loss, "val/auc": found.auc, "val/logloss": found.logloss}
        if self.regularizer is not None:
            self.epoch_metrics["train/penalty"] = penalty
        for name, value in self.epoch_metrics.items():
            self.log(name, value, prog_bar=name == "val/auc")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Logits (B,)."""
        return self.backbone(batch[0])
