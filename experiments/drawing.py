"""Figures in the paper's style: safe for the colour-blind, legible in print, with the numbers behind each beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from recsys_collapse.runs.durable import write
from recsys_collapse.runs.figure import COLOURS, MARKERS

KINDS = ("pdf", "svg", "png")
DASHES = ("-", "--", "-.", ":")
PANEL = (3.1, 2.5)  # inches: two side by side fill a column pair of a page
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "recsys_collapse",  # the same figure is the same file
}


@contextmanager
def panels(rows: int = 1, columns: int = 1, size: tuple[float, float] = PANEL, **options: Any) -> Iterator[Any]:
    """Within it: the figure, and its axes (rows, columns). `size` is that of a panel; `options` those of `subplots`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, data: pl.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write the figure in three formats, and its data as CSV; the paths."""
    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    for path in paths:
        own = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:])

        def draw(file: Any, kind: str = path.suffix[1:], metadata: Any = own) -> None:
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)

        write(path, draw)
    return [*paths, save_data(data, folder, name)]


def save_data(data: pl.DataFrame, folder: Path, name: str) -> Path:
    """Write a CSV; its path."""
    path = folder / f"{name}.csv"
    write(path, lambda file: data.write_csv(file, float_precision=8, float_scientific=None))
    return path


def scale_axis(axes: Any, scales: Sequence[int]) -> None:
    """Sizes at equal distances for equal factors."""
    axes.set(xscale="log", xticks=scales, xticklabels=[f"{scale}x" for scale in scales], xlabel="embedding size")
    axes.minorticks_off()


def look(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th line of a panel: told apart without colour too."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def line_look(number: int) -> dict[str, Any]:
    """Likewise, and dashes: a line that another one covers can still be seen."""
    return look(number) | {
        "linestyle": DASHES[number % len(DASHES)],
        "markerfacecolor": "white" if number % 2 else None,
    }
