"""Checkpoints of a run: written whole, checked on reading, and nothing but tensors and plain values in them.

`checkpoints/best.ckpt`: weights (`state_dict`) of the epoch with the highest validation AUC; kept. `last.ckpt` and
`previous.ckpt`: all that training needs to go on after an epoch; removed once the run is finished.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from recsys_collapse.runs.durable import DamagedError, quarantine, rename, write
from recsys_collapse.runs.records import RESUMABLE, kind_of

log = logging.getLogger(__name__)
LAYOUT = 1
"""Of checkpoints to go on from: another number, and they are not understood."""
NEEDED = ("run_id", "epoch", "global_step", "state_dict", "optimizer_states", "loops", "callbacks")
PIECE = 1 << 22  # bytes read at once


def folder(run_dir: Path) -> Path:
    """Where a run's checkpoints lie."""
    return run_dir / "checkpoints"


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """In torch's format, and behind it the SHA-256 of all that, in 32 bytes that torch does not look at."""

    def fill(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        torch.save(content, cast(BinaryIO, hashing))
        file.write(hashing.digest.digest())

    write(path, fill)


class _Hashing:
    """A file for `torch.save`, and the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        pass


def _is_whole(path: Path) -> bool:
    """Whether a file ends with the digest of all before.

    The CRC-32 of its parts would not do: one bit beside them makes torch read zeros in the place of a tensor.
    """
    digest, left = hashlib.sha256(), path.stat().st_size - 32
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, PIECE))):
            digest.update(piece)
            left -= len(piece)
        return left == 0 and file.read() == digest.digest()


def read_checkpoint(path: Path, run_id: str | None = None) -> dict[str, Any]:
    """A checkpoint on the CPU; nothing in it can run code.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedError: it is not what was written, holds more than tensors and plain values, or is of another run than
            `run_id`.
    """
    if not _is_whole(path):
        raise DamagedError(f"{path}: the checksum does not fit: its end is missing or its content has changed")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that another hand made lets its readers raise anything
        if isinstance(error, OSError) or kind_of(error) == "oom":
            raise
        reason = str(error).strip().splitlines()[:1]
        raise DamagedError(f"{path}: cannot be read ({': '.join([type(error).__name__, *reason])})") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise DamagedError(f"{path}: expected a checkpoint with a state_dict")
    if run_id is not None and found.get("run_id") != run_id:
        raise DamagedError(f"{path}: is of run {found.get('run_id')}, expected {run_id}")
    return found


def save_last(run_dir: Path, content: dict[str, Any]) -> None:
    """Write `last.ckpt`; the one before becomes `previous.ckpt`, so that there is always a whole one."""
    last = folder(run_dir) / "last.ckpt"
    if last.exists():
        rename(last, last.with_name("previous.ckpt"))
    write_checkpoint(last, content)


def save_best(run_dir: Path, content: dict[str, Any]) -> None:
    """Write `best.ckpt`: the weights of a checkpoint, its epoch and its run."""
    write_checkpoint(
        folder(run_dir) / "best.ckpt", {key: content[key] for key in ("run_id", "epoch", "global_step", "state_dict")}
    )


def read_best(run_dir: Path, run_id: str) -> dict[str, Any]:
    """`best.ckpt`. Raises as `read_checkpoint`."""
    return read_checkpoint(folder(run_dir) / "best.ckpt", run_id)


def find(run_dir: Path, run_id: str, best_epoch: Any) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint from which the run goes on, newest first; None: from its start. Damaged ones are set aside.

    Args:
        run_dir: the run's directory.
        run_id: of the run; checkpoints of others are not used.
        best_epoch: tells from a checkpoint which epoch was the best until then.
    """
    for name in ("last.ckpt", "previous.ckpt"):
        path = folder(run_dir) / name
        if not path.exists():
            continue
        try:
            if not path.is_file():
                raise DamagedError(f"{path}: expected a file")
            content = read_checkpoint(path, run_id)
            _check_layout(path, content)
            if not _has_best(run_dir, run_id, content, best_epoch(content)):
                log.warning(f"{path}: not used: best.ckpt is not that of its epoch {best_epoch(content)}")
                continue
        except (DamagedError, LookupError, TypeError, AttributeError) as error:
            quarantine(path, error if isinstance(error, DamagedError) else f"{path}: {type(error).__name__}: {error}")
            continue
        return path, content
    return None


def _check_layout(path: Path, content: dict[str, Any]) -> None:
    if content.get("layout") != LAYOUT:
        raise DamagedError(f"{path}: layout {content.get('layout')}, expected {LAYOUT}: of another version")
    if missing := [key for key in NEEDED if key not in content]:
        raise DamagedError(f"{path}: {', '.join(missing)} missing")


def misfit(content: dict[str, Any], module: torch.nn.Module) -> str | None:
    """Why the weights of a checkpoint are not those of a module, whose code may have changed; None if they fit."""
    theirs, ours = (
        {name: tuple(tensor.shape) for name, tensor in state.items()}
        for state in (content["state_dict"], module.state_dict())
    )
    different = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if not different:
        return None
    name = different[0]
    return f"{name} is {theirs.get(name)} there, the model has {ours.get(name)}: its code has changed"


def set_aside(run_dir: Path, why: str) -> None:
    """Quarantine all from which training could go on."""
    for name in RESUMABLE:
        if (run_dir / name).exists():
            quarantine(run_dir / name, f"{run_dir / name}: {why}")


def _has_best(run_dir: Path, run_id: str, content: dict[str, Any], best_epoch: int) -> bool:
    """Whether the weights of the best epoch are there; those of the checkpoint itself are written if they are it."""
    try:
        if read_best(run_dir, run_id)["epoch"] == best_epoch:
            return True
    except FileNotFoundError:
        pass
    except DamagedError as error:
        quarantine(folder(run_dir) / "best.ckpt", error)
    if content["epoch"] != best_epoch:
        return False
    save_best(run_dir, content)  # the end came between writing the one and the other
    return True
