"""A model against the truth, where rows come with their true logit: how far from the best, and what it has learned.

Labels are not asked where it can be avoided: their noise is far larger than the differences between models.

Shapes: n rows, T components of the true logit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recsys_collapse.score import score


def against_truth(
    logit_n: Tensor, label_n: Tensor, truth_nT: Tensor, coefficients: Mapping[str, float]
) -> dict[str, Any]:
    """What can be said of a model on rows whose answer is known.

    Args:
        logit_n: the model's logits (n,).
        label_n: labels (n,) in {0, 1}.
        truth_nT: the true logit, then its components (n, 1 + T).
        coefficients: of the components in the true logit, by name, in order.

    Returns:
        `bayes_auc` (null if there is one class only) and `bayes_logloss` of the true logits on these labels; `regret`
        and `auc_regret`: by how much the model is expected to be worse on labels drawn again; `learned`.
    """
    best, true_n = score(truth_nT[:, 0], label_n), truth_nT[:, 0].double()
    return {
        "bayes_auc": best.auc,
        "bayes_logloss": best.logloss,
        "regret": regret(logit_n.double(), true_n),
        "auc_regret": expected_auc(true_n, true_n) - expected_auc(logit_n.double(), true_n),
        "learned": learned(logit_n, truth_nT[:, 1:], coefficients),
    }


def regret(logit_n: Tensor, true_n: Tensor) -> float:
    """Mean over rows of KL(sigmoid(true) || sigmoid(logit)) in nats, 0 or more: log-loss above the best possible.

    It is the expectation over labels of the difference of the two log-losses, and does not depend on the labels drawn.
    """
    positive_n = true_n.sigmoid()
    return (
        (
            positive_n * (logsigmoid(true_n) - logsigmoid(logit_n))
            + (1 - positive_n) * (logsigmoid(-true_n) - logsigmoid(-logit_n))
        )
        .mean()
        .item()
    )


def expected_auc(logit_n: Tensor, true_n: Tensor) -> float:
    """AUC of logits against labels that are drawn with probability sigmoid(true), ties counted half."""
    sorted_n, order_n = logit_n.sort()
    _, group_n = sorted_n.unique_consecutive(return_inverse=True)
    positive_n = true_n[order_n].sigmoid()
    negative_n = 1 - positive_n
    positive_g, negative_g, both_g = (
        torch.zeros(int(group_n[-1]) + 1, dtype=torch.float64, device=logit_n.device).index_add_(0, group_n, values_n)
        for values_n in (positive_n, negative_n, positive_n * negative_n)
    )
    below_g = negative_g.cumsum(0) - negative_g
    wins = (positive_g * below_g + (positive_g * negative_g - both_g) / 2).sum()  # a row makes no pair with itself
    return (wins / (positive_g.sum() * negative_g.sum() - both_g.sum())).item()


def learned(
    logit_n: Tensor, component_nT: Tensor, coefficients: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """How much of every component of the true logit is in a model's logit.

    Returns:
        for each, from the least-squares fit of the logit on all components: `r2`, in [0, 1], the squared partial
        correlation with the logit given the other components (what share of all that they leave it explains: 1 in the
        true logit, 0 in one that ignores it), and `slope`, the coefficient over the true one (1: as strong as in
        truth; null where the true one is 0).
    """
    design = component_nT.double() - component_nT.double().mean(dim=0)
    target = logit_n.double() - logit_n.double().mean()
    inverse_TT = torch.linalg.pinv(design.T @ design, hermitian=True)
    slope_T = inverse_TT @ (design.T @ target)
    unexplained = (target - design @ slope_T).square().sum() + 1e-12 * target.square().sum()  # never rounding alone
    r2_T = slope_T**2 / (slope_T**2 + unexplained * inverse_TT.diagonal()).clamp(min=1e-300)
    return {
        name: {"r2": r2, "slope": slope / true if true else None}
        for (name, true), r2, slope in zip(coefficients.items(), r2_T.tolist(), slope_T.tolist(), strict=True)
    }
