"""One record per finished epoch in `epochs.jsonl`, and one line of log; which epoch is the best, and when to stop.

Always on; not a choice of `callback=`. Best epoch and stopping are functions of the records, so that they are the same
after a training has gone on from a checkpoint.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from recsys_collapse.module import CTRModule
from recsys_collapse.runs.durable import write_text

METRICS = {
    "train_loss": "train/loss",
    "train_penalty": "train/penalty",
    "val_auc": "val/auc",
    "val_logloss": "val/logloss",
    "ia_relative": "ia/relative",
}
log = logging.getLogger(__name__)


def best_epoch(records: Sequence[Mapping[str, Any]]) -> int:
    """The epoch of the highest validation AUC, the first of equal ones; -1 before any is finished."""
    scored = [record for record in records if record["val_auc"] is not None]
    return max(scored, key=lambda record: (record["val_auc"], -record["epoch"]))["epoch"] if scored else -1


def stalled(records: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than the best one before them."""
    finished = records[-1]["epoch"] if records else -1
    return finished >= 0 and finished - best_epoch(records) >= patience


class EpochRecords(lightning.Callback):
    """Keeps and writes what every epoch measured; epoch -1 is the initialisation.

    Args:
        num_rows: training rows of one pass over the data.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.records: list[dict[str, Any]] = []
        self._started = 0.0
        self._seconds = 0.0

    @property
    def state_key(self) -> str:
        """Of subclasses too: checkpoints are read without them."""
        return EpochRecords.__qualname__

    @property
    def samples_per_second(self) -> float:
        """Training rows per second over all epochs, without validation and measuring."""
        return sum(r["rows"] for r in self.records) / sum(r["train_seconds"] for r in self.records)

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = state_dict["records"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, CTRModule)
        if self.records:  # of a checkpoint: the file may have one more
            self._write(trainer)
            return
        self._append(trainer, pl_module.epoch_metrics, epoch=-1, rows=0, seconds=0.0)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, CTRModule)
        self._append(trainer, pl_module.epoch_metrics, trainer.current_epoch, pl_module.rows, self._seconds)
        values = {name: self.records[-1][name] for name in METRICS}
        shown = "  ".join(f"{name} {value:.5f}" for name, value in values.items() if value is not None)
        log.info(f"epoch {trainer.current_epoch:3d}  {shown}  {self._seconds:.1f} s")

    def _append(
        self, trainer: lightning.Trainer, metrics: dict[str, float], epoch: int, rows: int, seconds: float
    ) -> None:
        values = {name: metrics.get(key) for name, key in METRICS.items()}
        done = sum(record["rows"] for record in self.records) + rows
        record = {
            "epoch": epoch,
            "passes": done / self.num_rows,
            "step": trainer.global_step,
            **{name: value if value is not None and math.isfinite(value) else None for name, value in values.items()},
            "lr": trainer.optimizers[0].param_groups[0]["lr"],  # of the table
            "lr_dense": trainer.optimizers[0].param_groups[-1]["lr"],
            "rows": rows,
            "train_seconds": seconds,
        }
        self.records.append(record)
        self._write(trainer)

    def _write(self, trainer: lightning.Trainer) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self.records)
        write_text(Path(trainer.default_root_dir) / "epochs.jsonl", lines)
