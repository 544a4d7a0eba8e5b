"""The files every run leaves (DESIGN, "Files every run leaves"), and what makes a run a finished one.

A run is finished if and only if its `result.json` is valid; it is written last.
"""

import errno
import json
import logging
import time
import traceback
from pathlib import Path
from typing import Any

from recsys_collapse.runs.durable import DamagedError, read_sealed, remove, seal, write_json
from recsys_collapse.runs.heartbeat import NAME as HEARTBEAT
from recsys_collapse.runs.secrets import scrub_tree
from recsys_collapse.runs.version import code_version

log = logging.getLogger(__name__)

SCHEMA = 1
REQUIRED = (
    "schema",
    "run_id",
    "run_name",
    "checksum",
    "identity",
    "dataset",
    "model",
    "embed",
    "scale",
    "num_sets",
    "embed_size",
    "seed",
    "val_auc",
    "test_auc",
    "test_logloss",
    "best_epoch",
    "parameters",
    "information_abundance",
    "wall_seconds",
)
RESUMABLE = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
"""What only an unfinished run needs."""
FILES = (
    "config.yaml",
    "epochs.jsonl",
    "*.parquet",  # scores, and what callbacks measured
    "figures/*.png",
    "checkpoints/best.ckpt",
    *RESUMABLE,
    "result.json",
    "failure.json",
)


def read_result(run_dir: Path, run_id: str | None = None) -> dict[str, Any] | None:
    """The result of a finished run; None if the run is not finished, or the result is not that of `run_id`."""
    try:
        return _checked(run_dir, run_id)
    except (OSError, DamagedError):
        return None


def _checked(run_dir: Path, run_id: str | None) -> dict[str, Any]:
    path = run_dir / "result.json"
    result = read_sealed(path)
    if missing := [key for key in REQUIRED if key not in result]:
        raise DamagedError(f"{path}: {', '.join(missing)} missing")
    if result["schema"] != SCHEMA:
        raise DamagedError(f"{path}: schema {result['schema']}, expected {SCHEMA}")
    if result["run_name"] != run_dir.resolve().name:
        raise DamagedError(f"{path}: is of run {result['run_name']}, not of its folder: rename the folder so")
    if run_id not in (None, result["run_id"]):
        raise DamagedError(f"{path}: is of run {result['run_id']}, expected {run_id}")
    return result


def damage(run_dir: Path, run_id: str | None = None) -> str | None:
    """What is wrong with a result that is there and cannot be trusted; None if there is none, or nothing is wrong."""
    try:
        _checked(run_dir, run_id)
    except FileNotFoundError:
        return None
    except (OSError, DamagedError) as error:
        return str(error)
    return None


def tidy(run_dir: Path) -> None:
    """Remove what only an unfinished or failed run has; what cannot be removed harms nobody, and is said.

    A run can fail, or be killed, between its result and this.
    """
    for name in (*RESUMABLE, "failure.json", HEARTBEAT):
        try:
            remove(run_dir / name)
        except OSError as error:
            log.warning(f"{run_dir / name}: cannot be removed ({error}); the run is finished and does not need it")


def finished_result(run_dir: Path) -> dict[str, Any]:
    """The result of a finished run.

    Raises:
        ValueError: it is no directory of a finished run, or is damaged.
    """
    result = read_result(run_dir)
    if result is None:
        why = damage(run_dir) or "there is no result.json; expected the directory of a finished run"
        raise ValueError(f"run={run_dir}: {why}")
    return result


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    """`result.json`, last of all, with a checksum: the run is finished."""
    write_json(run_dir / "result.json", seal(scrub_tree(result)))


def read_failure(run_dir: Path) -> dict[str, Any] | None:
    """Why a run failed; None if it did not."""
    try:
        failure = json.loads((run_dir / "failure.json").read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return failure if isinstance(failure, dict) and isinstance(failure.get("reason"), str) else None


def clear(run_dir: Path, keep_checkpoints: bool = False) -> None:
    """Remove what an unfinished or failed run left, so that its next try starts clean, or goes on from a checkpoint."""
    for pattern in ("failure.json", "result.json") if keep_checkpoints else FILES:
        for path in run_dir.glob(pattern):
            remove(path)
    for pattern in (".*-????????", "*/.*-????????"):  # unfinished files of a process that was killed
        for path in run_dir.glob(pattern):
            remove(path)


def kind_of(error: BaseException) -> str:
    """`diverged`, `oom`, `disk_full` or `raised`."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    no_memory = "can't allocate memory" in str(error)  # what torch raises on a CPU is a plain RuntimeError
    if no_memory or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    return getattr(error, "kind", "raised")


def write_failure(run_dir: Path, error: BaseException) -> None:
    """`failure.json` of an error: its kind and reason, step and learning rate where known, the traceback."""
    write_reason(
        run_dir,
        kind_of(error),
        f"{type(error).__name__}: {error}",
        step=getattr(error, "step", None),
        lr=getattr(error, "lr", None),
        traceback="".join(traceback.format_exception(error)),
    )


def write_reason(run_dir: Path, kind: str, reason: str, **more: Any) -> None:
    """`failure.json`. A disk that is full has no place for it: then it is only logged."""
    failure = {
        "schema": SCHEMA,
        "run_name": run_dir.name,
        "kind": kind,
        "reason": reason,
        "step": None,
        "lr": None,
        "traceback": "",
        **more,
        "code_version": code_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        write_json(run_dir / "failure.json", scrub_tree(failure))
    except OSError as error:
        log.error(f"{run_dir / 'failure.json'}: cannot be written ({error}); the run failed: {reason}")
