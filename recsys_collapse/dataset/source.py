"""The base of every data source: where rows come from, and what makes them the rows they are.

A new source is a keyword-only dataclass with `files` and `read`; encoding, store, split and batches come for free.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from recsys_collapse.dataset.files import content_hash
from recsys_collapse.runs.canonical import canonical, digest

if TYPE_CHECKING:  # a command that only skips finished runs needs neither
    import numpy as np
    import polars as pl

    from recsys_collapse.dataset.buckets import Bucket

PARTS = ("train", "valid", "test")
MEMO = "content_hashes.json"  # in store_dir: hashing a large file takes a while, and nothing needs it twice
STORE_FORMAT = 2  # raise when ids or files of a store change for the same rows
RESIDENT = ("auto", True, False)


class Rows(NamedTuple):
    """Consecutive rows of a source, in file order."""

    features: "pl.DataFrame"
    """One column per field, the same ones every time. Values are compared as text; null and "" both mean missing."""
    labels: "np.ndarray"
    """(rows,) uint8, 0 or 1."""
    part: str | None = None
    """The given part these rows belong to, train before valid before test; None: the store splits them."""
    time: "pl.Series | None" = None
    """(rows,) what rows are ordered by before they are split 8:1:1; None: split at random."""
    done: float = 1.0
    """Share of the source read so far, for whoever waits."""
    truth: "pl.DataFrame | None" = None
    """Of rows whose answer is known: `logit`, the true one, and the components it is made of; kept as float32."""


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
        hashed_cardinality: fields with more ids than this have their values hashed into so many; null: no limit.
        device_resident: keep the prepared data in the device's memory: true, false, or `auto` (if it fits).
    """

    version: ClassVar[int] = 1
    """Raise it in a source whose `read` yields other rows than before for the same files and options."""

    name: str = runtime()
    min_count: int = 1
    vocabulary: str = "train"
    hashed_cardinality: int | None = None
    device_resident: str | bool = runtime(default="auto")

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"dataset.min_count={self.min_count}: expected an integer of 1 or more")
        if self.vocabulary not in ("train", "all"):
            raise ValueError(f"dataset.vocabulary={self.vocabulary}: expected train or all")
        if self.hashed_cardinality is not None and self.hashed_cardinality < 2:
            raise ValueError(
                f"dataset.hashed_cardinality={self.hashed_cardinality}: expected 2 or more (id 0 is one), or null"
            )
        if self.device_resident not in RESIDENT:
            raise ValueError(f"dataset.device_resident={self.device_resident}: expected auto, true or false")

    @abstractmethod
    def files(self) -> list[Path]:
        """The files read, in order; their content is part of the fingerprint.

        Raises:
            ValueError: a file is missing, or the options name none.
        """

    @abstractmethod
    def read(self) -> Iterator[Rows]:
        """All rows, piece by piece, so that memory does not grow with their number; one piece is fine for small data.

        Raises:
            ValueError: the content cannot be trusted; names file, line and column where there is one.
        """

    def check(self) -> None:
        """Raise what `read` would raise at its beginning, such as a column that is not there."""
        next(self.read(), None)

    def left_out(self) -> list[dict[str, Any]]:
        """Lines that the last `read` could not use and was allowed to leave out: file, line, reason, text."""
        return []

    def field_buckets(self) -> "dict[str, Bucket]":
        """Fields whose distinct values are turned into others before they are counted, such as numbers."""
        return {}

    def answer(self) -> dict[str, Any] | None:
        """What is known of how the rows came about, for the manifest; None: nothing.

        Needed where rows have a `truth`: `coefficients` of its components in the true logit, by name, in order.
        """
        return None

    def published(self) -> dict[str, str]:
        """Statistics that others published for these rows, by the names of `report.statistics`."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """Everything but the content of the files that decides what the rows are."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("runtime")}
        source = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"source": source, "version": self.version, **options}

    def fingerprint(
        self, split_seed: int, memo: Path | None = None, on_bytes: Callable[[int, int], None] | None = None
    ) -> str:
        """16 hex digits that change with the rows, the recipe and the split, and with nothing else.

        Args:
            split_seed: of the random split.
            memo: a file that remembers the hashes of large files between processes.
            on_bytes: called with bytes hashed and bytes in all of each file.

        Raises:
            ValueError: a file cannot be read, or an option is no finite number.
        """
        described = {
            "format": STORE_FORMAT,
            "recipe": canonical(self.recipe(), "dataset"),
            "content": [content_hash(path, memo, on_bytes) for path in self.files()],
            "split_seed": split_seed,
        }
        return digest(described)
