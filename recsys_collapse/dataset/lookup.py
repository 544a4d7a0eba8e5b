"""Values -> ids by the vocabularies of a store, for rows that the store does not have.

A value that a vocabulary does not have, or had too rarely, is id 0; a missing one is the value "". Nothing is kept of
the rows, so memory does not grow with their number.

Shapes: n rows, N fields, v values of one field's vocabulary, d distinct values of a piece.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from recsys_collapse.dataset.buckets import Bucket
from recsys_collapse.dataset.keys import KeyTable
from recsys_collapse.dataset.store import Store


class Lookup:
    """One field's vocabulary.

    A cast to `pl.Enum` would do the same, but builds its map anew for every piece: 0.4 s for a million values. So they
    are found by a hash of 64 bits, and what is found is compared: exact, and 0.1 microseconds a value.

    Args:
        values: different text values (v,), no nulls.
        id_v: the id of each, int32.
    """

    def __init__(self, values: pl.Series, id_v: np.ndarray) -> None:
        self._seed = next(seed for seed in range(100) if values.hash(seed).n_unique() == len(values))  # 0, all but ever
        self._table = KeyTable(self._hashes(values), np.arange(1, len(values) + 1, dtype=np.int32))
        self._values = pl.concat([pl.Series(values.name, [""], dtype=pl.String), values])  # place 0: not found
        self._ids = np.concatenate([np.zeros(1, np.int32), id_v.astype(np.int32)])

    def ids(self, text: pl.Series) -> np.ndarray:
        """Ids (n,) int32 of text without nulls."""
        place_n = self._table.ids(self._hashes(text)).astype(np.uint32)
        found_n = (self._values.gather(place_n) == text).to_numpy()  # another value may have the hash of a known one
        return np.where(found_n, self._ids[place_n], 0).astype(np.int32, copy=False)

    def _hashes(self, text: pl.Series) -> np.ndarray:
        return text.hash(self._seed).to_numpy()


class Encoder:
    """All fields of a store.

    Args:
        store: with its vocabularies.
        buckets: of the fields that have one; those that were fitted to the counted rows are used as they were then.

    Raises:
        ValueError: the store is of a time when it did not keep what a bucket was fitted to.
    """

    def __init__(self, store: Store, buckets: Mapping[str, Bucket]) -> None:
        edges = store.manifest().get("edges", {})
        if missing := [name for name, bucket in buckets.items() if bucket.fit is not None and name not in edges]:
            raise ValueError(
                f"{store.path}: it does not say where the groups of {', '.join(missing)} "
                f"({buckets[missing[0]].word}) begin, for it was prepared by an older version: remove this folder and "
                "prepare the data again (python -m recsys_collapse.prepare, with the run's dataset options); its ids, "
                "and so the run, stay what they are"
            )
        self._edges = {name: np.array(found, dtype=np.float64) for name, found in edges.items()}
        self._buckets, self.fields = buckets, store.fields
        self._rows, self._zeros_N = 0, np.zeros(len(store.fields), np.int64)
        known = pl.read_parquet(store.path / "vocabulary.parquet", columns=["field", "value", "id"])
        by_field = {str(key[0]): part for key, part in known.partition_by("field", as_dict=True).items()}
        empty = known.clear()  # a field of rare values only has none
        parts = [by_field.get(name, empty) for name in store.fields]
        self._lookups = [Lookup(part["value"], part["id"].to_numpy()) for part in parts]

    def ids(self, features: pl.DataFrame) -> np.ndarray:
        """Ids (n, N) int32 of text; null is the value ""."""
        ids_nN = np.empty((features.height, len(self.fields)), np.int32)

        def encode(i: int) -> None:
            text = features[self.fields[i]].fill_null("")
            bucket = self._buckets.get(self.fields[i])
            ids_nN[:, i] = self._lookups[i].ids(text) if bucket is None else self._bucketed(i, bucket, text)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # polars and numpy work outside the interpreter's lock
            list(pool.map(encode, range(len(self.fields))))
        self._rows += len(ids_nN)
        self._zeros_N += np.count_nonzero(ids_nN == 0, axis=0)
        return ids_nN

    def rates(self) -> dict[str, float]:
        """For every field the share of all rows so far that have id 0; empty if there were none."""
        return dict(zip(self.fields, (self._zeros_N / self._rows).tolist(), strict=True)) if self._rows else {}

    def _bucketed(self, i: int, bucket: Bucket, text: pl.Series) -> np.ndarray:
        """By the distinct values, as buckets are slow."""
        distinct = text.unique()
        id_d = self._lookups[i].ids(bucket.apply(distinct, self._edges.get(self.fields[i])))
        return id_d[text.cast(pl.Enum(distinct)).to_physical().to_numpy()]
