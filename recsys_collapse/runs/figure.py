"""The figure after a sweep: AUC against scale, and the normalised singular spectra (paper, Figures 1a and 1b)."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys_collapse.runs.cells import cells
from recsys_collapse.runs.durable import write

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: safe for the colour-blind
MARKERS = "osD^vP"


def draw(results: Sequence[dict[str, Any]], output_dir: Path, stem: Path) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png` for finished runs of one or more models; returns their paths."""
    from matplotlib.figure import Figure

    models = sorted({(result["dataset"], result["model"]) for result in results})
    figure = Figure(figsize=(9.5, 3.3 * len(models)), layout="constrained")
    for row, (axes, (dataset, model)) in enumerate(
        zip(figure.subplots(len(models), 2, squeeze=False), models, strict=True)
    ):
        own = [r for r in results if (r["dataset"], r["model"]) == (dataset, model)]
        _auc_against_scale(axes[0], own, f"{model} on {dataset}")
        _spectra(axes[1], own, output_dir, legend=row == 0)
    paths = [stem.with_suffix(f".{kind}") for kind in ("svg", "png")]
    for path in paths:
        write(path, lambda file, kind=path.suffix[1:]: figure.savefig(file, format=kind, dpi=160))  # type: ignore[misc]
    return paths


def _auc_against_scale(axes: Any, results: Sequence[dict[str, Any]], title: str) -> None:
    """One line per embed (and other varying key); the base model at 1x is the start of each."""
    grouped = {
        cell: [r["test_auc"] for r in runs if r["test_auc"] is not None] for cell, runs in cells(results).items()
    }
    lines = sorted({(cell.embed, cell.other) for cell in grouped}, key=lambda line: (line[0] != "se", line))
    for (embed, other), colour, marker in zip(lines, cycle(COLOURS), cycle(MARKERS)):
        own = [c for c in grouped if c.other == other and (c.embed == embed or c.label == "base") and grouped[c]]
        if not own:
            continue
        mean = [np.mean(grouped[cell]) for cell in own]
        sd = [np.std(grouped[cell], ddof=1) if len(grouped[cell]) > 1 else 0.0 for cell in own]
        label = " ".join([embed.upper(), *(value for _, value in other)])
        axes.errorbar([cell.scale for cell in own], mean, sd, color=colour, marker=marker, capsize=3, label=label)
    scales = sorted({cell.scale for cell in grouped})
    axes.set(xscale="log", xticks=scales, xticklabels=[f"{s}x" for s in scales], title=title)
    axes.set(xlabel="scale (embedding size / base size)", ylabel="test AUC (mean ± sd over seeds)")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _spectra(axes: Any, results: Sequence[dict[str, Any]], output_dir: Path, legend: bool) -> None:
    """sigma_k / sigma_1 of every cell's first seed: the median over fields with at least as many rows as columns.

    The x axis is k over the number of columns, so that a 1x and a 10x table can be laid over each other.
    """
    grouped = cells(results)
    scales = sorted({cell.scale for cell in grouped})
    for cell, runs in grouped.items():
        spectrum = _median_spectrum(runs[0], output_dir / "runs" / runs[0]["run_name"] / "spectra.parquet")
        if spectrum is None or not len(spectrum):
            continue
        base = cell.label == "base"
        axes.plot(
            (np.arange(len(spectrum)) + 1) / len(spectrum),
            spectrum,
            color="black" if base else COLOURS[cell.embed != "se"],
            alpha=1 if base else 0.35 + 0.65 * (scales.index(cell.scale) + 1) / len(scales),
            linestyle=":" if base else ("-" if cell.embed == "se" else "--"),
            label=" ".join([cell.label, *([] if base else [f"{cell.scale}x"]), *(value for _, value in cell.other)]),
        )
    lowest = min((line.get_ydata().min() for line in axes.lines), default=0.1)
    axes.set(yscale="log", ylim=(max(lowest / 1.5, 1e-6), 1.3), title="singular spectra, whole table of a field")
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
    relative = relative.filter(pl.col("singular_value").is_finite())  # an all-zero table has no normalised spectrum
    return relative.group_by("index").agg(pl.col("singular_value").median()).sort("index")["singular_value"].to_numpy()
