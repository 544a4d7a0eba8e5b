"""Singular spectra and collapse metrics of every field, at initialisation (epoch -1), after every epoch, every n steps.

Works on `CTRModule` and on any other LightningModule with `nn.Embedding` or `nn.EmbeddingBag` tables. Computed on the
device where the tables live. Writes `spectra.parquet` and `collapse.parquet` (of steps: `spectra_steps.parquet` and
`collapse_steps.parquet`) and, at the end, `figures/spectra.png`. To the loggers: `ia/<field>` and `ia_set<m>/<field>`,
and `relative/<metric>[@<variant>]`, the mean over fields of value / random value of all sets side by side.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytorch_lightning as lightning
from torch import Tensor

from recsys_collapse.callback import publish
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.measure import COLLAPSE as MEASURED
from recsys_collapse.measure import Table, collapse_rows, find_tables, spectra_of_table
from recsys_collapse.module import CTRModule
from recsys_collapse.spectrum import METRICS, FieldSpectrum
from recsys_collapse.variant import Variant, parse_variants

STEP, EPOCH = {"step": pl.Int64}, {"epoch": pl.Int32}
SPECTRA = EPOCH | {
    "field": pl.String,
    "embedding_set": pl.Int32,
    "index": pl.Int32,
    "singular_value": pl.Float64,
}
COLLAPSE = EPOCH | MEASURED
SCHEMAS = {
    "spectra": SPECTRA,
    "collapse": COLLAPSE,
    "spectra_steps": STEP | SPECTRA,
    "collapse_steps": STEP | COLLAPSE,
}
log = logging.getLogger(__name__)


def table_of(pl_module: CTRModule) -> Table:
    """The embedding of a module, with its fields, its sets and what is known of the training data."""
    embedding = pl_module.backbone.embedding
    return Table(
        "embedding",
        embedding.weight.detach(),
        pl_module.fields,
        embedding.field_slices,
        embedding.num_sets,
        embedding.entries,
        pl_module.train_count_D,
    )


class Spectrum(Measuring):
    """Measures all embedding tables; measuring ends no training: where there is no value there is null and a reason.

    Args:
        variants: which rows count and what is taken off, see `Variant.parse`; `all` alone has singular values written.
        metrics: of `METRICS`; None: all.
        every_n_steps: measure also after every so many optimizer steps, as Lightning counts them (those of all
            optimizers together); None: after epochs only.
        exact: QR where a Gram matrix does not resolve the small singular values.
        counts: for modules other than `CTRModule`: see `find_tables`.
        fields: likewise.

    Raises:
        ValueError: an unknown variant or metric; fewer steps than 1.
    """

    SCHEMAS = SCHEMAS

    def __init__(
        self,
        variants: Sequence[str] | str = ("all", "centred", "unit_norm"),
        metrics: Sequence[str] | None = None,
        every_n_steps: int | None = None,
        exact: bool = True,
        counts: Mapping[str, Tensor] | None = None,
        fields: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        super().__init__()
        self.variants = parse_variants(variants)
        self.metrics = list(METRICS if metrics is None else metrics)
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise ValueError(f"metrics: {', '.join(unknown)} unknown; expected some of {', '.join(METRICS)}")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: expected 1 or more, or null for epochs only")
        self.every_n_steps, self.exact, self.counts, self.fields = every_n_steps, exact, counts, fields
        self._step = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._say_what_is_left_out(pl_module)
        for table in self._tables(pl_module):  # what does not fit is an error now, and never later
            if table.count_D is not None:
                table.row_weight(Variant(min_count=1))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Only here are epoch and step those of a checkpoint from which training goes on.
        self._step = trainer.global_step
        if not self.goes_on(trainer):
            self._measure(trainer, pl_module, epoch=trainer.current_epoch - 1)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A batch may be no step (gradients are accumulated) or several (one of every optimizer).
        before, self._step = self._step, trainer.global_step
        if self.every_n_steps and self._step // self.every_n_steps > before // self.every_n_steps:
            self._measure(trainer, pl_module, trainer.current_epoch, step=self._step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        relative = self._measure(trainer, pl_module, epoch=trainer.current_epoch)
        pl_module.log("ia/relative", relative, prog_bar=True, rank_zero_only=True)  # in float32, for bar and loggers

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        spectra, collapse = self.frames["spectra"], self.frames["collapse"]
        if trainer.is_global_zero and len(collapse):
            best = spectra.filter(pl.col("epoch") == publish.best_epoch(trainer, collapse))
            last = spectra.filter(pl.col("epoch") == collapse["epoch"].max())
            draw = (lambda: spectra_figure(best)) if len(best) else None
            self.unwritten = publish.publish(trainer, "spectra", draw, {"last_epoch": last, "collapse": collapse})

    def _tables(self, pl_module: lightning.LightningModule) -> list[Table]:
        if isinstance(pl_module, CTRModule):
            return [table_of(pl_module)]
        return find_tables(pl_module, self.counts, self.fields)

    def _say_what_is_left_out(self, pl_module: lightning.LightningModule) -> None:
        uncounted = [table.name for table in self._tables(pl_module) if table.count_D is None]
        wanted = [str(variant) for variant in self.variants if variant.needs_counts]
        if uncounted and wanted:
            log.warning(
                f"spectrum: {', '.join(wanted)} left out for {', '.join(uncounted)}: how often ids occur is not known; "
                "give counts={table: tensor of one count for each row}"
            )

    def _measure(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int, step: int | None = None
    ) -> float:
        """Measure, keep, write and log; returns the mean over fields of IA / random IA."""
        if not trainer.is_global_zero:
            return math.nan
        try:
            found = [
                (table, variant, spectra)
                for table in self._tables(pl_module)
                for variant, spectra in spectra_of_table(
                    table, [v for v in self.variants if not v.needs_counts or table.count_D is not None], self.exact
                )
            ]
        except publish.NO_REASON_TO_STOP as error:
            log.warning(f"spectrum: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return math.nan
        values = _scalars(found, self.metrics)
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": epoch}, step=trainer.global_step)
        self._keep(trainer, found, (epoch,) if step is None else (step, epoch))
        relative = values.get("relative/information_abundance", math.nan)
        if step is None and isinstance(pl_module, CTRModule):
            pl_module.epoch_metrics["ia/relative"] = relative
        return relative

    def _keep(
        self,
        trainer: lightning.Trainer,
        found: list[tuple[Table, Variant, list[FieldSpectrum]]],
        when: tuple[int, ...],
    ) -> None:
        spectra = [
            (*when, table.fields[s.field], s.embedding_set, index, value)
            for table, variant, own in found
            if variant == Variant()
            for s in own
            for index, value in enumerate(s.sigma.tolist())
        ]
        collapse = [(*when, *row) for group in found for row in collapse_rows(*group, metrics=self.metrics)]
        suffix = "_steps" if len(when) == 2 else ""
        for name, rows in {"spectra" + suffix: spectra, "collapse" + suffix: collapse}.items():
            self.frames[name] = publish.append(self.frames[name], rows, SCHEMAS[name])
        if not suffix:  # those of steps come with the next epoch: rewriting the file takes longer the more there are
            steps = [name for name in self.frames if name.endswith("_steps") and self.every_n_steps]
            publish.save(trainer, {name: self.frames[name] for name in ("spectra", "collapse", *steps)})


def _scalars(found: list[tuple[Table, Variant, list[FieldSpectrum]]], metrics: Sequence[str]) -> dict[str, float]:
    """What goes to the loggers, by key."""
    values: dict[str, float] = {}
    ratios: dict[str, list[float]] = {}
    for table, variant, spectra in found:
        suffix = "" if variant == Variant() else f"@{variant}"
        for s in spectra:
            if not suffix:
                group = "ia" if s.embedding_set is None else f"ia_set{s.embedding_set}"
                values[f"{group}/{table.fields[s.field]}"] = s.information_abundance
            if s.embedding_set is None:
                for name in dict.fromkeys((*metrics, "information_abundance")):
                    ratio = s.metrics[name] / s.random_metrics[name]
                    ratios.setdefault(f"relative/{name}{suffix}", []).append(ratio)
    for key, all_of_them in ratios.items():
        known = [ratio for ratio in all_of_them if math.isfinite(ratio)]
        values[key] = sum(known) / len(known) if known else math.nan
    return values


def spectra_figure(spectra: pl.DataFrame) -> Any:
    """One epoch's spectra, all sets side by side: sigma_k / sigma_1 against k / K, a line per field."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    epoch: Any = spectra["epoch"].max()
    whole = spectra.filter(pl.col("embedding_set").is_null()).drop_nulls("singular_value").sort("index")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="k / number of singular values", ylabel="sigma_k / sigma_1", yscale="log")
    axes.set_title(f"singular spectra, all sets side by side, all rows, epoch {epoch}" if epoch is not None else "")
    for i, name in enumerate(names := spectra["field"].unique(maintain_order=True)):
        field = whole.filter(pl.col("field") == name)
        sigma_K, k_K = field["singular_value"].to_numpy(), (field["index"].to_numpy() + 1) / max(1, len(field))
        if len(field) and sigma_K[0] > 0:  # else there is no value, or the table is all zero
            axes.plot(k_K, sigma_K / sigma_K[0], marker=".", label=name, color=colormaps["turbo"](i / len(names)))
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="x-small", ncols=1 + len(axes.lines) // 25)
    return figure
