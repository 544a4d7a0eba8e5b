"""The paired bootstrap against closed forms of its mean, and what drawing whole groups does."""

import math

import numpy as np
import pytest
from scipy import stats

from recsys_collapse.stats import paired_bootstrap, placements


def mean(logit_n: np.ndarray, label_n: np.ndarray) -> float:
    return float(np.mean(logit_n))


def auc_or_none(logit_n: np.ndarray, label_n: np.ndarray) -> float | None:
    return placements(logit_n, label_n).auc if 0 < label_n.sum() < len(label_n) else None


def test_of_a_mean_it_is_the_paired_formula() -> None:
    """The two models share most of their noise: paired rows cancel it."""
    rng = np.random.default_rng(0)
    shared_n = rng.normal(0, 50, 500)
    a_n, b_n = shared_n + rng.normal(0.1, 1, 500), shared_n + rng.normal(0, 1, 500)
    found = paired_bootstrap(mean, np.zeros(500), a_n, b_n, draws=3000)
    assert found.estimate == pytest.approx((a_n - b_n).mean())
    assert found.standard_error == pytest.approx(stats.sem(a_n - b_n), rel=0.05)
    low, high = stats.t.interval(0.95, 499, loc=found.estimate, scale=stats.sem(a_n - b_n))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    narrow = paired_bootstrap(mean, np.zeros(500), a_n, b_n, draws=3000, level=0.5)
    assert found.low < narrow.low < found.estimate < narrow.high < found.high


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(1)
    a_n, b_n, label_n = rng.normal(size=60), rng.normal(size=60), rng.integers(0, 2, 60)
    first, again, other = (paired_bootstrap(auc_or_none, label_n, a_n, b_n, 200, seed) for seed in (3, 3, 4))
    assert first == again != other and first.estimate == other.estimate


def test_whole_groups_are_drawn() -> None:
    """Rows of a group are the same: as many rows say no more than as many groups. Groups of one are rows."""
    rng = np.random.default_rng(2)
    own_G = rng.normal(size=80)
    group_n = rng.permutation(np.repeat(np.arange(80), 10))
    a_n, b_n, label_n = own_G[group_n], np.zeros(800), np.zeros(800)
    rows = paired_bootstrap(mean, label_n, a_n, b_n)
    groups = paired_bootstrap(mean, label_n, a_n, b_n, groups_n=[f"user {group}" for group in group_n])
    assert rows.standard_error == pytest.approx(stats.sem(a_n), rel=0.06)
    assert groups.standard_error == pytest.approx(stats.sem(own_G), rel=0.06)
    assert groups.high - groups.low > 2.5 * (rows.high - rows.low)
    assert paired_bootstrap(mean, label_n, a_n, b_n, groups_n=np.arange(800)) == rows


def test_groups_of_different_sizes_stay_whole_and_paired() -> None:
    group_n = np.array([5, 2, 5, 7, 2, 5])
    seen = []

    def watch(logit_n: np.ndarray, label_n: np.ndarray) -> float:
        seen.append((logit_n, label_n))
        return float(logit_n.mean())

    row_n = np.arange(6.0)
    paired_bootstrap(watch, group_n, row_n, row_n + 100, draws=50, groups_n=group_n)
    for (a_d, group_d), (b_d, _) in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(b_d, a_d + 100)
        np.testing.assert_array_equal(group_n[a_d.astype(int)], group_d)
        times = [set(np.bincount(a_d.astype(int), minlength=6)[group_n == group]) for group in (2, 5, 7)]
        assert all(len(one) == 1 for one in times) and sum(one.pop() for one in times) == 3
    assert len({len(a_d) for a_d, _ in seen}) > 1


def test_draws_of_one_class_are_drawn_again_or_refused() -> None:
    rng = np.random.default_rng(3)
    a_n, b_n = rng.normal(size=40), rng.normal(size=40)
    without = []

    def counted(logit_n: np.ndarray, label_n: np.ndarray) -> float | None:
        found = auc_or_none(logit_n, label_n)
        without.append(found is None)
        return found

    label_n = np.arange(40) < 3  # 5% of the draws have no positive
    found = paired_bootstrap(counted, label_n, a_n, b_n, draws=400)
    assert any(without) and not math.isnan(found.standard_error) and without.count(False) == 2 * 400 + 2
    with pytest.raises(ValueError, match=r"no value in 41 of \d+ draws"):
        paired_bootstrap(auc_or_none, np.arange(40) < 1, a_n, b_n, draws=400)
    with pytest.raises(ValueError, match="no value on all rows"):
        paired_bootstrap(auc_or_none, np.zeros(40), a_n, b_n)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_n": np.zeros(3)}, r"found \(4,\), \(4,\), \(3,\), \(4,\)"),
        ({"groups_n": np.zeros((4, 1))}, r"\(4, 1\)"),
        ({"draws": 1}, "draws=1"),
        ({"level": 95}, "level=95"),
    ],
)
def test_what_is_refused(change: dict, message: str) -> None:
    known = {"label_n": np.zeros(4), "a_n": np.zeros(4), "b_n": np.zeros(4)}
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(mean, **(known | change))
