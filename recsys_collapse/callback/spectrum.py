"""Singular spectra and information abundance of every field, at initialisation (epoch -1) and after every epoch.

Computed on the device where the table lives. Writes `spectra.parquet` and `collapse.parquet` into the run directory,
scalars and, at the end, a table and a plot to the loggers; mean IA relative to random stands in the progress bar.
"""

from pathlib import Path

import polars as pl
import pytorch_lightning as lightning

from recsys_collapse.module import CTRModule
from recsys_collapse.runs.durable import write_parquet
from recsys_collapse.spectrum import FieldSpectrum, field_spectra, mean_relative

SPECTRA = {
    "epoch": pl.Int32,
    "field": pl.String,
    "embedding_set": pl.Int32,
    "index": pl.Int32,
    "singular_value": pl.Float64,
}
COLLAPSE = {
    "epoch": pl.Int32,
    "field": pl.String,
    "embedding_set": pl.Int32,
    "cardinality": pl.Int64,
    "metric": pl.String,
    "value": pl.Float64,
    "random_value": pl.Float64,
}


class Spectrum(lightning.Callback):
    """Measures `pl_module.backbone.embedding`; never ends a training run: a table without a value gives null."""

    def __init__(self) -> None:
        self.spectra = pl.DataFrame(schema=SPECTRA)
        self.collapse = pl.DataFrame(schema=COLLAPSE)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, epoch=-1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        found = self._measure(trainer, pl_module, epoch=trainer.current_epoch)
        pl_module.log("ia/relative", mean_relative(found), prog_bar=True)  # in float32, for bar and loggers

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "log_spectra"):
                logger.log_spectra(self.spectra, self.collapse)

    def _measure(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int
    ) -> list[FieldSpectrum]:
        assert isinstance(pl_module, CTRModule)
        embedding = pl_module.backbone.embedding
        found = field_spectra(embedding.weight, embedding.field_slices, embedding.num_sets)
        pl_module.epoch_metrics["ia/relative"] = mean_relative(found)
        self._write(Path(trainer.default_root_dir), found, pl_module.fields, epoch)
        for logger in trainer.loggers:
            values = {ia_key(pl_module.fields, spectrum): spectrum.information_abundance for spectrum in found}
            logger.log_metrics({**values, "epoch": epoch}, step=trainer.global_step)
        return found

    def _write(self, folder: Path, found: list[FieldSpectrum], fields: list[str], epoch: int) -> None:
        spectra = [
            (epoch, fields[s.field], s.embedding_set, index, value)
            for s in found
            for index, value in enumerate(s.sigma.tolist())
        ]
        collapse = [
            (
                epoch,
                fields[s.field],
                s.embedding_set,
                s.cardinality,
                "information_abundance",
                s.information_abundance,
                s.random,
            )
            for s in found
        ]
        self.spectra = self.spectra.vstack(pl.DataFrame(spectra, schema=SPECTRA, orient="row").fill_nan(None))
        self.collapse = self.collapse.vstack(pl.DataFrame(collapse, schema=COLLAPSE, orient="row").fill_nan(None))
        write_parquet(folder / "spectra.parquet", self.spectra)
        write_parquet(folder / "collapse.parquet", self.collapse)


def ia_key(fields: list[str], spectrum: FieldSpectrum) -> str:
    """Name of a field's information abundance in loggers: `ia/<field>`, in a single set `ia_set<m>/<field>`."""
    group = "ia" if spectrum.embedding_set is None else f"ia_set{spectrum.embedding_set}"
    return f"{group}/{fields[spectrum.field]}"
