"""What was read of a source, on disk until it is encoded, and whether its pieces fit together.

Shapes: n rows.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from recsys_collapse.dataset.buckets import Bucket
from recsys_collapse.dataset.column import Column
from recsys_collapse.dataset.source import PARTS, Rows

MAX_ROWS = 2**31 - 1  # row numbers are int32


class Spill:
    """What was read, on disk until it is encoded: labels, and a `Column` for every field and for the time."""

    def __init__(self, folder: Path, buckets: dict[str, Bucket]) -> None:
        self.folder, self.buckets, self.rows = folder, buckets, 0
        self.fields: dict[str, Column] = {}
        self.time: Column | None = None
        self.parts: dict[str, int] | None = None
        self.truth: list[str] | None = None
        (folder / "columns").mkdir()

    def add(self, rows: Rows) -> None:
        """Append rows of the source.

        Raises:
            ValueError: pieces of the source do not fit together, or there are more rows than int32 numbers.
        """
        if not self.fields:
            self._start(rows)
        self._check(rows)
        self.rows += len(rows.labels)
        if self.rows > MAX_ROWS:
            raise ValueError(f"dataset: more than {MAX_ROWS} rows: expected fewer, row numbers are int32")
        if self.parts is not None:
            self.parts[str(rows.part)] += len(rows.labels)
        columns = [(column, rows.features[name]) for name, column in self.fields.items()]
        if self.time is not None and rows.time is not None:
            columns.append((self.time, rows.time))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # polars and numpy work outside the interpreter's lock
            list(pool.map(lambda pair: pair[0].add(pair[1]), columns))
        with (self.folder / "labels.bin").open("ab") as file:
            rows.labels.astype(np.uint8).tofile(file)
        if rows.truth is not None:
            with (self.folder / "truth.bin").open("ab") as file:
                rows.truth.to_numpy().astype(np.float32).tofile(file)

    def _start(self, rows: Rows) -> None:
        folder = self.folder / "columns"
        for i, name in enumerate(rows.features.columns):
            self.fields[name] = Column(folder / f"{i}.bin", self.buckets.get(name))
        self.time = None if rows.time is None else Column(folder / "time.bin", ordered=True)
        self.parts = None if rows.part is None else dict.fromkeys(PARTS, 0)
        self.truth = None if rows.truth is None else rows.truth.columns
        if rows.part not in (None, *PARTS) or (rows.part is not None and rows.time is not None):
            raise ValueError(
                f"dataset: part {rows.part}, time given: {rows.time is not None}: expected one of "
                f"{', '.join(PARTS)}, or a time, or neither"
            )

    def _check(self, rows: Rows) -> None:
        """Whether a piece fits to those before, whoever wrote the source."""
        if rows.features.columns != list(self.fields) or len(rows.labels) != rows.features.height:
            raise ValueError(
                f"dataset: a piece of {len(rows.labels)} labels, {rows.features.height} rows and columns "
                f"{rows.features.columns}: expected as many labels as rows, and columns {list(self.fields)}"
            )
        if len(rows.labels) and not np.isin(rows.labels, (0, 1)).all():
            raise ValueError(f"dataset: labels {np.unique(rows.labels)[:5].tolist()}: expected 0 and 1")
        if (rows.time is None) != (self.time is None) or (rows.part is None) != (self.parts is None):
            raise ValueError("dataset: a piece with a time or part among pieces without one: expected all or none")
        truth = None if rows.truth is None else rows.truth.columns
        if truth != self.truth or (rows.truth is not None and rows.truth.height != len(rows.labels)):
            raise ValueError(f"dataset: a piece with truth {truth}: expected {self.truth}, one row for each label")
        if rows.truth is not None and not np.isfinite(rows.truth.to_numpy()).all():
            raise ValueError("dataset: a truth that is not finite: expected a number in every row and column")
        if self.parts is not None:
            later = [part for part in PARTS[PARTS.index(str(rows.part)) + 1 :] if self.parts[part]]
            if later:
                raise ValueError(f"dataset: rows of {rows.part} after rows of {later[0]}: expected {', '.join(PARTS)}")

    def labels(self) -> np.ndarray:
        """All labels (n,) uint8, mapped."""
        path = self.folder / "labels.bin"
        return np.memmap(path, np.uint8, mode="r") if self.rows else np.empty(0, np.uint8)

    def mapped(self, name: str, kind: type) -> np.ndarray:
        """An array (n,) on disk, for as long as the columns are there: zeros."""
        path = self.folder / "columns" / f"{name}.bin"
        return np.memmap(path, kind, mode="w+", shape=(self.rows,)) if self.rows else np.empty(0, kind)

    def remove(self) -> None:
        """The columns are not needed any more."""
        shutil.rmtree(self.folder / "columns")
