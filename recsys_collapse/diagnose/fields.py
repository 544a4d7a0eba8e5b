"""The fields of a checkpoint: which rows of which tensors are the table of a field, in all embedding sets.

Nothing is copied: tensors stay where they are, usually in a mapped file, and are read block by block.

Shapes: D rows of a field, M embedding sets, K embedding size per set, C = M*K.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from recsys_collapse.diagnose.layouts import Member, groups_of
from recsys_collapse.spectrum import Rows


@dataclass(frozen=True)
class FieldTable:
    """Where the table (D, M*K) of a field lies."""

    name: str
    parts: Sequence[tuple[str, slice]]
    """Tensor and rows of every embedding set, in order; a single one that has all sets side by side, too."""
    num_sets: int = 1
    entries: str = "normal"

    def rows(self, tensors: Mapping[str, Tensor]) -> Rows:
        """The table itself, to be read in blocks of rows."""
        parts = [tensors[name].detach()[rows] for name, rows in self.parts]
        return parts[0] if len(parts) == 1 else SideBySide(parts)


class SideBySide:
    """Tables of the same rows as one wide table, of which only the blocks that are read exist."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts
        self.shape = torch.Size([len(parts[0]), sum(part.shape[1] for part in parts)])
        self.dtype, self.device = parts[0].dtype, parts[0].device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Tensor:
        return torch.cat([part[rows] for part in self.parts], dim=1)


def cut(
    tensors: Mapping[str, Tensor],
    members: Sequence[Member],
    cardinalities: Mapping[str, int] | None = None,
    num_sets: int = 1,
) -> list[FieldTable]:
    """The fields of recognised tables: sets together, and tables of several fields cut at their cardinalities.

    Args:
        tensors: of the checkpoint, by name.
        members: from `recognise`, or known.
        cardinalities: rows of every field, in order: of tables with as many rows in all. Empty: tables that may hold
            several fields are taken for the table of one.
        num_sets: M, if a single tensor has all sets side by side.

    Raises:
        ValueError: a table of several fields, and no cardinalities or others than its rows; cardinalities that belong
            to no table; sets that do not fit together.
    """
    groups = groups_of(members)
    fused = [own for own in groups if cardinalities and sum(cardinalities.values()) == len(tensors[own[0].tensor])]
    fused = [own for own in fused if own[0].field is None] or fused  # a field may have as many rows as all together
    if cardinalities and not fused:
        known = ", ".join(f"{own[0].tensor} {len(tensors[own[0].tensor]):,}" for own in groups[:8])
        raise ValueError(
            f"--cardinalities: {len(cardinalities)} fields with {sum(cardinalities.values()):,} rows in all; expected "
            f"the rows of a table: {known}{', ...' if len(groups) > 8 else ''}"
        )
    found = list[tuple[str, FieldTable]]()
    for own in groups:
        rows, short = _rows(tensors, own), _short(own[0].table)
        sizes = {own[0].field or short: rows}
        if own in fused and cardinalities:
            sizes = dict(cardinalities)
        elif own[0].field is None and cardinalities != {}:
            fit = f", as {_short(fused[0][0].table)} has; --tables takes one of them alone" if fused else ""
            raise ValueError(
                f"{own[0].tensor} holds all fields below each other, {rows:,} rows: --cardinalities must say where "
                f"each begins, as 7,40,3 or a JSON file with a list or {{field: cardinality}}{fit}; "
                "--cardinalities whole measures it as one table, which says little about a field"
            )
        columns = tensors[own[0].tensor].shape[1]
        if columns % num_sets or (num_sets > 1 and len(own) > 1):
            raise ValueError(
                f"--sets {num_sets}: expected so many embedding sets side by side in a tensor: {own[0].tensor} has "
                f"{columns} columns" + (f", and is one of {len(own)} sets already" if len(own) > 1 else "")
            )
        sets = max(len(own), num_sets)
        for (name, size), end in zip(sizes.items(), accumulate(sizes.values()), strict=True):
            parts = [(member.tensor, slice(end - size, end)) for member in own]
            found.append((short, FieldTable(name, parts, sets, own[0].entries)))
    return _with_names(found)


def _with_names(fields: Sequence[tuple[str, FieldTable]]) -> list[FieldTable]:
    """Fields with a name each: where several would have the same one, that of their table stands before it.

    Args:
        fields: each with the name of its table.
    """
    times = Counter(table.name for _, table in fields)
    return [
        replace(table, name=short if short.endswith(table.name) else f"{short}.{table.name}")
        if times[table.name] > 1
        else table
        for short, table in fields
    ]


def _rows(tensors: Mapping[str, Tensor], own: Sequence[Member]) -> int:
    """Rows of a table, which must have the same shape in every set."""
    shapes = {member.tensor: tuple(tensors[member.tensor].shape) for member in own}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"embedding sets of different shapes: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}; "
            "choose tables by --tables without (?P<set>...) to measure each on its own"
        )
    return len(tensors[own[0].tensor])


def _short(tensor: str) -> str:
    return tensor.removesuffix(".weight").removesuffix(".embedding")


def read_cardinalities(words: str) -> dict[str, int]:
    """Cardinalities by field, as `--cardinalities` gives them.

    Args:
        words: `7,40,3`; a JSON file with a list of numbers, a mapping {field: cardinality}, or the card of an export;
            or `whole` (then: empty).

    Raises:
        ValueError: none of these, or a cardinality below 1.
    """
    if words == "whole":
        return {}
    where = "--cardinalities"
    value: object
    if words.replace(",", "").replace(" ", "").isdecimal():
        value = [int(word) for word in words.split(",") if word.strip()]
    else:
        where = f"--cardinalities {words}"
        try:
            value = json.loads(Path(words).read_bytes())
        except (OSError, ValueError) as error:  # also bytes that are no UTF-8
            raise ValueError(
                f"{where}: expected numbers such as 7,40,3, a JSON file, or whole: {type(error).__name__}: {error}"
            ) from error
    if isinstance(value, dict) and isinstance(value.get("fields"), list):  # of an export
        value = {str(field.get("name")): field.get("cardinality") for field in value["fields"]}
    if isinstance(value, list):
        value = {f"field_{number}": size for number, size in enumerate(value)}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected a list of numbers or a mapping from field to number")
    for name, size in value.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{where}: {name} has {size!r}; expected the number of its rows, 1 or more")
    return value
