"""What a file is, told by its content, and what a checkpoint of torch names, before torch reads it. Nothing is run.

Torch's own reader is safe from code, but not from a file that was made to use up memory or the stack. Such a file ends
here, and so does a damaged one and one of another program, with an error that says which.
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from torch import _weights_only_unpickler as reader

from recsys_collapse.diagnose.weights.protocol import as_protocol_2, protocol_of

LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, behind 0x80 and the protocol
MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras or TensorFlow)",
    b"\x93NUMPY": "an array of numpy (.npy)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet table",
    b"GGUF": "a GGUF model",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x08\x01\x12": "a SavedModel of TensorFlow",
    **{bytes([8, version, field]): "an ONNX model" for version in range(3, 32) for field in (0x12, 0x3A)},
    **{bytes([0x80, protocol]): "a plain pickle (pickle or joblib)" for protocol in range(2, 6)},
}
SAVE = (
    "expected a file of torch.save or safetensors: load the model where it was trained and torch.save its state_dict()"
)
DEEPEST_TUPLE = 10_000
"""Tuples in each other: Python's stack ends at some 100,000 when their hash is asked for."""
LARGEST_TUPLE = 1_000_000
"""Things in a tuple, those in tuples in it as often as they are there: as many as its hash looks at."""
AGAIN = ": copy it again; if that does not help, torch.save the model's state_dict() again where it was trained"
SHOWN = 8
"""Names in a message."""
COMMON = ("builtins", "collections", "torch", "numpy", "_codecs")
"""Packages whose names say the least."""
COMMANDS = ("subprocess", "commands", "importlib", "runpy", "shutil", "socket", "pty", "ctypes")
"""Modules of Python with nothing in them that a checkpoint could want, beyond those that torch refuses; in protocol 2
some have the names of Python 2."""
RUNNERS = {
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("eval", "exec", "compile", "open")),
    *("io.open", "_io.open"),
}


class CheckpointError(ValueError):
    """A checkpoint cannot be read: which file, what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Names:
    """Of classes and functions that a file of torch asks for, beyond those that torch's weights-only reader takes.

    Attributes:
        unknown: it refuses them by itself.
        blocked: of modules such as `os`, which run commands or write files: refused in any case.
        protocol: of the pickle.
    """

    unknown: set[str]
    blocked: set[str]
    protocol: int = 2


@contextmanager
def trying(path: Path, what: str, advice: str = AGAIN) -> Iterator[None]:
    """Whatever libraries raise on a file becomes a `CheckpointError` that says what is the matter with it."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # a file that another hand made lets its readers raise anything
        lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()[:1]
        why = [] if not lines or "weights_only" in lines[0] else [ascii(lines[0])[1:-1][:200]]
        raise CheckpointError(f"{path}: {what} ({': '.join([type(error).__name__, *why])}){advice}") from error


