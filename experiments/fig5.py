"""Figure 5, Evidence III: DCNv2 with projections near unitary matrices: higher IA, more overfitting, no scaling.

(a) test AUC and (b) information abundance relative to random by embedding size; (c) training log-loss and (d)
validation AUC of the largest size by epoch.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from experiments.auc import MARGIN, auc_frame, contrasts, line_cells, own_base
from experiments.claims import Claim
from experiments.drawing import line_look, panels
from experiments.found import NAMES, Runs, abundance
from experiments.lines import draw_lines, test_auc
from experiments.study import Artefact, Output, main
from experiments.table1 import BOTH, PER_DOUBLING
from recsys_collapse.stats import paired

NONE, HELD = "none", "unitary"
LABELS = {NONE: "standard", HELD: "regularised"}


def draw(runs: Runs, output: Output) -> None:
    """Four panels and the claims, for the one model that has both kinds."""
    model, top = runs.models[0], runs.scales[-1]
    lines = {label: runs.line(model, "se", kind) for kind, label in LABELS.items()}
    epochs = epoch_frame(runs, model, top)
    with panels(2, 2) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc)
        draw_lines(axes[0, 1], lines, abundance)
        axes[0, 0].set(title=f"(a) {NAMES.get(model, model)}", ylabel="test AUC")
        axes[0, 1].set(title="(b) information abundance", ylabel="IA / random")
        draw_epochs(axes[1, 0], epochs, "train_loss")
        draw_epochs(axes[1, 1], epochs, "val_auc")
        axes[1, 0].set(title=f"(c) training, {top}x", ylabel="log-loss")
        axes[1, 1].set(title=f"(d) validation, {top}x", ylabel="AUC")
    output.figure(figure, epochs)
    output.data(auc_frame(runs), "fig5ab")
    if len(runs.scales) > 1:
        output.claim(claims(runs, model))


def claims(runs: Runs, model: str) -> list[Claim]:
    """Of the largest size, but for the slope."""
    top, about = runs.scales[-1], NAMES.get(model, model)
    standard, held = (runs.of(model, "se", top, kind) for kind in LABELS)
    slopes = contrasts(runs, own_base(*(line_cells(runs, model, "se", kind) for kind in LABELS)))
    higher = paired({s: abundance(r) for s, r in held.items()}, {s: abundance(r) for s, r in standard.items()})
    gap = paired(*({s: overfitting(runs, run) for s, run in own.items()} for own in (held, standard)))
    return [
        Claim(
            "projections held near unitary: IA is higher", about, f"IA / random at {top}x, with - without", higher, 3
        ),
        Claim(
            "... yet the model does not scale",
            f"{about}, regularised",
            f"{PER_DOUBLING}, at most {MARGIN}",
            slopes["other"],
            margin=MARGIN,
            sources=BOTH,
        ),
        Claim(
            "... and overfits more",
            about,
            f"validation - training log-loss, last epoch, {top}x, with - without",
            gap,
            digits=4,
        ),
    ]


def overfitting(runs: Runs, run: dict[str, Any]) -> float:
    """Validation less training log-loss at the last epoch."""
    last = runs.epochs(run).row(-1, named=True)
    return float(last["val_logloss"] - last["train_loss"])


def epoch_frame(runs: Runs, model: str, scale: int) -> pl.DataFrame:
    """Every finished epoch of both kinds: regularizer, seed, epoch, train_loss, val_auc, val_logloss, ia_relative."""
    frames = []
    for kind in LABELS:
        for seed, run in runs.of(model, "se", scale, kind).items():
            own = runs.epochs(run).filter(pl.col("epoch") >= 0)
            columns = ("epoch", "train_loss", "val_auc", "val_logloss", "ia_relative")
            frames.append(own.select(pl.lit(kind).alias("regularizer"), pl.lit(seed).alias("seed"), *columns))
    return pl.concat(frames)


def draw_epochs(axes: Any, epochs: pl.DataFrame, column: str, words: Callable[[str], str] = LABELS.__getitem__) -> None:
    """A thin line for each seed: runs stop at different epochs, so that a mean would jump."""
    for number, kind in enumerate(epochs["regularizer"].unique(maintain_order=True)):
        own = epochs.filter(pl.col("regularizer") == kind)
        for place, (_, line) in enumerate(own.group_by("seed", maintain_order=True)):
            label = words(kind) if place == 0 else None
            x, y = line["epoch"].to_numpy(), line[column].to_numpy()
            axes.plot(np.asarray(x), y, label=label, alpha=0.8, **line_look(number))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.legend()


ARTEFACT = Artefact("fig5", draw)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
