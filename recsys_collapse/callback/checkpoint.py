"""What training goes on from after an interruption, and when it ends. Always on; not a choice of `callback=`.

After every epoch, once it is measured, recorded and scored, `last.ckpt` holds everything that the next one needs; the
next one is a function of that and of (seed, epoch) alone. So a run that was killed at any moment and goes on ends with
the numbers of one that was not (on a CPU bit for bit), and repeats one epoch at most.
"""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO

from recsys_collapse.callback.records import EpochRecords, best_epoch, stalled
from recsys_collapse.runs import checkpoint as checkpoint_room
from recsys_collapse.runs.records import tidy


def best_so_far(content: dict[str, Any]) -> int:
    """The best epoch until a checkpoint was taken, from the records in it."""
    return best_epoch(content["callbacks"][EpochRecords.__qualname__]["records"])


class Checkpoints(Checkpoint):
    """Saves after every epoch, and stops when validation AUC has stalled.

    Args:
        run_id: goes into the checkpoints.
        records: of the epochs.
        patience: epochs without a better validation AUC.
        started: `time.perf_counter()` when this process began with the run.
    """

    def __init__(self, run_id: str, records: EpochRecords, patience: int, started: float) -> None:
        self.run_id, self.records, self.patience, self.started = run_id, records, patience, started
        self.attempts: list[dict[str, Any]] = [{"first_epoch": 0}]
        """What is to be known of every process that trained the run, this one last: first_epoch, seconds, and more."""

    def state_dict(self) -> dict[str, Any]:
        self.attempts[-1]["seconds"] = time.perf_counter() - self.started
        return {"attempts": self.attempts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.attempts = [*state_dict["attempts"], *self.attempts]

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.attempts[-1]["first_epoch"] = checkpoint["epoch"] + 1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = stalled(self.records.records, self.patience)  # not in a checkpoint of Lightning

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint.update(run_id=self.run_id, layout=checkpoint_room.LAYOUT)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A subclass of `Checkpoint` comes after all other callbacks and the module itself.
        trainer.save_checkpoint(Path(trainer.default_root_dir))
        trainer.should_stop = trainer.should_stop or stalled(self.records.records, self.patience)


class DurableIO(CheckpointIO):
    """Lightning's way to files, through `runs/checkpoint.py`; paths are run directories.

    Args:
        found: the checkpoint to go on from, if any; it has been read already.
    """

    def __init__(self, found: dict[str, Any] | None) -> None:
        self.found = found

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint_room.save_last(Path(path), checkpoint)
        if best_so_far(checkpoint) == checkpoint["epoch"]:
            checkpoint_room.save_best(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.found is not None
        found, self.found = self.found, None  # not kept: it is as large as the model
        return found

    def remove_checkpoint(self, path: Any) -> None:
        tidy(Path(path))
