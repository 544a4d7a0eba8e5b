"""What the numbers of a field say, in words.

The lines between words are this tool's: no theory draws them. What is compared is information abundance relative to
random tables of the same shape, with and without the mean row.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

SPREAD, PARTLY, STRONGLY = 0.75, 0.5, 0.25
MEAN = 0.1  # what taking the mean row off must add, for the mean to be named as the reason
EVEN = 0.9  # of the effective rank of random tables, from which on all but the first directions are alike
ROUNDING = 1e-6
FEWEST_ROWS = 4  # with three, a random table alone has any spectrum
WORDS = {
    "strongly collapsed": f"information abundance below {STRONGLY} of that of random tables of the same shape",
    "collapsed": f"below {PARTLY}",
    "partly collapsed": f"below {SPREAD}",
    "shared mean": f"below {SPREAD} because of a mean that all rows share; at least {SPREAD} and {MEAN} more without",
    "spread out": f"at least {SPREAD}",
    "few rows": f"fewer than {FEWEST_ROWS} rows: nothing can be said",
    "constant": "all rows are equal",
    "all zero": "every entry is 0",
    "not finite": "an entry is infinite or not a number",
}
"""Every verdict, worst first, and what it means."""
COLLAPSED = ("strongly collapsed", "collapsed", "partly collapsed")


class Numbers(NamedTuple):
    """What a verdict is made of; NaN where there is no value."""

    rows: int
    columns: int
    abundance: float
    random: float
    centred_relative: float
    """Of the table minus its mean row: information abundance relative to random."""
    first_energy: float
    k99: float
    effective_rank: float
    random_effective_rank: float
    per_set: Sequence[float]
    """Relative information abundance of every embedding set; empty if there is one."""

    @property
    def relative(self) -> float:
        """Information abundance relative to random: 1 is as spread out as at initialisation."""
        return self.abundance / self.random


def verdict(numbers: Numbers, finite: bool = True) -> tuple[str, str]:
    """One of `WORDS`, and a sentence with the numbers it rests on; `finite`: whether all entries are."""
    if not finite:
        return "not finite", "An entry is infinite or not a number: the table has no spectrum."
    if math.isnan(numbers.abundance):
        return "all zero", "Every entry is 0: nothing was learned, or weight decay has removed it."
    if numbers.rows > 1 and math.isnan(numbers.centred_relative) and numbers.abundance < 1 + ROUNDING:
        return "constant", "All rows are equal: the field tells nothing apart."
    if numbers.rows < FEWEST_ROWS:
        return "few rows", f"{numbers.rows} rows: a random table of this shape can have any such spectrum."
    word = _word(numbers.relative)
    if word in COLLAPSED and numbers.centred_relative >= max(SPREAD, numbers.relative + MEAN):
        word = "shared mean"
    return word, " ".join(_sentences(numbers))


def _word(relative: float) -> str:
    if relative >= SPREAD:
        return "spread out"
    if relative >= PARTLY:
        return "partly collapsed"
    return "collapsed" if relative >= STRONGLY else "strongly collapsed"


def _sentences(numbers: Numbers) -> list[str]:
    size = min(numbers.rows, numbers.columns)
    found = [
        f"Information abundance {numbers.abundance:.3g}, a random table of this shape has {numbers.random:.3g} "
        f"({numbers.relative:.0%}).",
        f"The first of {size} singular values holds {numbers.first_energy:.0%} of the energy, "
        f"{numbers.k99:.0f} hold 99%.",
    ]
    if numbers.relative < SPREAD and numbers.effective_rank >= EVEN * numbers.random_effective_rank:
        found.append(
            f"Behind the first ones the spectrum is even: effective rank {numbers.effective_rank:.3g}, random "
            f"{numbers.random_effective_rank:.3g}. So is an initialisation that training has not worn off; whether it "
            "carries something, truncation tells."
        )
    if numbers.centred_relative >= numbers.relative + MEAN:
        found.append(f"Part of it is a mean that all rows share: without it {numbers.centred_relative:.0%}.")
    if numbers.rows <= numbers.columns:
        found.append(f"With {numbers.rows} rows it has at most {numbers.rows} dimensions, however many columns.")
    if numbers.per_set:
        mean = sum(numbers.per_set) / len(numbers.per_set)
        found.append(f"Its {len(numbers.per_set)} embedding sets alone have {mean:.0%} of theirs.")
        if alike(numbers):
            found.append("Side by side they have less: the sets share directions.")
    return found


def alike(numbers: Numbers) -> bool:
    """Whether embedding sets are spread out each, and not together: they hold the same directions."""
    if not numbers.per_set or numbers.rows < FEWEST_ROWS:
        return False
    return sum(numbers.per_set) / len(numbers.per_set) >= SPREAD > numbers.relative
