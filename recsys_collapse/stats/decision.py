"""What may be claimed from an interval: how small a difference was within reach, equivalence, many tests at once.

"Not significant" alone says nothing: read it with `minimum_detectable`, and claim "no difference" by `equivalence`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import nctdtr, ndtr, stdtrit

from recsys_collapse.stats.interval import Interval


def minimum_detectable(interval: Interval, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The true difference that a two-sided test with this standard error finds with this power; None if not known.

    By the noncentral t distribution with the interval's df, the normal one for infinite df. It asks what such an
    experiment can find; the estimate of this one does not enter (power "at the observed effect" would only repeat p).

    Raises:
        ValueError: not 0 < alpha < power < 1.
    """
    if not 0 < alpha < power < 1:
        raise ValueError(f"alpha must be above 0 and the power between alpha and 1: found {alpha=}, {power=}")
    if interval.standard_error is None:
        return None
    critical = float(stdtrit(interval.df, 1 - alpha / 2))

    def missing(shift: float) -> float:
        """The power that a shift of so many standard errors lacks; falls with the shift."""
        below_high = _noncentral(critical, interval.df, shift)
        return power - (1 - below_high + _noncentral(-critical, interval.df, shift))

    enough = 1.0
    while missing(enough) > 0:
        enough *= 2
    return float(brentq(missing, 0, enough)) * interval.standard_error


def _noncentral(statistic: float, df: float, shift: float) -> float:
    """P(T < statistic) where the true effect is `shift` standard errors."""
    return float(ndtr(statistic - shift) if math.isinf(df) else nctdtr(df, shift, statistic))


class Equivalence(NamedTuple):
    """Whether an effect is shown to be smaller than the margin. All but the verdict is None without standard error."""

    p_value: float | None  # of the hypothesis that it is as large as the margin, in either direction
    is_equivalent: bool  # p_value < alpha; False means "not shown", never "different"
    low: float | None  # of the interval of level 1 - 2 alpha (90%): it lies inside the margins if p_value < alpha
    high: float | None


def equivalence(interval: Interval, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests (TOST; Schuirmann, 1987): is the true effect inside (-margin, margin)?

    Args:
        interval: of the effect; its own level does not matter.
        margin: above 0, fixed before the data are seen.
        alpha: of each one-sided test, in (0, 0.5).

    Raises:
        ValueError: margin or alpha are out of their ranges.
    """
    if not (margin > 0 and 0 < alpha < 0.5):
        raise ValueError(f"the margin must be above 0, and alpha between 0 and 0.5: found {margin=}, {alpha=}")
    above, below = interval.p_above(-margin), interval.p_below(margin)
    if above is None or below is None:
        return Equivalence(None, False, None, None)
    p_value, narrow = max(above, below), replace(interval, level=1 - 2 * alpha)
    return Equivalence(p_value, p_value < alpha, narrow.low, narrow.high)


def not_above(interval: Interval, margin: float) -> float | None:
    """One-sided p-value of non-superiority: small where the true effect is below the margin, however far below.

    "SE does not gain from scale" asks this of the slope of SE: a falling AUC is no evidence against it.
    """
    return interval.p_below(margin)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm, 1979), in the given order: all below alpha may be claimed together.

    Whatever the tests have to do with each other, the chance of any false claim is at most alpha.

    Args:
        p_values: in [0, 1]; None is a test that was not made: it stays None, and does not count.

    Raises:
        ValueError: a p-value is outside [0, 1].
    """
    if wrong := [p for p in p_values if p is not None and not 0 <= p <= 1]:
        raise ValueError(f"p-values lie between 0 and 1: found {wrong}")
    adjusted: list[float | None] = [None] * len(p_values)
    ascending = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for number, (p, place) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - number) * p))  # never below a smaller p-value's
        adjusted[place] = largest
    return adjusted
