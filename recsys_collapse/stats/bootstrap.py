"""The paired bootstrap over test rows or over users: for metrics without a formula, and for rows that hang together.

Shapes: n rows, G groups, d draws.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[[Any, Any], float | None]  # (logit_n, label_n) as numpy arrays; None or NaN where it has no value
MOST_REFUSED = 0.1  # of all draws: with more, those that are left would no longer be a fair sample


class Bootstrap(NamedTuple):
    """A difference with its percentile interval and the standard deviation of the draws."""

    estimate: float
    low: float
    high: float
    standard_error: float


def paired_bootstrap(
    metric: Metric,
    label_n: ArrayLike,
    a_n: ArrayLike,
    b_n: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    groups_n: ArrayLike | None = None,
    level: float = 0.95,
) -> Bootstrap:
    """metric(a) - metric(b), with the same drawn rows for both (Efron and Tibshirani, 1993, percentile interval).

    Args:
        metric: called with logits (n',) and labels (n',) of drawn rows. A draw where it has no value, such as an AUC of
            one class, is drawn again.
        label_n: labels (n,).
        a_n: logits (n,) of one model.
        b_n: logits (n,) of the other, same rows in the same order.
        draws: how many, 2 or more.
        seed: of the draws; the same seed gives the same numbers.
        groups_n: (n,) such as users: whole groups are drawn, as rows of one user hang together. None: rows are drawn.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: shapes differ, arguments are out of range, there is no value on all rows, or in every tenth draw.
    """
    label_n, a_n, b_n = np.asarray(label_n), np.asarray(a_n), np.asarray(b_n)
    group_n = np.arange(len(label_n)) if groups_n is None else np.asarray(groups_n)
    if not label_n.shape == a_n.shape == b_n.shape == group_n.shape == (len(label_n),) or not len(label_n):
        shapes = ", ".join(str(array.shape) for array in (label_n, a_n, b_n, group_n))
        raise ValueError(f"labels, both models' logits and groups must have one shape (n,), n above 0: found {shapes}")
    if draws < 2 or not 0 < level < 1:
        raise ValueError(f"expected 2 draws at least and a level between 0 and 1: found {draws=}, {level=}")
    estimate = _difference(metric, label_n, a_n, b_n)
    if math.isnan(estimate):
        raise ValueError("the metric has no value on all rows (do the labels have one class only?)")
    rng, rows_of = np.random.default_rng(seed), _rows_by_group(group_n)
    found: list[float] = []
    refused = 0
    while len(found) < draws:
        row_n = rows_of(rng)
        value = _difference(metric, label_n[row_n], a_n[row_n], b_n[row_n])
        refused += math.isnan(value)
        if refused > MOST_REFUSED * draws:
            raise ValueError(
                f"the metric has no value in {refused} of {len(found) + refused} draws (of one class?): too few rows "
                "or groups for a bootstrap"
            )
        if not math.isnan(value):
            found.append(value)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Bootstrap(estimate, low, high, float(np.std(found, ddof=1)))


def _difference(metric: Metric, label_n: NDArray[Any], a_n: NDArray[Any], b_n: NDArray[Any]) -> float:
    """NaN where the metric has no value for one of the two."""
    a, b = metric(a_n, label_n), metric(b_n, label_n)
    return math.nan if a is None or b is None else float(a) - float(b)


def _rows_by_group(group_n: NDArray[Any]) -> Callable[[np.random.Generator], NDArray[np.int64]]:
    """A function that draws as many groups as there are, with replacement, and gives their rows."""
    _, number_n, size_G = np.unique(group_n, return_inverse=True, return_counts=True)
    row_n, start_G = np.argsort(number_n, kind="stable"), np.cumsum(size_G) - size_G

    def draw(rng: np.random.Generator) -> NDArray[np.int64]:
        drawn_G = rng.integers(len(size_G), size=len(size_G))
        size_d = size_G[drawn_G]
        first_d = np.cumsum(size_d) - size_d
        within_n = np.arange(size_d.sum()) - np.repeat(first_d, size_d)  # 0, 1, ... in every drawn group
        return row_n[np.repeat(start_G[drawn_G], size_d) + within_n]

    return draw
