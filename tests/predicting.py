"""Finished runs on small tables, and the command `predict` in this process."""

import csv
from pathlib import Path
from typing import Any

import polars as pl

from recsys_collapse import predict
from recsys_collapse.launch.plan import compose_jobs, make_plan
from recsys_collapse.train import train
from tests.cli import write_clicks

QUICK = ["trainer.max_epochs=1", "trainer.batch_size=64", "trainer.progress_bar=false", "callback=[]", "logger=local"]


def finished(folder: Path, *words: str) -> Path:
    """Train on the data that `words` name; the directory of the run."""
    plan = make_plan([*QUICK, f"output_dir={folder / 'outputs'}", *words])
    assert plan is not None
    (job,) = plan.jobs
    train(job)
    return job.run_dir


def clicks_run(folder: Path, *words: str) -> Path:
    """A run on `folder/clicks.csv` with the fields user, item and site."""
    path = folder / "clicks.csv"
    return finished(folder, *write_clicks(path), *words)


def scored(run_dir: Path, output: Path, *words: str) -> pl.DataFrame:
    """What `python -m recsys_collapse.predict run=... output=... <words>` writes, in this process."""
    configs = compose_jobs([f"run={run_dir}", f"output={output}", *words], "predict")
    assert configs is not None
    predict._act(configs[0])
    return pl.read_parquet(output)


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def write_rows(path: Path, header: list[str] | None, rows: list[list[Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([*([header] if header else []), *rows])
    return path


def split_rows(run_dir: Path, path: Path, part: str = "test") -> tuple[list[str], list[list[str]], pl.DataFrame]:
    """Header and rows of a part of the run's own file, in split order, and the scores that the run has of them."""
    scores = pl.read_parquet(run_dir / f"{part}_scores.parquet")
    header, rows = rows_of(path)
    return header, [rows[i] for i in scores["row_id"]], scores
