"""The slow and exact reader: one record at a time with Python's csv module, naming every line that cannot be used."""

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from recsys_collapse.dataset.bad_lines import BadLines

DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
UNFINISHED = "unexpected end of data"  # the csv module's words for an open quote
QUOTES = "quote values as in RFC 4180, or read quotes as characters: dataset.quoting=false"


@dataclass(frozen=True)
class TextFormat:
    """How a delimited file is written.

    Args:
        delimiter: one character of one byte.
        quoting: values may stand in double quotes, as in RFC 4180; False: a quote is a character like any other.
        columns: names, for files without a header; None: the first record has them.
        encoding: any that Python knows.
        max_line_bytes: a longer record is an error, so that a wrong delimiter or quote cannot fill the memory.
        block_bytes: how much is read at a time; it does not change what is read.
    """

    delimiter: str
    quoting: bool
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    max_line_bytes: int = 1 << 20
    block_bytes: int = 16 << 20


class Records(NamedTuple):
    """Values of the good records and the line of each; the bytes behind the last whole record and their first line."""

    rows: list[list[str]]
    lines: list[int]
    rest: bytes
    next_line: int


def one_by_one(
    data: bytes,
    line: int,
    last: bool,
    path: Path,
    layout: TextFormat,
    columns: Sequence[str] | None,
    bad: BadLines,
    offset: int = 0,
    most: int | None = None,
) -> Records:
    """Records of a piece of a file that starts with a record.

    Args:
        data: the piece.
        line: the number of its first line.
        last: nothing follows it; otherwise what may continue is left in `rest`.
        path: the file, for messages.
        layout: how the file is written.
        columns: every record has as many values; None: any number.
        bad: where records that cannot be used are reported.
        offset: the place of the piece in the file, for messages.
        most: stop after so many records.

    Raises:
        ValueError: a line is too long, or as `bad` decides for the first record with another number of values, a stray
            quote, a zero byte or bytes that are not UTF-8.
    """
    csv.field_size_limit(max(csv.field_size_limit(), layout.max_line_bytes))
    lines = data.splitlines(keepends=True)  # at LF, CR and CRLF, as the csv module
    whole = len(lines) if last or not lines or lines[-1].endswith(b"\n") else len(lines) - 1
    rows: list[list[str]] = []
    numbers: list[int] = []
    at = 0
    while at < whole and (most is None or len(rows) < most):
        feed = _Feed(lines, at, whole, offset + sum(map(len, lines[:at])), layout)
        reader = csv.reader(
            feed,
            delimiter=layout.delimiter,
            strict=True,
            quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE,
        )
        try:
            for values in reader:
                start, at, feed.size = at, feed.at, 0
                if columns is not None and len(values) != len(columns):
                    reason = _wrong_number(values, len(columns), lines[start], layout.delimiter)
                    bad.add(str(path), line + start, reason, _shown(lines[start]))
                else:
                    rows.append(values)
                    numbers.append(line + start)
                if most is not None and len(rows) == most:
                    break
        except _TooLongError as error:
            raise ValueError(too_long(path, line + at, layout.max_line_bytes)) from error
        except (csv.Error, _BadRecordError) as error:
            reason = f"{error}" if isinstance(error, _BadRecordError) else f"{error}; {QUOTES}"
            if UNFINISHED in str(error) and feed.at == whole and not last:
                if feed.size + sum(map(len, lines[whole:])) <= layout.max_line_bytes:
                    break  # the quote may be closed by what follows
                reason = _open_quote(layout.max_line_bytes)
            bad.add(str(path), line + at, reason, _shown(lines[at]))
            at += 1
    return Records(rows, numbers, b"".join(lines[at:]), line + at)


class _BadRecordError(Exception):
    pass


class _TooLongError(Exception):
    pass


class _Feed(Iterator[str]):
    """Lines from `at` on as text; `at` is the first line not handed out yet, `size` the bytes of the record so far."""

    def __init__(self, lines: list[bytes], at: int, end: int, offset: int, layout: TextFormat) -> None:
        self.lines, self.at, self.end, self.offset, self.limit = lines, at, end, offset, layout.max_line_bytes
        self.text = "file" if codecs.lookup(layout.encoding).name == "utf-8" else "text as UTF-8"
        self.size = 0

    def __next__(self) -> str:
        if self.at >= self.end:
            raise StopIteration
        line = self.lines[self.at]
        if self.size + len(line.rstrip(b"\r\n")) >= self.limit:
            raise _BadRecordError(_open_quote(self.limit)) if self.size else _TooLongError
        if b"\0" in line:
            raise _BadRecordError(f"zero byte at byte {self.offset + line.index(0)} of the {self.text}: expected text")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise _BadRecordError(
                f"byte {line[error.start]:#04x} at byte {self.offset + error.start} of the file is not UTF-8 text "
                f"({error.reason}): set dataset.encoding to that of the file, e.g. latin-1"
            ) from error
        self.offset += len(line)
        self.size += len(line)
        self.at += 1
        return text


def too_long(path: Path, line: int, limit: int) -> str:
    """What to say of a line of more bytes than `limit`."""
    return (
        f"{path}:{line}: more than {limit} bytes without an end of the line: expected lines of text; is this the file, "
        "and dataset.encoding its encoding? if the line is meant, raise dataset.max_line_bytes"
    )


def _open_quote(limit: int) -> str:
    return f"a quote that is not closed within dataset.max_line_bytes={limit}; {QUOTES}"


def check_columns(names: Sequence[str], place: str, delimiter: str | None = None) -> None:
    """Every column has one name of its own.

    Raises:
        ValueError: there are none, or one stands there twice; with a hint if the delimiter seems wrong.
    """
    if not names:
        raise ValueError(f"{place}: no column names; expected a header")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{place}: column {', '.join(twice)} stands in the header twice; expected every name once")
    if len(names) == 1 and delimiter is not None and (hint := _other_delimiter(names[0], delimiter)):
        raise ValueError(f"{place}: 1 column found with delimiter {delimiter!r}; {hint}")


def _wrong_number(values: list[str], expected: int, line: bytes, delimiter: str) -> str:
    hint = _other_delimiter(line.decode(), delimiter) if len(values) == 1 else ""
    if not values:
        return f"an empty line; 0 values, expected {expected}: remove it, or prepare with dataset.bad_lines=quarantine"
    found = f"{len(values)} value{'s' * (len(values) != 1)}, expected {expected}"
    return f"{found}; {hint}" if hint else f"{found}, one for each column"


def _other_delimiter(text: str, delimiter: str) -> str:
    counts = {name: text.count(sign) for name, sign in DELIMITERS.items() if sign != delimiter}
    name = max(counts, key=lambda key: counts[key])
    return f"{name} seen {counts[name]} times: set dataset.delimiter={name}" if counts[name] else ""


def _shown(line: bytes) -> str:
    return line.decode(errors="backslashreplace").rstrip("\r\n")
