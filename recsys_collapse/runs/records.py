"""The files every run leaves (DESIGN, "Files every run leaves"), and what makes a run a finished one.

A run is finished if and only if its `result.json` is valid; it is written last.
"""

import json
import time
import traceback
from pathlib import Path
from typing import Any

from recsys_collapse.runs.durable import write_json

SCHEMA = 1
REQUIRED = (
    "schema",
    "run_id",
    "run_name",
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
FILES = (
    "config.yaml",
    "epochs.jsonl",
    "*.parquet",  # scores, and what callbacks measured
    "figures/*.png",
    "checkpoints/best.ckpt",
    "result.json",
    "failure.json",
)


def read_result(run_dir: Path, run_id: str | None = None) -> dict[str, Any] | None:
    """The result of a finished run; None if the run is not finished, or the result is not that of `run_id`."""
    try:
        result = json.loads((run_dir / "result.json").read_text())
    except (OSError, ValueError):
        return None
    valid = isinstance(result, dict) and all(key in result for key in REQUIRED) and result["schema"] == SCHEMA
    return result if valid and run_id in (None, result["run_id"]) else None


def read_failure(run_dir: Path) -> dict[str, Any] | None:
    """Why a run failed; None if it did not."""
    try:
        return json.loads((run_dir / "failure.json").read_text())
    except (OSError, ValueError):
        return None


def clear(run_dir: Path) -> None:
    """Remove what an unfinished or failed run left, so that its next try starts clean."""
    for pattern in FILES:
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)


def write_failure(run_dir: Path, error: BaseException) -> None:
    """`failure.json`: reason, step and learning rate where the error knows them, and the traceback."""
    write_json(
        run_dir / "failure.json",
        {
            "schema": SCHEMA,
            "run_name": run_dir.name,
            "reason": f"{type(error).__name__}: {error}",
            "step": getattr(error, "step", None),
            "lr": getattr(error, "lr", None),
            "traceback": "".join(traceback.format_exception(error)),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )
