"""Figure 1: larger single embeddings do not help (a), and most of their singular values are small (b).

Whether AUC grows with them is asked by `experiments.table1`; here, whether information abundance falls.

(b) is the largest of the given sizes, every field whose table has at least as many rows as columns, at the best epoch.
The paper calls most singular values "significantly small" and gives no number: asked is whether more of them are below
half of the largest than in the same table when it was new (the dashed line); how many are below .1 is a note.
"""

import statistics
import sys
from typing import Any

import numpy as np
import polars as pl

from experiments.auc import auc_frame
from experiments.claims import BELOW, Claim
from experiments.drawing import look, panels
from experiments.found import NAMES, Runs, abundance
from experiments.lines import AUC_LABEL, draw_lines, test_auc
from experiments.output import Output
from experiments.study import Artefact, main
from recsys_collapse.stats import paired, slope_weights, student

HALF, SMALL = 0.5, (0.1, 0.5)  # of the largest singular value


def draw(runs: Runs, output: Output) -> None:
    """Both panels, and a claim for each model."""
    spectra = spectrum_frame(runs)
    with panels(1, 2, size=(3.4, 2.7)) as (figure, axes):
        draw_lines(axes[0, 0], {NAMES.get(m, m): runs.line(m, "se") for m in runs.models}, test_auc)
        axes[0, 0].set(ylabel=AUC_LABEL, title="(a) single-embedding")
        draw_spectra(axes[0, 1], runs, spectra)
    output.figure(figure, spectra)
    output.data(auc_frame(runs), "fig1a")
    claims = []
    for model in runs.models:
        trained, new = (_by_seed(spectra, model, epoch) for epoch in ("best", "initialisation"))
        below = [{seed: share(own, HALF) for seed, own in of.items()} for of in (trained, new)]
        more = paired(below[0], below[1])
        quantity = f"share below {HALF} of the largest, {runs.scales[-1]}x, trained - initialisation"
        claims.append(Claim("singular values become small", NAMES.get(model, model), quantity, more, digits=3))
        shares = (
            f"{statistics.fmean(share(own, size) for own in trained.values()):.0%} below {size}" for size in SMALL
        )
        output.notes.append(
            f"{NAMES.get(model, model)} {runs.scales[-1]}x, sigma_k / sigma_1, fields and seeds: {', '.join(shares)}"
        )
    output.claim([*claims, *(falling(runs, model) for model in runs.models if len(runs.line(model, "se")) > 1)])


def falling(runs: Runs, model: str) -> Claim:
    """Whether larger tables collapse more: the slope of IA / random over the doublings of the size, of every seed."""
    line = runs.line(model, "se")
    seeds = set.intersection(*({*by_seed} for by_seed in line.values()))
    weights = slope_weights([(scale, False) for scale in line])["se"]
    slopes = [sum(w * abundance(line[scale][seed]) for w, scale in zip(weights, line, strict=True)) for seed in seeds]
    text, quantity = "larger single embeddings collapse more", "IA / random per doubling of the size"
    return Claim(text, NAMES.get(model, model), quantity, student(slopes), digits=3, kind=BELOW)


def spectrum_frame(runs: Runs) -> pl.DataFrame:
    """sigma_k / sigma_1 of the largest SE: model, seed, epoch (initialisation, best), field, k, relative."""
    frames = []
    for model in runs.models:
        for seed, run in runs.of(model, "se", runs.scales[-1]).items():
            for word, epoch in (("initialisation", -1), ("best", run["best_epoch"])):
                own = runs.frame(run, "spectra", epoch).filter(pl.col("embedding_set").is_null())
                full = own.filter(pl.len().over("field") == run["num_sets"] * run["embed_size"])
                own = full if len(full) else own  # a small data set may have no field with so many ids
                largest = pl.col("singular_value").max().over("field")
                frames.append(
                    own.select(
                        pl.lit(model).alias("model"),
                        pl.lit(seed).alias("seed"),
                        pl.lit(word).alias("epoch"),
                        "field",
                        (pl.col("index") + 1).alias("k"),
                        (pl.col("singular_value") / largest).alias("relative"),
                    )
                )
    return pl.concat(frames)


def _by_seed(spectra: pl.DataFrame, model: str, epoch: str) -> dict[int, pl.DataFrame]:
    own = spectra.filter((pl.col("model") == model) & (pl.col("epoch") == epoch))
    return {int(seed): group for (seed,), group in own.group_by("seed")}


def share(own: pl.DataFrame, below: float) -> float:
    """Mean over fields of the share of singular values that are below so much of the largest."""
    found = own.group_by("field").agg((pl.col("relative") < below).mean())["relative"].mean()
    assert isinstance(found, float)
    return found


def draw_spectra(axes: Any, runs: Runs, spectra: pl.DataFrame) -> None:
    """First seed: a line for each field of the first model, and the median of its initialisation."""
    model = "dcnv2" if "dcnv2" in runs.models else runs.models[0]
    seed = min(_by_seed(spectra, model, "best"))
    own, start = (_by_seed(spectra, model, epoch)[seed] for epoch in ("best", "initialisation"))
    for _, line in own.group_by("field", maintain_order=True):
        axes.plot(line["k"].to_numpy(), line["relative"].to_numpy(), color=look(0)["color"], alpha=0.5, linewidth=0.9)
    axes.plot([], [], color=look(0)["color"], label="every field, trained")
    median = start.group_by("k").agg(pl.col("relative").median()).sort("k")
    axes.plot(median["k"].to_numpy(), median["relative"].to_numpy(), "k--", label="initialisation, median")
    lowest = float(np.nanmin(own.filter(pl.col("relative") > 0)["relative"].to_numpy()))
    axes.set(yscale="log", ylim=(max(lowest / 1.5, 1e-5), 1.3), xlabel="k", ylabel="$\\sigma_k / \\sigma_1$")
    axes.set_title(f"(b) {NAMES.get(model, model)} {runs.scales[-1]}x")
    axes.legend()


ARTEFACT = Artefact("fig1", draw, any_model=True)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
