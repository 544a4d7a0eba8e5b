"""Do fields of low information abundance (IA) pull others down? IA of the sub-embeddings E_i^{->j}, at every epoch.

For `CTRModule` with a backbone that has sub-embeddings (`Backbone.sub_gram`: dcnv2, ffm); nothing with others. They are
taken from Gram matrices: E_i W^T is never formed. Writes `sub_embedding.parquet`, with IA(E_j) of the same set beside
every E_i^{->j}; `collapse_law.parquet`, the test of Finding 1 (`similarity.collapse_law`); and, at the end,
`figures/sub_embedding.png`. To the loggers: `collapse_law/mean_rho[_set<m>][@<variant>]` and `collapse_law/p_value...`.

Shapes: M embedding sets, N fields, K embedding size per set.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys_collapse.callback import publish
from recsys_collapse.callback.figures import sub_embedding_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.callback.spectrum import table_of
from recsys_collapse.module import CTRModule
from recsys_collapse.similarity import Law, collapse_law, sub_abundance
from recsys_collapse.spectrum import Reference, TableSpectra, random_metrics, set_grams
from recsys_collapse.variant import Variant, parse_variants

SCHEMAS: dict[str, dict[str, Any]] = {
    "sub_embedding": {
        "epoch": pl.Int32,
        "embedding_set": pl.Int32,
        "field": pl.String,
        "towards": pl.String,
        "variant": pl.String,
        "information_abundance": pl.Float64,
        "random_value": pl.Float64,
        "towards_abundance": pl.Float64,
        "reason": pl.String,
    },
    "collapse_law": {
        "epoch": pl.Int32,
        "embedding_set": pl.Int32,
        "variant": pl.String,
        "mean_rho": pl.Float64,
        "p_value": pl.Float64,
        "permutations": pl.Int32,
        "fields": pl.Int32,
    },
}
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """Of one variant: information abundance of sub-embeddings and fields, and whether the one goes with the other."""

    variant: Variant
    ia_MNN: Tensor
    random_N: list[float]
    ia_MN: Tensor
    rows_N: list[int]
    finite_MNN: Tensor
    finite_MN: Tensor
    laws: list[Law]


class SubEmbedding(Measuring):
    """Measures sub-embeddings; measuring ends no training: where there is no value there is null and a reason.

    Args:
        variants: which rows count and whether their mean is taken off, see `Variant.parse`. Centred sub-embeddings are
            those of the centred table.
        permutations: of the fields in the test of the law.

    Raises:
        ValueError: an unknown variant, or `unit_norm`, which changes no IA within a set; fewer permutations than 1.
    """

    SCHEMAS = SCHEMAS

    def __init__(
        self, variants: Sequence[str] | str = ("all", "centred", "seen", "seen+centred"), permutations: int = 9999
    ) -> None:
        super().__init__()
        self.variants = parse_variants(variants)
        if any(variant.unit_norm for variant in self.variants):
            raise ValueError(f"variants={list(variants)}: unit_norm changes no information abundance within a set")
        if permutations < 1:
            raise ValueError(f"permutations={permutations}: expected 1 or more")
        self.permutations, self._nothing = permutations, False

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._nothing = not isinstance(pl_module, CTRModule)
        if not isinstance(pl_module, CTRModule):
            log.info(f"sub_embedding: nothing to measure: {type(pl_module).__name__} is not a CTRModule")
        elif pl_module.train_count_D is None and (left := [str(v) for v in self.variants if v.needs_counts]):
            log.info(f"sub_embedding: {', '.join(left)} left out: how often ids occur is not known")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.goes_on(trainer):  # only here is the epoch that of a checkpoint
            self._measure(trainer, pl_module, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and len(self.frames["sub_embedding"]):
            at_best = pl.col("epoch") == publish.best_epoch(trainer, self.frames["sub_embedding"])
            best = [self.frames[name].filter(at_best) for name in SCHEMAS]
            self.unwritten = publish.publish(trainer, "sub_embedding", lambda: sub_embedding_figure(*best), self.frames)

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        if self._nothing or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            found = list(self._found(pl_module))
        except publish.NO_REASON_TO_STOP as error:
            if isinstance(error, ValueError) and not len(self.frames["sub_embedding"]):  # the backbone has none
                self._nothing = True
                log.info(f"sub_embedding: nothing to measure: {error}")
                return
            log.warning(f"sub_embedding: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return
        rows = {
            "sub_embedding": [(epoch, *row) for one in found for row in _sub_rows(one, pl_module.fields)],
            "collapse_law": [(epoch, *row) for one in found for row in _law_rows(one)],
        }
        self.frames = {name: publish.append(frame, rows[name], SCHEMAS[name]) for name, frame in self.frames.items()}
        publish.save(trainer, self.frames)
        for logger in trainer.loggers:
            logger.log_metrics({**_scalars(rows["collapse_law"]), "epoch": epoch}, step=trainer.global_step)

    @torch.no_grad()
    def _found(self, pl_module: CTRModule) -> Iterator[Found]:
        """Every variant; the table is read once for all that count the same rows."""
        table, read = table_of(pl_module), dict[tuple[int, str], TableSpectra]()
        num_sets, num_fields = table.num_sets, len(table.fields)
        for variant in self.variants:
            if variant.needs_counts and table.count_D is None:
                continue
            counted = (variant.min_count, variant.weighting)
            if counted not in read:
                weight_D = table.row_weight(variant)
                read[counted] = TableSpectra(
                    table.weight, table.field_slices, num_sets, weight_D, table.entries, exact=False
                )
            spectra = read[counted]
            gram_MNKK = set_grams(spectra.grams(variant.centred), num_sets)
            sub_MNNKK = pl_module.backbone.sub_gram(gram_MNKK)
            ia_MNN = sub_abundance(sub_MNNKK, (spectra.moments.rows_N - int(variant.centred)).clamp(min=0)).cpu()
            own = [s for s in spectra.spectra(variant.centred) if num_sets == 1 or s.embedding_set is not None]
            ia_MN = torch.tensor([s.information_abundance for s in own], dtype=torch.float64).view(num_sets, num_fields)
            shapes = [s.reference._replace(columns=sub_MNNKK.shape[-1]) for s in own[:num_fields]]
            yield Found(
                variant,
                ia_MNN,
                [_random(shape) for shape in shapes],
                ia_MN,
                [shape.rows for shape in shapes],
                sub_MNNKK.isfinite().flatten(3).all(dim=3).cpu(),
                gram_MNKK.isfinite().flatten(2).all(dim=2).cpu(),
                [collapse_law(ia_NN, ia_N, self.permutations) for ia_NN, ia_N in zip(ia_MNN, ia_MN, strict=True)],
            )


def _random(shape: Reference) -> float:
    return random_metrics(shape)["information_abundance"]


def _sub_rows(found: Found, fields: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of `sub_embedding.parquet` after the epoch."""
    ia_MNN, ia_MN, num_sets = found.ia_MNN.tolist(), found.ia_MN.tolist(), len(found.ia_MN)
    for m in range(num_sets):
        for i, field in enumerate(fields):
            for j, towards in enumerate(fields):
                value, random = ia_MNN[m][i][j], found.random_N[i]
                reason = None if math.isfinite(value) else _why_null(found, m, i, j)
                embedding_set = m if num_sets > 1 else None
                yield embedding_set, field, towards, str(found.variant), value, random, ia_MN[m][j], reason


