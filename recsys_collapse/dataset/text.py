"""Delimited text -> rows of text, block by block: what Python's csv module reads, at the speed of polars.

polars drops and pads rows around stray quotes without a word. A block is therefore checked before (line ends, quotes,
number of delimiters, UTF-8; numpy) and counted after; a block that fails is read again one record at a time by the csv
module (`records.py`), which names the line. Memory is that of a few blocks, whatever the file's size.

Shapes: b bytes of a block, r its records.
"""

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.decode import Utf8Stream
from recsys_collapse.dataset.files import ByteStream
from recsys_collapse.dataset.records import TextFormat, check_columns, one_by_one, too_long

QUOTE, LF, CR = 34, 10, 13
TAKEN_FOR_MORE = (codecs.BOM_UTF8, b"x\x01", b"x^")  # polars drops a mark, and decompresses, at the start of a block


class Piece(NamedTuple):
    """Consecutive rows of a file: text columns without nulls, the line each starts at, and the share read so far."""

    frame: pl.DataFrame
    lines: Sequence[int] | np.ndarray
    done: float


class Block(NamedTuple):
    """Whole records that LF ends: the bytes, where the records and the lines end, and the quotes' places."""

    data: bytes
    ends_r: np.ndarray
    newlines: np.ndarray
    quotes: np.ndarray


