"""From rows to the files of a store, out of core: read once, then work on distinct values and on slices of rows.

1. read: every value becomes a code, its place among the distinct values of its field; codes go to disk, a file a field;
2. split: which rows are train, valid and test;
3. count: how often each code stands in each part; from that the vocabulary, and the id of every code;
4. encode: codes -> ids, slice by slice.

Memory: a few blocks of rows, the distinct values of all fields, and some 20 bytes a row for the split.
Shapes: n rows, N fields, V distinct values of one field, P parts (train, valid, test).
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from recsys_collapse.dataset.ahead import ahead
from recsys_collapse.dataset.encode import Codes, Vocabulary, build_vocabulary, count_codes
from recsys_collapse.dataset.source import PARTS, STORE_FORMAT, Rows, Source
from recsys_collapse.dataset.split import split_by_time, split_rows, time_ranks

Progress = Callable[[str, float], None]  # stage, share done
SLICE = 1 << 16  # rows encoded at a time
MAX_ROWS = 2**31 - 1  # row numbers are int32


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


def build(source: Source, folder: Path, split_seed: int, progress: Progress = silent) -> dict[str, Any]:
    """Fill `folder` with ids.bin, labels.bin, splits.bin and vocabulary.parquet; returns the manifest.

    Raises:
        ValueError: the source cannot be read, a split is empty, training or validation rows have one class only, a
            field has too many values, or the disk is too small.
    """
    spill = Spill(folder)
    for rows in ahead(source.read()):
        spill.add(rows)
        progress("reading", rows.done)
    part_n, sizes, positives = _write_splits(spill, split_seed)
    fields = _count(spill, source, part_n, progress)
    known = [field.vocabulary.known.select(pl.lit(name).alias("field"), pl.all()) for name, field in fields.items()]
    pl.concat(known).write_parquet(folder / "vocabulary.parquet")
    _encode(spill, {name: field.vocabulary.id_V for name, field in fields.items()}, progress)
    spill.remove()
    if left_out := source.left_out():
        pl.DataFrame(left_out).write_ndjson(folder / "bad_lines.jsonl")
    return {
        "format": STORE_FORMAT,
        "recipe": source.recipe(),
        "rows": spill.rows,
        "fields": list(fields),
        "cardinalities": [field.vocabulary.cardinality for field in fields.values()],
        "parts": sizes,
        "positives": positives,
        "bad_lines": len(left_out),
        "distinct_values": {name: field.distinct for name, field in fields.items()},
        "id_0_rate": {name: field.id_0_rate for name, field in fields.items()},
    }


class Spill:
    """What was read, on disk until it is encoded: labels, and a file of codes for every field and for the time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        self.fields: dict[str, Codes] = {}
        self.time: Codes | None = None
        self.parts: dict[str, int] | None = None
        (folder / "codes").mkdir()

    def add(self, rows: Rows) -> None:
        """Append rows of the source.

        Raises:
            ValueError: pieces of the source do not fit together, or there are more rows than int32 numbers.
        """
        if self.rows == 0:
            self.fields = {name: Codes() for name in rows.features.columns}
            self.time = None if rows.time is None else Codes()
            self.parts = None if rows.part is None else dict.fromkeys(PARTS, 0)
        if rows.features.columns != list(self.fields) or len(rows.labels) != rows.features.height:
            raise ValueError(
                f"dataset: a piece of {len(rows.labels)} labels, {rows.features.height} rows and columns "
                f"{rows.features.columns}: expected as many labels as rows, and columns {list(self.fields)}"
            )
        self.rows += len(rows.labels)
        if self.rows > MAX_ROWS:
            raise ValueError(f"dataset: more than {MAX_ROWS} rows: expected fewer, row numbers are int32")
        if self.parts is not None:
            self.parts[str(rows.part)] += len(rows.labels)
        columns = [(codes, rows.features[name]) for name, codes in self.fields.items()]
        if self.time is not None and rows.time is not None:
            columns.append((self.time, rows.time))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # polars works outside the interpreter's lock
            for i, code_n in enumerate(pool.map(lambda column: column[0].add(column[1]), columns)):
                _append(self._file(i), code_n)
        _append(self.folder / "labels.bin", rows.labels.astype(np.uint8))

    def codes(self, i: int) -> np.ndarray:
        """Codes (n,) uint32 of field i, the time's after the last field's; mapped, not loaded."""
        if self.rows == 0:
            return np.empty(0, np.uint32)
        return np.memmap(self._file(i), np.uint32, mode="r")

    def remove(self) -> None:
        """The codes are not needed any more."""
        shutil.rmtree(self.folder / "codes")

    def _file(self, i: int) -> Path:
        return self.folder / "codes" / f"{i}.bin"


