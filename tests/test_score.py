"""AUC and log-loss against scikit-learn, and against their definitions where that one clips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from recsys_collapse.score import score, score_pieces

few = settings(max_examples=80, deadline=None)
labels = st.lists(st.integers(0, 1), min_size=2, max_size=60)


def logloss_by_definition(logit_n: np.ndarray, label_n: np.ndarray) -> float:
    """Mean of log(1 + exp(-z)) with z the logit towards the right class, exact for any logit."""
    z_n = np.where(label_n == 1, logit_n, -logit_n)
    return float(np.logaddexp(0, -z_n).mean())


def check(logit_n: np.ndarray, label_n: np.ndarray, dtype: torch.dtype = torch.float64) -> None:
    logits = torch.tensor(logit_n, dtype=dtype)
    found = score(logits, torch.tensor(label_n))
    logit_n = logits.double().numpy()  # what was really given
    assert found.logloss == pytest.approx(logloss_by_definition(logit_n, label_n), rel=1e-12, abs=1e-12)
    if np.abs(logit_n).max() <= 30:  # beyond, scikit-learn clips probabilities
        chance_n = 1 / (1 + np.exp(-logit_n))
        assert found.logloss == pytest.approx(log_loss(label_n, chance_n, labels=[0, 1]), rel=1e-9, abs=1e-12)
    if len(set(label_n)) == 1:
        assert found.auc is None
    else:
        # The rank of the logit itself is what counts: probabilities tie where they round to 1.
        assert found.auc == pytest.approx(roc_auc_score(label_n, logit_n), abs=1e-12)


@few
@given(labels, st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 0.3, 3.0]), st.sampled_from(["float32", "float64"]))
def test_random_scores(label: list[int], seed: int, scale: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    check(rng.standard_normal(len(label)) * scale - 1, np.array(label), getattr(torch, dtype))


@few
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.integers(0, 1)), min_size=2, max_size=60))
def test_tied_scores(rows: list[tuple[float, int]]) -> None:
    logit, label = zip(*rows, strict=True)
    check(np.array(logit), np.array(label))


@few
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=2, max_size=60), st.sampled_from([40, 800]))
def test_extreme_scores(rows: list[tuple[int, int]], size: int) -> None:
    """Around -size and +size, where a sigmoid is 0 or 1 in float64 and the order of the scores is not lost yet."""
    logit, label = (np.array(column) for column in zip(*rows, strict=True))
    check(np.where(logit < 0, -size, size) + logit.astype(float), label)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_many_scores(scale: float) -> None:
    """The paper's effects are 1e-4: nothing is binned, and sums of 200,000 terms stay exact."""
    rng = np.random.default_rng(0)
    logit_n = rng.standard_normal(200_000) * scale
    check(logit_n, (rng.random(200_000) < 1 / (1 + np.exp(-logit_n / scale))).astype(int))


def test_perfect_wrong_and_constant_scores() -> None:
    label_n = torch.tensor([0, 0, 1, 1])
    assert score(torch.tensor([-2.0, -1.0, 1.0, 2.0]), label_n).auc == 1
    assert score(torch.tensor([2.0, 1.0, -1.0, -2.0]), label_n).auc == 0
    assert score(torch.zeros(4), label_n) == pytest.approx((0.5, math.log(2)))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc(label: int) -> None:
    logits = torch.tensor([-1.0, 0.0, 2.0])
    found = score(logits, torch.full((3,), label))
    assert found.auc is None
    assert found.logloss == pytest.approx(logloss_by_definition(logits.double().numpy(), np.full(3, label)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float32])
def test_label_types_agree(dtype: torch.dtype) -> None:
    logits, label_n = torch.tensor([0.3, -0.2, 0.1, 0.0]), torch.tensor([1, 0, 0, 1])
    assert score(logits, label_n.to(dtype)) == score(logits, label_n)


NUMBERS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-30, -1e-30, 3e38, -3e38, 0.3])


@few
@given(st.lists(st.lists(st.tuples(NUMBERS, st.integers(0, 1)), max_size=9), max_size=6), st.integers(1, 30))
def test_the_score_of_pieces_is_that_of_all_rows(rows: list[list[tuple[float, int]]], at_once: int) -> None:
    """The same AUC to the last bit, however few rows are in memory at once; each pass asks for the pieces anew."""
    pieces = [
        (torch.tensor([v for v, _ in piece], dtype=torch.float32), torch.tensor([y for _, y in piece]))
        for piece in rows
    ]
    passes = []
    found = score_pieces(lambda: passes.append(1) or iter(pieces), at_once)
    if not any(rows):
        assert found is None
        return
    expected = score(torch.cat([logit for logit, _ in pieces]), torch.cat([label.long() for _, label in pieces]))
    assert found is not None and found.auc == expected.auc
    assert found.logloss == pytest.approx(expected.logloss, rel=1e-12)
    assert len(passes) >= 1 + (found.auc is not None)


def test_the_score_of_many_rows_in_few_at_a_time() -> None:
    """Many spans; and all rows in one range, which has more rows than are to be in memory."""
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-9):
        logit_n = 1 + scale * torch.randn(50_000, generator=generator).round(decimals=2)
        label_n = (torch.rand(50_000, generator=generator) < 0.3).to(torch.uint8)
        pieces = list(zip(logit_n.split(999), label_n.split(999), strict=True))
        found = score_pieces(lambda pieces=pieces: iter(pieces), 4000)
        assert found is not None and found.auc == score(logit_n, label_n).auc
