"""One training step of one case, timed in this process: what `benchmarks.table` runs, a process for each case.

`.venv/bin/python -m benchmarks.step dcnv2:me:4` prints the record of that case as JSON.

39 fields as Criteo has, a table of 1.08 million rows, batch 2048, sizes and dropout as in conf/model (base size 10,
nfwfm 50). Ours is built as a run builds it: `train.build_module` and its optimizer, from a composed config. A step is
forward and loss, backward, and the optimizer's step with the gradients dropped, always on a new batch. The floor is
that of `benchmarks.floor`, from rates that are measured in the same process before and after the steps.

With several embedding sets, each step of ours is timed beside one of the loop: `tests/reference.py`, one ordinary model
per set in float32, and PyTorch's default Adam. `--same-adam` gives it the fused Adam: what is left is the gain, or
loss, of computing all sets at once.

Peak memory is the resident memory of a process, or what CUDA allocated, over the first three steps; for the loop it is
that of a process of its own.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.floor import count
from benchmarks.interleave import Action, interleave
from benchmarks.rates import PRECISIONS, laps, measure
from recsys_collapse.config import config_dir, register
from recsys_collapse.cost import outline
from recsys_collapse.dataset.store import Store
from recsys_collapse.heap import keep_freed_memory
from recsys_collapse.train import build_module
from tests.reference import REFERENCES, copy_weights

NUM_FIELDS, LARGEST, BATCH = 39, 190_000, 2048
RATE = {"lr": 1e-3, "weight_decay": 1e-6}  # of conf/optimizer/adam.yaml
BACKBONES = ("dnn", "ipnn", "nfwfm", "xdeepfm", "dcnv2", "finalmlp")
PHASES = ("forward", "backward", "optimizer")
STEPS_OF_MEMORY, WARM_UP = 3, 2


class Case(NamedTuple):
    """A backbone with one embedding set of `scale` times the size (`se`), or with `scale` sets (`me`)."""

    backbone: str
    embed: str
    scale: int

    def __str__(self) -> str:
        return f"{self.backbone}:{self.embed}:{self.scale}"


def parse_case(text: str) -> Case:
    """`dcnv2:me:4` -> Case("dcnv2", "me", 4)."""
    backbone, embed, scale = [*text.split(":"), "", ""][:3]
    known = backbone in BACKBONES and embed in ("se", "me") and scale.isdecimal() and text.count(":") == 2
    if not known or int(scale) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected <backbone>:<se or me>:<scale>, e.g. dcnv2:me:4, with one of {', '.join(BACKBONES)}"
        )
    if embed == "me" and int(scale) == 1:
        raise argparse.ArgumentTypeError(f"{text!r}: one embedding set is single-embedding: say {backbone}:se:1")
    return Case(backbone, embed, int(scale))


def log_spaced_cardinalities() -> list[int]:
    """From 122 to 190,000, each the same factor above the one before: 1.08 million together."""
    smallest = 122
    factor = (LARGEST / smallest) ** (1 / (NUM_FIELDS - 1))
    return [round(smallest * factor**i) for i in range(NUM_FIELDS)]


def batch(cardinalities: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (B, N), int32 and small ones far more frequent, and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    skewed_BN = torch.rand(BATCH, len(cardinalities), generator=generator) ** 3
    x_BN = (skewed_BN * torch.tensor(cardinalities)).to(torch.int32)
    return x_BN, torch.randint(2, (BATCH,), generator=generator).float()


def compose_case(case: Case, precision: str = "32-true") -> DictConfig:
    """The config of a run of this case."""
    register()
    words = [f"model={case.backbone}", f"embed={case.embed}", f"scale={case.scale}", f"trainer.precision={precision}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", words)


class Side(NamedTuple):
    """A model in training mode, and its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


def build_ours(config: DictConfig, cardinalities: Sequence[int], device: torch.device) -> Side:
    """As a run has it, at initialisation. What it sets for the process helps whatever else is timed in it, too."""
    keep_freed_memory()
    x_BN, y_B = batch(cardinalities)
    splits = {"train": torch.arange(BATCH, dtype=torch.int32)}
    fields = [f"field{i}" for i in range(len(cardinalities))]
    store = Store(Path("memory"), "benchmark", fields, list(cardinalities), x_BN, y_B.to(torch.uint8), splits)
    module = build_module(config, store).train().to(device)
    return Side(module.backbone, module.configure_optimizers())


def build_loop(config: DictConfig, cardinalities: Sequence[int], device: torch.device, same_adam: bool) -> Side:
    """`tests/reference.py` with Adam: torch's default, or with `same_adam` the fused one."""
    options = {key: value for key, value in config.model.backbone.items() if not str(key).startswith("_")}
    model = REFERENCES[config.model.name](cardinalities, config.embed.num_sets, config.embed.embed_size, **options)
    model = model.train().to(device)
    adam = torch.optim.Adam(
        model.parameters(), lr=RATE["lr"], weight_decay=RATE["weight_decay"], fused=same_adam or None
    )
    return Side(model, adam)


