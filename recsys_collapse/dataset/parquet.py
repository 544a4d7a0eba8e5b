"""Parquet files -> rows of text, batch by batch."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from recsys_collapse.dataset.text import Piece


def read_parquet(path: Path, block_bytes: int) -> Iterator[Piece]:
    """All rows in order, every column as text, missing values as the empty string; a row's line is its number.

    Raises:
        ValueError: it is not a whole Parquet file, or a column has values that are not text, numbers or truth values.
    """
    try:
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
        for name, dtype in schema.items():
            if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
                raise ValueError(
                    f"{path}: column {name} has values of type {dtype}: expected text, numbers or truth values"
                )
        rows = scan.select(pl.len()).collect().item()
        size = max(1, block_bytes // (8 * max(len(schema), 1)))
        first = 1
        for batch in scan.collect_batches(chunk_size=size, maintain_order=True):
            frame = batch.select(pl.all().cast(pl.String).fill_null(""))
            last = first + frame.height
            yield Piece(frame, range(first, last), (last - 1) / rows)
            first = last
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}; get the file again") from error
    if first - 1 != rows:
        raise ValueError(f"{path}: {first - 1} rows read, {rows} expected: the file is damaged")
