"""What the framework costs inside an epoch: `.venv/bin/python -m benchmarks.framework`.

dcnv2 1x at Criteo's shape (39 fields, a table of 1.08 million rows, batch 2048), shuffled rows of a million. Ours: the
trainer of `recsys_collapse.run` with its records, early stopping and spectra, from the first batch of the epoch
to the last. Bare: a for-loop over the same batches with the same backbone and optimizer. Target: at least 85% of its
samples per second.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.interleave import interleave
from benchmarks.step import log_spaced_cardinalities
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.train import build_module, fit, make_trainer

ROWS, TARGET = 1_000_000, 0.85


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


def main() -> None:
    """Measure and print samples per second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="batches of one timed epoch")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of epochs")
    arguments = parser.parse_args()
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        overrides = ["model=dcnv2", "trainer.max_epochs=1", "trainer.progress_bar=false"]
        config = compose("config", overrides)
    rows = arguments.steps * config.trainer.batch_size
    data = store(rows)

    def ours() -> float:
        module = build_module(config, data)
        records = EpochRecords(rows)
        with tempfile.TemporaryDirectory() as folder:
            fit(make_trainer(config, Path(folder), [records], []), module, data, config)
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

    found = interleave(bare, ours, arguments.repeats, warm_up=1)
    Console().print(
        f"dcnv2 1x, {rows:,} rows an epoch: bare {rows / found.a_seconds:,.0f} samples/s, "
        f"framework {rows / found.b_seconds:,.0f} samples/s; framework / bare {found.ratio:.3f} "
        f"({found.ratio_low:.3f} to {found.ratio_high:.3f}, {found.repeats} pairs; target at least {TARGET})"
    )


if __name__ == "__main__":
    main()
