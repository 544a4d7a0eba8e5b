"""AUC, its variance and contrasts, against all pairs, scikit-learn, `recsys_collapse.score` and a bootstrap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recsys_collapse.score import auc
from recsys_collapse.stats import auc_contrast, delong, hanley_mcneil, paired_bootstrap, placements

few = settings(max_examples=60, deadline=None)
TIED = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, math.inf, -math.inf])
rows = st.lists(st.tuples(TIED | st.floats(-3, 3), TIED, st.integers(0, 1)), min_size=4, max_size=40).filter(
    lambda found: 2 <= sum(label for *_, label in found) <= len(found) - 2
)


def by_pairs(logit_n: np.ndarray, label_n: np.ndarray) -> np.ndarray:
    """(m, k): 1 where the positive is above the negative, a half where they tie."""
    positive_m1, negative_k = logit_n[label_n == 1][:, None], logit_n[label_n == 0]
    return (positive_m1 > negative_k) + 0.5 * (positive_m1 == negative_k)


def covariance_by_pairs(logits: list[np.ndarray], label_n: np.ndarray) -> np.ndarray:
    """DeLong's S: the covariance matrix (R, R) of the AUCs of all models, from all pairs."""
    wins = [by_pairs(logit_n, label_n) for logit_n in logits]
    m, k = wins[0].shape
    return np.cov([w.mean(axis=1) for w in wins]) / m + np.cov([w.mean(axis=0) for w in wins]) / k


