"""What the paper says, what these runs say, and whether the one follows from the other: with interval and verdict.

A claim is about one number whose sign (or smallness) the paper predicts. Of claims with the same text, such as one for
each model, p-values are adjusted together (Holm). What is not significant either way is not decidable with these runs,
and the smallest difference that they would have shown with a power of 80% stands beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl
from recsys_collapse.stats import Interval, holm, minimum_detectable, not_above
from rich.table import Table

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable"
ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """One prediction, and what was found."""

    text: str
    """The paper's statement, in short."""
    about: str
    """What it was asked of, such as the model."""
    quantity: str
    """The number whose sign decides, with its unit."""
    interval: Interval
    digits: int = 5
    above: bool = True
    """The paper predicts a number above 0; else below, or with a margin: not above the margin."""
    margin: float | None = None
    p_value: float | None = None
    """Two-sided, where it is not that of the interval; then adjusted (`decided`)."""
    sources: str = "seeds"
    """Of chance, that the interval covers."""
    verdict: str = ""
    artefact: str = ""

    @property
    def raw_p(self) -> float | None:
        """Not adjusted; None where there is no interval, as with one seed."""
        if self.p_value is not None:
            return self.p_value
        if self.interval.standard_error is None:
            return None
        return self.interval.p_value if self.margin is None else not_above(self.interval, self.margin)

    @property
    def detectable(self) -> float | None:
        """The smallest difference that would have been found with a power of 80%."""
        return minimum_detectable(self.interval)

    def row(self) -> dict[str, Any]:
        """For machines."""
        known = asdict(self)
        del known["interval"], known["digits"], known["above"]
        numbers = {name: getattr(self.interval, name) for name in ("estimate", "low", "high")}
        return {**known, **numbers, "detectable": self.detectable}


def decided(claims: Sequence[Claim]) -> list[Claim]:
    """The same claims, each with its adjusted p-value and its verdict."""
    found = []
    for text in dict.fromkeys(claim.text for claim in claims):
        own = [claim for claim in claims if claim.text == text]
        for claim, p in zip(own, holm([claim.raw_p for claim in own]), strict=True):
            found.append(replace(claim, p_value=p, verdict=_verdict(claim, p)))
    return found


def _verdict(claim: Claim, p: float | None) -> str:
    if p is None:
        return OPEN
    if claim.margin is not None:
        low = claim.interval.low
        return HOLDS if p < ALPHA else FAILS if low is not None and low > claim.margin else OPEN
    if p >= ALPHA:
        return OPEN
    return HOLDS if (claim.interval.estimate > 0) == claim.above else FAILS


def claim_table(claims: Sequence[Claim], title: str) -> Table:
    """For people."""
    caption = (
        "± half the 95% interval; detectable: the smallest difference found with a power of 80%; p: two-sided, Holm's "
        "over the lines of a claim"
    )
    table = Table(title=title, caption=caption)
    for name in ("the paper's claim", "of", "measured"):
        table.add_column(name)
    for name in ("found", "detectable", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    before = None
    for claim in claims:
        if before not in (None, claim.text):
            table.add_section()
        table.add_row(*cells_of(claim, repeat=claim.text != before))
        before = claim.text
    return table


def cells_of(claim: Claim, repeat: bool = True) -> list[str]:
    """A row of the table; without the claim's text where the row above has it."""
    detectable, p = claim.detectable, claim.p_value
    return [
        claim.text if repeat else "",
        claim.about,
        claim.quantity,
        claim.interval.text(claim.digits),
        "–" if detectable is None else f"{detectable:.{claim.digits}f}",
        "–" if p is None else f"{p:.2g}",
        claim.verdict,
    ]


def claim_frame(claims: Sequence[Claim]) -> pl.DataFrame:
    """For machines: one row per claim."""
    return pl.DataFrame([claim.row() for claim in claims], infer_schema_length=None)