def _append(path: Path, values_n: np.ndarray) -> None:
    with path.open("ab") as file:
        values_n.tofile(file)


def _write_splits(spill: Spill, split_seed: int) -> tuple[np.ndarray, dict[str, int], dict[str, int]]:
    """Write splits.bin; the part (n,) of every row as its number in PARTS, rows and positives of each part."""
    if spill.time is None:
        splits = split_rows(spill.rows, split_seed, spill.parts)
    else:
        splits = split_by_time(time_ranks(spill.time.values())[spill.codes(len(spill.fields))])
    label_n = np.fromfile(spill.folder / "labels.bin", np.uint8)
    part_n, positives = np.empty(spill.rows, np.uint8), {}
    with (spill.folder / "splits.bin").open("wb") as file:
        for number, part in enumerate(PARTS):
            rows = splits[part].astype(np.int32)
            part_n[rows] = number
            positives[part] = int(np.count_nonzero(label_n[rows]))
            rows.tofile(file)
    sizes = {part: len(rows) for part, rows in splits.items()}
    for part in ("train", "valid"):
        if positives[part] in (0, sizes[part]):
            raise ValueError(
                f"dataset: all {sizes[part]} {part} rows have label {int(positives[part] > 0)}, so there is no AUC: "
                "expected both classes; give more rows, another split_seed or other files"
            )
    return part_n, sizes, positives


class Counted(NamedTuple):
    """What is known of one field once all rows are counted."""

    vocabulary: Vocabulary
    distinct: int
    """Distinct values before rare ones are put together."""
    id_0_rate: dict[str, float]
    """Share of the rows of each part with a rare or unseen value."""


def _count(spill: Spill, source: Source, part_n: np.ndarray, progress: Progress) -> dict[str, Counted]:
    """Vocabulary and statistics of every field."""
    buckets, found = source.field_buckets(), {}
    sizes_P = np.maximum(np.bincount(part_n, minlength=len(PARTS)), 1)

    def count(i: int, name: str) -> Counted:
        codes = spill.fields[name]
        count_VP = count_codes(spill.codes(i), part_n, codes.size, len(PARTS))
        count_V = count_VP.sum(axis=1) if source.vocabulary == "all" else np.ascontiguousarray(count_VP[:, 0])
        try:
            vocabulary = build_vocabulary(
                codes, count_V, source.min_count, buckets.get(name), source.hashed_cardinality
            )
        except ValueError as error:
            raise ValueError(f"dataset: field {name}: {error}") from error
        rate_P = count_VP[vocabulary.id_V == 0].sum(axis=0) / sizes_P
        spill.fields[name] = Codes()  # the distinct values are not needed any more
        return Counted(vocabulary, codes.size, dict(zip(PARTS, rate_P.tolist(), strict=True)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = list(spill.fields)
        for name, counted in zip(names, pool.map(count, range(len(names)), names), strict=True):
            found[name] = counted
            progress("counting", len(found) / len(names))
    return found


def _encode(spill: Spill, ids: dict[str, np.ndarray], progress: Progress) -> None:
    """Write ids.bin, (n, N) int32 row-major."""
    rows, fields = spill.rows, len(ids)
    needed, free = rows * fields * 4, shutil.disk_usage(spill.folder).free
    if needed > free:
        raise ValueError(
            f"{spill.folder.parent}: {needed / 1e9:.1f} GB needed for {rows} rows of {fields} fields, {free / 1e9:.1f} "
            "GB free: make room, or choose another store_dir"
        )
    columns = [(spill.codes(i), id_V) for i, id_V in enumerate(ids.values())]

    def encode(start: int) -> None:
        ids_nN = np.empty((min(SLICE, rows - start), fields), np.int32)
        for i, (code_n, id_V) in enumerate(columns):
            ids_nN[:, i] = id_V[code_n[start : start + SLICE]]
        os.pwrite(file.fileno(), ids_nN.data, start * fields * 4)

    with (spill.folder / "ids.bin").open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, _ in enumerate(pool.map(encode, range(0, rows, SLICE))):
            progress("encoding", min((number + 1) * SLICE / rows, 1.0))
