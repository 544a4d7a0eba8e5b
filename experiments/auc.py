"""Differences and slopes of test AUC with both sources of chance: other seeds, and other test rows.

A slope per doubling of the size, and a difference of two slopes, are sums of the cells' AUCs with fixed weights
(`recsys_collapse.stats.slope_weights`), so all of them are asked in the same way.
"""

import statistics
from collections.abc import Mapping, Sequence

import polars as pl

from experiments.found import Cell, Runs
from recsys_collapse.stats import Interval, Placements, auc_contrast, both_sources, placements, slope_weights, student

Weights = dict[Cell, float]
MARGIN = 1e-4
"""AUC per doubling that is no scaling: in the paper, the slopes of ME are 1.2e-4 (IPNN, Criteo) to 1.2e-3."""
FEWEST_SEEDS = 3
"""For an interval over seeds and rows: with two, a nominal 95% covers .92 and less (a slow test of stats)."""


def contrasts(runs: Runs, asked: Mapping[str, Weights]) -> dict[str, Interval]:
    """Sum over cells of weight x test AUC, by name; paired by seed: of the seeds that all cells have.

    Raises:
        ValueError: the cells share no seed, a test AUC or scores are missing.
    """
    cells = list(dict.fromkeys(cell for weights in asked.values() for cell in weights))
    seeds = sorted(set.intersection(*({*runs.cells.get(cell, {})} for cell in cells)))
    if not seeds:
        raise ValueError(f"no seed has all of {', '.join(' '.join(map(str, cell[:3])) for cell in cells)}")
    known = {(cell, seed): _placements(runs, runs.cells[cell][seed]) for cell in cells for seed in seeds}
    found = {}
    for name, weights in asked.items():
        each = [sum(weight * known[cell, seed].auc for cell, weight in weights.items()) for seed in seeds]
        shares = [weight / len(seeds) for weight in weights.values() for _ in seeds]
        models = (known[cell, seed] for cell in weights for seed in seeds)
        variance = auc_contrast(shares, models)[1]
        few = len(seeds) < FEWEST_SEEDS
        found[name] = Interval(statistics.fmean(each), None) if few else both_sources(each, variance)
    return found


def _placements(runs: Runs, run: dict) -> Placements:
    if run["test_auc"] is None:
        raise ValueError(f"{run['run_name']} has no test AUC: {run['null_reasons'].get('test_auc')}")
    return placements(*runs.scores(run))


def slopes(one: Sequence[Cell], other: Sequence[Cell]) -> dict[str, Weights]:
    """AUC per doubling of two lines, each fitted by itself (both from the base on), and their `difference`."""
    found = [
        dict(zip(cells, map(float, slope_weights([(cell.scale, False) for cell in cells])["se"]), strict=True))
        for cells in (one, other)
    ]
    both = dict.fromkeys([*one, *other])  # SE and ME have one base: its weights cancel
    return {
        "one": found[0],
        "other": found[1],
        "difference": {cell: found[1].get(cell, 0.0) - found[0].get(cell, 0.0) for cell in both},
    }


def difference(one: Cell, other: Cell) -> Weights:
    """Other - one."""
    return {one: -1.0, other: 1.0}


def line_cells(runs: Runs, model: str, embed: str, regularizer: str = "none") -> list[Cell]:
    """The cells of a line in a figure, from the base on."""
    line = runs.line(model, embed, regularizer)
    return [Cell(model, "se" if scale == 1 else embed, scale, regularizer) for scale in line]


def auc_frame(runs: Runs) -> pl.DataFrame:
    """Of every cell: n, mean and sample sd of the test AUC, parameters and FLOPs per sample."""
    rows = []
    for cell, by_seed in runs.cells.items():
        own = list(by_seed.values())
        values = [run["test_auc"] for run in own if run["test_auc"] is not None]
        if len(values) < len(own):
            raise ValueError(f"{own[0]['run_name']}: no test AUC: the test rows have one class only")
        interval = student(values)
        rows.append(
            {
                **cell._asdict(),
                "n": len(values),
                "test_auc": interval.estimate,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "half_interval": interval.half,
                "test_logloss": statistics.fmean(run["test_logloss"] for run in own),
                "val_auc": statistics.fmean(run["val_auc"] for run in own),
                "best_epochs": ",".join(str(run["best_epoch"]) for run in own),
                "embedding_parameters": own[0]["parameters"]["embedding"],
                "dense_parameters": own[0]["parameters"]["dense"],
                "flops_per_sample": own[0]["flops_per_sample"],
            }
        )
    return pl.DataFrame(rows, schema_overrides={"sd": pl.Float64, "half_interval": pl.Float64})
