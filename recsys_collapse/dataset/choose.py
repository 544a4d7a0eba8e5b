"""Which columns of a table are fields, and in words what is wrong with a choice."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class Choice(NamedTuple):
    """What the options of a `Table` say about its columns."""

    label: str | None
    """None: the rows have none."""
    time: str | None
    features: list[str] | None
    ignore: list[str]
    derive: Mapping[str, str]
    """Further fields, which follow by name, and the column each is made from."""
    bucketed: Sequence[str]


def choose_fields(path: Path, columns: Sequence[str], choice: Choice) -> dict[str, str]:
    """The fields in order, each with the column that it is read from.

    Raises:
        ValueError: a column that is named does not exist, is named twice, or none is left.
    """
    if choice.label is not None and choice.label not in columns:
        raise ValueError(f"{path}: no label column{_among('dataset.label', choice.label, columns)}")
    if choice.time is not None and choice.time not in columns:
        raise ValueError(f"{path}: no time column{_among('dataset.time', choice.time, columns)}")
    others = [name for name in columns if name != choice.label]
    named = {"dataset.features": choice.features or [], "dataset.ignore": choice.ignore}
    named |= {f"dataset.derive.{name}": [column] for name, column in choice.derive.items()}
    for key, names in named.items():
        for name in names:
            if name not in others:
                raise ValueError(f"{path}: no such feature column{_among(key, name, others)}")
    chosen = choice.features if choice.features is not None else [name for name in others if name != choice.time]
    chosen = [*(name for name in chosen if name not in choice.ignore), *sorted(choice.derive)]
    if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise ValueError(f"dataset.features: {', '.join(twice)} twice; expected every column once")
    if not chosen:
        raise ValueError(f"{path}: no feature columns left of {columns}; see dataset.features and .ignore")
    for name in choice.bucketed:
        if name not in chosen:
            raise ValueError(f"{path}: no such field{_among('dataset.buckets', name, chosen)}")
    return {name: choice.derive.get(name, name) for name in chosen}


def _among(key: str, name: str, names: Sequence[str]) -> str:
    return f" ({key}={name}){among(name, names)}"


def among(name: str, names: Sequence[str]) -> str:
    """The end of a message on a name that is not there: the nearest one, and all."""
    near = get_close_matches(name, names, n=1)
    return f"{f'; did you mean {near[0]}?' if near else ';'} the columns are {', '.join(names)}"
