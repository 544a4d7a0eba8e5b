"""The named tensors of a checkpoint file that anybody may have made; nothing of the file is run.

`read_weights` tells the format by the content. Tensors of safetensors files and of torch's zip files stay in the file:
a table takes memory only for the rows that are looked at. Torch's files are read by its weights-only reader, which
knows tensors and plain values and never imports a name that a file gives. What it checks in a file before torch sees
it is in `archive.py`; where in it the weights are, in `places.py`.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import clear_safe_globals, get_safe_globals, safe_globals

from recsys_collapse.diagnose.weights.archive import (
    CheckpointError,
    Names,
    kind_of,
    legacy_names,
    listed,
    trying,
    zip_names,
)
from recsys_collapse.diagnose.weights.places import AsDict, Skipped, children_of, choose
from recsys_collapse.diagnose.weights.protocol import read_later_protocol

log = logging.getLogger(__name__)
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
MOST = 1000  # objects of so many classes are skipped; each makes the reader slower
SHARDED = {"DTensor", "ShardedTensor", "ShardedTensorBase"}


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        path: the file.
        format: "torch" or "safetensors".
        tensors: by their names in the state dict, in the file's order, on the CPU (or "meta": without numbers),
            detached; of any dtype and layout. They lie in the file, except in torch's format before 1.6. The names
            are the file's: any characters, any length.
        values: plain values (str, int, float, bool) beside the tensors at the top; of safetensors, its metadata.
        state: the key under which the tensors were found; "" if they are the top level.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    state: str


def read_weights(path: Path, state: str | None = None, skip_objects: bool = False) -> Weights:
    """The tensors of a safetensors file or of one that `torch.save` wrote (state dict, checkpoint, whole module).

    Args:
        path: the file; its suffix does not matter.
        state: the key under which the tensors are, with dots for keys in keys and "" for the top level; None: the top
            level if it has tensors of one or more dimensions, else the first of `KEYS` that has tensors, else the only
            one that has and is not an optimizer's.
        skip_objects: read what is beside objects of classes that torch does not take for plain; an empty placeholder
            is in place of each. What it was to be made of is kept, so that the tensors of a whole module are found.

    Raises:
        ValueError: there is no such file, it is none of these, it is damaged, it holds objects and `skip_objects` is
            not set, or no tensors are found or no single place for them. The message says what to do.
    """
    path = Path(path)
    with trying(path, "cannot be read", advice=""):
        kind = kind_of(path)
    if kind == "safetensors":
        tensors, values = _read_safetensors(path)
        if state:
            raise CheckpointError(
                f"{path}: a safetensors file has one level, so there is no {state!r}: leave out --state"
            )
        return Weights(path, kind, _without_prefixes(tensors), values, "")
    content = _read_torch(path, kind, skip_objects)
    values = {key: value for key, value in children_of(content).items() if type(value) in (str, int, float, bool)}
    where, tensors = choose(path, content, state)
    _check_origin(path, tensors)
    return Weights(path, "torch", _without_prefixes(tensors), values, where)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(
            f"{path}: a safetensors file, and the library for it is not installed: pip install safetensors"
        ) from error
    with trying(path, "is damaged or no safetensors file"):
        with safe_open(path, framework="pt") as file:  # checks that the tensors are side by side in the file
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
            values = dict(file.metadata() or {})
        with path.open("rb") as header:
            length = int.from_bytes(header.read(8), "little")
            json.loads(header.read(length), object_pairs_hook=_without_doubles)
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensor, expected the weights of a model")
    return tensors, values


def _without_doubles(pairs: list[tuple[str, Any]]) -> None:
    """Raise if a name is there twice: readers differ in which of the two they take."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("two entries of the header have the same name")


def _stand_in(name: str) -> Callable[..., Any]:
    """What takes the place of a class or function: a class of its own, since torch's reader finds them by equality."""
    if name == "collections.deque":  # torch's reader appends to real lists only

        def make(*args: Any) -> list[Any]:
            return []

        return make
    return AsDict(name, (Skipped,), {})


@contextmanager
def _allowing(names: set[str]) -> Iterator[None]:
    """Torch's reader with stand-ins for these names, and without what other code has declared safe."""
    before = get_safe_globals()
    clear_safe_globals()
    try:
        with safe_globals([(_stand_in(name), name) for name in sorted(names)]):
            yield
    finally:
        clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _read_torch(path: Path, kind: str, skip_objects: bool) -> Any:
    """What a file of torch holds: tensors, plain values, and `Skipped` in place of objects."""
    with trying(path, "is damaged or was not written by torch.save"), _allowing(set()):
        names = zip_names(path) if kind == "zip" else legacy_names(path)
    _refuse(path, names, skip_objects)
    if names.unknown:
        log.warning(f"{path}: empty placeholders in place of objects of {listed(names.unknown)}")
    if kind == "legacy":
        log.warning(f"{path}: in torch's format before 1.6: all of it is read into memory")
    elif path.suffix == ".safetensors":  # by which torch.load would choose the reader
        raise CheckpointError(f"{path}: is a file of torch, not of safetensors: give it the suffix .pt")
    with trying(path, "is damaged, or torch cannot read it without running it"), _allowing(names.unknown):
        if names.protocol > 2:
            return read_later_protocol(path)
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=kind == "zip")


def _refuse(path: Path, names: Names, skip_objects: bool) -> None:
    """Raise if a file names what is not to be read."""
    if names.blocked:
        raise CheckpointError(
            f"{path}: names {listed(names.blocked)}, with which a file can run commands on this machine. "
            "Nothing of it was run. It is not read, with --skip-objects neither: do not trust where it came from"
        )
    if sharded := {name for name in names.unknown if name.rpartition(".")[2] in SHARDED}:
        raise CheckpointError(
            f"{path}: holds parts of tables that several processes share ({listed(sharded)}), expected whole tables: "
            "gather the full state dict where the model is trained (torch.distributed.checkpoint.state_dict, "
            "full_state_dict=True) and save that"
        )
    if names.unknown and not skip_objects:
        raise CheckpointError(
            f"{path}: holds objects beside tensors and plain values: {listed(names.unknown)}. Nothing of it was run. "
            "--skip-objects reads the tensors beside them, with an empty placeholder in place of each object; "
            "nothing is run then either"
        )
    if len(names.unknown) > MOST:
        raise CheckpointError(
            f"{path}: names {len(names.unknown):,} classes and functions ({listed(names.unknown)}), expected at most "
            f"{MOST:,}: it was not made by training a model"
        )


def _check_origin(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise if a tensor has more numbers than the file: it would take memory that nothing in the file fills."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta:
            held = tensor.untyped_storage().nbytes()
            if held > size:
                raise CheckpointError(
                    f"{path}: {listed({name})} takes {held:,} bytes and the file has {size:,}, expected its numbers in "
                    "the file: it is damaged or forged"
                )


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what a wrapper of the model put before every name."""
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
