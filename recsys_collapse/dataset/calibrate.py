"""Scale and shift of a logit, so that labels drawn from it have a wanted base rate and a wanted best possible AUC.

Shapes: n rows, G groups of rows with nearly the same logit.
"""

import numpy as np

GROUPS = 4096
STEPS = 45  # of bisection: to 1e-10
LARGEST_SCALE = 1e3


def scale_and_bias(logit_n: np.ndarray, base_rate: float, bayes_auc: float) -> tuple[float, float]:
    """The s > 0 and b with which labels from sigmoid(s * logit + b) have this base rate, and this AUC of the logit.

    Args:
        logit_n: logits of a sample of rows, (n,), n a multiple of 4096.
        base_rate: in (0, 1).
        bayes_auc: in (0.5, 1).

    Raises:
        ValueError: the logits have too few different values for such an AUC.
    """
    logit_G = np.sort(logit_n).reshape(GROUPS, -1).mean(axis=1)  # as good as all rows, at a hundredth of the cost

    def auc_at(scale: float) -> float:
        return expected_auc(_probabilities(scale * logit_G + _bias(scale * logit_G, base_rate)))

    if (most := auc_at(LARGEST_SCALE)) < bayes_auc:
        raise ValueError(
            f"dataset.bayes_auc={bayes_auc}: with these fields at most {most:.4f} can be reached: lower it, or raise "
            "the cardinalities or the number of fields"
        )
    low, high = 0.0, LARGEST_SCALE
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if auc_at(middle) < bayes_auc else (low, middle)
    return high, _bias(high * logit_G, base_rate)


def expected_auc(probability_n: np.ndarray) -> float:
    """AUC of probabilities (n,), in ascending order, against labels that are drawn with them."""
    negative_n = 1 - probability_n
    below_n = np.cumsum(negative_n) - negative_n  # negatives that a positive of this row is ranked above
    pairs = probability_n.sum() * negative_n.sum() - (probability_n * negative_n).sum()  # of two different rows
    return float((probability_n * below_n).sum() / pairs)


def _bias(logit_G: np.ndarray, base_rate: float) -> float:
    """B with mean sigmoid(logit + b) = base rate, by bisection."""
    low, high = -np.abs(logit_G).max() - 40, np.abs(logit_G).max() + 40
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _probabilities(logit_G + middle).mean() < base_rate else (low, middle)
    return float(low)


def _probabilities(logit_n: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit_n.clip(-700, 700)))