def two_models(n: int, seed: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two models that know most of the truth, and labels."""
    rng = np.random.default_rng(seed)
    true_n = rng.normal(-1, 1.2, n)
    label_n = (rng.random(n) < 1 / (1 + np.exp(-true_n))).astype(int)
    return true_n + noise * rng.standard_normal(n), true_n + noise * rng.standard_normal(n), label_n


@few
@given(rows)
def test_placements_are_means_over_pairs(rows: list[tuple[float, float, int]]) -> None:
    logit_n, _, label_n = map(np.array, zip(*rows, strict=True))
    wins_mk, found = by_pairs(logit_n, label_n), placements(logit_n, label_n)
    np.testing.assert_allclose(found.positive_m, wins_mk.mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(found.negative_k, wins_mk.mean(axis=0), atol=1e-14)
    assert found.auc == auc(torch.tensor(logit_n), torch.tensor(label_n))
    assert found.auc == pytest.approx(found.positive_m.mean()) == pytest.approx(found.negative_k.mean())


@few
@given(rows)
def test_delong_is_that_of_all_pairs(rows: list[tuple[float, float, int]]) -> None:
    a_n, b_n, label_n = map(np.array, zip(*rows, strict=True))
    found, covariance = delong(a_n, b_n, label_n), covariance_by_pairs([a_n, b_n], label_n)
    assert found.estimate == pytest.approx(by_pairs(a_n, label_n).mean() - by_pairs(b_n, label_n).mean(), abs=1e-14)
    assert found.standard_error is not None and math.isinf(found.df)
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error**2 == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_a_contrast_of_many_models_is_that_of_their_covariances() -> None:
    rng = np.random.default_rng(1)
    label_n = rng.integers(0, 2, 60)
    logits = [np.round(label_n + rng.normal(0, 2, 60), 1) for _ in range(5)]
    weights = np.array([0.3, -1.0, 0.0, 2.0, 0.7])
    value, variance = auc_contrast(weights.tolist(), (placements(logit_n, label_n) for logit_n in logits))
    assert value == pytest.approx(sum(w * roc_auc_score(label_n, z) for w, z in zip(weights, logits, strict=True)))
    assert variance == pytest.approx(weights @ covariance_by_pairs(logits, label_n) @ weights, rel=1e-10)
    single = auc_contrast([1.0], [placements(logits[0], label_n)])
    assert single == pytest.approx((roc_auc_score(label_n, logits[0]), covariance_by_pairs(logits, label_n)[0, 0]))


def test_a_contrast_does_not_change_its_models() -> None:
    a_n, b_n, label_n = two_models(50, 0)
    one, other = placements(a_n, label_n), placements(b_n, label_n)
    before = one.positive_m.copy(), one.negative_k.copy()
    assert auc_contrast((1, -1), [one, other]) == auc_contrast((1, -1), [one, other])
    np.testing.assert_array_equal(one.positive_m, before[0])
    np.testing.assert_array_equal(one.negative_k, before[1])


def test_many_rows_and_torch() -> None:
    """The effects are 1e-4: the AUC of 100,000 rows is exact, and float32 tensors are taken as they are."""
    a_n, _, label_n = two_models(100_000, 2)
    logit_n = torch.tensor(a_n, dtype=torch.float32)
    found = placements(logit_n, torch.tensor(label_n))
    assert found.auc == auc(logit_n, torch.tensor(label_n))
    assert found.auc == pytest.approx(roc_auc_score(label_n, logit_n.numpy()), abs=1e-12)
    assert found.positive_m.dtype == found.negative_k.dtype == np.float64


def test_delong_agrees_with_the_bootstrap() -> None:
    a_n, b_n, label_n = two_models(800, 3)
    found = delong(a_n, b_n, label_n)
    drawn = paired_bootstrap(lambda z, y: placements(z, y).auc, label_n, a_n, b_n, draws=1500)
    assert found.standard_error == pytest.approx(drawn.standard_error, rel=0.08)  # of 1500 draws: within 2%
    assert found.estimate == drawn.estimate


def test_delong_is_the_spread_over_test_sets() -> None:
    """New rows of the same two models: the intervals hold the mean difference about as often as they should."""
    found = [delong(*two_models(400, seed)) for seed in range(400)]
    estimates = [one.estimate for one in found]
    assert np.mean([one.standard_error for one in found]) == pytest.approx(np.std(estimates), rel=0.12)
    assert 0.91 < np.mean([not one.is_significant for one in found]) < 0.985  # both are as good


def test_hanley_and_mcneil_are_close_to_delong() -> None:
    a_n, _, label_n = two_models(5000, 4)
    found = placements(a_n, label_n)
    error = hanley_mcneil(found.auc, int(label_n.sum()), len(label_n))
    assert error == pytest.approx(math.sqrt(auc_contrast([1], [found])[1]), rel=0.1)
    # Their own example's formula at AUC 0.5 with m = k = 10: the Mann-Whitney variance (m + k + 1) / (12 m k).
    assert hanley_mcneil(0.5, 10, 20) == pytest.approx(math.sqrt(21 / 1200))


@pytest.mark.parametrize(
    ("logit", "label", "message"),
    [
        ([0.1, 0.2], [0, 1, 1], r"found \(2,\) and \(3,\)"),
        ([[0.1, 0.2]], [[0, 1]], r"found \(1, 2\)"),
        ([0.1, math.nan], [0, 1], "found 1 among 2"),
        ([0.1, 0.2], [0, 2], r"found \[2\]"),
        ([0.1, 0.2], [1, 1], "2 positives and 0 negatives"),
        ([], [], "0 positives and 0 negatives"),
    ],
)
def test_what_has_no_auc(logit: list, label: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placements(np.array(logit), np.array(label))


def test_what_is_no_contrast() -> None:
    one, turned = placements([1, 2, 3, 4], [0, 1, 0, 1]), placements([1, 2, 3, 4], [1, 0, 1, 0])
    with pytest.raises(ValueError, match="labels of model 2 are not those of the first"):
        auc_contrast([1, -1], [one, turned])
    with pytest.raises(ValueError, match="found more"):
        auc_contrast([1], [one, one])
    with pytest.raises(ValueError, match="each of 3 weights: found 2"):
        auc_contrast([1, 1, 1], [one, one])
    with pytest.raises(ValueError, match="each of 0 weights: found 0"):
        auc_contrast([], [])
    with pytest.raises(ValueError, match="found 1 positives, 2 negatives"):
        auc_contrast([1], [placements([1, 2, 3], [0, 1, 0])])


@pytest.mark.parametrize("size", [1, 8])
def test_a_generators_models_are_not_kept(size: int) -> None:
    """Only one model's arrays beside the sums: a weak reference to an earlier one is dead when the next is made."""
    import weakref

    a_n, _, label_n = two_models(50, 0)
    earlier: list[weakref.ref] = []

    def models():
        for _ in range(size):
            one = placements(a_n, label_n)
            assert sum(ref() is not None for ref in earlier) <= 1  # the loop's own variable still holds the last one
            earlier.append(weakref.ref(one.positive_m))
            yield one
            del one

    auc_contrast([1.0] * size, models())
    assert len(earlier) == size
