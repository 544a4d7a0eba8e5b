"""How two things are timed against each other: A B, B A, A B, ... in one process, and the ratio of each pair.

A machine's speed drifts with its clock and its neighbours. Both halves of a pair meet the same conditions, so the ratio
of a pair is steady where single times are not; the order alternates so that neither always runs on the other's warm
caches. The median of the ratios is the result and their quartiles its spread.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Action = Callable[[], object]


class Comparison(NamedTuple):
    """A against B; times are medians in seconds."""

    a_seconds: float
    b_seconds: float
    ratio: float
    """Median of A's time / B's time: below 1, A is faster."""
    ratio_low: float
    """First quartile."""
    ratio_high: float
    """Third quartile."""
    repeats: int


def seconds(action: Action) -> float:
    """Wall time of one call, or what it returns if it measures the part that counts itself (a float)."""
    start = time.perf_counter()
    measured = action()
    return measured if isinstance(measured, float) else time.perf_counter() - start


def interleave(a: Action, b: Action, repeats: int, warm_up: int = 2) -> Comparison:
    """Time `a` and `b` in `repeats` pairs after `warm_up` calls of each that do not count.

    Raises:
        ValueError: fewer than 1 pair.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more")
    for action in (a, b) * warm_up:
        action()
    times_RP = np.empty((repeats, 2))
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            times_RP[repeat, side] = seconds((a, b)[side])
    low, middle, high = np.quantile(times_RP[:, 0] / times_RP[:, 1], [0.25, 0.5, 0.75]).tolist()
    a_seconds, b_seconds = np.median(times_RP, axis=0).tolist()
    return Comparison(a_seconds, b_seconds, middle, low, high, repeats)
