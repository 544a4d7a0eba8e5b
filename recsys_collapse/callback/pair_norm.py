"""Interaction patterns ||W_{i->j}^(m)||_F of every embedding set, and how much they differ between sets (Figure 8c, d).

For `CTRModule` with a backbone that projects field pairs (`Backbone.pair_projections`: dcnv2); nothing with others.
Writes `pair_norm.parquet`; with two sets or more `pattern_divergence.parquet`, which has the same for new models beside
it (`similarity.random_pattern_divergence`); and, at the end, `figures/pair_norm.png`. To the loggers, with two sets or
more: `pattern_divergence/divergence[_layer<l>]` and `pattern_divergence/variation[_layer<l>]`; layer 0 has no suffix.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys_collapse.callback import publish
from recsys_collapse.callback.figures import pair_norm_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.module import CTRModule
from recsys_collapse.similarity import Divergence, pair_norms, pattern_divergence, random_pattern_divergence

SCHEMAS: dict[str, dict[str, Any]] = {
    "pair_norm": {
        "epoch": pl.Int32,
        "layer": pl.Int32,
        "embedding_set": pl.Int32,
        "field": pl.String,
        "towards": pl.String,
        "norm": pl.Float64,
    },
    "pattern_divergence": {
        "epoch": pl.Int32,
        "layer": pl.Int32,
        "correlation": pl.Float64,
        "divergence": pl.Float64,
        "variation": pl.Float64,
        "variance": pl.Float64,
        "random_correlation": pl.Float64,
        "random_divergence": pl.Float64,
        "random_variation": pl.Float64,
        "random_variance": pl.Float64,
    },
}
log = logging.getLogger(__name__)


class PairNorm(Measuring):
    """Measures projections; measuring ends no training.

    Args:
        layers: which ones, from 0; the paper discusses the first.

    Raises:
        ValueError: no layer, one below 0, or one twice.
    """

    SCHEMAS = SCHEMAS

    def __init__(self, layers: Sequence[int] = (0,)) -> None:
        super().__init__()
        if not layers or min(layers) < 0 or len(set(layers)) < len(layers):
            raise ValueError(f"layers={list(layers)}: expected distinct numbers from 0")
        self.layers, self._nothing = list(layers), False

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._nothing = not isinstance(pl_module, CTRModule)
        if self._nothing:
            log.info(f"pair_norm: nothing to measure: {type(pl_module).__name__} is not a CTRModule")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.goes_on(trainer):  # only here is the epoch that of a checkpoint
            self._measure(trainer, pl_module, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and len(self.frames["pair_norm"]):
            at_best = pl.col("epoch") == publish.best_epoch(trainer, self.frames["pair_norm"])
            best = [self.frames[name].filter(at_best) for name in SCHEMAS]
            self.unwritten = publish.publish(trainer, "pair_norm", lambda: pair_norm_figure(*best), self.frames)

    @torch.no_grad()
    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        if self._nothing or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            w_LMNNKK = pl_module.backbone.pair_projections()
            layers = [layer for layer in self.layers if layer < len(w_LMNNKK)]
            found = {layer: pair_norms(w_LMNNKK[layer]).cpu() for layer in layers}
        except publish.NO_REASON_TO_STOP as error:
            if isinstance(error, ValueError) and not len(self.frames["pair_norm"]):  # the backbone has none
                self._nothing = True
                log.info(f"pair_norm: nothing to measure: {error}")
                return
            log.warning(f"pair_norm: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return
        if not len(self.frames["pair_norm"]) and (left := sorted(set(self.layers) - set(layers))):
            log.info(f"pair_norm: layers {left} left out: {type(pl_module.backbone).__name__} has {len(w_LMNNKK)}")
        self._keep(trainer, found, pl_module.fields, w_LMNNKK.shape[-1], epoch)

    def _keep(
        self, trainer: lightning.Trainer, found: dict[int, Tensor], fields: Sequence[str], size: int, epoch: int
    ) -> None:
        norms, divergences, scalars = list[tuple[Any, ...]](), list[tuple[Any, ...]](), dict[str, float]()
        for layer, norm_MNN in found.items():
            for m, norm_NN in enumerate(norm_MNN.tolist()):
                start = (epoch, layer, m if len(norm_MNN) > 1 else None)
                norms += [(*start, i, j, norm_NN[a][b]) for a, i in enumerate(fields) for b, j in enumerate(fields)]
            if len(norm_MNN) > 1:
                own, random = pattern_divergence(norm_MNN), random_pattern_divergence(*norm_MNN.shape[:2], size)
                divergences.append((epoch, layer, *own, *random))
                scalars |= _scalars(own, "" if layer == 0 else f"_layer{layer}")
        rows = {"pair_norm": norms, "pattern_divergence": divergences}
        self.frames = {name: publish.append(frame, rows[name], SCHEMAS[name]) for name, frame in self.frames.items()}
        publish.save(trainer, {name: frame for name, frame in self.frames.items() if len(frame)})
        for logger in trainer.loggers if scalars else ():
            logger.log_metrics({**scalars, "epoch": epoch}, step=trainer.global_step)


def _scalars(found: Divergence, suffix: str) -> dict[str, float]:
    """What goes to the loggers, by key."""
    values = {"divergence": found.divergence, "variation": found.variation}
    return {f"pattern_divergence/{key}{suffix}": value for key, value in values.items() if math.isfinite(value)}
