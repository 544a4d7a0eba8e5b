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

    def values(self) -> pl.Series:
        """The values (V,) by code."""
        return pl.Series(np.arange(self.size, dtype=np.uint32)).cat.to(self.dtype).cast(pl.String)


class Vocabulary(NamedTuple):
    """One field's ids."""

    known: pl.DataFrame
    """value, count, id: ids 1, 2, ... by (-count, value); hashed fields share ids."""
    id_V: np.ndarray
    """int32 id of every code."""
    cardinality: int
    """Number of ids, the 0 of rare and unseen values included."""


def build_vocabulary(
    values: pl.Series,
    count_V: np.ndarray,
    min_count: int,
    bucket: Bucket | None = None,
    hashed_cardinality: int | None = None,
) -> Vocabulary:
    """Ids of the values (after bucketing) that stand at least `min_count` times in the counted rows.

    Raises:
        ValueError: there are more ids than int32 holds.
    """
    names = values if bucket is None else bucket.apply(values, count_V)
    frame = pl.DataFrame({"code": np.arange(len(values), dtype=np.uint32), "value": names, "count": count_V})
    counted = frame.select("value", "count") if bucket is None else frame.group_by("value").agg(pl.col("count").sum())
    known = (
        counted.filter(pl.col("count") >= min_count)  # in no particular order: only the sort decides
        .sort(["count", "value"], descending=[True, False])
        .with_row_index("id", offset=1)
        .select("value", "count", pl.col("id").cast(pl.Int64))
    )
    cardinality = known.height + 1
    if hashed_cardinality is not None and cardinality > hashed_cardinality:
        hashed = [1 + _hash(value) % (hashed_cardinality - 1) for value in known["value"]]
        known, cardinality = known.with_columns(pl.Series("id", hashed, dtype=pl.Int64)), hashed_cardinality
    if cardinality > MAX_IDS:
        raise ValueError(
            f"{cardinality} different values, more than int32 ids: set dataset.min_count, dataset.hashed_cardinality, "
            "or leave the column out with dataset.ignore"
        )
    found = frame.join(known.select("value", "id"), on="value", how="left", maintain_order="left")
    return Vocabulary(known, found["id"].fill_null(0).cast(pl.Int32).to_numpy(), cardinality)


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
