"""How many dimensions do the activations use, layer by layer, and how far do the h^(m) of the sets go together?

For `CTRModule`, on the first `rows` validation rows, in eval mode and in the weights' own precision. A layer is a part
of the interaction or of the head with an output of its own, of more than one number for each row: not what hands on
that of a part or its input (`Sequential`, `Dropout`, `Flatten`, `Identity`). Its name is the module's in the backbone;
besides there are `embedding` (all fields side by side), `h^(m)`, what the interaction gives, and `h`, its mean over the
sets, before F. What has sets is measured set by set, and the mean row is taken off. `random_value` is that of normal
entries.

Writes `activation_rank.parquet`, with two sets or more `set_correlation.parquet`, and, at the end,
`figures/activation_rank.png`. To the loggers: `activation_rank/<layer>`, the effective rank (mean over sets), and
`set_correlation/mean`, over pairs of sets.

Shapes: B rows, M embedding sets, N fields, K embedding size, H width of h, W width of a layer.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from recsys_collapse.callback import publish
from recsys_collapse.callback.figures import activation_rank_figure
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.module import CTRModule
from recsys_collapse.similarity import set_correlation
from recsys_collapse.spectrum import Reference, random_metrics, singular_values, spectrum_metrics, why_null

METRICS = ("information_abundance", "effective_rank", "stable_rank")
SCHEMAS: dict[str, dict[str, Any]] = {
    "activation_rank": {
        "epoch": pl.Int32,
        "layer": pl.String,
        "position": pl.Int32,
        "embedding_set": pl.Int32,
        "rows": pl.Int64,
        "width": pl.Int64,
        "metric": pl.String,
        "value": pl.Float64,
        "random_value": pl.Float64,
        "reason": pl.String,
    },
    "set_correlation": {"epoch": pl.Int32, "set_a": pl.Int32, "set_b": pl.Int32, "correlation": pl.Float64},
}
HANDS_ON = (nn.Sequential, nn.Flatten, nn.Identity, nn.modules.dropout._DropoutNd)
log = logging.getLogger(__name__)


class Layer(NamedTuple):
    """Singular values of one layer's centred activations, of one set or (None) of all that has no sets."""

    name: str
    embedding_set: int | None
    width: int
    sigma: Tensor
    """Zeros if all rows are equal up to rounding."""


class ActivationRank(Measuring):
    """Measures activations; measuring ends no training: where there is no value there is null and a reason.

    Args:
        rows: how many validation rows, the first ones.

    Raises:
        ValueError: fewer than 2 rows: there is no rank.
    """

    SCHEMAS = SCHEMAS

    def __init__(self, rows: int = 1024) -> None:
        super().__init__()
        if rows < 2:
            raise ValueError(f"rows={rows}: expected 2 or more")
        self.rows, self._x_BN, self._nothing = rows, torch.empty(0), False

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._x_BN, self._nothing = torch.empty(0), not isinstance(pl_module, CTRModule)
        if self._nothing:
            log.info(f"activation_rank: nothing to measure: {type(pl_module).__name__} is not a CTRModule")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # In on_fit_start there are no validation rows yet.
        if not self.goes_on(trainer):  # only here is the epoch that of a checkpoint
            self._measure(trainer, pl_module, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        frame = self.frames["activation_rank"]
        if trainer.is_global_zero and len(frame):
            best = publish.best_epoch(trainer, frame)
            self.unwritten = publish.publish(
                trainer, "activation_rank", lambda: activation_rank_figure(frame, best), self.frames
            )

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        if self._nothing or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CTRModule)
        try:
            if not len(self._x_BN):
                self._x_BN = first_rows(trainer.val_dataloaders, self.rows)
            if len(self._x_BN) < 2:
                log.info(f"activation_rank: nothing measured in epoch {epoch}: no two validation rows")
                return
            layers, h_BMH = layers_of(pl_module, self._x_BN.to(pl_module.device))
            correlation_MM = set_correlation(h_BMH).tolist()
        except Exception as error:  # whatever a user's loader or backbone raises: no reason to end a training run
            log.warning(f"activation_rank: nothing measured in epoch {epoch} ({type(error).__name__}: {error})")
            return
        pairs = combinations(range(len(correlation_MM)), 2)
        rows = {
            "activation_rank": [(epoch, *row) for row in _rows(layers, len(self._x_BN))],
            "set_correlation": [(epoch, a, b, correlation_MM[a][b]) for a, b in pairs],
        }
        self.frames = {name: publish.append(frame, rows[name], SCHEMAS[name]) for name, frame in self.frames.items()}
        publish.save(trainer, {name: frame for name, frame in self.frames.items() if len(frame)})
        scalars = self._scalars(epoch)
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "epoch": epoch}, step=trainer.global_step)

    def _scalars(self, epoch: int) -> dict[str, float]:
        """What goes to the loggers, by key."""
        ranks, correlations = (frame.filter(pl.col("epoch") == epoch) for frame in self.frames.values())
        ranks = ranks.filter(pl.col("metric") == "effective_rank").drop_nulls("value")
        means = ranks.group_by("layer", maintain_order=True).agg(pl.col("value").mean())
        values = {f"activation_rank/{layer}": value for layer, value in means.rows()}
        mean = correlations["correlation"].mean()
        return values if mean is None else {**values, "set_correlation/mean": mean}  # type: ignore[dict-item]


