"""How far the AUC of models would differ on other test rows: DeLong's variances of any contrast of AUCs.

The AUC is exact, as in `recsys_collapse.score`; all scores count by their order only, so logits are best (a sigmoid
makes ties of large ones).

Shapes: n rows, m positives, k negatives, g distinct scores.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_collapse.stats.interval import Interval


class Placements(NamedTuple):
    """An AUC and what every row has to do with it: DeLong's structural components, V10 and V01."""

    auc: float
    positive_m: NDArray[np.float64]  # of each positive, the share of negatives below it, ties counted half; mean: AUC
    negative_k: NDArray[np.float64]  # of each negative, the share of positives above it, likewise
    label_n: NDArray[np.bool_]  # which rows these are: models can be compared on the same rows only


def placements(logit_n: ArrayLike, label_n: ArrayLike) -> Placements:
    """AUC and placement values by sorting, O(n log n) instead of all m * k pairs (Sun and Xu, 2014: mid-ranks).

    Args:
        logit_n: scores (n,), without NaN.
        label_n: (n,) in {0, 1} or bool, both classes present.

    Raises:
        ValueError: shapes, scores or labels are not such.
    """
    value_n, label_n = np.asarray(logit_n), np.asarray(label_n)
    if value_n.ndim != 1 or value_n.shape != label_n.shape:
        raise ValueError(f"expected scores (n,) and labels (n,): found {value_n.shape} and {label_n.shape}")
    if np.isnan(value_n).any():
        raise ValueError(f"NaN has no rank: found {np.isnan(value_n).sum()} among {len(value_n)} scores")
    if not np.isin(label_n, (0, 1)).all():
        raise ValueError(f"labels are 0 or 1: found {np.setdiff1d(label_n, (0, 1))[:5].tolist()}")
    label_n = label_n.astype(bool)
    m = int(label_n.sum())
    k = len(label_n) - m
    if not (m and k):
        raise ValueError(f"an AUC needs both classes: found {m} positives and {k} negatives")
    distinct_g, group_n = np.unique(value_n, return_inverse=True)
    positive_g = np.bincount(group_n[label_n], minlength=len(distinct_g))
    negative_g = np.bincount(group_n[~label_n], minlength=len(distinct_g))
    twice_below_g = 2 * negative_g.cumsum() - negative_g  # negatives below, a tie being half a negative; in integers
    twice_above_g = 2 * (m - positive_g.cumsum()) + positive_g
    auc = int((positive_g * twice_below_g).sum()) / (2 * m * k)
    positive_m, negative_k = twice_below_g[group_n[label_n]] / (2 * k), twice_above_g[group_n[~label_n]] / (2 * m)
    return Placements(auc, positive_m, negative_k, label_n)


def auc_contrast(weights: Sequence[float], models: Iterable[Placements]) -> tuple[float, float]:
    """sum_r w_r AUC_r of models r on the same rows, and its variance over test rows (DeLong and others, 1988).

    The same sum of the placement values has the contrast's variance: no matrix of covariances between models is needed,
    and of a generator's models, one is in memory at a time.

    Args:
        weights: one per model: (1, -1) for a difference, `slope_weights` for a slope, each / S for a mean of S seeds.
        models: `placements` of every model, in the order of the weights.

    Returns:
        Value and variance, float64. The variance is that of models as they are: other seeds are not in it.

    Raises:
        ValueError: not as many models as weights, labels that differ, or fewer than two rows of a class.
    """
    value, count, label_n = 0.0, 0, None
    positive_m: NDArray[np.float64] = np.zeros(0)
    negative_k: NDArray[np.float64] = np.zeros(0)
    for count, one in enumerate(models, start=1):
        if count > len(weights):
            raise ValueError(f"expected one model for each of {len(weights)} weights: found more")
        if label_n is None:
            label_n, positive_m, negative_k = one.label_n, np.zeros_like(one.positive_m), np.zeros_like(one.negative_k)
        elif not np.array_equal(label_n, one.label_n):
            raise ValueError(
                f"models are compared on the same rows in the same order: the labels of model {count} are "
                f"not those of the first ({one.label_n.sum()} of {len(one.label_n)} and {label_n.sum()} of "
                f"{len(label_n)} are 1)"
            )
        weight = float(weights[count - 1])
        value += weight * one.auc
        positive_m += weight * one.positive_m
        negative_k += weight * one.negative_k
    if not 0 < count == len(weights):
        raise ValueError(f"expected one model for each of {len(weights)} weights: found {count}")
    if min(len(positive_m), len(negative_k)) < 2:
        raise ValueError(
            f"a variance needs two rows of each class: found {len(positive_m)} positives, {len(negative_k)} negatives"
        )
    variance = positive_m.var(ddof=1) / len(positive_m) + negative_k.var(ddof=1) / len(negative_k)
    return value, float(variance)


def delong(logit_a_n: ArrayLike, logit_b_n: ArrayLike, label_n: ArrayLike) -> Interval:
    """AUC_a - AUC_b of two models on the same rows (n,), with its 95% interval over test rows (normal distribution).

    Raises:
        ValueError: as `placements` and `auc_contrast`.
    """
    value, variance = auc_contrast((1, -1), (placements(logit_n, label_n) for logit_n in (logit_a_n, logit_b_n)))
    return Interval(value, math.sqrt(variance))


def hanley_mcneil(auc: float, positives: int, rows: int) -> float:
    """Standard error of one AUC without its scores, within some percent for scores like ours (Hanley, McNeil, 1982).

    Args:
        auc: in [0, 1].
        positives: rows with label 1, above 0 and below `rows`.
        rows: of both classes.
    """
    negatives = rows - positives
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)  # two positives above a negative, a positive above two
    spread = auc * (1 - auc) + (positives - 1) * (one - auc**2) + (negatives - 1) * (two - auc**2)
    return math.sqrt(spread / (positives * negatives))
