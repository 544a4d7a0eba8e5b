"""Independent formulas that the numbers of artefacts are compared with: slow and plain."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student_t

from experiments.found import Cell, Runs
from recsys_collapse.stats import Interval


def half(values: Sequence[float]) -> float:
    """Half a 95% interval of Student's t."""
    return float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def slope(by_scale: Mapping[int, float]) -> float:
    """Per doubling."""
    return float(np.polyfit(np.log2([*by_scale]), [*by_scale.values()], 1)[0])


def is_student_of(found: Interval, values: Sequence[float]) -> bool:
    """Whether an interval is that of these values."""
    return found.estimate == pytest.approx(statistics.fmean(values)) and found.half == pytest.approx(half(values))


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """From 0, ties in the middle."""
    value_n = np.asarray(values, dtype=float)
    below_n = (value_n[:, None] > value_n).sum(1)
    return below_n + ((value_n[:, None] == value_n).sum(1) - 1) / 2


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """By the correlation of ranks."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


# Contrasts of AUCs


def kernel(logit: NDArray[np.float64], label: NDArray[Any]) -> NDArray[np.float64]:
    """Of every positive and negative: 1 where it is above, .5 where they tie."""
    above, equal = (compare(logit[label == 1][:, None], logit[label == 0]) for compare in (np.greater, np.equal))
    return above + equal / 2


def naive(runs: Runs, weights: Mapping[Cell, float], seeds: Sequence[int]) -> tuple[list[float], float]:
    """The contrast of every seed, and DeLong's variance of its mean, by all pairs."""
    each = {
        seed: sum(w * kernel(*runs.scores(runs.cells[cell][seed])) for cell, w in weights.items()) for seed in seeds
    }
    pairs = np.mean(list(each.values()), axis=0)
    over_rows = sum(pairs.mean(axis).var(ddof=1) / pairs.shape[1 - axis] for axis in (0, 1))
    return [float(np.mean(each[seed])) for seed in seeds], float(over_rows)
