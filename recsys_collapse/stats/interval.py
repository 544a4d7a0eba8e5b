"""An estimate with its uncertainty: over seeds, over test rows, over both.

No torch and no rows here: seeds come as plain numbers, the variance over test rows from `auc` or `bootstrap`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """An estimate, its standard error, and what Student's t makes of them.

    Args:
        estimate: any finite number.
        standard_error: 0 or more; None where it is not known, as after a single seed. Then all that depends on it is
            None, and nothing is significant.
        df: degrees of freedom of the standard error, above 0; infinite (the default) means the normal distribution.
        level: how often such intervals hold the true value, in (0, 1).

    Raises:
        ValueError: something is out of its range.
    """

    estimate: float
    standard_error: float | None
    df: float = math.inf
    level: float = 0.95

    def __post_init__(self) -> None:
        error = self.standard_error
        if not (math.isfinite(self.estimate) and (error is None or (math.isfinite(error) and error >= 0))):
            raise ValueError(f"an interval needs finite numbers and an error of 0 or more, or None: found {self}")
        if not (self.df > 0 and 0 < self.level < 1):
            raise ValueError(f"df must be above 0, and the level between 0 and 1, such as 0.95: found {self}")

    @property
    def half(self) -> float | None:
        """Half the width."""
        if self.standard_error is None:
            return None
        return float(stdtrit(self.df, (1 + self.level) / 2)) * self.standard_error

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half is None else self.estimate - self.half

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half is None else self.estimate + self.half

    def p_above(self, value: float) -> float | None:
        """One-sided p-value: small where the true effect is above `value` (the hypothesis is that it is not)."""
        return self._tail(self.estimate - value)

    def p_below(self, value: float) -> float | None:
        """One-sided p-value: small where the true effect is below `value` (the hypothesis is that it is not)."""
        return self._tail(value - self.estimate)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the hypothesis that the true effect is 0."""
        tail = self._tail(abs(self.estimate))
        return None if tail is None else 2 * tail

    @property
    def is_significant(self) -> bool:
        """Whether 0 is outside."""
        return self.half is not None and abs(self.estimate) > self.half

    def text(self, digits: int) -> str:
        """Estimate ± half width; the estimate alone where the width is not known."""
        return f"{self.estimate:.{digits}f}" + ("" if self.half is None else f" ±{self.half:.{digits}f}")

    def _tail(self, distance: float) -> float | None:
        """P(T >= distance / standard error)."""
        if self.standard_error is None:
            return None
        if self.standard_error == 0:
            return 0.5 if distance == 0 else float(distance < 0)
        return float(stdtr(self.df, -distance / self.standard_error))


def student(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values, such as one per seed; of one value: no standard error.

    It says what other seeds would give on these test rows, and nothing about other rows: see `both_sources`.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if not len(values):
        raise ValueError("a mean needs one value at least (one per seed): found none")
    value_S = np.asarray(values, dtype=np.float64)
    if len(value_S) == 1:
        return Interval(float(value_S[0]), None, level=level)
    error = float(value_S.std(ddof=1)) / math.sqrt(len(value_S))
    return Interval(float(value_S.mean()), error, len(value_S) - 1, level)


def paired(a: Mapping[int, float], b: Mapping[int, float], level: float = 0.95) -> Interval:
    """`student` of a - b, paired by seed: what a seed does to both (split, order of rows) cancels.

    Args:
        a: a value per seed.
        b: likewise; a seed that only one of them has is left out.
        level: of the interval.

    Raises:
        ValueError: no seed is in both.
    """
    seeds = sorted({*a} & {*b})
    if not seeds:
        raise ValueError(f"no seed is in both: found {sorted(a)} and {sorted(b)}")
    return student([a[seed] - b[seed] for seed in seeds], level)


def both_sources(values_per_seed: Sequence[float], test_variance: float, level: float = 0.95) -> Interval:
    """Interval of a mean over seeds that holds for other seeds AND other test rows.

    The variances are added: that of the values over the number of seeds S, plus that over test rows. What a seed does
    on some rows and not on others is in both: it is counted twice, and the interval is slightly too wide. Degrees of
    freedom by Satterthwaite (1946): S - 1 for the seeds, infinite for the rows.

    Args:
        values_per_seed: (S,) the same contrast of AUCs for every seed, all on the same test rows. With one seed, what
            seeds do is unknown, and so is the standard error of the result.
        test_variance: of the mean of these contrasts over test rows, 0 or more: `auc_contrast` over all models of all
            seeds with the contrast's weights / S.
        level: of the interval.

    Raises:
        ValueError: no value, one that is not finite, or no variance.
    """
    if not 0 <= test_variance < math.inf:
        raise ValueError(f"the variance over test rows must be 0 or more, and finite: found {test_variance}")
    seeds = student(values_per_seed, level)
    if seeds.standard_error is None:
        return seeds
    seed_variance = seeds.standard_error**2
    total = seed_variance + test_variance
    df = seeds.df * (total / seed_variance) ** 2 if seed_variance else math.inf
    return Interval(seeds.estimate, math.sqrt(total), df, level)
