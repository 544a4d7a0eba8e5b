"""Exact AUC and log-loss of all scores of a split, computed once.

The paper's effects are 1e-4 to 1e-3 AUC: no binning, no mean over batches, float64.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc


class Score(NamedTuple):
    """AUC is None where the labels have one class only."""

    auc: float | None
    logloss: float


def score(logit_n: Tensor, label_n: Tensor) -> Score:
    """AUC and mean log-loss (nats) of logits (n,) against labels (n,) in {0, 1}."""
    logit_n, label_n = logit_n.double(), label_n.long()
    logloss = binary_cross_entropy_with_logits(logit_n, label_n.double()).item()
    if label_n.min() == label_n.max():
        return Score(None, logloss)
    # Sigmoid by us, in float64 and over all scores: torchmetrics applies it only if some score leaves [0, 1].
    return Score(binary_auroc(logit_n.sigmoid(), label_n, thresholds=None).item(), logloss)
