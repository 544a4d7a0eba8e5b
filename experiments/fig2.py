"""Figure 2: information abundance of every field of the enlarged DCNv2, against random tables of the same shape.

Fields are sorted by their cardinality; information abundance (IA) is that of the whole table at the best epoch.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import permutation_test, spearmanr

from experiments.claims import BELOW, Claim
from experiments.drawing import line_look, panels
from experiments.found import NAMES, Cell, Runs, abundance
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.words import enlarged
from recsys_collapse.stats import Interval, student

METRIC = "information_abundance"


def draw(runs: Runs, output: Output) -> None:
    """A panel for each model and size, and whether the tables have collapsed."""
    frame = pl.concat([field_frame(runs, cell) for cell in runs.cells])
    rows = len(runs.cells)
    fields = frame["field"].n_unique()
    with panels(rows, 1, size=(max(4.0, 0.2 * fields + 1.2) + 1.3, 3.2)) as (figure, axes):
        for place, cell in zip(axes[:, 0], runs.cells, strict=True):
            draw_fields(place, frame, [cell])
            place.set(title=f"{name_of(cell)} on {runs.dataset}", ylabel="IA (mean, range over seeds)")
    output.figure(figure, frame)
    collapse, order = [], []
    for cell, by_seed in runs.cells.items():
        below = student([abundance(run) - 1 for run in by_seed.values()])
        quantity = "IA / random - 1, mean over fields"
        collapse.append(Claim("tables collapse: IA is below random", name_of(cell), quantity, below, 3, BELOW))
        order.append(order_claim(frame, cell))
    output.claim([*collapse, *filter(None, order)])


def name_of(cell: Cell) -> str:
    """`DCNv2 SE 10x`."""
    size = "base" if cell.scale == 1 else f"{cell.embed.upper()} {cell.scale}x"
    return f"{NAMES.get(cell.model, cell.model)} {size}"


def field_frame(runs: Runs, cell: Cell, every_set: bool = False) -> pl.DataFrame:
    """IA and random IA of every field at the best epoch, with those of single sets if asked: a row per seed."""
    frames = []
    for seed, run in runs.cells[cell].items():
        own = runs.frame(run, "collapse").filter(pl.col("metric") == METRIC)
        own = own if every_set else own.filter(pl.col("embedding_set").is_null())
        frames.append(
            own.select(
                *(pl.lit(value).alias(key) for key, value in {**cell._asdict(), "seed": seed}.items()),
                "field",
                "cardinality",
                "embedding_set",
                pl.col("value").alias("ia"),
                pl.col("random_value").alias("random"),
            )
        )
    return pl.concat(frames).sort("cardinality", "field", "seed", maintain_order=True)


def draw_fields(axes: Any, frame: pl.DataFrame, cells: Sequence[Cell]) -> None:
    """IA of every field by ascending cardinality: mean and range over seeds of some cells, and random tables."""
    names = frame["field"].unique(maintain_order=True).to_list()
    for number, cell in enumerate(cells):
        own = of_cell(frame, cell)
        mean, low, high = (own[name].to_numpy() for name in ("ia", "low", "high"))
        error = [mean - low, high - mean]
        places = [place + 0.12 * number for place in range(len(names))]  # beside each other
        axes.errorbar(places, mean, error, label=name_of(cell), **line_look(number))
    axes.plot(range(len(names)), own["random"].to_numpy(), "k--", label="random")
    size = dict(frame.select("field", "cardinality").unique().iter_rows())
    labels = [f"{name} ({size[name]:,})" for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def of_cell(frame: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    """Mean, low and high over seeds of every field's whole table, of a cell, in the order of the frame."""
    own = frame.filter(pl.col("embedding_set").is_null(), **cell._asdict())
    return own.group_by("field", maintain_order=True).agg(
        pl.col("cardinality").first(),
        pl.col("ia").mean(),
        pl.col("ia").min().alias("low"),
        pl.col("ia").max().alias("high"),
        pl.col("random").mean(),
    )


def order_claim(frame: pl.DataFrame, cell: Cell) -> Claim | None:
    """Spearman's rho of cardinality and IA, mean over seeds, against permutations of the fields; None if undefined."""
    mean = of_cell(frame, cell)
    size, ia = mean["cardinality"].to_numpy(), mean["ia"].to_numpy()
    if len(set(size)) < 2 or len(set(ia)) < 2 or not np.isfinite(ia).all():
        return None

    def rho(ia: np.ndarray) -> float:
        return float(spearmanr(size, ia).statistic)

    generator = np.random.default_rng(0)
    p = permutation_test((ia,), rho, permutation_type="pairings", n_resamples=9999, rng=generator).pvalue
    text = "control, not in the paper: IA rises with cardinality"
    quantity = "Spearman's rho over fields, of means over seeds"
    return Claim(text, name_of(cell), quantity, Interval(rho(ia), None), digits=2, p_value=float(p), sources="fields")


ARTEFACT = Artefact("fig2", draw, grids=enlarged)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
