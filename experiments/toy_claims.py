"""What the toy experiment and its controls say about the paper's mechanism.

The gap is IA(E_1) at the end with D_3 = 100 minus that with D_3 = 3. The paper's reason for it: E_3 has low information
abundance, so the gradient is weighted towards few directions. If so, any E_3 of low IA makes the gap, and the
directions are those of E_3. What else could make it: the mean of E_3, which together with the constant term e_2 . e_3
is a target that all rows of E_1 share. Each control asks for the part of the gap that is due to one of these. Claims
called `inferred` are our readings of the paper, which it does not state. Its D_3 >> K is better met by K = 10 than by
K = 50.

Shapes: S seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from experiments.claims import ABOVE, BELOW, FAILS, HOLDS, OPEN, Claim
from experiments.toy import (
    COMMON_MEAN,
    LARGE,
    LARGE_NO_OFFSET,
    LOW_RANK,
    SMALL,
    SMALL_CENTRED,
    SMALL_NO_OFFSET,
    Condition,
)
from recsys_collapse.stats import Interval, student

HALF = 0.5
DIGITS = 2
REPRODUCED = "paper: IA(E_1) ends lower with D_3 = 3 than with D_3 = 100"
ORDERED = "inferred: the lower IA(E_3), the lower IA(E_1)"
ALIGNED = "inferred: E_1 ends with more of its norm along the directions of E_3 than a random matrix has"


@dataclass(frozen=True)
class Ends:
    """The end of training for one K."""

    embed_size: int
    frame: pl.DataFrame

    def __call__(self, condition: Condition, column: str = "ia") -> np.ndarray:
        """Values (S,) in the order of the seeds."""
        return self.frame.filter(condition=condition.name).sort("seed")[column].to_numpy()

    def gap(self) -> np.ndarray:
        """What the paper's figure shows, (S,)."""
        return self(LARGE) - self(SMALL)

    @property
    def random_share(self) -> float:
        """What a span of three directions holds of a random matrix."""
        return SMALL.cardinality / self.embed_size


@dataclass(frozen=True)
class Control:
    """Something that makes, or removes, a part of the gap."""

    side: str
    """Whose reason it would confirm: `paper`, or `instead`."""
    what: str
    verb: str
    quantity: str
    part: Callable[[Ends], np.ndarray]
    """Of the gap, for every seed."""

    @property
    def some(self) -> str:
        """The claim that there is such a part."""
        return f"{self.side}: {self.what} {self.verb} a part of the gap"

    @property
    def most(self) -> str:
        """The claim that it is the greater part."""
        side = "inferred" if self.side == "paper" else self.side  # the paper does not say how much
        return f"{side}: {self.what} {self.verb} most of the gap"


CONTROLS = (
    Control(
        *("paper", "low IA of E_3 alone (rank 3, D_3 = 100)", "makes", "IA: large - low rank"),
        lambda end: end(LARGE) - end(LOW_RANK),
    ),
    Control(
        *("instead", "centring E_3 (D_3 = 3; its IA falls)", "removes", "IA: small, centred - small"),
        lambda end: end(SMALL_CENTRED) - end(SMALL),
    ),
    Control(
        *("instead", "leaving out the constant e_2.e_3", "removes", "gap - gap without offset"),
        lambda end: end.gap() - (end(LARGE_NO_OFFSET) - end(SMALL_NO_OFFSET)),
    ),
    Control(
        *("instead", "taking the mean row off E_1", "removes", "gap - gap of centred E_1"),
        lambda end: end.gap() - (end(LARGE, "ia_centred") - end(SMALL, "ia_centred")),
    ),
)


def share(part_S: np.ndarray, whole_S: np.ndarray) -> Interval:
    """Mean part over mean whole, paired by seed; the error by linearisation (the delta method).

    Without error where the whole is not above 0 beyond doubt: a share of it means nothing.
    """
    ratio = float(part_S.mean() / whole_S.mean())
    whole = student(whole_S.tolist())
    if whole.low is None or whole.low <= 0:
        return Interval(ratio, None)
    return student((ratio + (part_S - ratio * whole_S) / whole_S.mean()).tolist())


def ends_of(frame: pl.DataFrame) -> list[Ends]:
    """For every K."""
    return [Ends(size, frame.filter(embed_size=size)) for size in frame["embed_size"].unique(maintain_order=True)]


def make_claims(frame: pl.DataFrame) -> list[Claim]:
    """All claims, not yet decided; `frame` has the last record of every condition, K and seed."""
    return [claim for end in ends_of(frame) for claim in _claims_of(end)]


