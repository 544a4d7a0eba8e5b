"""Files of a user: finding them, hashing their content, reading their bytes decompressed."""

import bz2
import glob
import gzip
import hashlib
import json
import lzma
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from difflib import get_close_matches
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from recsys_collapse.runs.durable import write_json
from recsys_collapse.runs.secrets import scrub

COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
MAGIC = {".gz": b"\x1f\x8b", ".zst": rb".(\xb5/\xfd|\*M\x18)", ".zip": b"PK", ".bz2": b"BZh", ".xz": b"\xfd7zXZ"}
PIECE = 1 << 20  # the most bytes that a step decompresses to; with zstd about twice that
ZSTD_STEP = 64  # compressed bytes of a step: zstandard cannot bound its output, and 4 bytes may stand for 128 KiB
TICK = 100_000_000  # ns; two changes may share one ctime, so the hash of a file this fresh is not remembered

_hashes: dict[tuple[str, str], list[Any]] = {}  # algorithm, absolute path: [size, mtime_ns, ctime_ns, inode, hash]


def kind(path: Path) -> str:
    """The lower-case ending without the compression: ".csv" for "a.csv.gz", "" for "train" and "train.gz"."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def find_files(key: str, value: str | list[str], folder: Path | None = None) -> list[Path]:
    """The files that the option `key` names: a path, a pattern (its files sorted by name) or a list of both, in order.

    Relative ones start at `folder` or the current folder. A name that exists is no pattern; `*` finds no hidden files.

    Raises:
        ValueError: nothing is there, or a folder, an empty file, or the same file twice.
    """
    found: dict[Path, tuple[str, Path]] = {}  # where it really is: how it was named, its path
    for item in [value] if isinstance(value, str) else value:
        try:
            for path in _matches(f"{key}={item}", item, folder or Path()):
                if (real := path.resolve()) in found:
                    raise ValueError(f"{key}: {found[real][0]} and {item} both name {real}; expected every file once")
                found[real] = (item, path)
        except OSError as error:
            raise ValueError(f"{key}={item}: cannot be looked up ({error}); expected a readable file") from error
    if not found:
        raise ValueError(f"{key}={value}: names no file; expected a path, a pattern such as part-*.csv, or a list")
    return [path for _, path in found.values()]


def _matches(named: str, item: str, folder: Path) -> list[Path]:
    path = folder / os.path.expanduser(item)  # noqa: PTH111 - the other one fails for unknown users
    matches = [path] if path.exists() or path.is_symlink() else []
    base = next((parent for parent in path.parents if parent.is_dir()), path)
    rest = path.relative_to(base)
    if not matches and glob.has_magic(str(rest)):
        names = glob.glob(str(glob.escape(str(base)) / rest), recursive=True)  # noqa: PTH207 - the other finds hidden files
        matches = [Path(name) for name in sorted(names) if not Path(name).is_dir()]
    if not matches:
        there = {name.lower(): name for name in [child.name for child in base.iterdir()][:10_000]}
        near = [there[name] for name in get_close_matches(rest.parts[0].lower(), there)]
        hint = f"has {' and '.join(near)}" if near else f"holds {', '.join(sorted(there.values())[:5]) or 'nothing'}"
        looked = f"looked for {path.absolute()} (the current folder is {Path.cwd()})"
        raise ValueError(f"{named}: no such file; {looked}; {base.absolute()} {hint}")
    for match in matches:
        where = f"{named}: {match.absolute()}"
        if match.is_dir():
            raise ValueError(f"{where} is a folder; expected a file, or {glob.escape(str(match))}/* for its files")
        if not match.is_file():
            raise ValueError(f"{where} is a broken link or no regular file; expected a file to read more than once")
        if match.stat().st_size == 0:
            raise ValueError(f"{where}: the file is empty; expected rows: download or write it again, or leave it out")
    return matches


class ByteStream(AbstractContextManager["ByteStream"]):
    """The bytes of a file, decompressed if its name ends in one of `COMPRESSED`. ValueError: it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = 0.0  # share of the file, as it lies on the disk, that was read so far
        self._size = _touched(path)[0]
        self._file = path.open("rb")
        self._pieces = _pieces(path.suffix.lower(), self._file)
        self._rest, self._position = memoryview(b""), 0  # of the decompressed bytes
        self._error: ValueError | None = None

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only where the content ends, and b"" after that.

        Raises:
            ValueError: the file is damaged, cut off, or not what its name says; from then on at every call.
        """
        parts: list[memoryview] = []
        missing = size
        while missing > 0 and (self._rest or self._advance()):
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def _advance(self) -> bool:
        if self._error:
            raise self._error
        try:
            piece = next(self._pieces, b"")
        except Exception as error:  # every library has its own
            where = f"{self.path}: after {self._position:,} decompressed bytes: {str(error) or type(error).__name__}"
            advice = "download it again, or decompress it yourself and name the result"
            self._error = ValueError(f"{where}; the file is damaged, cut off or not what its name says: {advice}")
            raise self._error from error
        self._rest, self._position = memoryview(piece), self._position + len(piece)
        self.done = min(1.0, self._file.tell() / self._size) if piece else 1.0
        return bool(piece)


def _pieces(ending: str, file: BufferedReader) -> Iterator[bytes]:
    """The content in parts of bounded size; unlike bz2.open and lzma.open this refuses other bytes at the end."""
    if ending in MAGIC and not re.match(MAGIC[ending], start := file.peek(8)[:8]):
        raise ValueError(f"no {ending} file, for it begins with {start!r}")
    new: Callable[[], Any] = bz2.BZ2Decompressor
    step, limit = PIECE // 4, [PIECE]
    if ending == ".xz":
        new = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=1 << 28)  # zstandard has a limit of its own
    elif ending == ".zst":
        import zstandard

        new, step, limit = zstandard.ZstdDecompressor().decompressobj, ZSTD_STEP, []
    elif ending != ".bz2":
        content: Any = _unzip(file) if ending == ".zip" else gzip.GzipFile(fileobj=file) if ending == ".gz" else file
        yield from iter(lambda: content.read(PIECE), b"")
        return
    data = file.read(step)
    while data:
        stream, hungry = new(), True
        while not stream.eof:
            data = data or (file.read(step) if hungry else b"")
            if piece := stream.decompress(data, *limit):
                yield piece
            elif hungry and not data and not stream.eof:
                raise EOFError("the file ends too early")
            data, hungry = b"", getattr(stream, "needs_input", True)
        data = stream.unused_data or file.read(step)
        while ending == ".xz" and data[:1] == b"\0":  # padding
            data = data.lstrip(b"\0") or file.read(step)


def _unzip(file: BufferedReader) -> Any:
    """The one member, whose CRC zipfile checks at its end; zipfile would also allow other bytes around the archive."""
    archive = zipfile.ZipFile(file)
    file.seek(-22 - len(archive.comment), os.SEEK_END)
    end, entries = file.read(22), archive.infolist()
    whole = end[:4] == b"PK\5\6" and end[20:] == len(archive.comment).to_bytes(2, "little")
    if not whole or min((entry.header_offset for entry in entries), default=0) != 0:
        raise EOFError("the archive does not begin and end with the file")
    members = [entry for entry in entries if not entry.is_dir()]
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:10]) or "none"
        raise ValueError(f"expected one file in it, found {len(members)} ({names})")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("expected plain deflate")  # zipfile reads bz2 and lzma without a bound of the output
    return archive.open(members[0])


def content_hash(
    path: Path,
    memo: Path | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
    algorithm: str = "sha256",
) -> str:
    """SHA-256 (or `md5`) of a file's bytes in hex, remembered in this process as long as the file is not touched.

    `memo` is a JSON file that remembers it across processes, unless the path has a secret of the environment; whatever
    is wrong with it only costs time. `on_bytes` is called with bytes done and in all after every block, not for what is
    remembered.

    Raises:
        ValueError: the file cannot be read, or changes meanwhile.
    """
    if memo is not None and algorithm != "sha256":
        memo = memo.with_name(f"{algorithm}_{memo.name}")
    key, started, touched, remembered = str(path.absolute()), time.time_ns(), _touched(path), _read_memo(memo)
    entry = next((e for e in (_hashes.get((algorithm, key)), remembered.get(key)) if e and e[:4] == touched), None)
    if entry is None:
        entry = [*touched, _digest(path, hashlib.new(algorithm, usedforsecurity=False), touched, on_bytes)]
        if started - touched[2] < TICK:
            return entry[4]
    _hashes[algorithm, key] = entry
    if memo is not None and remembered.get(key) != entry and scrub(key) == key:
        kept = {name: old for name, old in _read_memo(memo).items() if os.path.exists(name)}  # noqa: PTH110 - never fails
        with suppress(OSError):
            write_json(memo, kept | {key: entry})
    return entry[4]


def _digest(path: Path, digest: Any, touched: list[int], on_bytes: Callable[[int, int], None] | None) -> str:
    with path.open("rb") as file:
        while file.tell() <= touched[0] and (block := file.read(4 * PIECE)):  # one that grows would never end
            digest.update(block)
            if on_bytes:
                on_bytes(file.tell(), touched[0])
        done = file.tell()
    if _touched(path) != touched or done != touched[0]:
        raise ValueError(f"{path}: the file changed while it was read; wait until it is written, then start again")
    return digest.hexdigest()


def _touched(path: Path) -> list[int]:
    """What changes with the content of a readable file; nobody can set ctime back."""
    try:
        path.open("rb").close()
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{path.absolute()}: cannot be read ({error.strerror}); expected a readable file") from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_memo(memo: Path | None) -> dict[str, list[Any]]:
    """The entries of the right form by absolute path, as in `_hashes`."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        entries = json.loads(memo.read_bytes()).items() if memo else ()
        return {k: e for k, e in entries if isinstance(e, list) and re.fullmatch(r"\['[0-9a-f]{32,64}'\]", str(e[4:]))}
    return {}
