"""The figure after a sweep: AUC against scale, and the normalised singular spectra (paper, Figures 1a and 1b)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys_collapse.runs.durable import write
from recsys_collapse.runs.table import cells

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: safe for the colour-blind
MARKERS = "osD^vP"


def draw(results: Sequence[dict[str, Any]], output_dir: Path, stem: Path) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png` for finished runs of one or more models; returns their paths."""
    from matplotlib.figure import Figure

    models = sorted({(result["dataset"], result["model"]) for result in results})
    figure = Figure(figsize=(9.5, 3.3 * len(models)), layout="constrained")
    for row, (axes, (dataset, model)) in enumerate(zip(figure.subplots(len(models), 2, squeeze=False), models, strict=True)):
        own = [r for r in results if (r["dataset"], r["model"]) == (dataset, model)]
        _auc_against_scale(axes[0], own, f"{model} on {dataset}")
        _spectra(axes[1], own, output_dir, legend=row == 0)
    paths = [stem.with_suffix(f".{kind}") for kind in ("svg", "png")]
    for path in paths:
        write(path, lambda file, kind=path.suffix[1:]: figure.savefig(file, format=kind, dpi=160))  # type: ignore[misc]
    return paths


def _auc_against_scale(axes: Any, results: Sequence[dict[str, Any]], title: str) -> None:
    grouped = cells(results)
    embeds = sorted({embed for _, _, _, embed in grouped}, key=lambda embed: (embed != "se", embed))
    for embed, colour, marker in zip(embeds, COLOURS, MARKERS, strict=False):
        points = []
        for (_, _, scale, name), runs in grouped.items():
            aucs = [run["test_auc"] for run in runs if run["test_auc"] is not None]
            if (name == embed or (scale == 1 and name == "se")) and aucs:
                points.append((scale, np.mean(aucs), np.std(aucs, ddof=1) if len(aucs) > 1 else 0.0))
        if points:
            scale, mean, sd = zip(*sorted(points), strict=True)
            axes.errorbar(scale, mean, sd, color=colour, marker=marker, capsize=3, label=embed.upper())
    scales = sorted({scale for _, _, scale, _ in grouped})
    axes.set(xscale="log", xticks=scales, xticklabels=[f"{s}x" for s in scales], title=title)
    axes.set(xlabel="scale (embedding size / base size)", ylabel="test AUC (mean ± sd over seeds)")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _spectra(axes: Any, results: Sequence[dict[str, Any]], output_dir: Path, legend: bool) -> None:
    """sigma_k / sigma_1 of every cell's first seed: the median over fields with more rows than columns.

    The x axis is k over the number of columns, so that a 1x and a 10x table can be laid over each other.
    """
    runs = [cell[0] for cell in cells(results).values()]
    for run in runs:
        spectrum = _median_spectrum(run, output_dir / "runs" / run["run_name"] / "spectra.parquet")
        if spectrum is None:
            continue
        scales = sorted({r["scale"] for r in runs})
        shade = 0.35 + 0.65 * (scales.index(run["scale"]) + 1) / len(scales)
        base = run["scale"] == 1 and run["embed"] == "se"
        colour = "black" if base else COLOURS[0 if run["embed"] == "se" else 1]
        axes.plot(
            (np.arange(len(spectrum)) + 1) / len(spectrum),
            spectrum,
            color=colour,
            alpha=1 if base else shade,
            linestyle=":" if base else ("-" if run["embed"] == "se" else "--"),
            label="base" if base else f"{run['embed'].upper()} {run['scale']}x",
        )
    axes.set(yscale="log", ylim=(1e-3, 1.3), title="singular spectra, whole table of a field")
    axes.set(xlabel="k / number of columns", ylabel="$\\sigma_k / \\sigma_1$, median over fields")
    axes.grid(alpha=0.3)
    if legend and axes.lines:
        axes.legend(frameon=False, ncols=2, fontsize="small")


def _median_spectrum(run: dict[str, Any], path: Path) -> np.ndarray | None:
    """Median over fields of the normalised spectrum at the best epoch; None if the run kept none."""
    if not path.is_file():
        return None
    columns = run["num_sets"] * run["embed_size"]
    whole = pl.col("embedding_set").is_null() & (pl.col("epoch") == run["best_epoch"])
    spectra = pl.read_parquet(path).filter(whole)
    full = spectra.group_by("field").len().filter(pl.col("len") == columns)["field"]
    kept = spectra.filter(pl.col("field").is_in(full.implode()) if len(full) else pl.lit(True))
    relative = kept.with_columns(pl.col("singular_value") / pl.col("singular_value").max().over("field"))
    return relative.group_by("index").agg(pl.col("singular_value").median()).sort("index")["singular_value"].to_numpy()
