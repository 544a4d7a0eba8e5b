"""Detectable differences, equivalence and Holm, against scipy.stats, closed forms, definitions and simulated power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_collapse.stats import Interval, equivalence, holm, minimum_detectable, not_above, student

few = settings(max_examples=80, deadline=None)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_detectable_difference_of_the_normal_distribution(power: float, alpha: float) -> None:
    expected = 2e-4 * (stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    assert minimum_detectable(Interval(0.0, 2e-4), power, alpha) == pytest.approx(expected, rel=1e-4)
    assert minimum_detectable(Interval(9.0, 2e-4, df=1e7), power, alpha) == pytest.approx(expected, rel=1e-3)


@few
@given(st.floats(1, 200), st.floats(0.1, 0.98), st.sampled_from([0.001, 0.01, 0.05]))
def test_detectable_difference_has_that_power(df: float, power: float, alpha: float) -> None:
    shift = minimum_detectable(Interval(0.0, 1.0, df), power, alpha)
    critical = stats.t.isf(alpha / 2, df)
    found = stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift)
    assert found == pytest.approx(power, abs=1e-6)


def test_detectable_difference_of_three_seeds() -> None:
    """A published value: n = 3, d = 3.26 has 80% power in a two-sided one-sample t-test (G*Power's method)."""
    assert minimum_detectable(Interval(0.0, 1 / math.sqrt(3), df=2)) == pytest.approx(3.26, abs=0.01)
    assert minimum_detectable(Interval(0.0, None)) is None
    assert minimum_detectable(Interval(0.5, 0.0)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_simulated_power(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    shift = minimum_detectable(Interval(0.0, 1 / math.sqrt(seeds), seeds - 1))
    found = [student(rng.normal(shift, 1, seeds)).is_significant for _ in range(20_000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.012)


values = st.lists(st.floats(-2, 2), min_size=2, max_size=8).filter(lambda found: np.std(found) > 1e-3)


@few
@given(values, st.floats(0.01, 3), st.sampled_from([0.01, 0.05, 0.2]))
def test_equivalence_is_two_one_sided_tests(values: list[float], margin: float, alpha: float) -> None:
    found = equivalence(student(values), margin, alpha)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), rel=1e-6, abs=1e-12)
    assert not_above(student(values), margin) == pytest.approx(below, rel=1e-6, abs=1e-12)
    assert found.low is not None and found.high is not None
    assert found.is_equivalent == (-margin < found.low and found.high < margin)  # the interval of level 1 - 2 alpha


def test_equivalence_by_hand() -> None:
    found = equivalence(Interval(0.0, 1e-4), margin=2e-4)
    assert found.p_value == pytest.approx(stats.norm.sf(2)) and found.is_equivalent
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.9, 0, 1e-4))
    assert equivalence(student([0.1]), 1.0) == (None, False, None, None) and not_above(student([0.1]), 1.0) is None
    falling = Interval(-1e-3, 1e-4)
    assert not equivalence(falling, 2e-4).is_equivalent and not_above(falling, 2e-4) == pytest.approx(0, abs=1e-9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.2, None, 0.9, 0.02]) == [None, 0.4, None, 0.9, pytest.approx(0.06)]
    assert holm([]) == [] and holm([None]) == [None]


def rejected_by_stepping_down(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure as he wrote it: from the smallest p-value on, against alpha / (tests left), until one fails."""
    rejected: set[int] = set()
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        if p_values[place] > alpha / (len(p_values) - len(rejected)):
            break
        rejected.add(place)
    return rejected


@few
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.02, 1.0]), max_size=10), st.floats(0.001, 0.5))
def test_holm_is_the_step_down_procedure(p_values: list[float], alpha: float) -> None:
    found = [p for p in holm(p_values) if p is not None]
    assert all(raw <= adjusted <= 1 for raw, adjusted in zip(p_values, found, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert {place for place, p in enumerate(found) if p < alpha * (1 - 1e-9)} <= rejected_by_stepping_down(
        p_values, alpha
    )
    assert rejected_by_stepping_down(p_values, alpha) <= {
        place for place, p in enumerate(found) if p <= alpha * (1 + 1e-9)
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: minimum_detectable(Interval(0, 1), power=0.05), "power=0.05"),
        (lambda: minimum_detectable(Interval(0, 1), power=80), "power=80"),
        (lambda: equivalence(Interval(0, 1), 0.0), "margin=0.0"),
        (lambda: equivalence(Interval(0, 1), 1.0, alpha=0.5), "alpha=0.5"),
        (lambda: holm([0.5, 1.5]), r"found \[1.5\]"),
        (lambda: holm([math.nan]), r"found \[nan\]"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
