"""Which rows of a table count, how much, and what is taken off: the variants in which everything is measured.

In words, joined by `+`: `all`, `seen`, `min_count:5`, `frequency`, `seen+centred`, `unit_norm`, ...
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

WEIGHTINGS = ("frequency", "sqrt_count")


class Variant(NamedTuple):
    """Which rows of a table count, how much, and what is taken off; `all` as words."""

    min_count: int = 0
    """Rows of ids with at least so many training samples: 0 all, 1 seen."""
    weighting: str = ""
    """Empty: rows count once; `frequency`: as often as they are looked up; `sqrt_count`: the root of it."""
    centred: bool = False
    """The (weighted) mean row is taken off."""
    unit_norm: bool = False
    """Every embedding set is scaled to Frobenius norm 1 first; the whole only."""

    @classmethod
    def parse(cls, words: str) -> "Variant":
        """From words joined by `+`: all, seen or min_count:n; frequency or sqrt_count; centred; unit_norm.

        Raises:
            ValueError: another word, or two of a kind.
        """
        found: dict[str, Any] = {}
        for word in words.split("+"):
            head, _, number = word.partition(":")
            if word in ("all", "seen"):
                new: dict[str, Any] = {"min_count": int(word == "seen")}
            elif head == "min_count" and number.isdecimal():
                new = {"min_count": int(number)}
            elif word in WEIGHTINGS:
                new = {"weighting": word}
            elif word in ("centred", "unit_norm"):
                new = {word: True}
            else:
                raise ValueError(
                    f"variant {words!r}: unknown word {word!r}; expected all, seen or min_count:n, "
                    f"{' or '.join(WEIGHTINGS)}, centred, unit_norm, joined by +"
                )
            if new.keys() & found.keys():
                raise ValueError(f"variant {words!r}: {word!r} says for the second time which rows or weights count")
            found |= new
        return cls(**found)

    @property
    def needs_counts(self) -> bool:
        """Whether it must be known how often every id occurs."""
        return self.min_count > 0 or bool(self.weighting)

    def __str__(self) -> str:
        rows = {0: "", 1: "seen"}.get(self.min_count, f"min_count:{self.min_count}")
        words = [rows, self.weighting, "centred" * self.centred, "unit_norm" * self.unit_norm]
        return "+".join(filter(None, words)) or "all"


def parse_variants(words: Sequence[str] | str) -> list[Variant]:
    """Every variant once, in order; `words` may be a single one. Raises as `Variant.parse`, and if there is none."""
    if not words:
        raise ValueError(f"variants={words}: expected at least one, such as all, centred, seen+centred")
    return list(dict.fromkeys(map(Variant.parse, [words] if isinstance(words, str) else words)))
