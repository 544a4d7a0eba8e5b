"""Figure 8a: information abundance of every field, single- against multi-embedding DCNv2 of the same size.

Compared are whole tables (all sets side by side, D x MK) at each run's best epoch. IA falls with training and best
epochs differ, so it is also asked at the same epoch: the earlier one of the two best.
"""

import sys
from typing import Any

import polars as pl

from experiments import needs
from experiments.claims import Claim
from experiments.drawing import panels
from experiments.fig2 import draw_fields, field_frame
from experiments.found import NAMES, Cell, Runs, abundance
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.words import several_sets
from recsys_collapse.stats import Interval, paired


def draw(runs: Runs, output: Output) -> None:
    """A panel for each model that has both, and the claims."""
    cells = {model: [Cell(model, embed, runs.scales[-1]) for embed in ("se", "me")] for model in runs.models}
    frame = pl.concat([field_frame(runs, cell) for pair in cells.values() for cell in pair])
    fields = frame["field"].n_unique()
    with panels(len(cells), 1, size=(max(4.0, 0.2 * fields + 1.2) + 1.3, 3.2)) as (figure, axes):
        for place, (model, pair) in zip(axes[:, 0], cells.items(), strict=True):
            own = frame.filter(pl.col("model") == model)
            draw_fields(place, own, pair)
            place.set(title=f"{NAMES.get(model, model)} on {runs.dataset}", ylabel="IA (mean, range over seeds)")
    output.figure(figure, frame)
    best, same = [], []
    for model, (one, other) in cells.items():
        se, me = runs.cells[one], runs.cells[other]
        about, quantity = NAMES.get(model, model), f"IA / random at {one.scale}x, ME - SE, whole tables"
        found = paired({s: abundance(run) for s, run in me.items()}, {s: abundance(run) for s, run in se.items()})
        best.append(Claim("ME has higher information abundance than SE", about, quantity, found, 3))
        text = "... at the same epoch too (control, not in the paper)"
        same.append(Claim(text, about, quantity, at_the_same_epoch(runs, se, me), 3))
    output.claim([*best, *same])


def at_the_same_epoch(runs: Runs, se: dict[int, dict[str, Any]], me: dict[int, dict[str, Any]]) -> Interval:
    """ME - SE of IA / random, each pair of seeds at the earlier one of its two best epochs."""
    values: list[dict[int, float]] = [{}, {}]
    for seed in {*se} & {*me}:
        epoch = min(se[seed]["best_epoch"], me[seed]["best_epoch"])
        for own, run in zip(values, (me[seed], se[seed]), strict=True):
            own[seed] = runs.epochs(run).row(by_predicate=pl.col("epoch") == epoch, named=True)["ia_relative"]
    return paired(values[0], values[1])


ARTEFACT = Artefact("fig8a", draw, grids=several_sets, check=needs.values("embed", "se", "me"))

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
