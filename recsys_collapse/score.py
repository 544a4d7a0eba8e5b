"""Exact AUC and log-loss of all scores of a split, computed once.

The paper's effects are 1e-4 to 1e-3 AUC: no binning, no mean over batches, no sigmoid (it makes ties of large logits).
torchmetrics keeps the scores; its own AUROC works on probabilities with float32 rates.

Shapes: B batch, n rows of the split, g distinct scores.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Score(NamedTuple):
    """AUC is None where the labels have one class only."""

    auc: float | None
    logloss: float


def score(logit_n: Tensor, label_n: Tensor) -> Score:
    """AUC and mean log-loss (nats) of logits (n,) against labels (n,) in {0, 1}."""
    label_n = label_n.long()
    logloss = binary_cross_entropy_with_logits(logit_n.double(), label_n.double()).item()
    return Score(None if label_n.min() == label_n.max() else auc(logit_n, label_n), logloss)


def auc(logit_n: Tensor, label_n: Tensor) -> float:
    """Mann-Whitney: the share of (positive, negative) pairs in the right order, ties counted half, in integers."""
    sorted_n, order_n = logit_n.sort()
    _, group_n, count_g = sorted_n.unique_consecutive(return_inverse=True, return_counts=True)
    positive_g = torch.zeros_like(count_g).index_add_(0, group_n, label_n[order_n])
    negative_g = count_g - positive_g
    below_g = negative_g.cumsum(0) - negative_g
    twice_wins = (positive_g * (2 * below_g + negative_g)).sum().item()
    return twice_wins / (2 * positive_g.sum().item() * negative_g.sum().item())


class SplitScore(Metric):
    """The score of everything seen since the last reset, as a torchmetrics metric."""

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, logit_B: Tensor, label_B: Tensor) -> None:
        """Keep the scores of a batch."""
        self.logits.append(logit_B.float())
        self.labels.append(label_B)

    def compute(self) -> Score:
        """AUC and log-loss of all rows."""
        return score(dim_zero_cat(self.logits), dim_zero_cat(self.labels))
