"""The only writer of results: a file is there whole or not at all, also after a crash or a full disk.

Every operation on a disk goes through `os` of this module, so that tests can make each of them fail
(`tests/faults.py`). Whoever reads checks: JSON carries a checksum (`seal`), checkpoints end with one.
"""

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from recsys_collapse.runs.heartbeat import beat

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)
PIECE = 1 << 20  # bytes; smaller pieces are written together
LONGEST_WAIT = 24 * 3600.0  # seconds, for another process


APPENDING = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
"""For `os.open`: a link in a results folder, which may come from somebody else, leads nowhere."""


class DamagedError(ValueError):
    """A file is not what was written."""


class _File(io.RawIOBase):
    """A file for writing, all of it, by `os.write` of this module; small pieces are collected."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.pending = descriptor, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(self.pending) + len(view) < PIECE:
            self.pending += view
        else:
            self.end()
            self._write_all(view)  # a table may have gigabytes: not copied
        return len(view)

    def end(self) -> None:
        """Write what is pending. Not `flush`, which a half-written file would see once more when it is forgotten."""
        pending, self.pending = self.pending, bytearray()
        self._write_all(memoryview(pending))

    def _write_all(self, left: memoryview) -> None:
        while left:  # a single call may write less
            left = left[os.write(self.descriptor, left) :]


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write into a temporary file beside `path`, sync it and give it its name."""
    os.makedirs(path.parent, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            file = _File(descriptor)
            fill(cast(BinaryIO, file))
            file.end()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Bytes as they are."""
    write(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN and infinity are errors, for they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_parquet(path: Path, frame: "pl.DataFrame") -> None:
    """A Parquet file."""
    buffer = io.BytesIO()  # polars writes into a real file behind our back
    frame.write_parquet(buffer)
    write(path, lambda file: file.write(buffer.getbuffer()))


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The same with a `checksum` of everything else in it."""
    return {**value, "checksum": checksum(value)}


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object written with its checksum, which stays in it.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedError: it is not what was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = checksum(value) if isinstance(value, dict) else ""
    except (ValueError, RecursionError) as error:  # 1e999 is a number to its reader, and none to its writer
        raise DamagedError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict) or "checksum" not in value:
        raise DamagedError(f"{path}: expected a JSON object with a checksum")
    if value["checksum"] != found:
        raise DamagedError(f"{path}: the checksum does not fit: the content has changed")
    return value


def checksum(value: dict[str, Any]) -> str:
    """16 hex digits of everything in it but a `checksum`; the order of keys does not matter."""
    rest = {key: part for key, part in value.items() if key != "checksum"}
    canonical = json.dumps(rest, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def rename(path: Path, new: Path) -> None:
    """Give a file another name in the same folder, in the place of whatever has it."""
    os.replace(path, new)
    sync(path.parent)


def quarantine(path: Path, why: object) -> None:
    """Set a file aside that cannot be trusted, beside its place, and say so."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    rename(path, aside)
    log.warning(f"{why}; set aside as {aside.name}")


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
        OSError: the disk is full.
        TimeoutError: the lock was not released in time; names the holder.
    """
    if not enabled:
        yield
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(lock, APPENDING, 0o666))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"{lock}: cannot be written ({error.strerror}): choose another folder") from error
    with _acquire(lock, doing, longest_wait) as file:
        with suppress(OSError):  # a full disk: nothing is lost but the name of the holder
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _acquire(lock: Path, doing: str, longest_wait: float) -> TextIO:
    """The open file, once it is locked."""
    started, told = time.monotonic(), 0.0
    while True:
        file = os.fdopen(os.open(lock, APPENDING, 0o666), "a+")  # anew each time: somebody may have removed it
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
            beat()  # waiting is no hanging: whoever is waited for has to give signs of life
            time.sleep(min(0.05 + waited / 10, 1.0))
        except OSError as error:
            file.close()
            raise ValueError(f"{lock}: this file system has no file locks ({error}): set file_locks=false") from error
        file.close()
