"""A trainer as runs have it, for tests that train without a run: records, if given, decide when it stops."""

from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from omegaconf import DictConfig

from recsys_collapse import train
from recsys_collapse.callback.checkpoint import Checkpoints, DurableIO
from recsys_collapse.callback.records import EpochRecords

RUN_ID = "a run of the tests"


def make_trainer(
    config: DictConfig, run_dir: Path, always: list[Any], loggers: list[Any], found: dict[str, Any] | None = None
) -> lightning.Trainer:
    """`train.make_trainer` with checkpoints beside the records among `always`; `found`: what `fit` will go on from."""
    records = [callback for callback in always if isinstance(callback, EpochRecords)]
    checkpoints = [Checkpoints(RUN_ID, one, config.trainer.patience, started=0.0) for one in records]
    return train.make_trainer(config, run_dir, [*always, *checkpoints], loggers, DurableIO(found))
