"""Parquet files -> rows of text, batch by batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from recsys_collapse.dataset.files import COMPRESSED
from recsys_collapse.dataset.text import Piece

NUMBER, TEXT, NOTHING = "number", "text", "nothing"


def column_types(path: Path) -> dict[str, str]:
    """The type of every column: `number`, `text`, `nothing` (only missing values), or that of polars.

    Raises:
        ValueError: it is not a whole Parquet file.
    """
    if path.suffix.lower() in COMPRESSED:
        raise ValueError(f"{path}: a compressed file of Parquet: decompress it; Parquet is compressed inside")
    with _explained(path):
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    return {name: _type(dtype) for name, dtype in schema.items()}


def read_parquet(path: Path, columns: list[str], block_bytes: int) -> Iterator[Piece]:
    """All rows of these columns in order, as text, missing values as the empty string; a row's line is its number.

    A whole number is written without a point, also where the column has fractions: pandas makes floats of integers as
    soon as one is missing. Times with a zone are written in UTC.

    Raises:
        ValueError: it is not a whole Parquet file, or values of a column have no text, such as lists and bytes.
    """
    with _explained(path):
        scan = pl.scan_parquet(path, glob=False)
        names = scan.collect_schema().names()
        scan = scan.select(pl.nth([names.index(name) for name in columns]))  # not by name: "^x$" would be a pattern
        schema = scan.collect_schema()
        for name, dtype in schema.items():
            if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration):
                raise ValueError(
                    f"{path}: column {name} has values of type {dtype}: expected text, numbers, truth values or times; "
                    "leave it out with dataset.ignore"
                )
        rows = scan.select(pl.len()).collect().item()
        size = max(1, block_bytes // (8 * len(columns)))
        first = 1
        as_text = [_as_text(pl.nth(i), dtype) for i, dtype in enumerate(schema.values())]
        for batch in scan.collect_batches(chunk_size=size, maintain_order=True):
            last = first + batch.height
            yield Piece(batch.select(as_text), range(first, last), (last - 1) / rows)
            first = last
    if first - 1 != rows:
        raise ValueError(f"{path}: {first - 1} rows read, {rows} expected: the file is damaged")


def _type(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return NUMBER
    if dtype == pl.Null:
        return NOTHING
    return TEXT if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype)


def _as_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    text = column.cast(pl.String)
    if dtype.is_float():
        whole = pl.when(column == column.floor()).then(column.cast(pl.Int64, strict=False)).cast(pl.String)
        text = pl.coalesce(whole, text)
    elif dtype.is_decimal() and dtype.scale:  # type: ignore[attr-defined]
        text = text.str.strip_chars_end("0").str.strip_chars_end(".")
    elif isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        text = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(pl.String)
    return text.fill_null("")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as Parquet: {reason}; get the file again") from error
