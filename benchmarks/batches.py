"""How fast batches come from a prepared store: `.venv/bin/python -m benchmarks.batches`.

39 fields, batch 2048, shuffled, files in the page cache; one epoch over all rows, its order included. Target: at least
5 million rows per second.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store

FIELDS, BATCH, TARGET = 39, 2048, 5e6


def store_on_disk(folder: Path, rows: int) -> Store:
    """Random ids in mapped files, as `open_store` maps them."""
    rng = np.random.default_rng(0)
    with (folder / "ids.bin").open("wb") as file:
        for start in range(0, rows, 100_000):
            rng.integers(0, 1000, (min(100_000, rows - start), FIELDS), dtype=np.int32).tofile(file)
    rng.integers(0, 2, rows, dtype=np.uint8).tofile(folder / "labels.bin")
    rng.permutation(rows).astype(np.int32).tofile(folder / "splits.bin")
    ids = torch.from_file(str(folder / "ids.bin"), size=rows * FIELDS, dtype=torch.int32).view(rows, FIELDS)
    labels = torch.from_file(str(folder / "labels.bin"), size=rows, dtype=torch.uint8)
    train = torch.from_file(str(folder / "splits.bin"), size=rows, dtype=torch.int32)
    fields = [f"field{i}" for i in range(FIELDS)]
    return Store(folder, "benchmark", fields, [1000] * FIELDS, ids, labels, {"train": train})


def main() -> int:
    """1 if the target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.batches", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=7, help="epochs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = store_on_disk(Path(name), options.rows)
        speeds = []
        for epoch in range(options.repeats + 1):  # the first brings the files into the page cache
            started, rows = time.perf_counter(), 0
            for x_BN, _ in Batches(store, "train", BATCH, shuffled(0, lambda epoch=epoch: epoch)):  # type: ignore[misc]
                rows += len(x_BN)
            speeds.append(rows / (time.perf_counter() - started))
        low, middle, high = np.quantile(speeds[1:], [0.25, 0.5, 0.75])
    Console().print(
        f"batches, {options.rows:,} rows of {FIELDS} fields, batch {BATCH}, shuffled: {middle:,.0f} rows/s "
        f"({low:,.0f} to {high:,.0f}, {options.repeats} epochs; target at least {TARGET:,.0f})"
    )
    return 0 if middle >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
