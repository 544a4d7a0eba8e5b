"""Intervals over seeds and rows, against scipy.stats and simulations of what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_collapse.stats import Interval, auc_contrast, both_sources, paired, placements, student

few = settings(max_examples=80, deadline=None)
spread_values = st.lists(st.floats(-5, 5), min_size=2, max_size=12).filter(lambda found: np.std(found) > 1e-3)


@few
@given(spread_values, st.sampled_from([0.8, 0.95, 0.99]))
def test_student_is_scipys(values: list[float], level: float) -> None:
    found = student(values, level)
    low, high = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    for p_value, alternative in (
        (found.p_value, "two-sided"),
        (found.p_above(0), "greater"),
        (found.p_below(0), "less"),
    ):
        expected = stats.ttest_1samp(values, 0, alternative=alternative).pvalue
        assert p_value == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert found.is_significant == (found.p_value < 1 - level)


@few
@given(spread_values, st.integers(0, 2**32 - 1))
def test_paired_is_scipys(a: list[float], seed: int) -> None:
    b = np.random.default_rng(seed).normal(size=len(a))
    only_a, only_b = {100: 9.0}, {-1: 7.0}
    found = paired(dict(enumerate(a)) | only_a, only_b | dict(reversed(list(enumerate(b.tolist())))))
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-12)
    assert found.df == len(a) - 1


def test_the_normal_interval() -> None:
    found = Interval(0.3, 0.1)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, 0.3, 0.1))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(3))


def test_one_seed_says_nothing_about_other_seeds() -> None:
    for found in (student([0.7]), paired({0: 0.8, 1: 0.0}, {0: 0.1}), both_sources([0.7], 1e-8)):
        assert found.estimate == pytest.approx(0.7)
        unknown = (found.standard_error, found.half, found.low, found.high, found.p_value, found.p_above(0))
        assert set(unknown) == {None} and not found.is_significant
        assert found.text(2) == "0.70"


def test_no_spread_at_all() -> None:
    same = student([0.25, 0.25, 0.25])
    assert (same.half, same.p_value, same.is_significant) == (0, 0, True)
    zero = student([0.0, 0.0])
    assert (zero.p_value, zero.p_above(0), zero.is_significant) == (1, 0.5, False)
    assert zero.p_above(1) == 1 and zero.p_below(1) == 0


def test_text() -> None:
    assert Interval(0.01, 0.001).text(4) == "0.0100 ±0.0020"
    assert student([0.701, 0.704, 0.709]).text(4) == "0.7047 ±0.0100"


def test_both_sources_lie_between_the_two() -> None:
    values = [1.0, 2.0, 4.0]
    seeds = student(values)
    assert seeds.standard_error is not None
    only_seeds, only_rows = both_sources(values, 0.0), both_sources([2.0, 2.0, 2.0], 0.09)
    assert only_seeds == seeds
    assert (only_rows.estimate, only_rows.standard_error, only_rows.df) == pytest.approx((2, 0.3, math.inf))
    found = both_sources(values, 0.09)
    variance = seeds.standard_error**2
    assert found.standard_error == pytest.approx(math.sqrt(variance + 0.09))
    # Welch's df of two means, of which the second has a million rows and hence no df to lose
    assert found.df == pytest.approx((variance + 0.09) ** 2 / (variance**2 / 2))
    assert 2 < found.df < both_sources(values, 0.5).df


def test_both_sources_use_welchs_df() -> None:
    """scipy's Welch test of S values against very many: the same standard error and df."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 5), rng.normal(0, 300, 400_000)
    expected = stats.ttest_ind(a, b, equal_var=False)
    found = both_sources((a - b.mean()).tolist(), b.var(ddof=1) / len(b))
    assert found.df == pytest.approx(expected.df, rel=1e-3)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: student([]), "found none"),
        (lambda: student([0.1, math.nan]), "finite"),
        (lambda: paired({0: 1.0}, {1: 1.0}), r"found \[0\] and \[1\]"),
        (lambda: both_sources([0.1, 0.2], -1e-9), "found -1e-09"),
        (lambda: both_sources([0.1, 0.2], math.nan), "found nan"),
        (lambda: Interval(0.1, -0.1), "standard_error=-0.1"),
        (lambda: Interval(0.1, 0.1, df=0), "df=0"),
        (lambda: Interval(0.1, 0.1, level=95), "level=95"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def simulate(
    rng: np.random.Generator, seeds: int, n: int, seed_effect: float, shared: float = 0.7, own: float = 0.35
) -> tuple[Interval, ...]:
    """Two models, several seeds, one test set: intervals of the AUC difference over both sources, rows, and seeds only.

    A model's logit is strength * truth + noise, the strength different for every seed; some noise is shared by all
    seeds of a model, the rest is every seed's own: the interaction of seed and row.
    """
    true_n = rng.normal(-1, 1.0, n)
    label_n = rng.random(n) < 1 / (1 + np.exp(-true_n))
    shared_2n = rng.standard_normal((2, n)) * shared
    models, per_seed = [], []
    for _ in range(seeds):
        pair = []
        for model in range(2):
            strength = np.exp(seed_effect * rng.standard_normal())
            logit_n = strength * true_n + shared_2n[model] + own * rng.standard_normal(n)
            pair.append(placements(logit_n, label_n))
        per_seed.append(pair[0].auc - pair[1].auc)
        models += pair
    value, variance = auc_contrast([1 / seeds, -1 / seeds] * seeds, models)
    assert value == pytest.approx(np.mean(per_seed))
    return both_sources(per_seed, variance), Interval(value, math.sqrt(variance)), student(per_seed)


def coverage(repeats: int, seeds: int, n: int, seed_effect: float, **noise: float) -> list[float]:
    """How often each interval of `simulate` holds the true difference, 0."""
    rng = np.random.default_rng(seeds)
    found = [simulate(rng, seeds, n, seed_effect, **noise) for _ in range(repeats)]
    return [float(np.mean([not one.is_significant for one in column])) for column in zip(*found, strict=True)]


def test_only_both_sources_hold_what_they_promise() -> None:
    """Seeds and rows matter equally here: an interval over one of them is too narrow."""
    both, only_rows, only_seeds = coverage(repeats=250, seeds=4, n=400, seed_effect=0.3)
    assert both > 0.91 > 0.9 > only_rows and only_seeds < 0.9, (both, only_rows, only_seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seed_effect", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_coverage_of_both_sources(seeds: int, seed_effect: float) -> None:
    both, only_rows, only_seeds = coverage(repeats=2000, seeds=seeds, n=500, seed_effect=seed_effect)
    print(f"coverage, {seeds} seeds, effect {seed_effect}: both {both}, rows {only_rows}, seeds {only_seeds}")
    assert 0.93 < both < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_coverage_where_all_is_counted_twice(seeds: int) -> None:
    """Seeds differ in noise of their own rows only: the interval is sqrt(2) too wide, P(|z| < 1.96 * 1.41) = 99.4%."""
    both, only_rows, only_seeds = coverage(repeats=2000, seeds=seeds, n=500, seed_effect=0, shared=0, own=0.7)
    print(f"coverage, {seeds} seeds, interaction only: both {both}, rows {only_rows}, seeds {only_seeds}")
    assert 0.97 < both < 0.9995 and 0.93 < only_seeds < 0.97


@pytest.mark.slow
def test_two_seeds_cover_too_little() -> None:
    """Why experiments ask for three: the degrees of freedom are estimated from one."""
    both, _, _ = coverage(repeats=2000, seeds=2, n=500, seed_effect=0.6)
    print(f"coverage, 2 seeds, effect 0.6: both {both}")
    assert 0.85 < both < 0.94
