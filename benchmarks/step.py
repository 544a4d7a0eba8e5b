"""One training step, ours against the naive loop over sets: `.venv/bin/python -m benchmarks.step [--case dcnv2:4]`.

Every backbone that takes several sets, with 4 and 10 of them. 39 fields as Criteo has, a table of 1.08 million rows,
batch 2048, sizes and dropout as in conf/model (base size 10, nfwfm 50: with 10 sets each side trains 9 GB).
Ours: the backbone and `Adam(fused=True)`. Naive: `tests/reference.py`, one ordinary model per set, and PyTorch's
default Adam. A step is forward, loss, backward, Adam over every row of the table, and gradients dropped.

Targets: no case slower than the loop, 1.7 times as fast in the geometric mean, no case with a higher peak of memory.
They are for these two as they stand, so most of what they show is the fused Adam. `--same-adam` gives it to the naive
loop too: what is left is the gain, or loss, of computing all sets at once, and no target applies.
Peak memory is that of a process of its own for each side, over three steps, the median of three such processes.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean, median
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

NUM_FIELDS, LARGEST, BATCH = 39, 190_000, 2048
RATE = {"lr": 1e-3, "weight_decay": 1e-6}
CASES = [(name, sets) for name in ("dnn", "ipnn", "nfwfm", "xdeepfm", "dcnv2", "finalmlp") for sets in (4, 10)]
GEOMETRIC_MEAN = 1.7
STEPS_OF_MEMORY, MEMORY_REPEATS = 3, 3


def log_spaced_cardinalities() -> list[int]:
    """From 122 to 190,000, each the same factor above the one before: 1.08 million together."""
    smallest = 122
    factor = (LARGEST / smallest) ** (1 / (NUM_FIELDS - 1))
    return [round(smallest * factor**i) for i in range(NUM_FIELDS)]


def batch(cardinalities: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (B, N), int32 and small ones far more frequent, and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
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


def build_side(side: str, name: str, num_sets: int) -> nn.Module:
    """`ours` or `naive`, at initialisation."""
    node: Any = OmegaConf.load(config_dir() / "model" / f"{name}.yaml")
    sizes = {"cardinalities": log_spaced_cardinalities(), "num_sets": num_sets, "embed_size": node.base_size}
    if side == "ours":
        return build(node.backbone, "model.backbone", **sizes)
    return REFERENCES[name](**sizes, **{key: value for key, value in node.backbone.items() if not key.startswith("_")})


def measure(name: str, num_sets: int, repeats: int, same_adam: bool = False) -> Comparison:
    """A is ours, B the naive loop, both with the same initial weights; `same_adam`: both with the fused Adam."""
    ours, naive = (build_side(side, name, num_sets) for side in ("ours", "naive"))
    copy_weights(ours, naive)
    data = batch(log_spaced_cardinalities())
    return interleave(training_step(ours, True, *data), training_step(naive, same_adam, *data), repeats)


def peak_gigabytes(side: str, name: str, num_sets: int) -> float:
    """Largest resident memory of a process that takes some steps."""
    command = [sys.executable, "-m", "benchmarks.step", "--case", f"{name}:{num_sets}", "--peak-of", side]
    runs = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(MEMORY_REPEATS))
    return median(float(done.stdout) for done in runs)


def print_peak(side: str, name: str, num_sets: int) -> None:
    """What `peak_gigabytes` reads."""
    step = training_step(build_side(side, name, num_sets), side == "ours", *batch(log_spaced_cardinalities()))
    for _ in range(STEPS_OF_MEMORY):
        step()
    # Not ru_maxrss: a new process starts with that of its parent.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) * 1024 / 1e9)


def case(text: str) -> tuple[str, int]:
    """`dcnv2:4` -> ("dcnv2", 4)."""
    name, _, num_sets = text.partition(":")
    names = sorted({name for name, _ in CASES})
    if name not in names or not num_sets.isdecimal() or int(num_sets) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected <backbone>:<number of sets> with one of {', '.join(names)}"
        )
    return name, int(num_sets)


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per case."""
    records = []
    for name, num_sets in options.case or CASES:
        found = measure(name, num_sets, options.repeats, options.same_adam)
        gc.collect()  # before the next one takes its gigabytes
        record = {"backbone": name, "num_sets": num_sets, **found._asdict()}
        if not options.no_memory:
            record |= {f"{side}_peak_gb": peak_gigabytes(side, name, num_sets) for side in ("ours", "naive")}
        records.append(record)
    return records


def missed(records: list[dict[str, Any]]) -> list[str]:
    """Targets that these numbers do not reach."""
    found = []
    for record in records:
        label = f"{record['backbone']}:{record['num_sets']}"
        if record["ratio"] > 1:
            found.append(f"{label} takes {record['ratio']:.2f} of the loop's time, at most 1 is wanted")
        if record.get("ours_peak_gb", 0) > record.get("naive_peak_gb", 0):
            found.append(
                f"{label} peaks at {record['ours_peak_gb']:.2f} GB, the loop at {record['naive_peak_gb']:.2f} GB"
            )
    mean = geometric_mean(1 / record["ratio"] for record in records)
    if mean < GEOMETRIC_MEAN:
        found.append(f"{mean:.2f} times as fast in the geometric mean, {GEOMETRIC_MEAN} is wanted")
    return found


def show(records: list[dict[str, Any]]) -> None:
    """The table, and the geometric mean."""
    table = Table("backbone", "sets", "ours ms", "naive ms", "naive / ours", "quartiles", "peak GB ours", "naive")
    for r in records:
        times = (f"{1000 * r[key]:.0f}" for key in ("a_seconds", "b_seconds"))
        spread = f"{1 / r['ratio_high']:.2f} to {1 / r['ratio_low']:.2f}"
        peaks = (f"{r[key]:.2f}" if key in r else "" for key in ("ours_peak_gb", "naive_peak_gb"))
        table.add_row(r["backbone"], str(r["num_sets"]), *times, f"{1 / r['ratio']:.2f}", spread, *peaks)
    Console(width=110).print(table)
    print(f"geometric mean {geometric_mean(1 / record['ratio'] for record in records):.2f}")


def main(arguments: list[str] | None = None) -> int:
    """1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--case", type=case, action="append", help="e.g. dcnv2:4; may be given again; default: all")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of steps per case")
    parser.add_argument("--same-adam", action="store_true", help="the naive loop gets the fused Adam too; no targets")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--peak-of", choices=["ours", "naive"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak_of:
        print_peak(options.peak_of, *options.case[0])
        return 0
    records = measure_all(options)
    show(records)
    if options.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        report = {"machine": machine, "batch": BATCH, "same_adam": options.same_adam, "cases": records}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    not_met = [] if options.same_adam else missed(records)
    for line in not_met:
        print(f"missed: {line}")
    return 1 if not_met else 0


if __name__ == "__main__":
    sys.exit(main())
