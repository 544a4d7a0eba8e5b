"""Heat maps with field names, for the figures of measuring callbacks. A font that is readable with 3 fields and with 39.

matplotlib is imported by whoever makes the figure: here only what it gives is used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LONGEST_NAME = 14  # of a tick label; the files have the whole names
INCH_PER_TICK = 0.13


def panel_inches(ticks: int) -> float:
    """Side of a panel on which so many tick labels find room."""
    return max(2.8, INCH_PER_TICK * ticks)


def ticks(axes: Any, axis: str, names: Sequence[str]) -> None:
    """Names along one axis, `x` or `y`."""
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in names]
    turned = {"rotation": 90} if axis == "x" and max(map(len, short), default=0) > 2 else {}
    size = 8 if len(names) <= 16 else 6
    getattr(axes, f"set_{axis}ticks")(range(len(names)), short, fontsize=size, parse_math=False, **turned)


def heat_map(axes: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], **options: Any) -> Any:
    """Draw values (rows, columns), grey where there is none, with a name at every row and column; returns the image.

    `options` are those of `imshow`. Draw what is measured the same way with the same `vmin` and `vmax`.
    """
    axes.set_facecolor("lightgrey")
    image = axes.imshow(np.ma.masked_invalid(values), interpolation="nearest", **options)
    ticks(axes, "x", columns)
    ticks(axes, "y", rows)
    return image


def limits(*values: np.ndarray) -> dict[str, float]:
    """`vmin` and `vmax` for several heat maps with one colour bar; nothing where no value is finite."""
    finite = np.concatenate([part[np.isfinite(part)] for part in values])
    return {"vmin": float(finite.min()), "vmax": float(finite.max())} if len(finite) else {}
