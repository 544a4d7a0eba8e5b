"""What the framework costs inside an epoch: `.venv/bin/python -m benchmarks.framework`.

dcnv2 at Criteo's shape (39 fields, a table of 1.08 million rows, batch 2048), shuffled rows of a million. Ours: the
trainer of `recsys_collapse.run` with its records, sign of life and spectra, from the first batch of the epoch to the
last: what comes once an epoch (validation, spectra, checkpoints, loggers) is not in it. Bare: a for-loop over the same
batches with the same backbone and optimizer. Targets: at most 8% of its samples per second are lost at 1x, 2% at 10x.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.interleave import Comparison, interleave
from benchmarks.step import log_spaced_cardinalities
from recsys_collapse.callback.checkpoint import Checkpoints, DurableIO
from recsys_collapse.callback.heartbeat import Heartbeat
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.heap import keep_freed_memory
from recsys_collapse.train import build_module, fit, make_trainer

ROWS = 1_000_000


class Case(NamedTuple):
    """Words of the command line, batches of a timed epoch, and the share of the bare loop's speed that may be lost."""

    words: list[str]
    steps: int
    target: float


CASES = {
    "dcnv2 1x": Case(["model=dcnv2"], 60, 0.08),
    "dcnv2 ME 10x": Case(["model=dcnv2", "embed=me", "scale=10"], 20, 0.02),
}


def store(train_rows: int) -> Store:
    """A million random rows in memory, of which an epoch trains on `train_rows`."""
    generator = torch.Generator().manual_seed(0)
    cardinalities = log_spaced_cardinalities()
    skewed = torch.rand(ROWS, len(cardinalities), generator=generator) ** 3
    ids = (skewed * torch.tensor(cardinalities)).to(torch.int32)
    labels = torch.randint(2, (ROWS,), generator=generator, dtype=torch.uint8)
    order = torch.randperm(ROWS, generator=generator)
    splits = {"train": order[:train_rows], "valid": order[-2048:], "test": order[-2048:]}
    fields = [f"field{i}" for i in range(len(cardinalities))]
    return Store(Path("memory"), "benchmark", fields, cardinalities, ids, labels, splits)


def measure(words: list[str], steps: int, repeats: int) -> tuple[int, Comparison]:
    """Rows of an epoch, and A the bare loop against B the framework."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", [*words, "trainer.max_epochs=1", "trainer.progress_bar=false"])
    rows = steps * config.trainer.batch_size
    data = store(rows)

    def ours() -> float:
        module = build_module(config, data)
        records = EpochRecords(rows)
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints("benchmark", records, config.trainer.patience, time.perf_counter())
            always = [Heartbeat(), records, checkpoints]
            trainer = make_trainer(config, Path(folder), always, [], DurableIO(None))
            fit(trainer, module, data, config)
        return float(records.records[-1]["train_seconds"])

    def bare() -> float:
        module = build_module(config, data).train()
        backbone, optimizer = module.backbone, module.configure_optimizers()
        started = time.perf_counter()
        for x_BN, y_B in Batches(data, "train", config.trainer.batch_size, shuffled(0, lambda: 0)):
            binary_cross_entropy_with_logits(backbone(x_BN), y_B.to(torch.float32)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return rows, interleave(bare, ours, repeats, warm_up=1)


def main() -> int:
    """Print samples per second of both, and their ratio; 1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.framework", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, help="batches of one timed epoch; default: 60 at 1x, 20 at 10x")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of epochs")
    arguments = parser.parse_args()
    register()
    keep_freed_memory()
    missed = 0
    for name, case in CASES.items():
        rows, found = measure(case.words, arguments.steps or case.steps, arguments.repeats)
        missed += found.ratio < 1 - case.target
        Console(width=150).print(
            f"{name}, {rows:,} rows an epoch: bare {rows / found.a_seconds:,.0f} samples/s, framework "
            f"{rows / found.b_seconds:,.0f} samples/s; framework / bare {found.ratio:.3f} ({found.ratio_low:.3f} to "
            f"{found.ratio_high:.3f}, {found.repeats} pairs; target at least {1 - case.target:.2f})"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
