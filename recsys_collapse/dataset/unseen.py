"""Rows that a finished run has not seen: read from any file that `Table` reads, with or without labels.

Unlike in a dataset, nothing is left out: a row that cannot be used is an error, so that row i of the input is row i of
what is made from it. Columns that are no fields are ignored.

Shapes: n rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.buckets import Bucket
from recsys_collapse.dataset.choose import Choice, among
from recsys_collapse.dataset.inputs import Form, bucketable, by_word, first_record, is_parquet, read_pieces
from recsys_collapse.dataset.label import LabelMap
from recsys_collapse.dataset.parquet import column_types
from recsys_collapse.dataset.records import check_columns
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.table import Table

NO_LABEL = "none"
"""Word for `dataset.label`: the labels are not read, whatever stands there."""
HEADER = "header"
"""Word for `dataset.columns`: the first line has the names, although the run's own files had none."""


class NewRows(NamedTuple):
    """Consecutive rows, in the order of the files."""

    features: pl.DataFrame
    """Text, one column for each field of the run, in its order."""
    label_n: np.ndarray | None
    """(n,) uint8; None: the files have no labels."""
    done: float
    """Share of the files read so far."""


class Unseen:
    """The rows of some files, for the fields of a run.

    Args:
        source: the run's own; how its files are written is how these are, if it is a `Table`.
        fields: of the run, in its order.
        files: to be read, in order.
        options: of `Table`, where these files differ: delimiter, columns, label, ...; a null: as the run's own.

    Raises:
        ValueError: a field has no column in some file, some files have labels and others none, or an option is wrong.
    """

    def __init__(
        self, source: Source, fields: Sequence[str], files: Sequence[Path], options: Mapping[str, Any]
    ) -> None:
        own = source if isinstance(source, Table) else None
        self._table = _as_written(own, options)
        self._columns = {name: str(by_word(own.derive if own else None).get(name, name)) for name in fields}
        self._buckets: Mapping[str, Bucket] = source.field_buckets()
        self._label = str(self._table.label)
        self._wants_label = options.get("label") != NO_LABEL
        self._must_have_label = self._wants_label and options.get("label") is not None
        words = by_word(self._table.label_map)
        self._labels = {typed: LabelMap.of(words, typed) for typed in (False, True)}
        self._forms = {path: self._look(path) for path in files}  # of all files, before the first is read
        with_label = [path for path, (_, has_label) in self._forms.items() if has_label]
        self.has_labels = bool(with_label)
        if with_label and len(with_label) < len(files):
            without = next(path for path in files if path not in with_label)
            raise ValueError(
                f"{with_label[0]} has the label column {self._label}, {without} has not: expected it in all files or "
                "none; score them one by one"
            )

    def read(self) -> Iterator[NewRows]:
        """All rows, piece by piece.

        Raises:
            ValueError: a row cannot be read, has no number where one is needed, or no label; names file and line.
        """
        features = [name for name, column in self._columns.items() if name == column]
        derive = {name: column for name, column in self._columns.items() if name != column}
        label = self._label if self.has_labels else None
        choice = Choice(label, None, features, [], derive, list(self._buckets))
        sizes = {path: path.stat().st_size for path in self._forms}
        before, types, bad = 0, dict[str, str](), BadLines()
        for path, (form, _) in self._forms.items():
            for fields, piece in read_pieces(path, form, choice, types, bad):
                bucketable(piece, path, fields, self._buckets, bad)
                label_n = None
                if label is not None:
                    try:
                        label_n, _ = self._labels[is_parquet(path)].read(piece.frame, label, path, piece.lines, bad)
                    except ValueError as error:
                        raise ValueError(f"{error}; to score without labels: dataset.label={NO_LABEL}") from error
                frame = pl.DataFrame({name: piece.frame[column] for name, column in self._columns.items()})
                yield NewRows(frame, label_n, (before + piece.done * sizes[path]) / sum(sizes.values()))
            before += sizes[path]

    def _look(self, path: Path) -> tuple[Form, bool]:
        """How a file is written, and whether it has labels."""
        form = self._table.form
        if is_parquet(path):
            columns = list(column_types(path))
        elif form.columns is None:
            layout = form.layout(path)
            check_columns(columns := first_record(path, layout), f"{path}:1", layout.delimiter)
        else:
            form = form._replace(columns=self._columns_of(path, form, form.columns))
            columns = list(form.columns or ())
        has_label = self._wants_label and self._label in columns and self._label not in self._columns.values()
        if self._must_have_label and not has_label:
            raise ValueError(f"{path}: no label column (dataset.label={self._label}){among(self._label, columns)}")
        others = [name for name in columns if not (has_label and name == self._label)]
        for name, column in self._columns.items():
            if column not in others:
                made = "" if name == column else f", of which the field {name} is made"
                raise ValueError(f"{path}: no column {column}, which the run needs{made}{among(column, others)}")
        return form, has_label

    def _columns_of(self, path: Path, form: Form, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the columns of text without a header, with or without the label."""
        values, unlabelled = first_record(path, form.layout(path)), tuple(n for n in columns if n != self._label)
        if len(values) == len(columns):
            return columns
        if len(values) == len(unlabelled):
            return unlabelled
        or_without = f", or {len(unlabelled)} without the label {self._label}" if unlabelled != columns else ""
        raise ValueError(
            f"{path}:1: {len(values)} values, expected {len(columns)} as in dataset.columns{or_without}; set "
            "dataset.delimiter to that of the file, dataset.columns='[...]' to the names of its columns, or "
            f"dataset.columns={HEADER} if its first line has them"
        )


def _as_written(own: Table | None, options: Mapping[str, Any]) -> Table:
    """A `Table` with the options of the run's own, or the defaults, and those that are given; it has no files."""
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("label") == NO_LABEL:
        del given["label"]
    if given.get("columns") == HEADER:
        given["columns"] = None
    none: dict[str, Any] = dict.fromkeys(("path", "train", "valid", "test", "time", "md5"))
    return replace(own, **none, **given) if own else Table(**{"name": "input", "label": "label"} | given)