def phases(side: Side, x_BN: Tensor, y_B: Tensor, precision: str = "32-true") -> list[Action]:
    """Forward, backward and optimizer of one step on this batch, each a function; to be called in this order."""
    losses: list[Tensor] = []
    mixed = precision == "bf16-mixed"

    def forward() -> None:
        with torch.autocast(x_BN.device.type, torch.bfloat16, enabled=mixed):
            losses.append(binary_cross_entropy_with_logits(side.model(x_BN), y_B))

    def backward() -> None:
        losses.pop().backward()

    def update() -> None:
        side.optimizer.step()
        side.optimizer.zero_grad(set_to_none=True)

    return [forward, backward, update]


def timed_step(
    side: Side, cardinalities: Sequence[int], device: torch.device, precision: str = "32-true"
) -> Callable[[], list[float]]:
    """A function that takes a step on the next batch of one sequence and returns the seconds of its phases.

    Every batch is new, as in training: no row is in a cache, or in an optimizer, because the step before had it.
    """
    seeds = itertools.count()

    def step() -> list[float]:
        x_BN, y_B = (tensor.to(device) for tensor in batch(cardinalities, next(seeds)))
        return laps(phases(side, x_BN, y_B, precision), device)

    return step


def peak_gigabytes(step: Callable[[], object], device: torch.device) -> float:
    """Largest memory of this process until it has taken some steps; before anything else is built in it."""
    for _ in range(STEPS_OF_MEMORY):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # Not ru_maxrss: a new process starts with that of its parent.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e9


def quartiles(seconds: Sequence[float], floor: float) -> dict[str, float]:
    """Median and quartiles in ms, the floor in ms, and how much of the median it is."""
    low, middle, high = (1000 * np.quantile(seconds, [0.25, 0.5, 0.75])).tolist()
    return {"ms": middle, "low": low, "high": high, "floor_ms": 1000 * floor, "fraction": 1000 * floor / middle}


def measure_case(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """The record of one case; `options` are those of the command."""
    config, cardinalities = compose_case(case, options.precision), log_spaced_cardinalities()
    device, num_sets = options.device, config.embed.num_sets
    ours = build_ours(config, cardinalities, device)
    take = timed_step(ours, cardinalities, device, options.precision)
    record: dict[str, Any] = {**case._asdict(), "num_sets": num_sets, "peak_gb": peak_gigabytes(take, device)}
    shape = sum(cardinalities), num_sets * config.embed.embed_size
    rates = measure(*shape, device, [options.precision])
    found: list[list[float]] = []

    def step() -> float:
        found.append(take())
        return sum(found[-1])

    if num_sets > 1:
        loop = build_loop(config, cardinalities, device, options.same_adam)
        copy_weights(ours.model, loop.model)  # type: ignore[arg-type]
        of_loop = timed_step(loop, cardinalities, device)
        pairs = interleave(step, lambda: sum(of_loop()), options.repeats, WARM_UP)
        record["loop"] = {"ms": 1000 * pairs.b_seconds, "speedup": 1 / pairs.ratio}
        record["loop"] |= {"low": 1 / pairs.ratio_high, "high": 1 / pairs.ratio_low}
    else:
        for _ in range(options.repeats + WARM_UP):
            step()
    rates = rates.best(measure(*shape, device, [options.precision]))
    x_BN, _ = batch(cardinalities)
    floors = count(outline(config, cardinalities), x_BN, options.precision).seconds(rates, options.precision)
    times_RP = np.array(found[WARM_UP:])
    for phase, seconds_R in zip(PHASES, times_RP.T, strict=True):
        record[phase] = quartiles(seconds_R, floors[phase])
    record["step"] = quartiles(times_RP.sum(axis=1), sum(floors.values()))
    return record | {"rates": rates._asdict()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that `benchmarks.table` passes on."""
    parser.add_argument("--repeats", type=int, default=7, help="steps per case, or pairs of steps")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default="32-true", help="of ours; the loop has 32-true"
    )
    parser.add_argument("--same-adam", action="store_true", help="the loop gets the fused Adam too; no targets")


def main(arguments: list[str] | None = None) -> None:
    """Print one record."""
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("case", type=parse_case, help="e.g. dcnv2:me:4")
    parser.add_argument("--loop-peak", action="store_true", help="print the loop's peak of memory in GB and stop")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.loop_peak:
        config, cardinalities = compose_case(options.case), log_spaced_cardinalities()
        loop = build_loop(config, cardinalities, options.device, options.same_adam)
        print(peak_gigabytes(timed_step(loop, cardinalities, options.device), options.device))
    else:
        print(json.dumps(measure_case(options.case, options)))


if __name__ == "__main__":
    main()
