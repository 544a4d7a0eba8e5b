"""Running the command line in a subprocess, as a user does, on a small table."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = ROOT / "tests" / "no_network"
SMALL = [
    "trainer.max_epochs=2",
    "trainer.batch_size=32",
    "trainer.progress_bar=false",
    "model.backbone.hidden_sizes=[16,16]",
    "logger=local",
]


def rows(train: int, valid: int, test: int) -> list[str]:
    """Sizes of the parts of synthetic data."""
    return [f"dataset.train_rows={train}", f"dataset.valid_rows={valid}", f"dataset.test_rows={test}"]


SMALL_SYNTHETIC = [*rows(480, 60, 60), "dataset.num_fields=4", "dataset.max_cardinality=40"]


def python_path(*folders: Path | str) -> str:
    """PYTHONPATH of a subprocess: these folders, behind the one that keeps it off the network."""
    return os.pathsep.join([str(NO_NETWORK), *map(str, folders)])


def run(
    *arguments: str, cwd: Path, timeout: float = 240, module: str = "recsys_collapse.run", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m recsys_collapse.run <arguments>` (or another module) in `cwd`."""
    path = python_path(environment.pop("PYTHONPATH", ROOT))
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def write_clicks(path: Path, rows: int = 1200, seed: int = 0) -> list[str]:
    """A CSV with three categorical columns and a label that depends on them; returns the arguments to use it."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "click", "site"])
        for _ in range(rows):
            user, item, site = rng.randrange(30), rng.randrange(12), rng.choice(["a", "b", "", "NULL"])
            likely = 0.9 if user % 3 == 0 or item == 0 else 0.15
            writer.writerow([f"u{user}", f"i{item}", int(rng.random() < likely), site])
    return ["dataset=table", f"dataset.path={path}", "dataset.label=click"]