def _why_null(found: Found, m: int, i: int, j: int) -> str:
    if found.rows_N[i] <= found.variant.centred:
        return "no spread: one row or none"
    if found.finite_MNN[m, i, j]:
        return "all zero"
    alone = i == j and bool(found.finite_MN[m, i])  # ffm: a finite table, and no E_i^{->i} in it
    return "the model has no such sub-embedding" if alone else "an entry is not finite"


def _law_rows(found: Found) -> Iterator[tuple[Any, ...]]:
    """Rows of `collapse_law.parquet` after the epoch."""
    for m, law in enumerate(found.laws):
        embedding_set = m if len(found.laws) > 1 else None
        yield embedding_set, str(found.variant), law.mean_rho, law.p_value, law.permutations, law.fields


def _scalars(rows: Sequence[tuple[Any, ...]]) -> dict[str, float]:
    """What goes to the loggers, by key."""
    values = {}
    for _, embedding_set, variant, mean_rho, p_value, _, _ in rows:
        suffix = "" if embedding_set is None else f"_set{embedding_set}"
        suffix += "" if variant == "all" else f"@{variant}"
        values[f"collapse_law/mean_rho{suffix}"] = mean_rho
        values[f"collapse_law/p_value{suffix}"] = p_value
    return {key: value for key, value in values.items() if math.isfinite(value)}
