"""The base of every data source: where rows come from, and what makes them the rows they are.

A new source is a keyword-only dataclass with `files` and `read`; encoding, store, split and batches come for free.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl

PARTS = ("train", "valid", "test")
STORE_FORMAT = 1  # raise when ids or files of a store change for the same rows


class Rows(NamedTuple):
    """What a source yields: all rows in file order."""

    features: pl.DataFrame
    """One column per field. Values are compared as text; null and "" both mean missing."""
    labels: np.ndarray
    """(rows,) uint8, 0 or 1."""
    parts: dict[str, int] | None = None
    """Rows of the given train, valid and test parts, which follow each other; None: split 8:1:1 at random."""


def runtime(**kwargs: Any) -> Any:
    """A dataclass field that does not change the rows, such as a path (the content is hashed instead)."""
    return field(metadata={"runtime": True}, **kwargs)


@dataclass(kw_only=True)
class Source(ABC):
    """A table of categorical fields and a binary label.

    Args:
        name: the word in run names; the CLI word of its config.
        min_count: values seen less often share the extra id 0 of their field with unseen ones.
        vocabulary: rows the values are counted on, `train` or `all` (as the official code does).
    """

    version: ClassVar[int] = 1
    """Raise it in a source whose `read` yields other rows than before for the same files and options."""

    name: str = runtime()
    min_count: int = 1
    vocabulary: str = "train"

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"dataset.min_count={self.min_count}: expected an integer of 1 or more")
        if self.vocabulary not in ("train", "all"):
            raise ValueError(f"dataset.vocabulary={self.vocabulary}: expected train or all")

    @abstractmethod
    def files(self) -> list[Path]:
        """The files read, in order; their content is part of the fingerprint.

        Raises:
            ValueError: a file is missing, or the options name none.
        """

    @abstractmethod
    def read(self) -> Rows:
        """All rows.

        Raises:
            ValueError: the content cannot be trusted; names file, line and column where there is one.
        """

    def recipe(self) -> dict[str, Any]:
        """Everything but the content of the files that decides what the rows are."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("runtime")}
        source = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"source": source, "version": self.version, **options}

    def fingerprint(self, split_seed: int) -> str:
        """16 hex digits that change with the rows, the recipe and the split, and with nothing else."""
        described = {
            "format": STORE_FORMAT,
            "recipe": self.recipe(),
            "content": [file_hash(path) for path in self.files()],
            "split_seed": split_seed,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, remembered in this process as long as the file is not touched."""
    stat = path.stat()
    return _hash_content(path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


@lru_cache(maxsize=256)
def _hash_content(path: Path, _touched: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