def listed(names: set[str]) -> str:
    """At most `SHOWN` of names that anybody may have chosen, for a message."""
    foreign_first = sorted(names, key=lambda name: (name.partition(".")[0] in COMMON, name))
    shown = [ascii(name)[1:-1] for name in foreign_first[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name if len(name) <= 80 else f"{name[:77]}..." for name in shown) + more


def kind_of(path: Path) -> str:
    """Which format a file has: "safetensors", "zip" (of torch, or another) or "legacy" (torch's before 1.6).

    Raises:
        CheckpointError: there is no such file, or it is none of these.
        OSError: it cannot be read.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path}: a directory, expected a file (on the command line: or a run directory of this project). A folder "
            "of torch.distributed.checkpoint becomes a file by "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, expected a checkpoint (.ckpt, .pt, .pth, .safetensors)")
    if not path.is_file():
        raise CheckpointError(f"{path}: neither a file nor a directory, expected a checkpoint")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path}: empty, expected a checkpoint: was it copied whole?")
    if start[:4] == b"PK\x03\x04":
        return "zip"
    if start[:1] == b"\x80" and start[2:].startswith(LEGACY):
        return "legacy"
    if start[8:9] == b"{" and not _is_text(start):
        length = int.from_bytes(start[:8], "little")
        if length > size - 8:
            raise CheckpointError(
                f"{path}: begins as a safetensors file with a header of {length:,} bytes and has {size:,} bytes: "
                "it is cut off or damaged, copy it again"
            )
        return "safetensors"
    raise CheckpointError(f"{path}: is {_described(start)}, {SAVE}")


def _described(start: bytes) -> str:
    """What a file that is no checkpoint seems to be, by its first 512 bytes."""
    if start[257:262] == b"ustar":
        return "a tar archive (as torch wrote before 0.1.10; or one to unpack first)"
    for magic, what in MAGIC.items():
        if start.startswith(magic):
            return what
    if _is_text(start):
        return f"text ({start.decode('utf-8', 'ignore')[:40]!a})"
    return f"of an unknown format (it begins with the bytes {start[:8].hex(' ')})"


def _is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a text; the last sign may be cut."""
    text = start.decode("utf-8", "replace").removesuffix("\ufffd")
    return "\ufffd" not in text and all(sign.isprintable() or sign.isspace() for sign in text)


def zip_names(path: Path) -> Names:
    """What a zip file of torch names. Raises whatever `zipfile` raises on a damaged one; `trying` is for that."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        inner = {part.filename.partition("/")[2]: part for part in parts}
        if "data.pkl" not in inner or "constants.pkl" in inner:
            raise CheckpointError(f"{path}: is {_described_zip(inner, parts)}, {SAVE}")
        if len(inner) < len(parts):
            raise CheckpointError(
                f"{path}: has parts of the same name, which torch does not write: it is damaged or forged"
            )
        if min(part.header_offset for part in parts):
            raise CheckpointError(
                f"{path}: is several files in one, of which torch reads the last (so are those in a folder of "
                "torch.distributed.checkpoint): expected one file of torch.save. A folder becomes one by `python -m "
                "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
            )
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED or part.header_offset + part.file_size > size:
                raise CheckpointError(
                    f"{path}: its part {ascii(part.filename)[:80]} is compressed or ends outside the file, which torch "
                    "does not write: it is damaged, or was packed again by another program"
                )
            archive.open(part).close()  # compares the headers before and behind the content
        pickle = archive.read(inner["data.pkl"])  # compares its checksum, which torch does not
        return replace(_names_in(io.BytesIO(as_protocol_2(pickle))), protocol=protocol_of(pickle))


def _described_zip(inner: dict[str, zipfile.ZipInfo], parts: list[zipfile.ZipInfo]) -> str:
    names = [part.filename for part in parts]
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a TorchScript archive or program"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of numpy (.npz)"
    if "model.weights.h5" in names:
        return "a model of Keras"
    return f"a zip archive without a pickle of torch ({', '.join(ascii(name)[:40] for name in names[:3])})"


def legacy_names(path: Path) -> Names:
    """What a file in torch's format before 1.6 names, in the five pickles that it begins with."""
    with path.open("rb") as file:
        found = [_names_in(file) for _ in range(5)]
    return Names(set().union(*(names.unknown for names in found)), set().union(*(names.blocked for names in found)))


def _names_in(file: IO[bytes]) -> Names:
    """What one pickle names; the file is then behind it."""
    start = file.tell()
    names = reader.get_globals_in_pkl(file) - set(reader._get_allowed_globals())
    end = file.tell()
    file.seek(start)
    _check_nesting(file.read(end - start))
    modules = {*reader._blocklisted_modules, *COMMANDS}
    blocked = {name for name in names if name.partition(".")[0] in modules or name in RUNNERS}
    return Names(names - blocked, blocked)


def _check_nesting(pickle: bytes) -> None:
    """Raise if the hash of a tuple would end Python's stack or take for ever: goes through it, and makes nothing.

    Sixty tuples, each of which holds the one before it twice, are 2^60 things to look at in a few hundred bytes.
    """
    sizes: list[tuple[int, int]] = []  # of what is on the reader's stack: tuples in each other, and things in them
    below: list[list[tuple[int, int]]] = []  # the stacks under the marks
    memo: dict[Any, tuple[int, int]] = {}
    for code, argument, _ in pickletools.genops(pickle):
        if code.name == "MARK":
            below.append(sizes)
            sizes = []
        elif code.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = sizes[-1]
        elif code.name in ("BINGET", "LONG_BINGET"):
            sizes.append(memo[argument])
        else:
            taken, count = list[tuple[int, int]](), len(code.stack_before)
            if pickletools.stackslice in code.stack_before:
                taken, sizes, count = sizes, below.pop(), count - 2
            taken = taken + [sizes.pop() for _ in range(count)]
            made = (0, 1)
            if code.name.startswith("TUPLE"):
                made = (max((depth for depth, _ in taken), default=0) + 1, sum(size for _, size in taken) + 1)
            sizes += [made for _ in code.stack_after]
            if made[0] > DEEPEST_TUPLE or made[1] > max(LARGEST_TUPLE, len(pickle)):
                raise ValueError(f"tuples in each other, more than {DEEPEST_TUPLE:,} deep or {LARGEST_TUPLE:,} in all")
