"""The words of a command line: as they are given, as an artefact takes them, and as they can be said again."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

Words = dict[str, str]
PLAN_ONLY = "--plan"


def several_sets(words: Words) -> list[Words]:
    """Likewise, of 2 or more: for what compares embedding sets.

    Raises:
        ValueError: no such scale is given.
    """
    if "scale" in words and max(numbers(words["scale"])) < 2:
        raise ValueError(f"scale={words['scale']}: expected 2 or more: the base model has one embedding set")
    return enlarged(words)


def enlarged(words: Words) -> list[Words]:
    """One grid, at the largest of the scales that the user gives."""
    if "scale" not in words:
        return [words]
    return [{**words, "scale": str(max(numbers(words["scale"])))}]


def numbers(text: str) -> list[int]:
    """`1,2,4` as integers.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"scale={text}: expected integers such as scale=1,2,4,10") from None


def parse(argv: Sequence[str]) -> Words:
    """The words of a command line by key.

    Raises:
        ValueError: a word is no `key=value`, or a key is there twice.
    """
    words: Words = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or word.startswith("-"):
            raise ValueError(f"{word}: expected key=value, as for recsys_collapse.run, or {PLAN_ONLY}")
        if key in words:
            raise ValueError(f"{key}= is given twice")
        words[key] = value
    return words


def said(name: str, words: Mapping[str, str]) -> str:
    """The command line, without the folders of the machine it ran on."""
    local = {
        key: Path(value).name if key.startswith("dataset.") and "/" in value else value for key, value in words.items()
    }
    shown = [f"{key}={value}" for key, value in local.items() if key not in ("output_dir", "store_dir")]
    return shlex.join(["python", "-m", f"experiments.{name}", *(w for w in shown if not w.startswith("launch"))])
