"""Files of a table, to be prepared or to be scored: how they are written, their columns, their rows."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.buckets import Bucket
from recsys_collapse.dataset.choose import Choice, choose_fields
from recsys_collapse.dataset.decode import Utf8Stream
from recsys_collapse.dataset.files import ByteStream, kind
from recsys_collapse.dataset.parquet import NOTHING, column_types, read_parquet
from recsys_collapse.dataset.records import DELIMITERS, TextFormat, one_by_one, too_long
from recsys_collapse.dataset.text import Piece, read_text

BY_ENDING = {".csv": ",", ".tsv": "\t", ".txt": "\t", "": "\t"}
PARQUET = (".parquet", ".pq")
HEADER_BYTES = 1 << 16  # read at a time, for the first record


class Form(NamedTuple):
    """How files are written, as in the options of `Table`; null is decided by the file's ending."""

    delimiter: str | None
    quoting: bool | None
    columns: tuple[str, ...] | None
    encoding: str
    max_line_bytes: int
    block_bytes: int

    def layout(self, path: Path) -> TextFormat:
        """That of one file of text.

        Raises:
            ValueError: the delimiter cannot be used, or none is given and the ending is not known.
        """
        delimiter = DELIMITERS.get(self.delimiter or "", self.delimiter) or BY_ENDING.get(kind(path))
        if delimiter is None:
            raise ValueError(f"{path}: ending {kind(path)} is not known; set dataset.delimiter, e.g. to comma")
        if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise ValueError(
                f"dataset.delimiter={delimiter}: expected one of {', '.join(DELIMITERS)}, or a single character"
            )
        quoting = delimiter != "\t" if self.quoting is None else self.quoting
        return TextFormat(delimiter, quoting, self.columns, self.encoding, self.max_line_bytes, self.block_bytes)


def is_parquet(path: Path) -> bool:
    """By its ending; everything else is text."""
    return kind(path) in PARQUET


def read_pieces(
    path: Path, form: Form, choice: Choice, types: dict[str, str], bad: BadLines
) -> Iterator[tuple[dict[str, str], Piece]]:
    """Fields, each with its column, and rows of one file, piece by piece.

    `types` are those of the Parquet columns in the files so far, which have to agree; it is added to.

    Raises:
        ValueError: as `choose_fields`, `read_text` and `read_parquet`; or types do not agree.
    """
    if not is_parquet(path):
        for piece in read_text(path, form.layout(path), bad):
            yield choose_fields(path, piece.frame.columns, choice), piece
        return
    own = column_types(path)
    fields = choose_fields(path, list(own), choice)
    others = [name for name in (choice.label, choice.time) if name is not None]
    needed = list(dict.fromkeys([*others, *fields.values()]))
    for name in needed:
        if own[name] != NOTHING and types.setdefault(name, own[name]) != own[name]:
            raise ValueError(
                f"{path}: column {name} has values of type {own[name]}, in the files before {types[name]}: "
                "expected one type, or the same value would be written in two ways; cast the column in one of them"
            )
    for piece in read_parquet(path, needed, form.block_bytes):
        yield fields, piece


def bucketable(
    piece: Piece, path: Path, fields: Mapping[str, str], buckets: Mapping[str, Bucket], bad: BadLines
) -> np.ndarray:
    """Which rows (n,) bool have a number or time wherever a bucket needs one; the others are reported to `bad`.

    Raises:
        ValueError: as `bad` decides; names file, line, column and value.
    """
    good = np.ones(piece.frame.height, bool)
    for name, bucket in buckets.items():
        column = piece.frame[fields[name]]
        valid = bucket.valid(column)
        if not valid.all():
            for row in (~valid).arg_true():
                reason = f"column {fields[name]}: {column[row]!r}, expected {bucket.expected} or nothing"
                bad.add(str(path), int(piece.lines[row]), reason, "\t".join(piece.frame.row(row)))
            good &= valid.to_numpy()
    return good


def first_record(path: Path, layout: TextFormat) -> list[str]:
    """The values of the first record of text, which is the header if there is one; empty if there is no record.

    Raises:
        ValueError: it cannot be read, or is too long.
    """
    data, done = b"", False
    with ByteStream(path) as stream:
        reader = Utf8Stream(stream, path, layout.encoding)
        while not done:
            chunk = reader.read(HEADER_BYTES)
            data, done = data + chunk, not chunk
            if rows := one_by_one(data, 1, done, path, layout, None, BadLines(), most=1).rows:
                return rows[0]
            if len(data) > layout.max_line_bytes:
                raise ValueError(too_long(path, 1, layout.max_line_bytes))
    return []


def by_word(options: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Keys as they stand in a file: YAML takes 0 for a number and true for a truth value."""
    return {str(key).lower() if isinstance(key, bool) else str(key): value for key, value in (options or {}).items()}
