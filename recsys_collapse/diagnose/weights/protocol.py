"""Pickles of protocol 3 to 5, as RecBole writes them, in protocol 2: all that torch's weights-only reader reads.

A pickle is a list of instructions. They are written anew, one by one, and none is followed; whatever comes out is for
torch's weights-only reader, which alone decides what is made of it. Bytes become text, and frozen sets of protocols 4
and 5 tuples, both of which nobody looks at here.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import _weights_only_unpickler as reader

TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
INSTEAD = {"FROZENSET": b"t", "FRAME": b"", "PROTO": b""}


def protocol_of(pickle: bytes) -> int:
    """The protocol that a pickle says it has; 0 if it says nothing."""
    return pickle[1] if pickle[:1] == b"\x80" and len(pickle) > 1 else 0


def as_protocol_2(pickle: bytes) -> bytes:
    """The same pickle in protocol 2, or itself if it is of protocol 2 or below.

    Raises:
        ValueError: it is damaged, or has instructions that Python's own pickler does not write for plain values.
    """
    if protocol_of(pickle) <= 2:
        return pickle
    written = [b"\x80\x02"]
    held: list[_Text] = []  # back: a class may be named by the last two texts
    memo: dict[int, _Text] = {}
    remembered = 0
    for code, argument, instruction in _instructions(pickle):
        if code.name in TEXTS or code.name in BYTES:
            held.append(_Text(argument if code.name in TEXTS else bytes(argument).decode("latin-1")))
        elif code.name == "MEMOIZE" or code.name in PUTS:
            number = remembered if code.name == "MEMOIZE" else argument
            remembered += 1
            if held:
                memo[number] = replace(held[-1], number=number)
                held[-1] = memo[number]
            else:
                memo.pop(number, None)
                written.append(_put(number))
        elif code.name in GETS and argument in memo:
            held.append(memo[argument])
        elif code.name == "STACK_GLOBAL":
            written += [*_write(held[:-2]), _global([one.text for one in held[-2:]])]
            held = []
        else:
            written += [*_write(held), INSTEAD.get(code.name, instruction)]
            held = []
    return b"".join(written)


@dataclass
class _Text:
    """A text; with the number under which it is remembered, and whether it is in what was written."""

    text: str
    number: int | None = None
    is_written: bool = False


def _instructions(pickle: bytes) -> Iterator[tuple[Any, Any, bytes]]:
    """Every instruction: what it is, its argument, its bytes."""
    before: tuple[Any, Any, int] | None = None
    for code, argument, position in pickletools.genops(pickle):
        if before is not None:
            yield before[0], before[1], pickle[before[2] : position]
        before = code, argument, position or 0
    if before is not None:
        yield before[0], before[1], pickle[before[2] :]


def _write(texts: Iterable[_Text]) -> Iterator[bytes]:
    """Texts onto the stack; those that are remembered are written out once, or a small pickle would become large."""
    for one in texts:
        if one.is_written:
            yield b"j" + struct.pack("<I", one.number)
            continue
        encoded = one.text.encode("utf-8", "surrogatepass")
        yield b"X" + struct.pack("<I", len(encoded)) + encoded
        if one.number is not None:
            yield _put(one.number)
            one.is_written = True


def _put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def _global(names: list[str]) -> bytes:
    if len(names) < 2 or any("\n" in name for name in names):
        raise ValueError("a class is named in a way that no pickler writes")
    return b"c" + "\n".join([*names, ""]).encode()


def read_later_protocol(path: Path) -> Any:
    """What `torch.load(path, weights_only=True, mmap=True)` gives of the same file in protocol 2.

    Args:
        path: a zip file of torch, of which `archive.zip_names` has found nothing to say.

    Raises:
        Exception: whatever the readers raise on a damaged file.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
        if "byteorder" in parts and archive.read(parts["byteorder"]) != b"little":
            raise ValueError("numbers with the highest byte first")
        whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        pickle = as_protocol_2(archive.read(parts["data.pkl"]))
        try:
            return _Unpickler(pickle, file, parts, whole).load()
        finally:
            torch._utils._validate_loaded_sparse_tensors()  # as torch.load does; it also forgets them


class _Unpickler(reader.Unpickler):
    """Torch's weights-only reader, with numbers that stay where they lie in a mapped file."""

    def __init__(self, pickle: bytes, file: BinaryIO, parts: dict[str, zipfile.ZipInfo], whole: Any) -> None:
        super().__init__(io.BytesIO(pickle), encoding="utf-8")
        self.zip_file, self.parts, self.whole = file, parts, whole
        self.loaded: dict[str, torch.TypedStorage] = {}

    def persistent_load(self, saved_id: Any) -> torch.TypedStorage:
        """The storage that a pickle names."""
        _, kind, key, _, numel = saved_id
        if key not in self.loaded:
            dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
            part = self.parts[f"data/{key}"]
            if not 0 <= numel * dtype.itemsize <= part.file_size:
                raise ValueError(f"{numel} numbers are said to be in {part.file_size} bytes")
            start = self._start(part)
            storage = self.whole[start : start + numel * dtype.itemsize]
            self.loaded[key] = torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
        return self.loaded[key]

    def _start(self, part: zipfile.ZipInfo) -> int:
        """Where the content of a part begins: behind its header, whose last two fields are lengths."""
        self.zip_file.seek(part.header_offset + 26)
        return part.header_offset + 30 + sum(struct.unpack("<HH", self.zip_file.read(4)))
