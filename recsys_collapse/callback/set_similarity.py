"""Do the embedding sets of a field say the same? Linear CKA and overlap of column spaces, for every pair of sets.

For `CTRModule` with two sets or more. Writes `set_similarity.parquet`, the values beside what unrelated sets have
(`similarity.linear_cka`, `similarity.subspace_overlap`); and, at the end, `figures/set_similarity.png`. To the loggers:
`set_similarity/cka_adjusted` and `set_similarity/overlap`, means over fields and pairs of sets. How far the h^(m) go
together is measured by callback/activation_rank.py.

Shapes: M embedding sets, N fields, K embedding size per set, C = M*K columns.
"""

import logging
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch

from recsys_collapse.callback import publish
from recsys_collapse.callback.figures import set_similarity_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.callback.spectrum import table_of
from recsys_collapse.module import CTRModule
from recsys_collapse.similarity import linear_cka, subspace_overlap
from recsys_collapse.spectrum import TableSpectra, set_grams
from recsys_collapse.variant import Variant

VALUES = ("cka", "cka_null", "cka_adjusted", "overlap", "overlap_null")
SCHEMAS: dict[str, dict[str, Any]] = {
    "set_similarity": {
        "epoch": pl.Int32,
        "field": pl.String,
        "set_a": pl.Int32,
        "set_b": pl.Int32,
        **dict.fromkeys(VALUES, pl.Float64),
        "reason": pl.String,
    }
}
EQUAL_ROWS = 1e-14  # share of a Gram matrix's trace that centring leaves of equal rows by rounding, at most
log = logging.getLogger(__name__)


class SetSimilarity(Measuring):
    """Compares the sets of every field; measuring ends no training: without a value there is null and a reason.

    Args:
        variant: which rows count, see `Variant.parse`: `centred`, `seen+centred` or `min_count:n+centred`.
        energy: share of the squared singular values that the compared column spaces hold.

    Raises:
        ValueError: another variant: the measures are those of centred rows that count once; an energy outside (0, 1].
    """

    SCHEMAS = SCHEMAS

    def __init__(self, variant: str = "centred", energy: float = 0.95) -> None:
        super().__init__()
        self.variant = Variant.parse(variant)
        if not self.variant.centred or self.variant.weighting or self.variant.unit_norm:
            raise ValueError(f"variant={variant}: expected centred, seen+centred or min_count:n+centred")
        if not 0 < energy <= 1:
            raise ValueError(f"energy={energy}: expected a number above 0, up to 1")
        self.energy, self._nothing = energy, False

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        why = self._why_nothing(pl_module)
        self._nothing = why is not None
        if why is not None:
            log.info(f"set_similarity: nothing to measure: {why}")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.goes_on(trainer):  # only here is the epoch that of a checkpoint
            self._measure(trainer, pl_module, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        frame = self.frames["set_similarity"]
        if trainer.is_global_zero and len(frame):
            best = frame.filter(pl.col("epoch") == publish.best_epoch(trainer, frame))
            self.unwritten = publish.publish(
                trainer, "set_similarity", lambda: set_similarity_figure(best), self.frames
            )

    def _why_nothing(self, pl_module: lightning.LightningModule) -> str | None:
        if not isinstance(pl_module, CTRModule):
            return f"{type(pl_module).__name__} is not a CTRModule"
        if pl_module.backbone.embedding.num_sets == 1:
            return "a single embedding set"
        if self.variant.needs_counts and pl_module.train_count_D is None:
            return f"{self.variant}: how often ids occur is not known"
        return None

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        if self._nothing or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            rows = [(epoch, *row) for row in self._rows(pl_module)]
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"set_similarity: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return
        frame = publish.append(self.frames["set_similarity"], rows, SCHEMAS["set_similarity"])
        self.frames["set_similarity"] = frame
        publish.save(trainer, self.frames)
        own = frame.filter(pl.col("epoch") == epoch)
        scalars: dict[str, Any] = {f"set_similarity/{name}": own[name].mean() for name in ("cka_adjusted", "overlap")}
        for logger in trainer.loggers:
            known = {key: value for key, value in scalars.items() if value is not None}
            logger.log_metrics({**known, "epoch": epoch}, step=trainer.global_step)

    @torch.no_grad()
    def _rows(self, pl_module: CTRModule) -> Iterator[tuple[Any, ...]]:
        """Rows of the file after the epoch."""
        table = table_of(pl_module)
        weight_D, num_sets = table.row_weight(self.variant), table.num_sets
        spectra = TableSpectra(table.weight, table.field_slices, num_sets, weight_D, table.entries)
        gram_NCC, rows_N = spectra.grams(centred=True), spectra.moments.rows_N
        # What rounding leaves of equal rows would be compared like anything else.
        before_MN, after_MN = (
            set_grams(gram, num_sets).diagonal(dim1=2, dim2=3).sum(-1) for gram in (spectra.grams(), gram_NCC)
        )
        spread_MN = ~(after_MN <= EQUAL_ROWS * before_MN)  # NaN counts as spread: it is to be seen
        kept_NC = spread_MN.T.repeat_interleave(gram_NCC.shape[1] // num_sets, dim=1)
        gram_NCC = torch.where(kept_NC.unsqueeze(2) & kept_NC.unsqueeze(1), gram_NCC, 0.0)
        cka = linear_cka(gram_NCC, num_sets, rows_N)
        overlap = subspace_overlap(gram_NCC, num_sets, (rows_N - 1).clamp(min=0), self.energy)
        parts = (cka.value_NMM, cka.null_NMM, cka.adjusted_NMM, overlap.value_NMM, overlap.null_NMM)
        values_NMM5 = torch.stack(parts, dim=3).tolist()
        finite_MN, spread_MN = after_MN.isfinite().cpu(), spread_MN.cpu()
        size = table.weight.shape[1] // num_sets
        for i, (field, rows) in enumerate(zip(table.fields, rows_N.tolist(), strict=True)):
            for a, b in combinations(range(num_sets), 2):
                reason = None
                if rows < 2:
                    reason = "no spread: one row or none"
                elif not finite_MN[[a, b], i].all():
                    reason = "an entry is not finite"
                elif not spread_MN[[a, b], i].all():
                    reason = "no spread: all rows of a set are equal"
                elif rows - 1 <= size:
                    reason = f"cka_adjusted and overlap: {rows} rows, they need more than {size + 1}"
                yield field, a, b, *values_NMM5[i][a][b], reason
