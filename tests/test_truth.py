"""A model against the truth: regret, AUC and what was learned, held against plain formulas and draws of labels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, rel_entr
from torch import Tensor

from recsys_collapse.score import score
from recsys_collapse.truth import against_truth, expected_auc, learned, regret

NAMES = {"linear": 2.0, "pattern1": 0.5, "pattern2": 0.25}
logits = st.lists(st.floats(-8, 8), min_size=3, max_size=12)


def rows(n: int = 20_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Components (n, 3), a little correlated, and the true logit (n,)."""
    normal = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    component_nT = normal + 0.2 * normal.roll(1, dims=1)
    return component_nT, -1 + component_nT @ torch.tensor(list(NAMES.values()), dtype=torch.float64)


@given(logits, st.data())
def test_regret_is_the_mean_divergence(true: list[float], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.floats(-8, 8), min_size=len(true), max_size=len(true)))
    p_n, q_n = expit(np.array(true)), expit(np.array(other))
    expected = np.mean(rel_entr(p_n, q_n) + rel_entr(1 - p_n, 1 - q_n))
    found = regret(torch.tensor(other, dtype=torch.float64), torch.tensor(true, dtype=torch.float64))
    assert found == pytest.approx(expected, abs=1e-9)
    assert found >= -1e-15


def test_regret_does_not_overflow() -> None:
    far = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    assert regret(far, far) == 0
    assert regret(-far, far) == pytest.approx(800)


@settings(max_examples=50)
@given(logits, st.data())
def test_expected_auc_is_that_of_all_pairs(true: list[float], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.integers(-3, 3), min_size=len(true), max_size=len(true)))  # many ties
    p_n = expit(np.array(true))
    wins = weight = 0.0
    for i in range(len(true)):
        for j in range(len(true)):
            if i != j:
                pair = p_n[i] * (1 - p_n[j])
                wins += pair * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
                weight += pair
    found = expected_auc(torch.tensor(scores, dtype=torch.float64), torch.tensor(true, dtype=torch.float64))
    assert found == pytest.approx(wins / weight, abs=1e-9)


def test_both_are_expectations_over_labels() -> None:
    """Means over 400 draws of labels, within 5 of their errors."""
    component_nT, true_n = rows(2000)
    model_n = true_n * 0.6 + 0.5 * component_nT[:, 2].roll(7)
    generator = torch.Generator().manual_seed(1)
    losses, aucs = [], []
    for _ in range(400):
        label_n = (torch.rand(2000, generator=generator, dtype=torch.float64) < true_n.sigmoid()).long()
        found, best = score(model_n, label_n), score(true_n, label_n)
        assert found.auc is not None and best.auc is not None
        losses.append(found.logloss - best.logloss)
        aucs.append(best.auc - found.auc)
    for draws, expected in (
        (losses, regret(model_n, true_n)),
        (aucs, expected_auc(true_n, true_n) - expected_auc(model_n, true_n)),
    ):
        assert abs(np.mean(draws) - expected) < 5 * np.std(draws) / math.sqrt(400) + 1e-5


def partial_r2(logit_n: np.ndarray, component_nT: np.ndarray, t: int) -> float:
    """Squared correlation of what the other components leave of the logit with what they leave of component t."""
    others = np.column_stack([np.ones(len(logit_n)), np.delete(component_nT, t, axis=1)])
    left = [y - others @ np.linalg.lstsq(others, y, rcond=None)[0] for y in (logit_n, component_nT[:, t])]
    return np.corrcoef(*left)[0, 1] ** 2


def test_learned_is_the_squared_partial_correlation() -> None:
    component_nT, true_n = rows(3000)
    model_n = 0.5 * true_n + component_nT[:, 1] + torch.randn(3000, generator=torch.Generator().manual_seed(2))
    found = learned(model_n, component_nT, NAMES)
    design = np.column_stack([np.ones(3000), component_nT.numpy()])
    slopes = np.linalg.lstsq(design, model_n.numpy(), rcond=None)[0][1:]
    for t, (name, true) in enumerate(NAMES.items()):
        assert found[name]["r2"] == pytest.approx(partial_r2(model_n.numpy(), component_nT.numpy(), t), abs=1e-9)
        assert found[name]["slope"] == pytest.approx(slopes[t] / true, abs=1e-9)


def test_the_truth_has_learned_everything_and_a_constant_nothing() -> None:
    component_nT, true_n = rows(1000)
    for values in learned(true_n, component_nT, NAMES).values():
        assert values == {"r2": pytest.approx(1), "slope": pytest.approx(1)}
    for values in learned(torch.full((1000,), 3.0), component_nT, NAMES).values():
        assert values == {"r2": 0, "slope": 0}


def test_one_component_alone() -> None:
    component_nT, _ = rows()
    found = learned(0.25 * component_nT[:, 1] + 7, component_nT, NAMES)
    assert found["pattern1"] == {"r2": pytest.approx(1), "slope": pytest.approx(0.5)}
    assert found["linear"]["r2"] == pytest.approx(0, abs=1e-9)
    noise_n = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    assert all(values["r2"] < 25 / 20_000 for values in learned(noise_n, component_nT, NAMES).values())
    assert learned(noise_n, component_nT, NAMES | {"pattern2": 0.0})["pattern2"]["slope"] is None


def test_a_component_that_is_always_0_harms_no_other() -> None:
    component_nT, true_n = rows(1000)
    with_zero_nT = torch.cat([component_nT, torch.zeros(1000, 1, dtype=torch.float64)], dim=1)
    found = learned(true_n, with_zero_nT, NAMES | {"pattern3": 0.0})
    assert found["linear"]["r2"] == pytest.approx(1) and found["pattern3"] == {"r2": 0, "slope": None}


def test_against_truth() -> None:
    component_nT, true_n = rows()
    label_n = (torch.rand(20_000, generator=torch.Generator().manual_seed(4)) < true_n.sigmoid()).to(torch.uint8)
    truth_nT = torch.cat([true_n[:, None], component_nT], dim=1).float()
    best = against_truth(true_n.float(), label_n, truth_nT, NAMES)
    assert best["regret"] == pytest.approx(0, abs=1e-12) and best["auc_regret"] == 0
    assert (best["bayes_auc"], best["bayes_logloss"]) == score(truth_nT[:, 0], label_n)
    linear = against_truth(-1 + 2 * component_nT[:, 0], label_n, truth_nT, NAMES)
    assert linear["regret"] > 0.005 and linear["auc_regret"] > 0.005
    assert against_truth(true_n, torch.ones(20_000), truth_nT, NAMES)["bayes_auc"] is None
