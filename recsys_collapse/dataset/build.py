"""From rows to the files of a store, out of core: read once, then work on distinct values and on slices of rows.

1. read: values go to disk as integers, a file for each field (`column.py`);
2. split: which rows are train, valid and test;
3. count: how often each value stands in the counted rows; from that the vocabulary of each field;
4. encode: values -> ids, slice by slice.

Memory: a few blocks of rows, the vocabularies, and some 20 bytes a row for a split at random or by time; nothing that
grows with the rows where parts are given. Besides, about 150 bytes for every distinct value of a field that has values
of more than 8 bytes or a bucket, and of the time that a split is by.

Shapes: n rows, N fields, V distinct values of one field, P parts (train, valid, test).
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys_collapse.dataset.ahead import ahead
from recsys_collapse.dataset.column import slices
from recsys_collapse.dataset.encode import Vocabulary
from recsys_collapse.dataset.source import PARTS, STORE_FORMAT, Source
from recsys_collapse.dataset.spill import Spill
from recsys_collapse.dataset.split import consecutive, split_by_time, split_rows, time_ranks

Progress = Callable[[str, float], None]  # stage, share done
SLICE = 1 << 15  # rows encoded at a time
BYTES_OF_COLUMN = 5  # of a value while it waits for its id: 4 as a code, 8 as a key


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


def build(source: Source, folder: Path, split_seed: int, progress: Progress = silent) -> dict[str, Any]:
    """Fill `folder` with ids.bin, labels.bin, splits.bin and vocabulary.parquet; returns the manifest.

    Raises:
        ValueError: the source cannot be read, a split is empty, training or validation rows have one class only, a
            field has too many values, or the disk is too small.
    """
    spill = Spill(folder, source.field_buckets())
    for rows in ahead(source.read()):
        is_first = spill.rows == 0
        spill.add(rows)
        if is_first:
            _check_room(spill, rows.done)
            _check_answer(source, spill.truth)
        progress("reading", rows.done)
    part_n, sizes, positives = _write_splits(spill, split_seed)
    counted_n = spill.mapped("counted", bool)
    for rows_s in slices(spill.rows):
        counted_n[rows_s] = source.vocabulary == "all" or part_n[rows_s] == PARTS.index("train")
    vocabularies, distinct = _count(spill, source, counted_n, progress)
    known = [v.known.select(pl.lit(name).alias("field"), pl.all()) for name, v in vocabularies.items()]
    pl.concat(known).write_parquet(folder / "vocabulary.parquet")
    counted_rows = int(np.count_nonzero(counted_n))
    id_0_rate = _encode(spill, part_n, sizes, progress)
    edges = {name: column.edges.tolist() for name, column in spill.fields.items() if column.edges is not None}
    spill.remove()
    if left_out := source.left_out():
        pl.DataFrame(left_out).write_ndjson(folder / "bad_lines.jsonl")
    return {
        "format": STORE_FORMAT,
        "recipe": source.recipe(),
        "rows": spill.rows,
        "fields": list(vocabularies),
        "cardinalities": [vocabulary.cardinality for vocabulary in vocabularies.values()],
        "parts": sizes,
        "positives": positives,
        "bad_lines": len(left_out),
        "counted_rows": counted_rows,
        "distinct_values": distinct,
        "id_0_rate": id_0_rate,
        "edges": edges,  # of buckets that are fitted to the counted rows: predict has to put new values into them
        **({} if spill.truth is None else {"truth": spill.truth, "answer": source.answer()}),
    }


def _write_splits(spill: Spill, split_seed: int) -> tuple[np.ndarray, dict[str, int], dict[str, int]]:
    """Write splits.bin; the part (n,) of every row as its number in PARTS, rows and positives of each part."""
    splits: Mapping[str, np.ndarray | range]
    if spill.time is not None:
        splits = split_by_time(spill.time.ranks(time_ranks))
    elif spill.parts is not None:
        splits = consecutive(spill.parts)
    else:
        splits = split_rows(spill.rows, split_seed)
    label_n = spill.labels()
    part_n, positives = spill.mapped("part", np.uint8), dict.fromkeys(PARTS, 0)
    with (spill.folder / "splits.bin").open("wb") as file:
        for number, part in enumerate(PARTS):
            for place in slices(len(splits[part])):
                piece = splits[part][place]
                rows = np.arange(piece.start, piece.stop) if isinstance(piece, range) else piece
                part_n[rows] = number
                positives[part] += int(np.count_nonzero(label_n[rows]))
                rows.astype(np.int32).tofile(file)
    sizes = {part: len(rows) for part, rows in splits.items()}
    for part in ("train", "valid"):
        if positives[part] in (0, sizes[part]):
            raise ValueError(
                f"dataset: all {sizes[part]} {part} rows have label {int(positives[part] > 0)}, so there is no AUC: "
                "expected both classes; give more rows, another split_seed or other files"
            )
    return part_n, sizes, positives


def _count(
    spill: Spill, source: Source, counted_n: np.ndarray, progress: Progress
) -> tuple[dict[str, Vocabulary], dict[str, int]]:
    """The vocabulary of every field, and how many distinct values the counted rows have."""

    def count(name: str) -> tuple[Vocabulary, int]:
        try:
            return spill.fields[name].count(counted_n, source.min_count, source.hashed_cardinality)
        except ValueError as error:
            raise ValueError(f"dataset: field {name}: {error}") from error

    vocabularies, distinct = {}, {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found in zip(spill.fields, pool.map(count, spill.fields), strict=True):
            vocabularies[name], distinct[name] = found
            progress("counting", len(distinct) / len(spill.fields))
    return vocabularies, distinct


def _check_room(spill: Spill, done: float) -> None:
    """Stop after the first piece if the disk will not hold columns and ids of all rows."""
    rows, fields = int(spill.rows / max(done, 1e-6)), len(spill.fields)
    needed = rows * (fields * (BYTES_OF_COLUMN + 4) + 7 + 4 * len(spill.truth or []))
    free = shutil.disk_usage(spill.folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{spill.folder.parent}: about {needed / 1e9:.1f} GB needed for about {rows:,} rows of {fields} fields, "
            f"{free / 1e9:.1f} GB free: make room, or choose another store_dir",
        )


def _check_answer(source: Source, truth: list[str] | None) -> None:
    """A truth of which it is not known what its columns are in the logit would be found out after the training."""
    names = [*((source.answer() or {}).get("coefficients", {}) if truth else {})]
    if truth is not None and truth != ["logit", *names]:
        raise ValueError(
            f"dataset: rows have a truth with the columns {truth}: expected logit, then the components that "
            f"{type(source).__name__}.answer() has coefficients of: {names}"
        )


def _write_at(descriptor: int, left: memoryview, place: int) -> None:
    """Write all of it: a single call may write less, on a disk that is almost full."""
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _encode(spill: Spill, part_n: np.ndarray, sizes: dict[str, int], progress: Progress) -> dict[str, dict[str, float]]:
    """Write ids.bin, (n, N) int32 row-major; per field the share of rows of each part with id 0."""
    rows, columns = spill.rows, list(spill.fields.values())

    def encode(start: int) -> np.ndarray:
        part = slice(start, min(start + SLICE, rows))
        ids_nN = np.empty((part.stop - start, len(columns)), np.int32)
        zeros_NP = np.empty((len(columns), len(PARTS)), np.int64)
        for i, column in enumerate(columns):
            ids_nN[:, i] = id_n = column.ids(part)
            zeros_NP[i] = np.bincount(part_n[part][id_n == 0], minlength=len(PARTS))
        _write_at(file.fileno(), ids_nN.data.cast("B"), start * len(columns) * 4)
        return zeros_NP

    total_NP = np.zeros((len(columns), len(PARTS)), np.int64)
    with (spill.folder / "ids.bin").open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, zeros_NP in enumerate(pool.map(encode, range(0, rows, SLICE))):
            total_NP += zeros_NP
            progress("encoding", min((number + 1) * SLICE / rows, 1.0))
    rates_NP = (total_NP / [sizes[part] for part in PARTS]).tolist()
    return {name: dict(zip(PARTS, rates_P, strict=True)) for name, rates_P in zip(spill.fields, rates_NP, strict=True)}
