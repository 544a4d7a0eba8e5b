"""CTRModule: the one LightningModule, for every backbone, SE or ME.

Shapes: B batch, N fields, n rows of a split.
"""

import math
from collections.abc import Callable, Iterable

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_collapse.model.backbone import Backbone
from recsys_collapse.score import SplitScore
from recsys_collapse.seeding import derive

Optimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
STEPS_BETWEEN_CHECKS = 64  # of the loss, on an accelerator: reading it there makes the device wait for the host


class DivergedError(ValueError):
    """The loss is not a finite number."""

    def __init__(self, step: int, lr: float) -> None:
        super().__init__(
            f"the loss is not finite at step {step} with learning rate {lr:g}: expected a finite loss; "
            "lower optimizer.lr or look for extreme values in the initialisation"
        )
        self.step, self.lr = step, lr


class CTRModule(lightning.LightningModule):
    """Binary cross-entropy on logits; validation AUC and log-loss on all rows at once.

    Args:
        backbone: ids (B, N) -> logits (B,).
        optimizer: parameters -> optimizer.
        seed: dropout of epoch e depends on (seed, e) alone, whatever ran before.
        fields: name of every field, for whoever reports on the embedding.
    """

    def __init__(self, backbone: Backbone, optimizer: Optimizer, seed: int, fields: list[str]) -> None:
        super().__init__()
        self.backbone, self.make_optimizer, self.seed, self.fields = backbone, optimizer, seed, fields
        self.valid_score = SplitScore()
        self.epoch_metrics: dict[str, float] = {}
        """What the last finished epoch measured, in float64 (Lightning rounds what it logs to float32)."""
        self._loss_sum, self._rows = 0.0, 0
        self._unread_losses: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x_BN, y_B = batch
        if batch_idx == 0:
            # Not in on_train_epoch_start: there, whatever fetched the first batch has moved the generator.
            torch.manual_seed(derive(self.seed, "epoch", self.current_epoch))
            self._loss_sum, self._rows = 0.0, 0
        loss = binary_cross_entropy_with_logits(self.backbone(x_BN), y_B.to(torch.float32))
        self._unread_losses.append(loss.detach() * len(y_B))
        self._rows += len(y_B)
        if self.device.type == "cpu" or len(self._unread_losses) == STEPS_BETWEEN_CHECKS:
            self._read_losses()
        return loss

    def _read_losses(self) -> None:
        """Add the losses since the last call to the epoch's sum; stop at the first that is NaN or infinite."""
        losses = torch.stack(self._unread_losses).tolist()
        first_step = self.global_step + 1 - len(losses)
        self._unread_losses.clear()
        for step, loss in enumerate(losses, start=first_step):
            if not math.isfinite(loss):
                raise DivergedError(step, self._lr())
            self._loss_sum += loss

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        if self._unread_losses:  # before a best checkpoint could be taken from them
            self._read_losses()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x_BN, y_B = batch
        self.valid_score.update(self.backbone(x_BN), y_B)

    def on_validation_epoch_end(self) -> None:
        found = self.valid_score.compute()
        self.valid_score.reset()
        assert found.auc is not None  # a store has both classes among its validation rows
        if not math.isfinite(found.logloss):  # the epoch's last step can break weights after a finite loss
            raise DivergedError(self.global_step, self._lr())
        loss = self._loss_sum / self._rows
        self.epoch_metrics = {"train/loss": loss, "val/auc": found.auc, "val/logloss": found.logloss}
        for name, value in self.epoch_metrics.items():
            self.log(name, value, prog_bar=name == "val/auc")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Logits (B,)."""
        return self.backbone(batch[0])
