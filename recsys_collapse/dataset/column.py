"""The values of one field on disk, from when they are read until they have ids.

A value is kept as its *code*, its place among the distinct values of the field. When there are many of those, and all
are short, the field goes over to *keys* (`keys.py`), which need no memory for every distinct value.
Which of the two a field uses does not change its ids.

Shapes: n rows, V distinct values.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from recsys_collapse.dataset.buckets import Bucket
from recsys_collapse.dataset.encode import Vocabulary, build_vocabulary
from recsys_collapse.dataset.keys import KeyTable, count_keys, pack, unpack

MANY = 1 << 15  # distinct values from which a dictionary is slower and larger than keys
SLICE = 1 << 20  # rows at a time


class Codes:
    """The distinct values of one field so far; polars keeps the mapping, and frees it with this object."""

    def __init__(self) -> None:
        self.dtype = pl.Categorical(pl.Categories.random("recsys_collapse"))
        self._keep = pl.Series([], dtype=self.dtype)  # the mapping lives as long as a series of its type
        self.size = 0

    def add(self, text: pl.Series) -> np.ndarray:
        """Codes (n,) uint32 of text without nulls; unknown values get the next codes."""
        code_n = text.cast(self.dtype).to_physical().to_numpy()
        if len(code_n):
            self.size = max(self.size, int(code_n.max()) + 1)
        return code_n

    def values(self, code_v: np.ndarray | None = None) -> pl.Series:
        """The values of these codes; None: all, (V,) by code."""
        codes = np.arange(self.size, dtype=np.uint32) if code_v is None else code_v.astype(np.uint32)
        return pl.Series("value", codes).cat.to(self.dtype).cast(pl.String)


class Column:
    """One field's values in a file of its own.

    Args:
        path: the file; it does not exist yet.
        bucket: what values become before they are counted.
        ordered: the order of the values is needed (`ranks`), so they stay codes.
    """

    def __init__(self, path: Path, bucket: Bucket | None = None, ordered: bool = False) -> None:
        self.path, self.bucket = path, bucket
        self.edges: np.ndarray | None = None
        """What the bucket was fitted to, once the values are counted; None: nothing was to be fitted."""
        self._codes: Codes | None = Codes()
        self._may_pack = bucket is None and not ordered
        self._mapped: np.ndarray | None = None
        self._ids: np.ndarray | KeyTable | None = None

    def add(self, values: pl.Series) -> None:
        """Append values of any simple type; they are compared as text, and null is the empty string."""
        text = values if values.dtype == pl.String else values.cast(pl.String)
        text = text.fill_null("") if text.null_count() else text
        key_n = pack(text) if self._codes is None else None
        if key_n is not None:
            _append(self.path, key_n)
            return
        if self._codes is None:
            self._codes = self._to_codes()
        _append(self.path, self._codes.add(text))
        if self._may_pack and self._codes.size > MANY:
            self._to_keys(self._codes)

    def ranks(self, rank: Callable[[pl.Series], np.ndarray]) -> np.ndarray:
        """Rank (n,) of every row, by a function that ranks the distinct values (V,)."""
        assert self._codes is not None
        return rank(self._codes.values())[self._stored()]

    def count(self, counted_n: np.ndarray, min_count: int, hashed_cardinality: int | None) -> tuple[Vocabulary, int]:
        """The vocabulary of the counted rows (n,) bool, and how many distinct values they have.

        Raises:
            ValueError: there are more ids than int32 holds.
        """
        stored_n = self._mapped = self._stored()
        if self._codes is None:
            key_v, count_v, distinct = count_keys(stored_n, counted_n, min_count)
            vocabulary, id_v = build_vocabulary(unpack(key_v), count_v, min_count, hashed_cardinality)
            self._ids = KeyTable(key_v, id_v)
            return vocabulary, distinct
        count_V = np.zeros(self._codes.size, dtype=np.int64)
        for rows in slices(len(stored_n)):
            np.add.at(count_V, stored_n[rows][counted_n[rows]], 1)
        self._ids = id_V = np.zeros(len(count_V), np.int32)
        if self.bucket is None:
            code_v = np.flatnonzero(count_V >= min_count)  # the others need not become text again
            values, count_v = self._codes.values(code_v), count_V[code_v]
            vocabulary, id_V[code_v] = build_vocabulary(values, count_v, min_count, hashed_cardinality)
        else:
            values = self._codes.values()
            self.edges = self.bucket.fit(values, count_V) if self.bucket.fit else None
            bucket_V = self.bucket.apply(values, self.edges)
            names = bucket_V.unique()
            group_V = bucket_V.cast(pl.Enum(names)).to_physical().to_numpy()
            count_v = np.zeros(len(names), np.int64)
            np.add.at(count_v, group_V, count_V)
            vocabulary, id_v = build_vocabulary(names, count_v, min_count, hashed_cardinality)
            id_V[:] = id_v[group_V]
        self._codes = Codes()  # the distinct values are not needed any more
        return vocabulary, int(np.count_nonzero(count_V))

    def ids(self, rows: slice) -> np.ndarray:
        """Ids (int32) of these rows, once they are counted."""
        assert self._ids is not None and self._mapped is not None
        stored = self._mapped[rows]
        return self._ids.ids(stored) if isinstance(self._ids, KeyTable) else self._ids[stored]

    def _stored(self) -> np.ndarray:
        """What is in the file, (n,): mapped, not loaded."""
        kind = np.uint64 if self._codes is None else np.uint32
        is_empty = not self.path.exists() or self.path.stat().st_size == 0
        return np.empty(0, kind) if is_empty else np.memmap(self.path, kind, mode="r")

    def _to_keys(self, codes: Codes) -> None:
        key_V = pack(codes.values())
        if key_V is None:
            self._may_pack = False
            return
        self._rewrite(key_V[code_n] for code_n in self._stored_slices())
        self._codes = None

    def _to_codes(self) -> Codes:
        """A value is too long for a key: back to codes, for good."""
        codes, self._may_pack = Codes(), False
        self._rewrite(codes.add(unpack(key_n)) for key_n in self._stored_slices())
        return codes

    def _stored_slices(self) -> Iterator[np.ndarray]:
        stored_n = self._stored()
        return (stored_n[rows] for rows in slices(len(stored_n)))

    def _rewrite(self, pieces: Iterator[np.ndarray]) -> None:
        other = self.path.with_suffix(".new")
        for piece in pieces:
            _append(other, piece)
        other.replace(self.path)


def slices(rows: int) -> Iterator[slice]:
    """Of so many rows, a million at a time."""
    return (slice(start, start + SLICE) for start in range(0, rows, SLICE))


def _append(path: Path, values_n: np.ndarray) -> None:
    with path.open("ab") as file:
        values_n.tofile(file)
