"""Values -> integer ids, the same on every machine and in every run.

Id 0 of each field stands for everything rare or unseen; the others follow the count, most frequent first, ties by the
bytes of the value. A missing value is an ordinary value, the empty string.

Shapes: v distinct values of one field.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import polars as pl

MAX_IDS = 2**31 - 1  # int32


class Vocabulary(NamedTuple):
    """One field's ids."""

    known: pl.DataFrame
    """value, count, id: ids 1, 2, ... by (-count, value); hashed values share ids."""
    cardinality: int
    """Number of ids, the 0 of rare and unseen values included."""


def build_vocabulary(
    values: pl.Series, count_v: np.ndarray, min_count: int, hashed_cardinality: int | None = None
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of distinct values with these counts, and the id (v,) int32 of each.

    Args:
        values: text without nulls.
        count_v: how often each stands in the counted rows.
        min_count: what stands less often has id 0.
        hashed_cardinality: if there are more ids, values are hashed into so many.

    Raises:
        ValueError: there are more ids than int32 holds.
    """
    known = pl.DataFrame({"value": values, "count": count_v, "place": np.arange(len(values))})
    known = known.filter(pl.col("count") >= min_count)  # in no particular order: only the sort decides
    known = known.sort(["count", "value"], descending=[True, False])
    ids, cardinality = np.arange(1, known.height + 1), known.height + 1
    if hashed_cardinality is not None and cardinality > hashed_cardinality:
        ids = np.array([1 + _hash(value) % (hashed_cardinality - 1) for value in known["value"]])
        cardinality = hashed_cardinality
    if cardinality > MAX_IDS:
        raise ValueError(
            f"{cardinality} different values, more than int32 ids: set dataset.min_count, dataset.hashed_cardinality, "
            "or leave the column out with dataset.ignore"
        )
    id_v = np.zeros(len(values), np.int32)
    id_v[known["place"].to_numpy()] = ids
    return Vocabulary(known.select("value", "count", pl.Series("id", ids, dtype=pl.Int64)), cardinality), id_v


def _hash(value: str) -> int:
    """64 bits of a hash that is the same everywhere."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "little")
