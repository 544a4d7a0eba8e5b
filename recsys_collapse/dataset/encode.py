"""Values -> integer ids, the same on every machine and in every run.

Id 0 of each field stands for everything rare or unseen; the others follow the count, most frequent first, ties by the
bytes of the value. A missing value is an ordinary value, the empty string.

While rows stream by, a value only gets a *code*, its place among the distinct values of its field; counting, buckets
and ids are then work on the distinct values and not on the rows.

Shapes: n rows, V distinct values of one field, P parts (train, valid, test).
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys_collapse.dataset.buckets import Bucket

MAX_IDS = 2**31 - 1  # int32


class Codes:
    """The distinct values of one field so far; polars keeps the mapping, and frees it with this object."""

    def __init__(self) -> None:
        self.dtype = pl.Categorical(pl.Categories.random("recsys_collapse"))
        self._keep = pl.Series([], dtype=self.dtype)  # the mapping lives as long as a series of its type
        self.size = 0

    def add(self, values: pl.Series) -> np.ndarray:
        """Codes (n,) uint32 of values, null as the empty string; unknown values get the next codes."""
        text = values if values.dtype == pl.String else values.cast(pl.String)
        if text.null_count():
            text = text.fill_null("")
        code_n = text.cast(self.dtype).to_physical().to_numpy()
        self.size = max(self.size, int(code_n.max()) + 1)
        return code_n

    def values(self, code_v: np.ndarray | None = None) -> pl.Series:
        """The values of these codes; None: all, (V,) by code."""
        codes = np.arange(self.size, dtype=np.uint32) if code_v is None else code_v.astype(np.uint32)
        return pl.Series("value", codes).cat.to(self.dtype).cast(pl.String)


class Vocabulary(NamedTuple):
    """One field's ids."""

    known: pl.DataFrame
    """value, count, id: ids 1, 2, ... by (-count, value); hashed fields share ids."""
    id_V: np.ndarray
    """int32 id of every code."""
    cardinality: int
    """Number of ids, the 0 of rare and unseen values included."""


def build_vocabulary(
    codes: Codes,
    count_V: np.ndarray,
    min_count: int,
    bucket: Bucket | None = None,
    hashed_cardinality: int | None = None,
) -> Vocabulary:
    """Ids of the values (after bucketing) that stand at least `min_count` times in the counted rows.

    Args:
        codes: the distinct values.
        count_V: how often each stands in the counted rows.
        min_count: what stands less often has id 0.
        bucket: what values become before they are counted.
        hashed_cardinality: if there are more ids, values are hashed into so many.

    Raises:
        ValueError: there are more ids than int32 holds.
    """
    if bucket is None:
        code_v = np.flatnonzero(count_V >= min_count)  # most values of large fields are rare: only these become text
        values, counts, group_v = codes.values(code_v), count_V[code_v], np.arange(len(code_v))
    else:
        code_v, names = np.arange(codes.size), bucket.apply(codes.values(), count_V)
        values = names.unique()
        group_v = names.cast(pl.Enum(values)).to_physical().to_numpy()
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, group_v, count_V)
    known = pl.DataFrame({"value": values, "count": counts, "group": np.arange(len(values))})
    known = known.filter(pl.col("count") >= min_count)  # in no particular order: only the sort decides
    known = known.sort(["count", "value"], descending=[True, False])
    id_v, cardinality = np.arange(1, known.height + 1), known.height + 1
    if hashed_cardinality is not None and cardinality > hashed_cardinality:
        id_v = np.array([1 + _hash(value) % (hashed_cardinality - 1) for value in known["value"]])
        cardinality = hashed_cardinality
    if cardinality > MAX_IDS:
        raise ValueError(
            f"{cardinality} different values, more than int32 ids: set dataset.min_count, dataset.hashed_cardinality, "
            "or leave the column out with dataset.ignore"
        )
    id_of_group = np.zeros(len(values), np.int32)
    id_of_group[known["group"].to_numpy()] = id_v
    id_V = np.zeros(codes.size, np.int32)
    id_V[code_v] = id_of_group[group_v]
    return Vocabulary(known.select("value", "count", pl.Series("id", id_v, dtype=pl.Int64)), id_V, cardinality)


def _hash(value: str) -> int:
    """64 bits of a hash that is the same everywhere."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "little")


def count_codes(code_n: np.ndarray, part_n: np.ndarray, size: int, num_parts: int) -> np.ndarray:
    """How often each code stands in each part, (V, P) int64."""
    count = np.zeros(size * num_parts, dtype=np.int64)
    step = 1 << 20  # rows at a time: the memory does not grow with them
    for start in range(0, len(code_n), step):
        rows = slice(start, start + step)
        np.add.at(count, code_n[rows].astype(np.int64) * num_parts + part_n[rows], 1)
    return count.reshape(size, num_parts)
