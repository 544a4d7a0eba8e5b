"""Which tensors of a checkpoint are embedding tables: the names that libraries give them.

A state dict does not say what a tensor is for, but every library names its tables in its own way. A layout is a pattern
of names: `(?P<field>...)` is the field, `(?P<set>...)` the embedding set; without `field`, all fields lie below each
other in one table. A new library is one more line in `LAYOUTS`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """How a library names its tables, and how it draws them at first (`uniform` or `normal`)."""

    name: str
    pattern: str
    entries: str = "normal"


LAYOUTS = (
    Layout("FuxiCTR", r"(?:.*\.)?embedding_layer\.embedding_layers?\.(?P<field>.+)\.weight"),
    Layout("DeepCTR-Torch", r"(?:.*\.)?embedding_dict\.(?P<field>.+)\.weight"),
    Layout("RecBole, context-aware", r"(?:.*\.)?token_embedding_table\.(?:(?:user|item)\.)?embedding\.weight"),
    Layout("RecBole", r"(?:.*\.)?(?P<field>user|item)_embedding\.weight"),
    Layout(
        "torchfm (the official code)",
        r"(?:.*\.)?(?:embedding|embeddings\.(?P<set>\d+)(?:\.0)?)\.embedding\.weight",
        "uniform",
    ),
    Layout("torchfm, field-aware", r"(?:.*\.)?ffm\.embeddings\.(?P<set>\d+)\.weight", "uniform"),
    Layout("TorchRec", r"(?:.*\.)?(?:embedding_bags|embeddings)\.(?P<field>[^.]*[^.\d][^.]*)\.weight"),
    Layout('names with "emb"', r"(?P<field>(?i:.*emb.*?))(?:\.weight)?"),
)
"""Tried in this order; the first that fits a usable tensor is taken. The last one is a guess, and called so."""
GUESS = LAYOUTS[-1]


class Member(NamedTuple):
    """A tensor of a layout: its name in the checkpoint, its field (None: all of them), its set (None: the only one)."""

    tensor: str
    field: str | None
    embedding_set: int | None


class LeftOut(NamedTuple):
    """A tensor whose name fits, and why it is no table."""

    name: str
    shape: tuple[int, ...]
    why: str


def why_unusable(tensor: Tensor) -> str | None:
    """Why a tensor is no embedding table with a spectrum; None if it may be one."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return "not a dense tensor of numbers"
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')}: not floating-point numbers"
    if tensor.ndim != 2:
        return f"{tensor.ndim} dimensions; a table has two"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "its rows are one and the same piece of the file"
    if tensor.shape[1] == 1:
        return "one column: a first-order weight, or the projection of a number"
    if tensor.shape[0] < 2:
        return "one row or none"
    return None


def recognise(tensors: Mapping[str, Tensor], pattern: str | None = None) -> tuple[Layout, list[Member], list[LeftOut]]:
    """The tables among the tensors of a checkpoint.

    Args:
        tensors: by name.
        pattern: a regular expression for the whole name, instead of `LAYOUTS`; it may have the groups `field` and
            `set`. Without `field`, a table's own name is that of its field.

    Returns:
        The layout, its tables, and what has such a name but is none.

    Raises:
        ValueError: not a regular expression; it or no layout fits a usable tensor: names what could be meant.
    """
    layouts = LAYOUTS if pattern is None else (_own(pattern),)
    left_out: list[LeftOut] = []
    for layout in layouts:
        members, unusable = _fitting(tensors, layout)
        if members:
            return layout, _with_names(members), unusable
        left_out += [one for one in unusable if one not in left_out]
    raise ValueError(_nothing_found(tensors, pattern, left_out))


def _own(pattern: str) -> Layout:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--tables {pattern!r} is no regular expression: {error}") from error
    if unknown := set(found.groupindex) - {"field", "set"}:
        raise ValueError(
            f"--tables {pattern!r}: group {sorted(unknown)[0]}; expected only (?P<field>...) and (?P<set>...)"
        )
    return Layout(f"--tables {pattern}", pattern if found.groupindex else f"(?P<field>{pattern})")


def _fitting(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[list[Member], list[LeftOut]]:
    members, unusable = [], []
    for name, tensor in tensors.items():
        if (match := re.fullmatch(layout.pattern, name)) is None:
            continue
        if why := why_unusable(tensor):
            unusable.append(LeftOut(name, tuple(tensor.shape), why))
            continue
        groups = match.groupdict()
        number = groups.get("set")
        if number is not None and not number.isdecimal():
            raise ValueError(
                f"--tables: the group `set` is {number!r} in {name}; expected a number, such as (?P<set>\\d+)"
            )
        members.append(Member(name, groups.get("field"), None if number is None else int(number)))
    return members, unusable


def _with_names(members: list[Member]) -> list[Member]:
    """Fields with a name each: where several tables would have the same one, as in two towers, their whole names."""
    keys = [(member.field, member.embedding_set) for member in members]
    times = Counter(keys)
    return [
        member._replace(field=member.tensor.removesuffix(".weight"))
        if member.field is not None and times[key] > 1
        else member
        for member, key in zip(members, keys, strict=True)
    ]


def _nothing_found(tensors: Mapping[str, Tensor], pattern: str | None, left_out: list[LeftOut]) -> str:
    tables = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if why_unusable(tensor) is None]
    looked = f"--tables {pattern!r} is the whole name of none" if pattern else "none has a name of a known library"
    lines = [f"no embedding table among {len(tensors)} tensors: {looked}."]
    lines += [f"  {one.name} {one.shape}: {one.why}" for one in left_out[:10]]
    if tables:
        more = f", and {len(tables) - 15} more" if len(tables) > 15 else ""
        lines.append(f"With two dimensions there are: {', '.join(tables[:15])}{more}.")
        lines.append("Name the tables by --tables 'REGEX', such as --tables '(?P<field>.+)_table\\.weight'.")
    else:
        lines.append("No tensor has two dimensions and more than one column: nothing here has a spectrum.")
    return "\n".join(lines)
