"""One training step, ours against the naive loop over sets: `.venv/bin/python -m benchmarks.step [--case dcnv2:4]`.

39 fields as Criteo has, a table of 1.08 million rows, batch 2048, base size 10, dropout and sizes as in conf/model.
Ours: the backbone and `Adam(fused=True)`. Naive: `tests/reference.py`, one ordinary model per set, and PyTorch's
default Adam. A step is forward, loss, backward, Adam over every row of the table, and gradients dropped.

The targets are for these two as they stand, so most of what they show is the fused Adam. `--same-adam` gives it to the
naive loop too: what is left is the gain, or loss, of computing all sets at once, and no target applies.
"""

import argparse
import gc
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.interleave import Action, Comparison, interleave
from recsys_collapse.build import build
from recsys_collapse.config import config_dir
from tests.reference import REFERENCES, copy_weights

NUM_FIELDS, LARGEST, BATCH, BASE_SIZE = 39, 190_000, 2048, 10
RATE = {"lr": 1e-3, "weight_decay": 1e-6}
TARGETS = {("dcnv2", 4): 0.9, ("dcnv2", 10): 1.0, ("dnn", 10): 0.8}
"""Largest ratio ours / naive that is accepted, by (backbone, number of sets)."""


def log_spaced_cardinalities() -> list[int]:
    """From 122 to 190,000, each the same factor above the one before: 1.08 million together."""
    smallest = 122
    factor = (LARGEST / smallest) ** (1 / (NUM_FIELDS - 1))
    return [round(smallest * factor**i) for i in range(NUM_FIELDS)]


def batch(cardinalities: list[int]) -> tuple[Tensor, Tensor]:
    """Ids (B, N), int32 and small ones far more frequent, and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    skewed_BN = torch.rand(BATCH, len(cardinalities), generator=generator) ** 3
    x_BN = (skewed_BN * torch.tensor(cardinalities)).to(torch.int32)
    return x_BN, torch.randint(2, (BATCH,), generator=generator).float()


def training_step(model: nn.Module, fused: bool, x_BN: Tensor, y_B: Tensor) -> Action:
    """One full step of `model` on this batch, as a function to be timed."""
    optimizer = torch.optim.Adam(model.train().parameters(), fused=fused or None, **RATE)

    def step() -> None:
        binary_cross_entropy_with_logits(model(x_BN), y_B).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(name: str, num_sets: int, repeats: int, same_adam: bool = False) -> Comparison:
    """A is ours, B the naive loop, both with the same initial weights; `same_adam`: both with the fused Adam."""
    cardinalities = log_spaced_cardinalities()
    node: Any = OmegaConf.load(config_dir() / "model" / f"{name}.yaml").backbone
    sizes = {"cardinalities": cardinalities, "num_sets": num_sets, "embed_size": BASE_SIZE}
    ours = build(node, "model.backbone", **sizes)
    naive = REFERENCES[name](**sizes, **{key: value for key, value in node.items() if not key.startswith("_")})
    copy_weights(ours, naive)
    data = batch(cardinalities)
    return interleave(training_step(ours, True, *data), training_step(naive, same_adam, *data), repeats)


def case(text: str) -> tuple[str, int]:
    """`dcnv2:4` -> ("dcnv2", 4)."""
    name, _, num_sets = text.partition(":")
    if name not in REFERENCES or not num_sets.isdecimal() or int(num_sets) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected <backbone>:<number of sets> with one of {', '.join(REFERENCES)}"
        )
    return name, int(num_sets)


def main(arguments: list[str] | None = None) -> int:
    """1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--case", type=case, action="append", help="e.g. dcnv2:4; may be given again; default: all")
    parser.add_argument("--repeats", type=int, default=15, help="pairs of steps per case")
    parser.add_argument("--same-adam", action="store_true", help="the naive loop gets the fused Adam too; no targets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)
    table = Table("backbone", "sets", "ours ms", "naive ms", "ours / naive", "quartiles", "target", "")
    records = []
    for name, num_sets in options.case or TARGETS:
        found = measure(name, num_sets, options.repeats, options.same_adam)
        gc.collect()  # before the next one takes its gigabytes
        target = math.inf if options.same_adam else TARGETS.get((name, num_sets), math.inf)
        met = found.ratio <= target
        records.append({"backbone": name, "num_sets": num_sets, **found._asdict(), "target": target, "met": met})
        times = (f"{1000 * value:.0f}" for value in (found.a_seconds, found.b_seconds))
        spread = f"{found.ratio_low:.2f} to {found.ratio_high:.2f}"
        shown = "" if math.isinf(target) else f"{target:.2f}"
        table.add_row(name, str(num_sets), *times, f"{found.ratio:.2f}", spread, shown, "" if met else "missed")
    Console().print(table)
    if options.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        for record in records:
            record["target"] = None if math.isinf(record["target"]) else record["target"]
        report = {"machine": machine, "batch": BATCH, "same_adam": options.same_adam, "cases": records}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(record["met"] for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
