"""What truncation finds: the AUC over rank, with its interval, and the rank that is enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys_collapse.stats import Interval, Placements, auc_contrast


@dataclass(frozen=True)
class Point:
    """The AUC at one rank; `change` is that minus the AUC of the whole model, on the same rows.

    `low` and `high` are its 95% interval over other rows (DeLong), None where a class has fewer than two rows.
    """

    rank: int
    auc: float
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """AUC over rank; the last point is the whole model, with change 0.

    `needed` is the smallest measured rank from which on, there and at every larger one, at most the tolerance is lost
    (the estimate, not its interval); `certain` the smallest from which on the intervals rule out a larger loss. There
    always is one, as the last point loses nothing.
    """

    curve: str
    field: str | None
    points: list[Point]
    needed: int
    certain: int


@dataclass(frozen=True)
class Together:
    """Every field at the rank that it needs alone, all at once: losses add up, so that this is measured too."""

    ranks: dict[str, int]
    auc: float
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Truncation:
    """All curves of one model: `dataclasses.asdict` of it is an entry of `truncation` in the JSON."""

    label: str
    split: str | None
    rows: int
    auc: float
    tolerance: float
    curves: list[Curve]
    together: Together | None
    """None where not every field has a curve of its own."""


def enough(points: Sequence[Point], tolerance: float) -> tuple[int, int]:
    """`Curve.needed` and `Curve.certain` of points in ascending rank, the last of which loses nothing."""
    estimates = [(point.rank, point.change) for point in points]
    bounds = [(point.rank, -math.inf if point.low is None else point.low) for point in points[:-1]]
    return _from_which_on(estimates, -tolerance), _from_which_on([*bounds, estimates[-1]], -tolerance)


def _from_which_on(changes: Sequence[tuple[int, float]], least: float) -> int:
    """The first rank of which, and of all after it, the change is not below `least`."""
    found = changes[-1][0]
    for rank, change in reversed(changes):
        if change < least:
            break
        found = rank
    return found


def point(rank: int, found: Placements, whole: Placements) -> Point:
    """The point of truncated tables, beside the whole model on the same rows."""
    if min(len(whole.positive_m), len(whole.negative_k)) < 2:
        return Point(rank, found.auc, found.auc - whole.auc, None, None)
    change, variance = auc_contrast((1, -1), (found, whole))
    interval = Interval(change, math.sqrt(variance))
    return Point(rank, found.auc, change, interval.low, interval.high)
