"""Not in the paper: test log-loss against what a size really costs, and the law it follows, SE and ME.

At the same "10x", SE and ME have equal tables, but ME has a tenth of SE's cross weights and other FLOPs, so there are
three axes: all parameters, those outside the tables, FLOPs per sample. On data whose answer is known the loss is the
regret: log-loss above the best possible, whose floor is 0; elsewhere no floor is known. It is that of the epoch of the
best validation AUC. The law is chosen by AICc among flat, log-linear and a power law (`stats.fit_scaling`); every run
is a point.
"""

import sys
from typing import Any

import polars as pl
from rich.table import Table

from experiments.drawing import line_look, panels
from experiments.found import NAMES, Runs
from experiments.output import Output
from experiments.study import Artefact, main
from recsys_collapse.stats import ScalingFit, fit_scaling, student

AXES = {
    "parameters": lambda run: run["parameters"]["embedding"] + run["parameters"]["dense"],
    "dense parameters": lambda run: run["parameters"]["dense"],
    "FLOPs per sample": lambda run: run["flops_per_sample"],
}
FEWEST = 4  # sizes that a law needs


def draw(runs: Runs, output: Output) -> None:
    """A row of three panels for each model; a table of laws where there are sizes enough."""
    frame = point_frame(runs)
    name = "regret" if is_known(runs) else "test log-loss"
    with panels(len(runs.models), len(AXES), sharey="row") as (figure, axes):
        for row, model in zip(axes, runs.models, strict=True):
            for place, axis in zip(row, AXES, strict=True):
                draw_axis(place, frame.filter(model=model), axis)
            row[0].set_ylabel(f"{NAMES.get(model, model)}: {name} (95%)")
    output.figure(figure, frame)
    if rows := law_rows(frame, floor=0.0 if is_known(runs) else None):
        table = Table(title=f"{name} against size: the law with the smallest AICc")
        for header in rows[0]:
            table.add_column(header)
        for law in rows:
            table.add_row(*map(str, law.values()))
        output.table(table, pl.DataFrame(rows), "scaling_laws")


def is_known(runs: Runs) -> bool:
    """Whether all runs know the best possible loss."""
    return all("truth" in run for run in runs)


def loss_of(run: dict[str, Any], known: bool) -> float:
    """Regret or test log-loss, in nats."""
    return float(run["truth"]["test"]["regret"] if known else run["test_logloss"])


def point_frame(runs: Runs) -> pl.DataFrame:
    """Every run as often as it is in a line: model, embed, scale, seed, the three sizes, loss."""
    known = is_known(runs)
    rows = [
        {"model": model, "embed": embed, "scale": scale, "seed": seed}
        | {axis: measure(run) for axis, measure in AXES.items()}
        | {"loss": loss_of(run, known)}
        for model in runs.models
        for embed in ("se", "me")
        for scale, by_seed in runs.line(model, embed).items()
        for seed, run in by_seed.items()
    ]
    return pl.DataFrame(rows)


def draw_axis(axes: Any, points: pl.DataFrame, axis: str) -> None:
    """Means with 95% intervals over seeds, SE and ME."""
    from matplotlib.ticker import EngFormatter

    for number, embed in enumerate(("se", "me")):
        own = [group for _, group in points.filter(embed=embed).group_by("scale", maintain_order=True)]
        found = [student(group["loss"].to_list()) for group in own]
        half, size = [interval.half or 0.0 for interval in found], [group[axis][0] for group in own]
        axes.errorbar(size, [i.estimate for i in found], half, label=embed.upper(), **line_look(number))
    low, high = points[axis].min(), points[axis].max()
    ticks = sorted({low, (low * high) ** 0.5, high})
    axes.set(
        xscale="log", xlabel=axis, xticks=ticks, xticklabels=[EngFormatter(places=1, sep="")(tick) for tick in ticks]
    )
    axes.minorticks_off()
    axes.legend()


def law_rows(frame: pl.DataFrame, floor: float | None) -> list[dict[str, str]]:
    """One for each model, SE or ME, and axis; none where there are too few sizes."""
    rows = []
    for (model, embed), own in frame.group_by("model", "embed", maintain_order=True):
        for axis in [
            axis for axis in AXES if own[axis].n_unique() >= FEWEST
        ]:  # FM has one dense parameter at all sizes
            fit = fit_scaling(own[axis].to_numpy(), own["loss"].to_numpy(), floor)
            rows.append(
                {"model": NAMES.get(str(model), str(model)), "": str(embed).upper(), "of": axis, **law_text(fit)}
            )
    return rows


def law_text(fit: ScalingFit) -> dict[str, str]:
    """The chosen law with its parameters, how much worse the others are, and the interval of alpha."""
    aicc = {name: one.aicc for name, one in fit.candidates.items() if one.aicc is not None}
    best = aicc[fit.best]
    others = ", ".join(f"{name} {value - best:+.1f}" for name, value in aicc.items() if name != fit.best)
    parameters = ", ".join(f"{key} {value:.3g}" for key, value in fit.candidates[fit.best].parameters.items())
    known = fit.best == "power law" and fit.alpha_interval is not None
    interval = "{:.2g} to {:.2g}".format(*fit.alpha_interval or ()) if known else ""
    return {"law": fit.best, "with": parameters, "AICc of others": others, "95% interval of alpha": interval}


ARTEFACT = Artefact("scaling", draw, any_model=True)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
