"""Figure 5, Evidence III: DCNv2 with projections near unitary matrices: higher IA, more overfitting, no scaling.

(a) test AUC and (b) information abundance relative to random by embedding size; (c) training log-loss and (d)
validation AUC of the largest size by epoch.
"""

import sys
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

from experiments import needs
from experiments.auc import MARGIN, auc_frame, contrasts, line_cells, slopes
from experiments.claims import AT_MOST, BELOW, Claim
from experiments.drawing import line_look, panels
from experiments.found import NAMES, Runs, abundance, one_model
from experiments.lines import AUC_LABEL, draw_lines, test_auc
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.sub_embeddings import distance_from_unitary
from experiments.table1 import BOTH, PER_DOUBLING
from recsys_collapse.stats import Interval, paired

NONE, HELD = "none", "unitary"
LABELS = {NONE: "standard", HELD: "regularised"}


def draw(runs: Runs, output: Output) -> None:
    """Four panels and the claims, for the one model that has both kinds."""
    model, top = one_model(runs), runs.scales[-1]
    lines = {label: runs.line(model, "se", kind) for kind, label in LABELS.items()}
    epochs = epoch_frame(runs, model, top)
    with panels(2, 2) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc)
        draw_lines(axes[0, 1], lines, abundance)
        axes[0, 0].set(title=f"(a) {NAMES.get(model, model)}", ylabel=AUC_LABEL)
        axes[0, 1].set(title="(b) information abundance", ylabel="IA / random (95% over seeds)")
        draw_epochs(axes[1, 0], epochs, "train_loss")
        draw_epochs(axes[1, 1], epochs, "val_auc")
        axes[1, 0].set(title=f"(c) training, {top}x", ylabel="log-loss")
        axes[1, 1].set(title=f"(d) validation, {top}x", ylabel="AUC")
    output.figure(figure, epochs)
    output.data(auc_frame(runs), "fig5ab")
    output.claim_if(nearer(runs, model), claims(runs, model))


def nearer(runs: Runs, model: str) -> Claim:
    """Whether the regularizer did what it is for: a mean over all sizes."""
    found: list[dict[int, float]] = []
    for kind in (HELD, NONE):
        line = runs.line(model, "se", kind).values()
        seeds = set.intersection(*({*by_seed} for by_seed in line))
        found.append({seed: fmean(distance_from_unitary(runs.loaded(own[seed])) for own in line) for seed in seeds})
    text, quantity = "check: projections are nearer to unitary", "distance (0 to 1), mean over sizes, with - without"
    return Claim(text, NAMES.get(model, model), quantity, paired(found[0], found[1]), digits=3, kind=BELOW)


def claims(runs: Runs, model: str) -> list[Claim]:
    """Of the largest size, but for the slope."""
    top, name = runs.scales[-1], NAMES.get(model, model)
    standard, held = (runs.of(model, "se", top, kind) for kind in LABELS)
    higher = paired({s: abundance(r) for s, r in held.items()}, {s: abundance(r) for s, r in standard.items()})
    quantity = f"validation - training log-loss, last common epoch, {top}x, with - without"
    made = [
        Claim("projections held near unitary: IA is higher", name, f"IA / random at {top}x, with - without", higher, 3),
        Claim("... and the model overfits more", name, quantity, overfitting(runs, standard, held), 4),
    ]
    lines = [line_cells(runs, model, "se", kind) for kind in LABELS]
    if min(map(len, lines)) > 1:
        found = contrasts(runs, slopes(*lines))["other"]
        quantity = f"regularised: {PER_DOUBLING}, at most {MARGIN}"
        made.append(Claim("... and does not scale", name, quantity, found, 5, AT_MOST, MARGIN, sources=BOTH))
    return made


def overfitting(runs: Runs, standard: dict[int, dict[str, Any]], held: dict[int, dict[str, Any]]) -> Interval:
    """Validation less training log-loss at the last epoch that both runs of a seed have, with - without."""
    gaps: list[dict[int, float]] = [{}, {}]
    for seed in {*standard} & {*held}:
        epochs = [runs.epochs(run) for run in (held[seed], standard[seed])]
        last = min(int(own["epoch"].max()) for own in epochs)  # type: ignore[arg-type]
        for gap, own in zip(gaps, epochs, strict=True):
            row = own.row(by_predicate=pl.col("epoch") == last, named=True)
            gap[seed] = row["val_logloss"] - row["train_loss"]
    return paired(gaps[0], gaps[1])


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


ARTEFACT = Artefact("fig5", draw, check=needs.all_of(needs.pair_projections, needs.values("regularizer", *LABELS)))

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
