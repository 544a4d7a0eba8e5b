"""Spectra of what moves the embedding tables: their gradients, of some steps of every epoch taken together.

For `CTRModule`. The gradients of every n-th step, from the first of the epoch, are put below each other: per field and
set, this is the spectrum of that tall matrix. They are those of loss and regularizer, before clipping; the weight decay
that an optimizer adds is not in them. One with an entry that is not finite is left out, as are rows of zeros. There is
no epoch -1. Writes `gradient_spectra.parquet` (`steps`: gradients that count; `rows`: ids with one that is not zero)
and, at the end, `figures/gradient_spectrum.png`. To the loggers: `gradient_ia/<field>`, the mean over sets.

Shapes: D rows of the table, C = M*K columns, R rows with a gradient, N fields, M embedding sets, K columns of a set.
"""

import logging
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys_collapse.callback import publish
from recsys_collapse.callback.figures import gradient_spectrum_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.embedding import coalesced
from recsys_collapse.module import CTRModule
from recsys_collapse.spectrum import Moments, field_moments, set_grams, singular_spectrum, spectrum_metrics, why_null

METRICS = ("information_abundance", "effective_rank", "stable_rank")
SCHEMAS: dict[str, dict[str, Any]] = {
    "gradient_spectra": {
        "epoch": pl.Int32,
        "field": pl.String,
        "embedding_set": pl.Int32,
        "steps": pl.Int32,
        "rows": pl.Int64,
        "metric": pl.String,
        "value": pl.Float64,
        "reason": pl.String,
    }
}
log = logging.getLogger(__name__)


class GradientSpectrum(Measuring):
    """Measures gradients; measuring ends no training: where there is no value there is null and a reason.

    Args:
        every_n_steps: of the optimizer, counted from the start of the epoch.

    Raises:
        ValueError: fewer steps than 1.
    """

    SCHEMAS = SCHEMAS

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: expected 1 or more")
        self.every_n_steps, self._nothing = every_n_steps, False
        self._begin()

    def _begin(self) -> None:
        """Forget the epoch before."""
        self._step, self._counted = 0, 0
        self._moments: Moments | None = None
        self._moved_D = torch.empty(0, dtype=torch.bool)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._nothing = not isinstance(pl_module, CTRModule)
        if self._nothing:
            log.info(f"gradient_spectrum: nothing to measure: {type(pl_module).__name__} is not a CTRModule")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begin()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self._nothing and trainer.is_global_zero:
            if self._step % self.every_n_steps == 0:
                self._add(pl_module)
            self._step += 1

    @torch.no_grad()
    def _add(self, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, CTRModule)
        embedding = pl_module.backbone.embedding
        if embedding.weight.grad is None:  # a frozen table
            return
        try:
            row_R, grad_RC = moved_rows(embedding.weight.grad)
            starts = torch.tensor([rows.start for rows in embedding.field_slices] + [len(embedding.weight)])
            ends = torch.searchsorted(row_R, starts.to(row_R.device)).tolist()
            own = field_moments(grad_RC, [slice(*pair) for pair in pairwise(ends)])
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"gradient_spectrum: step {self._step} is not measured ({type(error).__name__}: {error})")
            return
        if not own.gram_NCC.isfinite().all():  # float16 takes no such step either
            return
        if self._moments is None:
            self._moved_D = torch.zeros(len(embedding.weight), dtype=torch.bool, device=row_R.device)
        self._moments = own if self._moments is None else self._moments.merge(own)
        self._moved_D[row_R] = True
        self._counted += 1

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._nothing or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            rows = [(trainer.current_epoch, *row) for row in self._rows(pl_module)]
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"gradient_spectrum: nothing measured in this epoch ({type(error).__name__}: {error})")
            return
        frame = publish.append(self.frames["gradient_spectra"], rows, SCHEMAS["gradient_spectra"])
        self.frames["gradient_spectra"] = frame
        publish.save(trainer, self.frames)
        own = frame.filter((pl.col("epoch") == trainer.current_epoch) & (pl.col("metric") == METRICS[0]))
        means = own.drop_nulls("value").group_by("field", maintain_order=True).agg(pl.col("value").mean())
        scalars = {f"gradient_ia/{field}": value for field, value in means.rows()}
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "epoch": trainer.current_epoch}, step=trainer.global_step)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        frame = self.frames["gradient_spectra"]
        if trainer.is_global_zero and len(frame):
            best = publish.best_epoch(trainer, frame)
            self.unwritten = publish.publish(
                trainer, "gradient_spectrum", lambda: gradient_spectrum_figure(frame, best), self.frames
            )

    def _rows(self, pl_module: CTRModule) -> Iterator[tuple[Any, ...]]:
        """Rows of the file after the epoch."""
        embedding, fields = pl_module.backbone.embedding, pl_module.fields
        num_sets, size = embedding.num_sets, embedding.embed_size
        if self._moments is None:
            sigma_MNK, rank_N, moved_N = torch.zeros(num_sets, len(fields), size), [0] * len(fields), [0] * len(fields)
        else:
            sigma_MNK = singular_spectrum(set_grams(self._moments.gram_NCC, num_sets)).cpu()
            rank_N = self._moments.rows_N.clamp(max=size).tolist()
            moved_N = [int(self._moved_D[rows].sum()) for rows in embedding.field_slices]
        found = spectrum_metrics(sigma_MNK.flatten(0, 1), torch.tensor(rank_N).repeat(num_sets))
        values = {name: found[name].view(num_sets, len(fields)).tolist() for name in METRICS}
        for m in range(num_sets):
            for i, field in enumerate(fields):
                start = (field, m if num_sets > 1 else None, self._counted, moved_N[i])
                for metric in METRICS:
                    value = values[metric][m][i]
                    yield *start, metric, value, self._why_null(metric, value, sigma_MNK[m, i, : rank_N[i]])

    def _why_null(self, metric: str, value: float, sigma: Tensor) -> str | None:
        if math.isfinite(value):
            return None
        if not self._counted:
            return "no step with a finite gradient"
        return why_null(metric, sigma) if len(sigma) else "no id with a gradient"


def moved_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a gradient (D, C), dense or sparse, that are not zero: their numbers, ascending (R,), and (R, C)."""
    if grad.is_sparse:
        grad = coalesced(grad)  # the same row may stand several times
        row_R, grad_RC = grad.indices()[0], grad.values()
    else:
        row_R, grad_RC = torch.arange(len(grad), device=grad.device), grad
    moved_R = grad_RC.any(dim=1)  # NaN is not zero
    return row_R[moved_R], grad_RC[moved_R]
