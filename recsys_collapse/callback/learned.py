"""What a model has learned of a known answer, epoch by epoch: its logit, and which embedding set holds which component.

For `CTRModule` on validation rows whose true logit is a sum of known components (synthetic data), in eval mode and in
the weights' own precision. Of the logit: `truth.learned`. Of each set, and of h, their mean: how much of a component
can be read linearly from h^(m) alone,

    adjusted R^2 = 1 - (1 - R^2) (B - 1) / (B - 1 - rank),

R^2 of the least-squares fit of the component on h^(m), with an intercept. Over all orders of the rows its mean is 0,
whatever the width of h and however many of its units are dead; 1 is all of it; it can be a little below 0. A fit on
half of the rows, judged on the others, would need no such correction, but there what cannot be read lies at about
-rank / (B / 2 - rank): a wide layer, or a set with fewer dead units, would look worse than it is.

What one must not conclude: that what can be read was learned, or is used. h of a wide layer at random initialisation
lets much be read, of `linear` above all: read every value against epoch -1. A set may hold a component that F makes
nothing of (the logit says what is used), or hold it in a way that only F can read. Sets that specialise are seen in the
spread, which is not 0 at initialisation either.

Writes `learned.parquet`, `learned_sets.parquet` (embedding set null: h) and, at the end, `figures/learned.png`. To the
loggers: `learned/<component>`, r2 of the logit, and with two sets or more `learned_sets/spread`: the mean over
components of the standard deviation over sets of the adjusted R^2.

Shapes: B rows, M embedding sets, N fields, H width of h, T components, C columns.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys_collapse.callback import publish
from recsys_collapse.callback.activation_rank import evaluating
from recsys_collapse.callback.figures import learned_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.dataset.batches import Batches
from recsys_collapse.module import CTRModule
from recsys_collapse.truth import learned

SCHEMAS: dict[str, dict[str, Any]] = {
    "learned": {
        "epoch": pl.Int32,
        "component": pl.String,
        "r2": pl.Float64,
        "slope": pl.Float64,
        "reason": pl.String,
    },
    "learned_sets": {
        "epoch": pl.Int32,
        "embedding_set": pl.Int32,
        "component": pl.String,
        "r2": pl.Float64,
        "reason": pl.String,
    },
}
BLOCK = 1024  # rows of a forward pass
CUT_OFF = 1e-10  # of the largest eigenvalue: directions of h below it are rounding, and not fitted on
NO_SPREAD = "no spread: the component is the same in all rows"
log = logging.getLogger(__name__)


class KnownRows(NamedTuple):
    """Rows that come with the components of their true logit, and what they are called."""

    x_BN: Tensor
    component_BT: Tensor
    coefficients: Mapping[str, float]
    """Of the components in the true logit, in order."""


class Learned(Measuring):
    """Measures against the answer; measuring ends no training: where there is no value there is null and a reason.

    Args:
        rows: how many validation rows, the first ones.

    Raises:
        ValueError: fewer than 2 rows: there is nothing to fit.
    """

    SCHEMAS = SCHEMAS

    def __init__(self, rows: int = 20_000) -> None:
        super().__init__()
        if rows < 2:
            raise ValueError(f"rows={rows}: expected 2 or more")
        self.rows = rows
        self._known: KnownRows | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # In on_fit_start there are no validation rows yet, and the epoch is not that of a checkpoint.
        self._known = None
        try:
            if not isinstance(pl_module, CTRModule):
                log.info(f"learned: nothing to measure: {type(pl_module).__name__} is not a CTRModule")
            else:
                self._known = known_rows(trainer.val_dataloaders, self.rows)
                if self._known is None:
                    log.info("learned: nothing to measure: the answer of the validation rows is not known")
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"learned: nothing to measure ({type(error).__name__}: {error})")
        if not self.goes_on(trainer):
            self._measure(trainer, pl_module, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        logit, sets = self.frames.values()
        if trainer.is_global_zero and len(logit):
            best = publish.best_epoch(trainer, logit)
            self.unwritten = publish.publish(trainer, "learned", lambda: learned_figure(logit, sets, best), self.frames)

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        if self._known is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            logit_B, h_BMH = outputs(pl_module, self._known.x_BN)
            found = {"learned": of_logit(logit_B, self._known), "learned_sets": of_sets(h_BMH, self._known)}
            rows = {name: [(epoch, *row) for row in of_file] for name, of_file in found.items()}
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"learned: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return
        self.frames = {name: publish.append(frame, rows[name], SCHEMAS[name]) for name, frame in self.frames.items()}
        publish.save(trainer, self.frames)
        scalars = self._scalars(epoch)
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "epoch": epoch}, step=trainer.global_step)

    def _scalars(self, epoch: int) -> dict[str, float]:
        """What goes to the loggers, by key."""
        logit, sets = (frame.filter(pl.col("epoch") == epoch) for frame in self.frames.values())
        values = {f"learned/{name}": r2 for name, r2 in logit.select("component", "r2").drop_nulls().rows()}
        sets = sets.drop_nulls("embedding_set")
        spread: Any = sets.group_by("component").agg(pl.col("r2").std(ddof=0))["r2"].mean()
        return values if spread is None else {**values, "learned_sets/spread": spread}


def known_rows(loader: Any, rows: int) -> KnownRows | None:
    """The first rows of the (first) validation data; None if it is not of a store that holds their answer."""
    if isinstance(loader, list | tuple):
        loader = next(iter(loader), None)
    if not isinstance(loader, Batches) or loader.store.truth is None:
        return None
    store, row_B, truth = loader.store, loader.rows[:rows], loader.store.truth
    component_BT = truth.index_select(0, row_B.cpu())[:, 1:]  # the first column is the logit
    return KnownRows(store.ids.index_select(0, row_B), component_BT, store.manifest()["answer"]["coefficients"])


@torch.no_grad()
def outputs(pl_module: CTRModule, x_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B,) and h (B, M, H)."""
    found = list[tuple[Tensor, Tensor]]()
    with evaluating(pl_module.backbone):
        for block_BN in x_BN.split(BLOCK):
            stages = pl_module.backbone.stages(block_BN.to(pl_module.device))
            found.append((stages.logit_B, stages.h_BMH))  # not the embeddings, which are larger
    logits, h = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(h)