def _claims_of(end: Ends) -> list[Claim]:
    about = f"K={end.embed_size}"

    def difference(text: str, quantity: str, values_S: np.ndarray, kind: str = ABOVE) -> Claim:
        return Claim(text, about, quantity, student(values_S.tolist()), DIGITS, kind)

    found = [difference(REPRODUCED, "IA: small - large", -end.gap(), BELOW)]
    for control in CONTROLS:
        part_S = control.part(end)
        over_half = share(part_S - HALF * end.gap(), end.gap())
        found.append(difference(control.some, control.quantity, part_S))
        found.append(Claim(control.most, about, "share of the gap - 1/2", over_half, DIGITS))
    return [
        *found,
        difference(ORDERED, "IA: low rank - common mean", end(LOW_RANK) - end(COMMON_MEAN), BELOW),
        difference(ALIGNED, "share in span(E_3) - 3/K", end(SMALL, "energy_in_e3") - end.random_share),
    ]


def make_notes(frame: pl.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """Sentences for each K; their words follow the verdicts of the decided claims."""
    return [note for end in ends_of(frame) for note in _notes_of(end, claims)]


def _notes_of(end: Ends, claims: Sequence[Claim]) -> list[str]:
    verdicts = {claim.text: claim.verdict for claim in claims if claim.about == f"K={end.embed_size}"}
    reproduced = {HOLDS: "is reproduced", FAILS: "is reversed", OPEN: "is not decided"}[verdicts[REPRODUCED]]
    ends = f"{_mean(end(SMALL))} with D_3 = 3, {_mean(end(LARGE))} with D_3 = 100"
    notes = [f"K={end.embed_size}: Figure 4 {reproduced}: IA(E_1) ends at {ends}, a gap of {_mean(end.gap())}."]
    if len(end.gap()) < 2:
        return [*notes, f"K={end.embed_size}: one seed gives no interval, so nothing is decided: seeds=2 or more."]
    if verdicts[REPRODUCED] != HOLDS:
        return notes
    notes += [f"K={end.embed_size}: {_say(control, end, verdicts)}." for control in CONTROLS]
    return [*notes, _say_ordered(end, verdicts), _say_geometry(end, verdicts), _say_mechanism(end, verdicts)]


def _mean(values_S: np.ndarray, digits: int = DIGITS) -> str:
    return student(values_S.tolist()).text(digits)


def _say(control: Control, end: Ends, verdicts: dict[str, str]) -> str:
    found = share(control.part(end), end.gap())
    percent = f"{100 * found.estimate:.0f}%" + ("" if found.half is None else f" ±{100 * found.half:.0f}%")
    some, most = verdicts[control.some], verdicts[control.most]
    if some == OPEN:
        return f"that {control.what} {control.verb} a part of the gap is not shown ({percent})"
    if some == FAILS:
        return f"{control.what} {control.verb} less than nothing of the gap: the effect is the reverse ({percent})"
    size = {HOLDS: "more than half", FAILS: "less than half", OPEN: "a part (whether more than half is not decided)"}[
        most
    ]
    return f"{control.what} {control.verb} {size} of the gap: {percent}"


def _say_ordered(end: Ends, verdicts: dict[str, str]) -> str:
    ia = {c: (_mean(end(c, "ia_e3"), 1), _mean(end(c))) for c in (LOW_RANK, COMMON_MEAN)}
    said = {
        HOLDS: "as low IA(E_3) would have it",
        FAILS: "the reverse of what low IA(E_3) would have",
        OPEN: "which does not decide whether IA(E_3) orders IA(E_1)",
    }[verdicts[ORDERED]]
    (low_e3, low), (mean_e3, mean) = ia[LOW_RANK], ia[COMMON_MEAN]
    return (
        f"K={end.embed_size}: with D_3 = 100, IA(E_3) of {low_e3} (rank 3) gives IA(E_1) of {low}, "
        f"IA(E_3) of {mean_e3} (common mean) gives {mean}: {said}."
    )


def _say_geometry(end: Ends, verdicts: dict[str, str]) -> str:
    more = {HOLDS: "more than", FAILS: "less than", OPEN: "not shown to be other than"}[verdicts[ALIGNED]]
    cosine, offset = _mean(end(SMALL, "cosine")), _mean(end(SMALL, "cosine_offset"))
    energy = _mean(end(SMALL, "energy_in_e3"), 3)
    return (
        f"K={end.embed_size}: with D_3 = 3, the first direction of E_1 has |cos| {cosine} with its mean row, and that "
        f"row has cos {offset} with the vector that best cancels e_2.e_3; span(E_3) holds {energy} of the squared norm "
        f"of E_1, {more} the {end.random_share:.2f} of a random matrix."
    )


def _say_mechanism(end: Ends, verdicts: dict[str, str]) -> str:
    own, *others = CONTROLS
    if verdicts[own.some] == verdicts[own.most] == HOLDS:
        role = "accounts for most of the gap"
    elif verdicts[own.some] == HOLDS:
        role = "accounts for a part of the gap" + (", the smaller one" if verdicts[own.most] == FAILS else "")
    else:
        role = "is not seen to account for the gap"
    rivals = [other.what for other in others if verdicts[other.most] == HOLDS]
    rest = f"; most of it goes with each of: {', '.join(rivals)}" if rivals else ""
    return f"K={end.embed_size}: the paper's reason, low IA of E_3 by itself, {role}{rest}."
