"""Exact AUC and log-loss of all scores of a split, computed once.

The paper's effects are 1e-4 to 1e-3 AUC: no binning, no mean over batches, no sigmoid (it makes ties of large logits).
torchmetrics keeps the scores; its own AUROC works on probabilities with float32 rates.

Shapes: B batch, n rows of the split or of a piece, g distinct scores, r ranges of numbers.
"""

from collections.abc import Callable, Iterable, Iterator
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
    _, positive_g, negative_g = _groups(logit_n, label_n, 1 - label_n)
    return _twice_wins(positive_g, negative_g) / (2 * positive_g.sum().item() * negative_g.sum().item())


def _groups(logit_n: Tensor, positive_n: Tensor, negative_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct logits (g,), ascending, and how many positives and negatives each has, int64."""
    sorted_n, order_n = logit_n.sort()
    logit_g, group_n = sorted_n.unique_consecutive(return_inverse=True)
    zero_g = torch.zeros(len(logit_g), dtype=torch.int64, device=logit_n.device)
    return (logit_g, *(zero_g.index_add(0, group_n, found_n[order_n].long()) for found_n in (positive_n, negative_n)))


def _twice_wins(positive_g: Tensor, negative_g: Tensor, below: int = 0) -> int:
    """Twice the pairs that the positives win, a tie being half a win; `below` more negatives are below all groups."""
    below_g = negative_g.cumsum(0) - negative_g + below
    return int((positive_g * (2 * below_g + negative_g)).sum())


RANGES = 1 << 16  # of float32: numbers whose upper 16 bits are the same, in the order of the numbers


def score_pieces(pieces: Callable[[], Iterable[tuple[Tensor, Tensor]]], at_once: int = 1 << 20) -> Score | None:
    """The score of more rows than fit into memory; None if there are none. The AUC is that of `score`, to the last bit.

    One pass counts how many rows fall into each range of numbers. Then every span of ranges with about `at_once` rows
    has a pass: of the rows below it, only the number of negatives matters. So the passes grow with the rows: a billion
    take a thousand.

    Args:
        pieces: called for every pass; gives logits (n,) float32 and labels (n,) in {0, 1}, piece by piece.
        at_once: rows in memory, about; they take some 100 bytes each.
    """
    count_r, positives, loss = torch.zeros(RANGES, dtype=torch.int64), 0, 0.0
    for logit_n, label_n in pieces():
        count_r += torch.bincount(_ranges(logit_n), minlength=RANGES)
        positives += int(label_n.sum())
        loss += binary_cross_entropy_with_logits(logit_n.double(), label_n.double(), reduction="sum").item()
    rows = int(count_r.sum())
    if positives in (0, rows):
        return Score(None, loss / rows) if rows else None
    twice_wins = below = 0
    for start, stop in _spans(count_r, at_once):
        _, positive_g, negative_g = _groups_between(start, stop, pieces(), at_once)
        twice_wins += _twice_wins(positive_g, negative_g, below)
        below += int(negative_g.sum())
    return Score(twice_wins / (2 * positives * (rows - positives)), loss / rows)


def _ranges(logit_n: Tensor) -> Tensor:
    """The range (n,) of each number: its bits as an integer, made to have the order of the numbers."""
    bits_n = (logit_n + 0.0).view(torch.int32)  # -0.0 and 0.0 are one number
    return ((bits_n ^ ((bits_n >> 31) & 0x7FFFFFFF)) >> 16) + RANGES // 2


def _spans(count_r: Tensor, at_once: int) -> Iterator[tuple[int, int]]:
    """Neighbouring ranges with at most so many rows together, or a single one with more: start, stop."""
    start, total = 0, 0
    for number, count in enumerate(count_r.tolist()):
        if total and total + count > at_once:
            yield start, number
            start, total = number, 0
        total += count
    yield start, RANGES


def _groups_between(
    start: int, stop: int, pieces: Iterable[tuple[Tensor, Tensor]], at_once: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`_groups` of the rows in these ranges. A single range has 65,536 different numbers at most."""
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    for logit_n, label_n in pieces:
        range_n = _ranges(logit_n)
        inside_n = (range_n >= start) & (range_n < stop)
        waiting.append((logit_n[inside_n], label_n[inside_n], 1 - label_n[inside_n]))
        if sum(len(part[0]) for part in waiting) > 2 * at_once:
            waiting = [_groups(*map(torch.cat, zip(*waiting, strict=True)))]
    return _groups(*map(torch.cat, zip(*waiting, strict=True)))


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