def of_logit(logit_B: Tensor, known: KnownRows) -> Iterator[tuple[Any, ...]]:
    """Rows of `learned.parquet` after the epoch."""
    rows, components = known.component_BT.shape
    component_BT = known.component_BT.to(logit_B.device)
    spread_T = unit_columns(component_BT).any(dim=0).tolist()
    why_not = None
    if rows <= components + 1:
        why_not = f"{rows} rows, it needs more than {components + 1}"
    elif not logit_B.isfinite().all():
        why_not = "a logit is not finite"
    elif not unit_columns(logit_B[:, None]).any():
        why_not = "no spread: all logits are equal"
    found = {} if why_not else learned(logit_B, component_BT, known.coefficients)
    for name, spread in zip(known.coefficients, spread_T, strict=True):
        reason = why_not or (None if spread else NO_SPREAD)
        if reason:
            yield name, None, None, reason
        else:
            yield name, *found[name].values(), None if known.coefficients[name] else "slope: the true one is 0"


def of_sets(h_BMH: Tensor, known: KnownRows) -> Iterator[tuple[Any, ...]]:
    """Rows of `learned_sets.parquet` after the epoch: of every set, if there are several, and of h."""
    rows, num_sets, _ = h_BMH.shape
    component_BT = known.component_BT.to(h_BMH.device)
    for m in [*(range(num_sets) if num_sets > 1 else ()), None]:
        h_BH = h_BMH.mean(dim=1) if m is None else h_BMH[:, m]
        if not h_BH.isfinite().all():
            yield from ((m, name, None, "an entry of h is not finite") for name in known.coefficients)
            continue
        r2_T, rank = readable(h_BH, component_BT)
        few = f"{rows} rows, it needs more than 1 + {rank}, the rank of h" if rows - 1 <= rank else None
        for name, r2 in zip(known.coefficients, r2_T.tolist(), strict=True):
            yield m, name, r2, None if r2 == r2 else few or NO_SPREAD


def readable(h_BH: Tensor, component_BT: Tensor) -> tuple[Tensor, int]:
    """Adjusted R^2 (T,) of every component fitted on h, NaN where there is none, and the rank of h.

    By the eigenvectors of the correlations of units: ReLU leaves units that are 0 in all rows, and equal ones.
    """
    design_BH, target_BT = unit_columns(h_BH), unit_columns(component_BT)
    eigenvalue_H, vector_HH = torch.linalg.eigh(design_BH.T @ design_BH)
    kept_H = eigenvalue_H > CUT_OFF * eigenvalue_H[-1]
    along_TK = target_BT.T @ design_BH @ vector_HH[:, kept_H]
    r2_T = (along_TK.square() / eigenvalue_H[kept_H]).sum(dim=1)
    rank = int(kept_H.sum())
    free = len(h_BH) - 1 - rank
    known_T = target_BT.any(dim=0) & (free > 0)
    return torch.where(known_T, 1 - (1 - r2_T) * (len(h_BH) - 1) / max(1, free), torch.nan), rank


def unit_columns(x_BC: Tensor) -> Tensor:
    """Columns with their mean taken off and scaled to length 1, in float64; 0 where the spread is rounding."""
    rounding, x_BC = max(1e-14, torch.finfo(x_BC.dtype).eps), x_BC.double()
    deviation_BC = x_BC - x_BC.mean(dim=0)
    length_C = torch.linalg.vector_norm(deviation_BC, dim=0)
    has_spread_C = length_C > rounding * torch.linalg.vector_norm(x_BC, dim=0)
    return torch.where(has_spread_C, deviation_BC / length_C, 0.0)