def first_rows(loader: Any, rows: int) -> Tensor:
    """Ids (B, N) of the first rows of the (first) validation data; the global generator is left as it was."""
    if isinstance(loader, list | tuple):
        loader = next(iter(loader), None)
    parts, missing = [torch.empty(0)], rows
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed from it
        for x_BN, _ in () if loader is None else loader:
            parts.append(x_BN[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
    return torch.cat(parts[1:]) if len(parts) > 1 else parts[0]


@torch.no_grad()
def layers_of(pl_module: CTRModule, x_BN: Tensor) -> tuple[list[Layer], Tensor]:
    """Every layer in the order of the forward pass, and h (B, M, H); modes and statistics stay as they were."""
    backbone, found, last = pl_module.backbone, list[Layer](), list[Any]([None])
    rows, num_sets = len(x_BN), backbone.embedding.num_sets

    def measure(name: str, output: Tensor, has_sets: bool) -> None:
        for m, part_BW in _parts(output, rows, num_sets if has_sets else 1):
            found.append(_layer(name, m, part_BW))  # now: a ReLU in place may come next

    def layer_hook(name: str, has_sets: bool) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            before, last[0] = last[0], output  # kept alive, so that its memory is not used again
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
                return
            single = output.numel() <= rows * (num_sets if has_sets else 1)
            same = isinstance(before, Tensor) and before.data_ptr() == output.data_ptr()
            if not single and not (same and list(module.children())):
                measure(name, output, has_sets)

        return hook

    handles = [
        backbone.embedding.register_forward_hook(lambda _, __, e_BMNK: measure("embedding", e_BMNK, True)),
        backbone.head.register_forward_pre_hook(lambda _, inputs: measure("h", inputs[0], False)),
    ]
    for part, has_sets in (("interaction", True), ("head", False)):
        for name, module in getattr(backbone, part).named_modules(prefix=part):
            if name != part and not isinstance(module, HANDS_ON):
                handles.append(module.register_forward_hook(layer_hook(name, has_sets)))
    if num_sets > 1:
        hook = backbone.interaction.register_forward_hook(lambda _, __, h_BMH: measure("h^(m)", h_BMH, True))
        handles.append(hook)
    try:
        with evaluating(backbone):
            stages = backbone.stages(x_BN)
    finally:
        for handle in handles:
            handle.remove()
    return found, stages.h_BMH


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, and after it every part in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _parts(output: Tensor, rows: int, num_sets: int) -> Iterator[tuple[int | None, Tensor]]:
    """A layer's output as (B, W), of every set or (None) of all that has no sets; nothing if it is not of B rows.

    In the interaction: (B, M, ...); (B, M*W) as grouped batch norm sees it; (M, B*K, ...) as in the CIN.
    """
    if output.shape[0] == rows and output[0].numel() % num_sets == 0:
        output_BMW = output.flatten(1).unflatten(1, (num_sets, -1))
    elif output.shape[0] == num_sets and output.shape[1] % rows == 0:
        output_BMW = output.unflatten(1, (rows, -1)).flatten(2).transpose(0, 1)
    else:
        return
    for m in range(num_sets):
        yield (m if num_sets > 1 else None), output_BMW[:, m]


def _layer(name: str, embedding_set: int | None, x_BW: Tensor) -> Layer:
    """By the Gram matrix of the smaller side: layers may be thousands wide."""
    (rows, width), x_BW, rounding = x_BW.shape, x_BW.double(), max(1e-14, torch.finfo(x_BW.dtype).eps)
    deviation_BW = x_BW - x_BW.mean(dim=0)
    sigma = singular_values(deviation_BW.T if width > rows else deviation_BW, exact=False)[: min(rows - 1, width)]
    equal_rows = sigma[0].item() <= rounding * torch.linalg.vector_norm(x_BW).item()
    return Layer(name, embedding_set, width, torch.zeros_like(sigma) if equal_rows else sigma)


def _rows(layers: list[Layer], rows: int) -> Iterator[tuple[Any, ...]]:
    """Rows of `activation_rank.parquet` after the epoch."""
    positions: dict[str, int] = {}
    for layer in layers:
        position = positions.setdefault(layer.name, len(positions))
        values = spectrum_metrics(layer.sigma.unsqueeze(0))
        random = random_metrics(Reference(rows, layer.width, "normal", centred=True))
        for metric in METRICS:
            value = values[metric].item()
            reason = None
            if math.isnan(value):
                reason = "no spread: all rows are equal" if (layer.sigma == 0).all() else why_null(metric, layer.sigma)
            of_layer = (layer.name, position, layer.embedding_set, rows, layer.width)
            yield *of_layer, metric, value, random[metric], reason
