"""An independent count of a delimited file's records, so that no reader drops or pads rows unnoticed."""

import csv
from pathlib import Path


def read_header(path: Path, delimiter: str) -> list[str]:
    """The column names.

    Raises:
        ValueError: there are none, one stands there twice, or the file is not UTF-8 text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file, delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the header is not UTF-8 text: {error}") from error
    except csv.Error:
        check_one_by_one(path, delimiter, columns=1)  # names the line
        raise
    if not names:
        raise ValueError(f"{path}:1: no column names; expected a header")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}:1: column {', '.join(twice)} stands in the header twice; expected every name once")
    return names


def check_records(path: Path, delimiter: str, columns: int) -> int:
    """Number of records after the header, each of which has `columns` values.

    Without a quote in the file it is a count of bytes; with quotes, Python's csv module counts.

    Raises:
        ValueError: a record has another number of values (file:line), or the file is not UTF-8 text.
    """
    delimiters = lines = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            if b'"' in chunk or b"\r" in chunk:
                return check_one_by_one(path, delimiter, columns)
            delimiters += chunk.count(delimiter.encode())
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    lines += last != b"\n"
    if delimiters != lines * (columns - 1):
        return check_one_by_one(path, delimiter, columns)
    return lines - 1


def check_one_by_one(path: Path, delimiter: str, columns: int) -> int:
    """As `check_records`, record by record with the csv module: slower, and it names the line."""
    records = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for values in reader:
                if len(values) != columns and not (not values and columns == 1):
                    raise ValueError(
                        f"{path}:{reader.line_num}: {len(values)} values, expected {columns} as in the header"
                    )
                records += 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{reader.line_num}: {error}; quote values as in CSV, or set dataset.delimiter"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text: {error.reason}") from error
    return records - 1