def read_text(path: Path, layout: TextFormat, bad: BadLines) -> Iterator[Piece]:
    """All rows of a file, in order.

    Raises:
        ValueError: a record cannot be read (file:line, unless `bad` sets it aside), a line is too long, the header has
            no or twice the same name, the text is not of this encoding, or the compressed file is damaged.
    """
    columns, line, rest, done = layout.columns, 1, b"", False
    if columns is not None:
        check_columns(columns, "dataset.columns")
    with ByteStream(path) as stream:
        reader = Utf8Stream(stream, path, layout.encoding)
        while not done:
            chunk = reader.read(max(layout.block_bytes - len(rest), layout.block_bytes // 2, 1))
            done = not chunk
            buffer = rest + chunk
            if columns is None:
                start = reader.offset - len(buffer)
                try:
                    header = one_by_one(buffer, 1, done, path, layout, None, BadLines(), start, most=1)
                except ValueError as error:
                    raise ValueError(f"{error} (in the header)") from error
                if not header.rows and not done:
                    rest = _within_limit(buffer, path, line, layout)
                    continue
                columns = tuple(header.rows[0]) if header.rows else ()
                check_columns(columns, f"{path}:1", layout.delimiter)
                buffer, line = header.rest, header.next_line
            piece, line, rest = _next_piece(buffer, line, reader.offset - len(buffer), done, path, layout, columns, bad)
            if len(piece.lines):
                yield piece._replace(done=stream.done)


def _next_piece(
    buffer: bytes,
    line: int,
    offset: int,
    last: bool,
    path: Path,
    layout: TextFormat,
    columns: tuple[str, ...],
    bad: BadLines,
) -> tuple[Piece, int, bytes]:
    """Rows of the whole records in `buffer`, which starts at a record; the next line's number, and what is left."""
    if b"\0" not in buffer and (buffer.isascii() or _is_utf8(buffer)):
        block, rest = _cut(buffer, last, layout)
        frame = _parse(block, layout, len(columns))
        joined = len(rest) > (0 if last else layout.max_line_bytes)  # lines that a stray quote makes one record
        if frame is not None and not joined:
            frame.columns = list(columns)
            return Piece(frame, _line_numbers(block, line), 0.0), line + len(block.newlines), rest
    slow = one_by_one(buffer, line, last, path, layout, columns, bad, offset=offset)
    frame = pl.DataFrame(slow.rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    return Piece(frame, slow.lines, 0.0), slow.next_line, _within_limit(slow.rest, path, slow.next_line, layout)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # a character that the end of the buffer cuts
    return True


def _cut(buffer: bytes, last: bool, layout: TextFormat) -> tuple[Block, bytes]:
    """The whole records of `buffer`, every line end made LF, and the rest."""
    held = b""
    if buffer.endswith(b"\r") and not last:  # an LF may follow
        buffer, held = buffer[:-1], b"\r"
    quoted = layout.quoting and b'"' in buffer
    if b"\r" in buffer:
        buffer = _lf_only(buffer) if quoted else buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if last and buffer and not buffer.endswith(b"\n"):
        buffer += b"\n"
    bytes_b = np.frombuffer(buffer, np.uint8)
    newlines = np.flatnonzero(bytes_b == LF)
    quotes = np.flatnonzero(bytes_b == QUOTE) if quoted else np.empty(0, np.int64)
    ends_r = newlines[_outside(newlines, quotes)] if quoted else newlines
    size = int(ends_r[-1]) + 1 if len(ends_r) else 0
    if b"\r" in buffer:  # inside quotes; alone it ends a line, too
        returns = np.flatnonzero(bytes_b[:size] == CR)
        newlines = np.sort(np.concatenate([newlines, returns[bytes_b[returns + 1] != LF]]))
    if quoted:
        newlines, quotes = newlines[: np.searchsorted(newlines, size)], quotes[: np.searchsorted(quotes, size)]
    return Block(buffer[:size], ends_r, newlines, quotes), buffer[size:] + held


def _outside(places: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """Which places have an even number of quotes before them."""
    return np.searchsorted(quotes, places) % 2 == 0


def _lf_only(buffer: bytes) -> bytes:
    """CR and CRLF outside quotes as LF."""
    bytes_b = np.frombuffer(buffer, np.uint8).copy()
    returns = np.flatnonzero(bytes_b == CR)
    returns = returns[_outside(returns, np.flatnonzero(bytes_b == QUOTE))]
    before_lf = bytes_b[np.minimum(returns + 1, len(bytes_b) - 1)] == LF
    bytes_b[returns[~before_lf]] = LF
    return np.delete(bytes_b, returns[before_lf]).tobytes()


def _parse(block: Block, layout: TextFormat, columns: int) -> pl.DataFrame | None:
    """The block as a frame of text columns; None if anything about it is not as it should be."""
    if block.data.startswith(TAKEN_FOR_MORE):
        return None
    if not block.data:
        return pl.DataFrame(schema={str(i): pl.String for i in range(columns)})
    if np.diff(block.ends_r, prepend=-1).max() > layout.max_line_bytes:
        return None
    bytes_b = np.frombuffer(block.data, np.uint8)
    delimiters_b = bytes_b == ord(layout.delimiter)
    if len(block.quotes):
        if not _quotes_are_strict(bytes_b, block.quotes, ord(layout.delimiter)):
            return None
        found = int(_outside(np.flatnonzero(delimiters_b), block.quotes).sum())
    else:
        found = int(np.count_nonzero(delimiters_b))
    if found != len(block.ends_r) * (columns - 1):
        return None
    try:
        frame = pl.read_csv(
            block.data,
            separator=layout.delimiter,
            has_header=False,
            schema={str(i): pl.String for i in range(columns)},
            quote_char='"' if len(block.quotes) else None,
            empty_string_is_null=False,
            extra_columns="raise",
            glob=False,
        )
    except (pl.exceptions.PolarsError, OSError):
        return None
    whole = frame.height == len(block.ends_r) and not any(column.null_count() for column in frame.get_columns())
    return frame if whole else None  # a missing value is "", so a null is a record that is too short


def _quotes_are_strict(bytes_b: np.ndarray, quotes: np.ndarray, delimiter: int) -> bool:
    """Whether quotes open at the start of a value and close at its end, or are doubled inside."""
    if len(quotes) % 2:
        return False
    before = bytes_b[quotes[::2] - 1]  # of a quote at 0: the block's last byte, an LF
    after = bytes_b[quotes[1::2] + 1]  # a block ends with an LF outside quotes
    return bool(np.isin(before, (delimiter, LF, QUOTE)).all() and np.isin(after, (delimiter, LF, QUOTE)).all())


def _line_numbers(block: Block, line: int) -> Sequence[int] | np.ndarray:
    """The line at which each record starts."""
    if len(block.newlines) == len(block.ends_r):
        return range(line, line + len(block.ends_r))
    starts_r = np.concatenate([[0], block.ends_r[:-1] + 1])
    return line + np.searchsorted(block.newlines, starts_r)


def _within_limit(rest: bytes, path: Path, line: int, layout: TextFormat) -> bytes:
    if len(rest) > layout.max_line_bytes:
        raise ValueError(too_long(path, line, layout.max_line_bytes))
    return rest
