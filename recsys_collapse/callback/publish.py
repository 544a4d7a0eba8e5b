"""How measuring callbacks keep, write and show what they find: frames to Parquet, figures to files, both to loggers."""

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning

from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.callback.records import best_epoch as records_best
from recsys_collapse.runs.durable import write_bytes, write_parquet

log = logging.getLogger(__name__)
LOGGED_ROWS = 10_000  # of a table: W&B keeps the first ones of longer tables, here the last ones are wanted
Schema = Mapping[str, Any]
NO_REASON_TO_STOP = (Exception,)
"""What measuring may raise, from linear algebra that does not converge to a user's backbone: a warning."""


def run_folder(trainer: lightning.Trainer) -> Path:
    """Where the files of this training go: beside its logs, or in the trainer's `default_root_dir`.

    Not `trainer.log_dir`: that waits for all ranks, and only the first one writes.
    """
    own = [folder for logger in trainer.loggers[:1] for folder in (logger.log_dir, logger.save_dir) if folder]
    return Path([*own, trainer.default_root_dir][0])


def append(frame: pl.DataFrame, rows: Iterable[tuple[Any, ...]], schema: Schema) -> pl.DataFrame:
    """`frame` and more rows in the order of the schema; NaN becomes null, which is how no value is written."""
    more = pl.DataFrame(list(rows), schema=schema, orient="row").fill_nan(None)
    return frame.vstack(more)


def save(trainer: lightning.Trainer, frames: Mapping[str, pl.DataFrame]) -> None:
    """Write every frame as `<name>.parquet` into the run's directory, each whole or not at all; a warning if not."""
    for name, frame in frames.items():
        path = run_folder(trainer) / f"{name}.parquet"
        try:
            write_parquet(path, frame)
        except OSError as error:  # the next epoch writes it again
            log.warning(f"{path} is not written ({type(error).__name__}: {error})")


def best_epoch(trainer: lightning.Trainer, frame: pl.DataFrame) -> int:
    """The measured epoch whose weights are kept, of the highest validation AUC; without records of it, the last one."""
    measured = set(frame["epoch"])
    records = [r for c in trainer.callbacks if isinstance(c, EpochRecords) for r in c.records]  # type: ignore[attr-defined]
    best = records_best([record for record in records if record["epoch"] in measured])
    return max(measured) if best < 0 else best


def publish(
    trainer: lightning.Trainer, name: str, draw: Callable[[], Any] | None, frames: Mapping[str, pl.DataFrame]
) -> dict[Path, bytes]:
    """Draw `figures/<name>.png` into the run's directory, and send figure and tables to loggers that take them.

    A figure is not worth a training run: what goes wrong is a warning.

    Args:
        trainer: whose directory and loggers.
        name: of the figure and, before a slash, of everything in the loggers.
        draw: returns a matplotlib figure; None: there is nothing to draw.
        frames: tables for the loggers, by name; their last rows.

    Returns the files that were drawn and could not be written.
    """
    png, unwritten = io.BytesIO(), dict[Path, bytes]()
    path = run_folder(trainer) / "figures" / f"{name}.png"
    try:
        if draw is not None:
            draw().savefig(png, format="png", dpi=150)
            write_bytes(path, png.getvalue())
    except OSError as error:
        log.warning(f"{path} is not written ({type(error).__name__}: {error})")
        unwritten[path] = png.getvalue()
    except Exception as error:  # whatever a plot library raises
        log.warning(f"figure {name}: not drawn ({type(error).__name__}: {error}); the tables are complete")
        png = io.BytesIO()
    for logger in trainer.loggers:
        try:
            _send(logger, name, png, frames)
        except Exception as error:  # whatever a logger raises
            found = f"{type(error).__name__}: {error}"
            log.warning(f"figure {name}: not sent to {type(logger).__name__} ({found}); the files are complete")
    return unwritten


def _send(logger: Any, name: str, png: io.BytesIO, frames: Mapping[str, pl.DataFrame]) -> None:
    if png.getbuffer().nbytes and hasattr(logger, "log_image"):
        logger.log_image(key=f"{name}/plot", images=[as_image(png)])
    if hasattr(logger, "log_table"):
        for key, frame in frames.items():
            rows = [list(row) for row in frame.tail(LOGGED_ROWS).rows()]
            logger.log_table(key=f"{name}/{key}", columns=frame.columns, data=rows)


def as_image(png: io.BytesIO) -> Any:
    """A PIL image of what was drawn."""
    from PIL import Image

    png.seek(0)
    return Image.open(png)
