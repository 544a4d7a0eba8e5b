"""The words of a command line: as they are given, as an artefact takes them, and as they can be said again."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

Words = dict[str, str]
PLAN_ONLY, CONFIG_DIR = "--plan", "--config-dir"


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
    left = iter(argv)
    for word in left:
        if word == CONFIG_DIR:
            words[CONFIG_DIR] = next(left, "")
            continue
        key, equals, value = word.partition("=")
        if not equals or word.startswith("-"):
            raise ValueError(
                f"{word}: expected key=value, as for recsys_collapse.run, {PLAN_ONLY} or {CONFIG_DIR} FOLDER"
            )
        if key in words:
            raise ValueError(f"{key}= is given twice")
        words[key] = value
    return words


def arguments(words: Mapping[str, str]) -> list[str]:
    """As they stand on a command line."""
    own = [CONFIG_DIR, words[CONFIG_DIR]] if CONFIG_DIR in words else []
    return [*own, *(f"{key}={value}" for key, value in words.items() if key != CONFIG_DIR)]


def said(name: str, words: Mapping[str, str]) -> str:
    """The command line, without the folders of the machine it ran on."""
    kept = {
        key: Path(value).name if key.startswith("dataset.") and "/" in value else value
        for key, value in words.items()
        if key not in ("output_dir", "store_dir") and not key.startswith("launch")
    }
    return shlex.join(["python", "-m", f"experiments.{name}", *arguments(kept)])
