"""Which finished runs belong together: those that differ in their seed only make one cell, a row of every table.

Configurations are told apart by the config keys in which they differ, found in the results themselves.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from recsys_collapse.runs.identity import flatten

NAMED = ("optimizer", "regularizer")  # sections that a name stands for


class Cell(NamedTuple):
    """What one row of the table stands for: runs that differ in their seed only."""

    dataset: str
    model: str
    scale: int
    embed: str
    other: tuple[tuple[str, str], ...]
    """Config keys, beyond model, embed and seed, in which runs of the same model, scale and embed differ here."""

    @property
    def label(self) -> str:
        """SE and ME as the paper writes them; the model at scale 1 is "base" for both."""
        return "base" if self.scale == 1 and self.embed == "se" else self.embed.upper()


def name_of(cell: Cell) -> str:
    """`dcnv2 SE 10x`, with what else tells it apart."""
    scale = [] if cell.label == "base" else [f"{cell.scale}x"]
    return " ".join([cell.model, cell.label, *scale, *(value for _, value in cell.other)])


def cells(results: Sequence[dict[str, Any]]) -> dict[Cell, list[dict[str, Any]]]:
    """Results by cell, the seeds of a cell together, in the order of the table."""
    varying = _varying(results)
    named = [key for key in varying if key != "data"]
    found = _cells(results, named)
    if any(len({run["identity"].get("data") for run in runs}) > 1 for runs in found.values()):
        found = _cells(results, varying)  # no other key tells the data apart
    return dict(sorted(found.items(), key=lambda item: (item[0][:3], item[0].embed != "se", item[0][3:])))


def _cells(results: Sequence[dict[str, Any]], varying: Sequence[str]) -> dict[Cell, list[dict[str, Any]]]:
    found: dict[Cell, list[dict[str, Any]]] = {}
    for result in results:
        flat = _described(result)
        other = tuple((key, str(flat.get(key, "–"))) for key in varying)
        cell = Cell(result["dataset"], result["model"], result["scale"], result["embed"], other)
        found.setdefault(cell, []).append(result)
    return found


def _described(result: dict[str, Any]) -> dict[str, Any]:
    """Config keys and values of a run, and the names of sections."""
    return flatten(result["identity"]) | {section: result.get(section) for section in NAMED}


def _varying(results: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that tell apart runs of the same model, scale and embed; those of a section only within its name."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        group = (result["dataset"], result["model"], result["scale"], result["embed"])
        groups.setdefault(group, []).append(_described(result))
    keys = {
        key
        for flats in groups.values()
        for flat in flats
        for key in flat
        if any(f.get(key) != flat[key] for f in flats)
    }
    for section in NAMED:
        inside = {key for key in keys if key.startswith(f"{section}.")}
        keys -= {key for key in inside if not _varies_within(key, section, groups.values())}
    return sorted(keys - {"seed"})


def _varies_within(key: str, section: str, groups: Iterable[list[dict[str, Any]]]) -> bool:
    """Whether runs of one model, scale and embed whose section has the same name differ in this key of it."""
    found: dict[tuple[int, Any], set[str]] = {}
    for number, flats in enumerate(groups):
        for flat in flats:
            found.setdefault((number, flat[section]), set()).add(str(flat.get(key)))
    return any(len(values) > 1 for values in found.values())
