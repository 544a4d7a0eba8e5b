"""The only writer of results: a file is there whole or not at all, also after a crash or a full disk."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write into a temporary file beside `path`, sync it and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(0o666 & ~umask())  # mkstemp makes it private
        Path(unfinished).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8."""
    write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN and infinity are errors, for they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """A Parquet file."""
    write(path, frame.write_parquet)


def umask() -> int:
    """The permissions that this process takes away from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Make a file or folder survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
