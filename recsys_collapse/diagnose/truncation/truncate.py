"""Functional collapse: how much AUC a trained model loses when its embeddings keep r directions only, not retrained.

A table E becomes its best approximation of rank r, E V_r V_r^T, with the leading r right singular vectors V_r. A
spectrum says how much of the entries a direction makes; this says whether the model needs it. What the model is stays
outside: a function from projections to the placements of its scores (`of_run.py`, `of_function.py`).

Shapes: N fields, D rows of a field, M embedding sets, K columns of a set, C = M*K columns of all sets side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_collapse.dataset.progress import progress_bar, wants_bar
from recsys_collapse.diagnose.truncation.curves import Curve, Together, Truncation, enough, point
from recsys_collapse.spectrum.gram import set_grams
from recsys_collapse.stats import Placements, placements

TOLERANCE = 0.001
ALL_FIELDS, EACH_SET, FIELD = "all fields", "each set", "field"

Projections = dict[str, Tensor]
"""By field, P (C, C) float64, symmetric: its table E is to be E P. Fields that are not in it stay as they are."""
Model = Callable[[Projections], Placements]
"""A model on some rows: always the same rows, in the same order."""


class Directions:
    """The singular directions of one field, from its Gram matrix.

    Args:
        field: its name.
        gram_CC: E^T E (C, C) of all sets side by side, float64, uncentred.
        rows: D.
        num_sets: M; the columns of set m are m*K to (m+1)*K.

    Raises:
        ValueError: an entry is not finite.
    """

    def __init__(self, field: str, gram_CC: Tensor, rows: int, num_sets: int) -> None:
        gram_CC = gram_CC.cpu()
        if not gram_CC.isfinite().all():
            raise ValueError(f"field {field}: its table has NaN or infinite entries, so it has no singular directions")
        self.field, self.rows, self.columns, self.num_sets = field, rows, len(gram_CC), num_sets
        self.v_CC = directions(gram_CC)
        self.v_MKK = directions(set_grams(gram_CC[None], num_sets)[:, 0])

    def full_rank(self, each_set: bool) -> int:
        """With so many directions, the table (or every set of it) is itself, whatever its entries."""
        return min(self.rows, self.columns // self.num_sets if each_set else self.columns)

    def projection(self, rank: int, each_set: bool) -> Tensor:
        """P (C, C) that takes the table, or every set of it on its own, to this rank.

        Of equal singular values, which direction is kept is arbitrary.
        """
        leading = (self.v_MKK if each_set else self.v_CC[None])[..., :rank]
        return torch.block_diag(*(leading @ leading.mT))


def directions(gram: Tensor) -> Tensor:
    """Right singular vectors of E, as columns (..., C, C), leading one first, from E^T E (..., C, C) float64."""
    return torch.linalg.eigh(gram).eigenvectors.flip(-1)


def ranks_of(columns: int, ranks: Sequence[int] | None) -> list[int]:
    """The ranks to measure, ascending; those above C mean C, which is always among them: there, nothing is changed.

    None: 0 (the field is removed), 1, 2, 4, 8, ... below C, and C.

    Raises:
        ValueError: none is given, or one is negative.
    """
    if ranks is None:
        return [0, *(1 << i for i in range(columns.bit_length()) if 1 << i < columns), columns]
    if not ranks or min(ranks) < 0:
        raise ValueError(f"ranks {[*ranks]}: expected one or more integers of 0 or more, such as 0 1 2 4 8")
    return sorted({*(min(rank, columns) for rank in ranks), columns})


def truncate(
    fields: Sequence[Directions],
    model: Model,
    *,
    label: str,
    split: str | None = None,
    ranks: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
    alone: Sequence[str] | None = None,
) -> Truncation:
    """Curves of AUC over rank: of all fields at once, of each set (if a field has several), of single fields.

    The model is asked once for every point at which a table changes. A bar with the time left is shown if a
    person watches.

    Args:
        fields: those that are truncated.
        model: gives the placements of its scores.
        label: of the model, such as `epoch 3`.
        split: of the rows, if they are a run's.
        ranks: as `ranks_of` takes them, for every curve.
        tolerance: AUC that may be lost for a rank to suffice.
        alone: fields with a curve of their own; None: every one.

    Raises:
        ValueError: no fields, bad ranks or tolerance, an unknown field; or from the model.
    """
    if not fields:
        raise ValueError("expected at least one field with a table to truncate: found none")
    if not tolerance >= 0:
        raise ValueError(f"tolerance {tolerance}: expected an AUC difference of 0 or more, such as {TOLERANCE}")
    known = [member.field for member in fields]
    if unknown := sorted({*(known if alone is None else alone)} - {*known}):
        raise ValueError(f"no field {', '.join(unknown)}; expected some of {', '.join(known)}")
    plans = _plans(fields, ranks, known if alone is None else alone)
    asked, total = 0, 2 + sum(plan.changes(rank) for plan in plans for rank in plan.ranks)
    with progress_bar(wants_bar(None)) as progress:

        def ask(projections: Projections) -> Placements:
            nonlocal asked
            found = model(projections)
            asked += 1
            progress("truncating", asked / total)
            return found

        whole = ask({})
        curves = []
        for plan in plans:
            points = []
            for rank in plan.ranks:
                found = ask(plan.projections(rank)) if plan.changes(rank) else whole
                points.append(point(rank, found, whole))
            curves.append(Curve(plan.curve, plan.field, points, *enough(points, tolerance)))
        together = _together(fields, curves, ask, whole)
        progress("truncating", 1.0)  # also if nothing was cut together
    return Truncation(label, split, len(whole.label_n), whole.auc, tolerance, curves, together)


def _together(
    fields: Sequence[Directions], curves: Sequence[Curve], model: Model, whole: Placements
) -> Together | None:
    ranks = {curve.field: curve.needed for curve in curves if curve.field is not None}
    if ranks.keys() != {member.field for member in fields}:
        return None
    changed = [member for member in fields if ranks[member.field] < member.full_rank(each_set=False)]
    projections = {member.field: member.projection(ranks[member.field], each_set=False) for member in changed}
    found = point(0, model(projections) if projections else whole, whole)
    return Together(ranks, found.auc, found.change, found.low, found.high)


def placed(score_n: Tensor, label_n: np.ndarray, source: str) -> Placements:
    """Placements of scores (n,) and labels (n,) from `source`.

    Where all scores are one up to rounding (every field is removed, and the last bits hang on the place in a batch),
    they are one, and the AUC is 0.5.

    Raises:
        ValueError: no AUC can be computed.
    """
    rounding = 16 * min(torch.finfo(score_n.dtype).eps, torch.finfo(torch.float32).eps)
    score_n = score_n.double()
    if len(score_n) and score_n.max() - score_n.min() <= rounding * score_n.abs().max():
        score_n = torch.zeros_like(score_n)
    try:
        return placements(score_n.numpy(), label_n)
    except ValueError as error:
        raise ValueError(f"{source}: the AUC cannot be computed: {error}") from error


@dataclass(frozen=True)
class _Plan:
    """What is truncated for a curve."""

    curve: str
    field: str | None
    members: Sequence[Directions]
    ranks: list[int]

    def changes(self, rank: int) -> bool:
        """Whether any table is another one at this rank."""
        return any(rank < member.full_rank(self.curve == EACH_SET) for member in self.members)

    def projections(self, rank: int) -> Projections:
        """Of the tables that are others at this rank."""
        each_set = self.curve == EACH_SET
        changed = [member for member in self.members if rank < member.full_rank(each_set)]
        return {member.field: member.projection(rank, each_set) for member in changed}


def _plans(fields: Sequence[Directions], ranks: Sequence[int] | None, alone: Sequence[str]) -> list[_Plan]:
    widest = max(member.columns for member in fields)
    plans = [_Plan(ALL_FIELDS, None, fields, ranks_of(widest, ranks))]
    if any(member.num_sets > 1 for member in fields):
        of_a_set = max(member.columns // member.num_sets for member in fields)
        plans.append(_Plan(EACH_SET, None, fields, ranks_of(of_a_set, ranks)))
    own = [member for member in fields if member.field in alone]
    return plans + [_Plan(FIELD, member.field, [member], ranks_of(member.columns, ranks)) for member in own]
