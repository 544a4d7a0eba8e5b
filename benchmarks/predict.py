"""What scoring new rows costs: `.venv/bin/python -m benchmarks.predict`.

Speed: rows per second of `predict` on a generated table, of its stages alone, and of the floors: only reading the file,
and only the model on ids that are there already. Memory: the peak of a process that scores a table against that of one
that scores its first quarter; target: at most 1.25 times.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console

from recsys_collapse import predict
from recsys_collapse.build import build
from recsys_collapse.dataset.batches import regroup
from recsys_collapse.dataset.lookup import Encoder
from recsys_collapse.dataset.unseen import Unseen
from recsys_collapse.launch.plan import compose_jobs, make_plan
from recsys_collapse.load import LoadedRun, load_run
from recsys_collapse.scoring import ScoreFile, Scorer
from recsys_collapse.train import train

MORE_MEMORY = 1.25
FIELDS, TRAIN_ROWS = 20, 200_000


def write_table(path: Path, rows: int, seed: int) -> Path:
    """A CSV of 20 fields, from a few values to many of 8 hexadecimal digits (Zipf), and a label."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"label": (rng.random(rows) < 0.25).astype(np.int8)}
    for i in range(FIELDS):
        value_n = rng.zipf(1.2, rows) % int(10 ** (1 + 5 * i / FIELDS)) * 2_654_435_761 % 2**32
        columns[f"f{i}"] = pl.Series([f"{value:08x}" for value in value_n.tolist()])
    pl.DataFrame(columns).write_csv(path)
    return path


def make_run(folder: Path, path: Path, model: str) -> Path:
    """A finished run of one epoch; its directory."""
    words = [f"model={model}", "dataset=table", f"dataset.path={path}", "dataset.label=label"]
    quick = ["trainer.max_epochs=1", "trainer.progress_bar=false", "callback=[]", "logger=local"]
    plan = make_plan([*words, *quick, f"output_dir={folder}"])
    assert plan is not None
    train(plan.jobs[0])
    return plan.jobs[0].run_dir


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of some times."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def stages(run_dir: Path, path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by its name."""
    run: LoadedRun = load_run(run_dir)
    source = build(run.config.dataset, "dataset")
    unseen = Unseen(source, run.store.fields, [path], {})
    encoder = Encoder(run.store, {})
    batch_size, cpu = run.config.trainer.eval_batch_size, torch.device("cpu")
    scorer = Scorer(run.backbone, cpu, run.config.trainer.precision)
    id_nN = np.concatenate([encoder.ids(piece.features) for piece in unseen.read()])
    logit_n, label_n = torch.randn(len(id_nN)), np.zeros(len(id_nN), np.uint8)
    composed = compose_jobs([f"run={run_dir}", f"input={path}", "predict.overwrite=true"], "predict")
    assert composed is not None

    def write() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as pieces:
            scores = ScoreFile(Path(pieces), has_labels=True)
            for logit_B, label_B in regroup([(logit_n.numpy(), label_n)], batch_size):
                scores.add(torch.from_numpy(logit_B), label_B)
            scores.finish(folder / "written.parquet")

    def all_of_it() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            predict.predict(run, composed[0], [path], folder / "scores.parquet")

    return {
        "predict": all_of_it,
        "floor: read": lambda: [piece.done for piece in unseen.read()],
        "read and encode": lambda: [encoder.ids(piece.features)[0, 0] for piece in unseen.read()],
        "floor: score": lambda: [scorer.logits(batch[0]) for batch in regroup([(id_nN,)], batch_size)],
        "write": write,
    }


def peak_memory(run_dir: Path, path: Path, folder: Path) -> int:
    """Peak bytes of the command in a process of its own."""
    code = "import sys; from recsys_collapse.predict import main; code = main(); "
    code += "print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1]); sys.exit(code)"
    words = [f"run={run_dir}", f"input={path}", f"output={folder / 'peak.parquet'}", "predict.overwrite=true"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


def main() -> int:
    """1 if the target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.predict", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=500_000, help="of the table that is scored for speed")
    parser.add_argument("--memory-rows", type=int, default=1_200_000, help="of the larger table for memory")
    parser.add_argument("--repeats", type=int, default=3, help="of each stage; the best counts")
    parser.add_argument("--model", default="dnn", help="the lighter, the more is seen of the rest")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir = make_run(folder / "outputs", write_table(folder / "train.csv", TRAIN_ROWS, 0), options.model)
        path = write_table(folder / "new.csv", options.rows, 1)
        for stage, work in stages(run_dir, path, folder).items():
            rate = options.rows / seconds(work, options.repeats)
            console.print(
                f"{stage:>16}: {rate:>10,.0f} rows/s ({options.rows:,} rows, {FIELDS} fields, {options.model})"
            )
        large = write_table(folder / "large.csv", options.memory_rows, 2)
        small = folder / "small.csv"
        with large.open() as source:
            small.write_text("".join(source.readline() for _ in range(options.memory_rows // 4 + 1)))
        few, many = (peak_memory(run_dir, file, folder) for file in (small, large))
        console.print(
            f"memory, {options.memory_rows // 4:,} rows: {few / 1e6:,.0f} MB; {options.memory_rows:,} rows: "
            f"{many / 1e6:,.0f} MB: {many / few:.2f} times (target at most {MORE_MEMORY})"
        )
    return 0 if many <= MORE_MEMORY * few else 1


if __name__ == "__main__":
    sys.exit(main())
