"""Any table of the user: CSV, TSV or Parquet with a binary label; every other column is a categorical field."""

from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys_collapse.dataset.csv_check import check_one_by_one, check_records, read_header
from recsys_collapse.dataset.source import PARTS, Rows, Source, runtime

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(kw_only=True)
class Table(Source):
    """One file, split 8:1:1 at random, or given train, valid and test files.

    Args:
        label: the column with 0 and 1.
        path: the one file; null with given parts.
        train, valid, test: the given parts, all three or none.
        features: columns to use as fields, in this order; null: all but the label and `ignore`.
        ignore: columns to leave out.
        delimiter: null: by the file's ending (.csv comma, .tsv and .txt tab).
    """

    label: str
    path: str | None = runtime(default=None)
    train: str | None = runtime(default=None)
    valid: str | None = runtime(default=None)
    test: str | None = runtime(default=None)
    features: list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    delimiter: str | None = runtime(default=None)

    def files(self) -> list[Path]:
        given = [self.train, self.valid, self.test]
        if self.path is not None and not any(given):
            named = {"dataset.path": self.path}
        elif self.path is None and all(given):
            named = {f"dataset.{part}": str(path) for part, path in zip(PARTS, given, strict=True)}
        else:
            raise ValueError(
                f"dataset.path={self.path}, dataset.train={self.train}, dataset.valid={self.valid}, "
                f"dataset.test={self.test}: expected either dataset.path=FILE or all three of train, valid and test"
            )
        for key, path in named.items():
            if not Path(path).is_file():
                raise ValueError(
                    f"{key}={path}: no such file (looked in {Path.cwd()}); expected a CSV, TSV or Parquet file"
                )
            if Path(path).stat().st_size == 0:
                raise ValueError(f"{key}={path}: the file is empty; expected a header and rows")
        return [Path(path) for path in named.values()]

    def read(self) -> Rows:
        files = self.files()
        frames = [self._read_file(path) for path in files]
        for path, frame in zip(files, frames, strict=True):
            if frame.columns != frames[0].columns:
                raise ValueError(f"{path}: columns {frame.columns}, expected those of {files[0]}: {frames[0].columns}")
        labels = [_binary(frame[self.label], path) for path, frame in zip(files, frames, strict=True)]
        parts = None if self.path is not None else {p: len(y) for p, y in zip(PARTS, labels, strict=True)}
        features = pl.concat([frame.drop(self.label) for frame in frames])
        return Rows(features, np.concatenate(labels), parts)

    def _read_file(self, path: Path) -> pl.DataFrame:
        """The label and the fields, as text."""
        frame = self._read_parquet(path) if path.suffix.lower() == ".parquet" else self._read_text(path)
        if self.label not in frame.columns:
            raise ValueError(f"{path}: no label column{_among('dataset.label', self.label, frame.columns)}")
        others = [name for name in frame.columns if name != self.label]
        for key, names in (("dataset.features", self.features or []), ("dataset.ignore", self.ignore)):
            for name in names:
                if name not in others:
                    raise ValueError(f"{path}: no such feature column{_among(key, name, others)}")
        chosen = self.features if self.features is not None else others
        chosen = [name for name in chosen if name not in self.ignore]
        if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
            raise ValueError(f"dataset.features: {', '.join(twice)} twice; expected every column once")
        if not chosen:
            raise ValueError(f"{path}: no feature columns left of {frame.columns}; see dataset.features and .ignore")
        return frame[[self.label, *chosen]].cast(pl.String)  # not pl.col: it takes "^x$" for a pattern

    def _read_parquet(self, path: Path) -> pl.DataFrame:
        try:
            frame = pl.read_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path}: cannot be read as Parquet: {error}") from error
        for name, kind in frame.schema.items():
            if kind.is_nested() or kind == pl.Binary or kind == pl.Object:
                raise ValueError(
                    f"{path}: column {name} has values of type {kind}: expected text, numbers or truth values"
                )
        return frame

    def _read_text(self, path: Path) -> pl.DataFrame:
        delimiter = self.delimiter or DELIMITERS.get(path.suffix.lower())
        if delimiter is None:
            raise ValueError(f"{path}: ending {path.suffix or '(none)'} is not known; set dataset.delimiter, e.g. ','")
        if len(delimiter.encode()) != 1:
            raise ValueError(f"dataset.delimiter={delimiter}: expected a single character, such as ',' or '\\t'")
        columns = read_header(path, delimiter)
        expected = check_records(path, delimiter, len(columns))
        try:
            # Names from the csv module: polars leaves doubled quotes in them.
            frame = pl.read_csv(path, separator=delimiter, infer_schema=False, new_columns=columns)
        except pl.exceptions.PolarsError as error:
            check_one_by_one(path, delimiter, len(columns))  # names the line, where it finds one
            raise ValueError(f"{path}: cannot be read as delimited text: {error}") from error
        if frame.height != expected:  # polars drops rows around stray quotes without a word
            raise ValueError(f"{path}: {frame.height} rows read, {expected} records counted: look for stray quotes")
        return frame


def _among(key: str, name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" ({key}={name}){f'; did you mean {near[0]}?' if near else ';'} the columns are {', '.join(names)}"


def _binary(column: pl.Series, path: Path) -> np.ndarray:
    """Labels as uint8; only 0 and 1 (Parquet: also true and false, 0.0 and 1.0) are labels."""
    values: dict[Any, int] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    if path.suffix.lower() == ".parquet":
        values |= {"false": 0, "true": 1}
    labels = column.replace_strict(values, default=None, return_dtype=pl.UInt8)
    if wrong := labels.null_count():
        places = labels.is_null().arg_true()[:5].to_list()
        counts = Counter(column.filter(labels.is_null()).to_list()).most_common(5)
        raise ValueError(
            f"{path}: label column {column.name} has {wrong} values that are neither 0 nor 1: "
            + ", ".join(f"{value!r} ({count} times)" for value, count in counts)
            + f"; first at data rows {', '.join(str(place + 1) for place in places)}"
        )
    return labels.to_numpy()
