"""Which tensors of a checkpoint are embedding tables: the names that libraries give them.

A state dict does not say what a tensor is for, but every library names its tables in its own way. A layout is a pattern
of names: `(?P<field>...)` is the field, `(?P<set>...)` the embedding set; without `field`, all fields lie below each
other in one table. A new library is one more line in `LAYOUTS`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """How a library names its tables, and how it draws them at first (`uniform` or `normal`)."""

    name: str
    pattern: str
    entries: str = "normal"


LAYOUTS = (
    Layout("FuxiCTR", r"(?:.*\.)?embedding_layer\.embedding_layers?\.(?P<field>.+)(?<!\.proj)\.weight"),
    Layout("DeepCTR-Torch", r"(?:.*\.)?(?:second_order_)?embedding_dict\.(?P<field>.+)\.weight"),
    Layout("RecBole, context-aware", r"(?:.*\.)?token_embedding_table\.(?:(?:user|item)\.)?embedding\.weight"),
    Layout("RecBole, sequences", r"(?:.*\.)?token_seq_embedding_table\.(?P<field>(?:\w+\.)?\d+)\.weight"),
    Layout(
        "torchfm (the official code)",
        r"(?:.*\.)?(?:embedding|embeddings\.(?P<set>\d+)(?:\.0)?)\.embedding\.weight",
        "uniform",
    ),
    Layout("torchfm, field-aware", r"(?:.*\.)?ffm\.embeddings\.(?P<set>\d+)\.weight", "uniform"),
    Layout("TorchRec", r"(?:.*\.)?embedding_bags\.(?P<field>[^.]+)\.weight", "uniform"),
    Layout(
        "TorchRec or a ModuleDict of embeddings",
        r"(?:.*\.)?embeddings\.(?P<field>(?!word_|position_|token_type_)[^.]*[^.\d][^.]*)\.weight",
        "uniform",
    ),
    Layout("<field>_embedding (RecBole)", r"(?:.*\.)?(?P<field>(?!position|pos_|token_type)\w+)_embedding\.weight"),
)
"""All together: a tensor belongs to the first one that fits its whole name."""
GUESS = Layout(
    'names with "emb", a guess',
    r"(?!.*(?i:proj|attn|attention|mlp|norm|pos_|position|token_type))"
    r"(?P<field>.*(?:(?<![a-zA-Z])[eE]mb|(?<=[a-z])Emb).*?)(?:\.weight)?",
)
"""Only where no layout fits anything: "emb" at the beginning of a word."""
LONGEST_NAME = 1000  # characters; longer ones are nobody's, and take time
MOST_COLUMNS = 8192  # of which products of all pairs are kept, in float64: 0.5 GB


class Member(NamedTuple):
    """A tensor that is a table, or one embedding set of one."""

    tensor: str
    table: str
    """The tensor's name without the number of its set: what sets of one table have in common."""
    field: str | None
    """None: all fields below each other."""
    embedding_set: int | None
    """None: the only one."""
    entries: str


class LeftOut(NamedTuple):
    """A tensor that could be a table by its name, and why it is none."""

    name: str
    shape: tuple[int, ...]
    why: str


class Found(NamedTuple):
    """The tables of a checkpoint, in the words of the layouts that they have."""

    layout: str
    members: list[Member]
    left_out: list[LeftOut]


def why_unusable(tensor: Tensor) -> str | None:
    """Why a tensor is no embedding table with a spectrum; None if it may be one."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return "not a dense tensor of numbers"
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')}: not floating-point numbers"
    if tensor.ndim != 2:
        return f"{tensor.ndim} dimensions; a table has two"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "its rows are one and the same piece of the file"
    if tensor.shape[1] == 0:
        return "no columns"
    if tensor.shape[1] == 1:
        return "one column: a first-order weight, or the projection of a number"
    if tensor.shape[1] > MOST_COLUMNS:
        return f"more than {MOST_COLUMNS:,} columns"
    if tensor.shape[0] < 2:
        return "one row or none"
    return None


def recognise(tensors: Mapping[str, Tensor], pattern: str | None = None) -> Found:
    """The tables among the tensors of a checkpoint, each once, whatever number of names it has.

    Args:
        tensors: by name.
        pattern: a regular expression for the whole name, instead of `LAYOUTS`; it may have the groups `field` and
            `set`. Without `field`, a table's own name is that of its field.

    Raises:
        ValueError: not a regular expression; it or no layout fits a usable tensor: names what could be meant.
    """
    left_out: list[LeftOut] = []
    for layouts in [LAYOUTS, (GUESS,)] if pattern is None else [(_own(pattern),)]:
        names, members, unusable = _fitting(tensors, layouts)
        if members:
            left_out += [one for one in unusable if one not in left_out]
            known = {identity(tensors[member.tensor]) for member in members}
            others = _not_taken(tensors, known, {one.name for one in left_out}) if pattern is None else []
            return Found(", ".join(names), _once(tensors, members), left_out + others)
        left_out += unusable
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


def _fitting(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> tuple[list[str], list[Member], list[LeftOut]]:
    """Names of the layouts that fit anything usable, what that is, and what is not usable."""
    names, members, unusable = list[str](), list[Member](), list[LeftOut]()
    for name, tensor in tensors.items():
        for layout in layouts if len(name) <= LONGEST_NAME else ():
            if (match := re.fullmatch(layout.pattern, name)) is None:
                continue
            if why := why_unusable(tensor):
                unusable.append(LeftOut(name, tuple(tensor.shape), why))
                break
            members.append(_member(name, match, layout))
            names += [] if layout.name in names else [layout.name]
            break
    return names, members, unusable


def _member(name: str, match: re.Match[str], layout: Layout) -> Member:
    groups = match.groupdict()
    if (number := groups.get("set")) is None:
        return Member(name, name, groups.get("field"), None, layout.entries)
    if not number.isdecimal():
        raise ValueError(f"--tables: the group `set` is {number!r} in {name}; expected a number, such as (?P<set>\\d+)")
    start, end = match.span("set")
    return Member(name, f"{name[:start]}*{name[end:]}", groups.get("field"), int(number), layout.entries)


def identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two names of one tensor: tied tables, which modules share."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def groups_of(members: Sequence[Member]) -> list[list[Member]]:
    """Members of the same table, in the order of their sets."""
    grouped: dict[str, list[Member]] = {}
    for member in members:
        grouped.setdefault(member.table, []).append(member)
    return [sorted(own, key=lambda member: member.embedding_set or 0) for own in grouped.values()]


def _once(tensors: Mapping[str, Tensor], members: Sequence[Member]) -> list[Member]:
    """Tied tables, all of whose sets are the same tensors, as one under all their names: "item = history"."""
    tied: dict[tuple[object, ...], list[list[Member]]] = {}
    for own in groups_of(members):
        tied.setdefault(tuple(identity(tensors[member.tensor]) for member in own), []).append(own)
    found = []
    for groups in tied.values():
        names = dict.fromkeys(own[0].field for own in groups if own[0].field is not None)
        found += [member._replace(field=" = ".join(names) if names else None) for member in groups[0]]
    return found


def _not_taken(tensors: Mapping[str, Tensor], known: set[tuple[object, ...]], named: set[str]) -> list[LeftOut]:
    """What has "emb" in its name and two dimensions, and is neither among the tables nor named yet."""
    return [
        LeftOut(name, tuple(tensor.shape), why_unusable(tensor) or "no name of a known library; --tables takes it")
        for name, tensor in tensors.items()
        if "emb" in name.lower() and tensor.ndim == 2 and name not in named and identity(tensor) not in known
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
