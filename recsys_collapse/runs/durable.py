"""The only writer of results: a file is there whole or not at all, also after a crash or a full disk."""

import fcntl
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import polars as pl

log = logging.getLogger(__name__)
LONGEST_WAIT = 24 * 3600.0  # seconds, for another process


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


@contextmanager
def exclusive(lock: Path, doing: str, *, enabled: bool = True, longest_wait: float = LONGEST_WAIT) -> Iterator[None]:
    """Wait until no other process holds this lock; the kernel releases it with the process that holds it.

    Args:
        lock: the file that is locked; it stays, and says who holds it.
        doing: what the holder does, for whoever waits.
        enabled: False: no lock, for file systems without them.
        longest_wait: seconds.

    Raises:
        ValueError: the file system has no locks, or the file cannot be written.
        TimeoutError: the lock was not released in time; names the holder.
    """
    if not enabled:
        yield
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.open("a+").close()
    except OSError as error:
        raise ValueError(f"{lock}: cannot be written ({error.strerror}): choose another folder") from error
    with _acquire(lock, doing, longest_wait) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _acquire(lock: Path, doing: str, longest_wait: float) -> TextIO:
    """The open file, once it is locked."""
    started, told = time.monotonic(), 0.0
    while True:
        file = lock.open("a+")  # anew each time: somebody may have removed it
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            waited = time.monotonic() - started
            if waited > longest_wait:
                file.close()
                raise TimeoutError(
                    f"{lock}: {holder} {doing} and has not finished in {waited:.0f} s: end it, or remove the file"
                ) from None
            if told == 0.0 or waited - told > 60:
                log.info(f"{holder} {doing}: waiting for it")
                told = max(waited, 1e-9)
            time.sleep(min(0.05 + waited / 10, 1.0))
        except OSError as error:
            file.close()
            raise ValueError(f"{lock}: this file system has no file locks ({error}): set file_locks=false") from error
        file.close()
