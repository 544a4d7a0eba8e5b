"""What the paper says, what these runs say, and whether the one follows from the other: with interval and verdict.

A claim is about one number: the paper predicts that it is above 0, below 0, or small. It holds, or does not, where the
number is significantly on one side. Of claims with the same text, such as one for each model, p-values are adjusted
together (Holm). What is not significant either way is not decidable with these runs, and the smallest difference that
they would have shown with a power of 80% stands beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from recsys_collapse.stats import Interval, equivalence, holm, minimum_detectable, not_above

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable"
ABOVE, BELOW, AT_MOST, WITHIN = "above", "below", "at most", "within"
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
    kind: str = ABOVE
    """What is predicted: `above` 0, `below` 0, `at most` the margin, or `within` it on both sides."""
    margin: float = 0.0
    p_value: float | None = None
    """Two-sided, where it is not that of the interval. Of a decided claim: adjusted, of the side it was found on."""
    sources: str = "seeds"
    """Of chance, that the interval covers."""
    verdict: str = ""
    artefact: str = ""

    @property
    def sides(self) -> tuple[float | None, float | None]:
        """p-values, not adjusted: small where it holds, small where it does not; None where nothing is known of chance.

        Above or below 0: two-sided. At most: one-sided tests against the margin. Within: equivalence (two one-sided
        tests), and the two-sided test that it is outside. Seeds that agree to the last bit are no certainty.
        """
        interval, own = self.interval, self.p_value
        if own is None and not interval.standard_error:
            return None, None
        if self.kind == AT_MOST:
            return not_above(interval, self.margin), interval.p_above(self.margin)
        if self.kind == WITHIN:
            outside = min(
                2 * p for p in (interval.p_above(self.margin), interval.p_below(-self.margin)) if p is not None
            )
            return equivalence(interval, self.margin).p_value, min(1.0, outside)
        p = interval.p_value if own is None else own
        as_predicted = (interval.estimate > 0) == (self.kind == ABOVE)
        return (p, 1.0) if as_predicted else (1.0, p)

    @property
    def detectable(self) -> float | None:
        """The smallest difference from 0 that would have been found with a power of 80%; None where 0 is not asked."""
        return minimum_detectable(self.interval) if self.kind in (ABOVE, BELOW) else None

    def row(self) -> dict[str, Any]:
        """For machines."""
        known = asdict(self)
        del known["interval"], known["digits"]
        numbers = {name: getattr(self.interval, name) for name in ("estimate", "low", "high")}
        return {**known, **numbers, "detectable": self.detectable}


def decided(claims: Sequence[Claim]) -> list[Claim]:
    """The same claims, each with its adjusted p-value and its verdict."""
    found: list[Claim] = []
    for text in dict.fromkeys(claim.text for claim in claims):
        own = [claim for claim in claims if claim.text == text]
        holds, fails = (holm([claim.sides[side] for claim in own]) for side in (0, 1))
        found += [_decided(claim, *both) for claim, *both in zip(own, holds, fails, strict=True)]
    return found


def _decided(claim: Claim, holds: float | None, fails: float | None) -> Claim:
    if holds is None or fails is None:
        return replace(claim, p_value=None, verdict=OPEN)
    verdict = HOLDS if holds < ALPHA else FAILS if fails < ALPHA else OPEN
    return replace(claim, p_value=min(holds, fails), verdict=verdict)


def undecided(claims: Sequence[Claim]) -> list[Claim]:
    """Claims that cannot be asked, as what they rest on did not happen; their numbers are shown."""
    return [replace(claim, p_value=None, verdict=OPEN) for claim in claims]


def claim_table(claims: Sequence[Claim], title: str) -> Table:
    """For people."""
    caption = (
        "± half the 95% interval; detectable: the smallest difference from 0 found with a power of 80%; p: of the side "
        "it is on, Holm's over the lines of a claim"
    )
    table = Table(title=title, caption=caption)
    for name in ("claim", "of", "measured"):
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
