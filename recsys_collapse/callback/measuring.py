"""What every measuring callback shares: its frames, which go into checkpoints and come back, and when it measures.

A training that goes on from a checkpoint has the frames of the epochs before it: files are then written whole again,
as if nothing had been interrupted. Works in any Lightning trainer.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytorch_lightning as lightning
import torch

from recsys_collapse.callback import publish
from recsys_collapse.runs.durable import write_bytes, write_parquet


class Measuring(lightning.Callback):
    """Base of the callbacks that measure; `frames` holds what they found so far, one frame per file."""

    SCHEMAS: ClassVar[Mapping[str, publish.Schema]]
    """Of every frame, by the name of its file."""

    def __init__(self) -> None:
        self.frames: dict[str, pl.DataFrame] = {}
        self.unwritten: dict[Path, bytes] = {}
        """Figures of the last training that could not be written."""
        self._empty()

    def _empty(self) -> None:
        self.frames = {name: pl.DataFrame(schema=schema) for name, schema in self.SCHEMAS.items()}

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":  # before a checkpoint's state is loaded; on_fit_start comes after it
            self._empty()

    def state_dict(self) -> dict[str, Any]:
        """The frames as bytes of Arrow's format, in tensors: checkpoints hold nothing else."""
        return {name: _as_tensor(frame) for name, frame in self.frames.items() if len(frame)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, schema in self.SCHEMAS.items():
            if name in state_dict:
                self.frames[name] = pl.read_ipc(io.BytesIO(state_dict[name].numpy().tobytes())).match_to_schema(schema)

    def goes_on(self, trainer: lightning.Trainer) -> bool:
        """Whether a checkpoint brought what was measured up to its epoch."""
        return any(len(frame) and frame["epoch"].max() == trainer.current_epoch - 1 for frame in self.frames.values())

    def write(self, trainer: lightning.Trainer) -> None:
        """Write every frame that has rows, and what could not be; unlike before, what cannot be written is an error.

        Raises:
            OSError: the disk is full, for example.
        """
        for name, frame in self.frames.items():
            if len(frame):
                write_parquet(publish.run_folder(trainer) / f"{name}.parquet", frame)
        for path, content in self.unwritten.items():
            write_bytes(path, content)


def _as_tensor(frame: pl.DataFrame) -> torch.Tensor:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="zstd")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
