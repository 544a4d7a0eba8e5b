"""nfwfm 10x at Avazu's size, by the framework's own command: what `benchmarks.memory --avazu` does.

22 fields, 2.02 million ids x 500 columns. The rows are made up: Avazu's own 40 million would take days. All ids stand
among the test rows, which are scored once; an epoch has `TRAIN` rows. So memory is that of a real run, but for what
grows with the rows (some 8 bytes a training row and 100 a validation row: 0.7 GB of Avazu).
"""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

LARGEST = [1_610_000, 300_000]  # device_ip and device_id have nearly all ids
OTHERS, SMALLEST, THIRD = 20, 5, 40_000
TRAIN, VALID, BATCH = 20, 4, 2048  # batches of an epoch and of its evaluation
SECONDS = 0.1  # between two looks at the process


def cardinalities() -> list[int]:
    """2.02 million ids in 22 fields."""
    factor = (THIRD / SMALLEST) ** (1 / (OTHERS - 1))
    return [*(round(SMALLEST * factor**i) for i in range(OTHERS)), *reversed(LARGEST)]


def write_rows(folder: Path) -> list[str]:
    """Three Parquet files, and the words that make them the data of a run."""
    random, sizes = np.random.default_rng(0), cardinalities()
    for part, rows in {"train": TRAIN * BATCH, "valid": VALID * BATCH, "test": max(sizes)}.items():
        number = np.arange(rows) if part == "test" else None
        columns = {
            f"C{i:02d}": (number % (size - 1) if number is not None else random.integers(size - 1, size=rows))
            for i, size in enumerate(sizes)  # each field has one more id, for values that are not known
        }
        frame = pl.DataFrame({"click": random.integers(2, size=rows), **columns})
        frame.write_parquet(folder / f"{part}.parquet")
    files = [f"dataset.{part}={folder / part}.parquet" for part in ("train", "valid", "test")]
    return ["dataset=table", "dataset.name=avazu_size", "dataset.label=click", "dataset.vocabulary=all", *files]


def train(folder: Path, embed: str, data: list[str], words: list[str]) -> dict[str, Any]:
    """One run of an epoch, in a process of its own; its largest memory with and without the files that it maps."""
    run = ["-m", "recsys_collapse.run", "model=nfwfm", "scale=10", f"embed={embed}", "trainer.accelerator=cpu"]
    limits = ["trainer.max_epochs=1", "trainer.progress_bar=false", "logger=local", "callback=[]"]
    command = [sys.executable, *run, *limits, f"output_dir={folder / 'outputs'}", *data, *words]
    started, anonymous, peak = time.perf_counter(), 0, 0
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            found = _status(process.pid)
            anonymous, peak = max(anonymous, found.get("RssAnon", 0)), max(peak, found.get("VmHWM", 0))
            time.sleep(SECONDS)
        log.seek(0)
        said = log.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}:\n{said[-3000:]}")
    told = re.search(r"memory: up to ([\d.]+) GB", said)
    if told is None:
        raise RuntimeError(f"{' '.join(command)}: did not say what memory it needs:\n{said[-3000:]}")
    seconds = time.perf_counter() - started
    return {
        "embed": embed,
        "anonymous": anonymous,
        "peak": peak,
        "told": float(told[1]) * 1e9,
        "seconds": seconds,
        "log": said,
    }


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines) if "kB" in value
    }
