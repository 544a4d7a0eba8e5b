"""Ids -> logits -> a file of scores, batch by batch, with memory that does not grow with the number of rows.

The numbers are those of `Trainer.predict`, bit for bit, for the same batches, device and threads: what Lightning does
for a precision is done here without Lightning.

Shapes: B batch, N fields, n rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys_collapse.dataset.ahead import ahead
from recsys_collapse.dataset.batches import regroup
from recsys_collapse.dataset.lookup import Encoder
from recsys_collapse.dataset.unseen import Unseen
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.runs.durable import write, write_parquet
from recsys_collapse.runs.environment import other_than

ROWS_OF_A_PIECE = 1 << 18  # in memory until they are written; 17 bytes each
SCHEMA = {"row_id": pl.Int64, "label": pl.UInt8, "logit": pl.Float32, "probability": pl.Float32}
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TRUE = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


def choose_device(accelerator: str) -> torch.device:
    """The device that `predict.accelerator` names.

    Raises:
        ValueError: a GPU is asked for, and torch cannot use one.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator in ("cuda", "gpu") and not has_gpu:
        raise ValueError(f"predict.accelerator={accelerator}: torch cannot use a GPU here; use auto or cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


class Scorer:
    """A backbone on a device.

    Args:
        backbone: with its weights; it is moved.
        device: where it computes.
        precision: `trainer.precision` of its run. `16-mixed` on a CPU is float32, as there is no such training there.
    """

    def __init__(self, backbone: Backbone, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        self.backbone = backbone.to(device, TRUE.get(precision, torch.float32)).eval()

    def remarks(self, environment: dict[str, Any]) -> list[str]:
        """Why numbers may be others than those of the run in its `environment`, a line each."""
        lines = []
        if differs := other_than(environment, self.device):
            lines.append(f"other than in the run: {differs}: the last bits of logits may differ")
        if self.precision == "16-mixed" and self.device.type == "cpu":
            lines.append("trainer.precision=16-mixed of the run is computed in float32 here: a CPU has no such mode")
        return lines

    @torch.inference_mode()
    def logits(self, id_BN: np.ndarray) -> Tensor:
        """Logits (B,) float32 on the CPU of ids (B, N) int32."""
        x_BN = torch.from_numpy(np.ascontiguousarray(id_BN)).to(self.device)
        with _precision(self.precision, self.device):
            return self.backbone(x_BN).float().cpu()


@contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """What Lightning puts around a step: autocast where precision is mixed, another default type where it is not."""
    before = torch.get_default_dtype()
    mixed = name in MIXED and not (name == "16-mixed" and device.type == "cpu")
    torch.set_default_dtype(TRUE.get(name, before))
    try:
        with torch.autocast(device.type, dtype=MIXED.get(name), enabled=mixed):
            yield
    finally:
        torch.set_default_dtype(before)


class ScoreFile:
    """Scores on their way into one Parquet file: pieces in a folder, which are put together at the end.

    Args:
        folder: an empty one, on the disk of the file that it becomes; whoever made it removes it.
        has_labels: there is a column `label`.
    """

    def __init__(self, folder: Path, has_labels: bool) -> None:
        self.folder, self.has_labels, self.rows = folder, has_labels, 0
        self._schema = {name: kind for name, kind in SCHEMA.items() if has_labels or name != "label"}
        self._waiting: list[pl.DataFrame] = []
        self._written = 0  # rows
        self._pieces: list[Path] = []

    def add(self, logit_B: Tensor, label_B: np.ndarray | None = None) -> None:
        """The next rows: logits (B,) float32 and labels (B,) uint8, if there are any."""
        columns: dict[str, np.ndarray | None] = {
            "row_id": np.arange(self.rows, self.rows + len(logit_B)),
            "label": label_B,
            "logit": logit_B.numpy(),
            "probability": torch.sigmoid(logit_B).numpy(),
        }
        self._waiting.append(pl.DataFrame({name: columns[name] for name in self._schema}, schema=self._schema))
        self.rows += len(logit_B)
        if self.rows - self._written >= ROWS_OF_A_PIECE:
            self._write_piece()

    def _write_piece(self) -> None:
        path = self.folder / f"{len(self._pieces):08}.parquet"
        write_parquet(path, pl.concat(self._waiting))
        self._waiting, self._written = [], self.rows
        self._pieces.append(path)

    def finish(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """

        def fill(file: BinaryIO) -> None:
            try:
                pl.scan_parquet(self._pieces, glob=False).sink_parquet(file, maintain_order=True)
            except pl.exceptions.PolarsError as error:  # what polars makes of an error of the file
                raise OSError(f"{path}: cannot be written: {error}") from error

        if self._waiting or not self._pieces:
            self._waiting.append(pl.DataFrame(schema=self._schema))
            self._write_piece()
        write(path, fill)

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (n,) and labels (n,) of what `finish` has written, piece by piece."""
        for path in self._pieces:
            frame = pl.read_parquet(path, columns=["logit", "label"], glob=False)
            yield frame["logit"].to_torch(), frame["label"].to_torch()


def score_rows(
    rows: Unseen,
    encoder: Encoder,
    scorer: Scorer,
    scores: ScoreFile,
    batch_size: int,
    progress: Callable[[float], None],
) -> None:
    """Score all rows, in order; the next ones are read and encoded meanwhile.

    Raises:
        ValueError: a row cannot be used.
    """

    def encoded() -> Iterator[tuple[np.ndarray, ...]]:
        for piece in rows.read():
            id_nN = encoder.ids(piece.features)
            progress(piece.done)
            yield (id_nN,) if piece.label_n is None else (id_nN, piece.label_n)

    for id_BN, *label_B in regroup(ahead(encoded()), batch_size):
        scores.add(scorer.logits(id_BN), *label_B)
