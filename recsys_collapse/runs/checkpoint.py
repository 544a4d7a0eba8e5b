"""Checkpoints of a run: written whole, checked on reading, and nothing but tensors and plain values in them.

`checkpoints/best.ckpt`: weights (`state_dict`) of the epoch with the highest validation AUC; kept. `last.ckpt` and
`previous.ckpt`: all that training needs to go on after an epoch; removed once the run is finished.
"""

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from recsys_collapse.runs.durable import DamagedError, quarantine, remove, rename, write
from recsys_collapse.runs.records import RESUMABLE

log = logging.getLogger(__name__)


def folder(run_dir: Path) -> Path:
    """Where a run's checkpoints lie."""
    return run_dir / "checkpoints"


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """In torch's format, whose every part carries a CRC-32."""
    write(path, lambda file: torch.save(content, file))


def read_checkpoint(path: Path, run_id: str | None = None) -> dict[str, Any]:
    """A checkpoint on the CPU; nothing in it can run code.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedError: it is not what was written, holds more than tensors and plain values, or is of another run than
            `run_id`.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            wrong = parts.testzip()
        if wrong is not None:
            raise DamagedError(f"the content of {wrong} has changed")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes its readers raise anything
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
            content = read_checkpoint(path, run_id)
            if not _has_best(run_dir, run_id, content, best_epoch(content)):
                log.warning(f"{path}: not used: best.ckpt is not that of its epoch {best_epoch(content)}")
                continue
        except (DamagedError, KeyError, TypeError) as error:
            quarantine(path, error)
            continue
        return path, content
    return None


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


def remove_resumable(run_dir: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in RESUMABLE:
        remove(run_dir / name)
