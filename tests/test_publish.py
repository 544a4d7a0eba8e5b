"""How measuring callbacks keep, write and show: whole files, and nothing that is drawn or sent ends a training."""

import io
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import pytorch_lightning as lightning
import wandb
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from recsys_collapse.callback.publish import LOGGED_ROWS, append, best_epoch, publish, run_folder, save
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.logger.wandb import WandbMirror

SCHEMA = {"epoch": pl.Int32, "field": pl.String, "value": pl.Float64}
FRAME = pl.DataFrame([(0, "a", 1.5), (1, "b", None)], schema=SCHEMA, orient="row")


class Fake(Logger):
    """Keeps what it is sent, or raises."""

    def __init__(self, error: Exception | None = None, folder: str | None = None) -> None:
        super().__init__()
        self.images: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        self.error, self.folder = error, folder

    name = version = "fake"

    @property
    def save_dir(self) -> str | None:
        return self.folder

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_image(self, key: str, images: list[Any]) -> None:
        if self.error:
            raise self.error
        self.images[key] = images

    def log_table(self, key: str, columns: list[str], data: list[Any]) -> None:
        self.tables[key] = (columns, data)


def trainer_of(folder: Path, *loggers: Any, callbacks: Any = ()) -> Any:
    """What is used of a trainer."""
    return SimpleNamespace(default_root_dir=str(folder), loggers=list(loggers), callbacks=list(callbacks))


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2])
    return figure


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Files


def test_nan_is_written_as_null() -> None:
    found = append(FRAME, [(2, "c", math.nan), (2, "d", math.inf)], SCHEMA)
    assert found.rows() == [(0, "a", 1.5), (1, "b", None), (2, "c", None), (2, "d", math.inf)]
    assert found.schema == pl.Schema(SCHEMA)
    assert append(FRAME, [], SCHEMA).equals(FRAME)


def test_every_frame_becomes_a_file(tmp_path: Path) -> None:
    save(trainer_of(tmp_path / "run"), {"one": FRAME, "two": FRAME.head(1)})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["one.parquet", "two.parquet"]
    assert pl.read_parquet(tmp_path / "run" / "one.parquet").equals(FRAME)


@pytest.mark.filterwarnings("ignore:.*tensorboardX.*")
def test_files_lie_beside_the_logs(tmp_path: Path) -> None:
    """Where `trainer.log_dir` says; that may not be asked, for it waits for processes that do not come."""
    for logger in (True, False, CSVLogger(tmp_path, version=3), Fake(folder="elsewhere"), Fake()):
        trainer = lightning.Trainer(
            default_root_dir=tmp_path / "root", logger=logger, accelerator="cpu", enable_checkpointing=False
        )
        assert run_folder(trainer) == Path(trainer.log_dir or tmp_path / "root"), logger
    assert run_folder(trainer_of(tmp_path, DummyLogger())) == tmp_path
    assert run_folder(trainer_of(tmp_path, Fake(folder="a"), Fake(folder="b"))) == Path("a")


# The best epoch


def records(*aucs: float | None) -> EpochRecords:
    found = EpochRecords(1)
    found.records = [{"epoch": epoch, "val_auc": auc} for epoch, auc in enumerate(aucs, start=-1)]
    return found


@pytest.mark.parametrize(
    ("aucs", "measured", "best"),
    [
        ([None, 0.5, 0.8, 0.8, 0.6], [-1, 0, 1, 2, 3], 1),  # of equals the first, as the checkpoint
        ([None, 0.9, 0.8, 0.7], [-1, 1, 2], 1),  # one that was not measured cannot be shown
        ([None, 0.9], [-1], -1),
        ([None], [-1, 0, 1], 1),
        (None, [-1, 0, 5], 5),
    ],
)
def test_the_best_epoch(tmp_path: Path, aucs: list[float | None] | None, measured: list[int], best: int) -> None:
    callbacks = [] if aucs is None else [object(), records(*aucs)]
    frame = pl.DataFrame({"epoch": [epoch for epoch in measured for _ in range(2)]})
    assert best_epoch(trainer_of(tmp_path, callbacks=callbacks), frame) == best


# Figures and tables


def test_the_figure_is_a_file_and_goes_to_the_loggers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Fake(), Fake()
    trainer = trainer_of(tmp_path, CSVLogger(tmp_path / "logs"), first, second)
    publish(trainer, "spectra", drawn, {"last_epoch": FRAME, "nothing": FRAME.clear()})
    path = tmp_path / "logs" / "lightning_logs" / "version_0" / "figures" / "spectra.png"
    for logger in (first, second):
        assert list(logger.images) == ["spectra/plot"] and list(logger.tables) == [
            "spectra/last_epoch",
            "spectra/nothing",
        ]
        (image,) = logger.images["spectra/plot"]
        assert image.size == Image.open(path).size == (300, 150)
        assert logger.tables["spectra/last_epoch"] == (FRAME.columns, [[0, "a", 1.5], [1, "b", None]])
        assert logger.tables["spectra/nothing"] == (FRAME.columns, [])
    assert warnings(caplog) == []


def failing_figure() -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no font")

    return SimpleNamespace(savefig=fail)


@pytest.mark.parametrize(
    ("draw", "error", "words"),
    [
        (lambda: pl.DataFrame()["missing"], None, "ColumnNotFoundError"),
        (failing_figure, None, "RuntimeError: no font"),
        (drawn, OSError("the server is gone"), "OSError: the server is gone"),
    ],
)
def test_what_cannot_be_drawn_or_sent_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, draw: Any, error: Exception | None, words: str
) -> None:
    healthy = Fake()
    publish(trainer_of(tmp_path, Fake(error), healthy), "spectra", draw, {"last_epoch": FRAME})
    (warning,) = warnings(caplog)
    assert "figure spectra" in warning and words in warning
    assert [path.name for path in tmp_path.rglob("*.*")] == (["spectra.png"] if error else [])
    assert list(healthy.images) == (["spectra/plot"] if error else [])
    assert list(healthy.tables) == ["spectra/last_epoch"]  # whatever happened to the figure or another logger


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "figures").write_text("a file where a folder should be")
    publish(trainer_of(tmp_path), "spectra", drawn, {})
    assert len(warnings(caplog)) == 1


# W&B


@pytest.mark.parametrize("kind", ["ours", "a user's"])
def test_long_tables_keep_the_last_epochs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B would keep the first rows."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="p")
    logger = WandbMirror(run, tmp_path) if kind == "ours" else WandbLogger(save_dir=tmp_path, experiment=run)
    try:
        epochs = wandb.Table.MAX_ROWS + 5
        frame = pl.DataFrame({"epoch": range(epochs), "embedding_set": [None, 0] * (epochs // 2) + [None]})
        publish(trainer_of(tmp_path, logger), "spectra", drawn, {"collapse": frame})
    finally:
        run.finish()
        wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/spectra/collapse*.json")
    data = json.loads(path.read_text())["data"]
    assert LOGGED_ROWS == wandb.Table.MAX_ROWS == len(data)
    assert (data[0][0], data[-1][0]) == (5, epochs - 1)
    (image,) = tmp_path.glob("wandb/offline-run-*/files/media/images/spectra/plot*.png")
    assert Image.open(io.BytesIO(image.read_bytes())).size == (300, 150)
