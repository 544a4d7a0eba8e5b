"""One training step, ours against an installable library: `make bench-peers`, then
`.venv-peers/bin/python -m benchmarks.peers [--case dcnv2:4]`.

Single-embedding at 1, 4 and 10 times the base size, for the backbones that DeepCTR-Torch or RecBole has on equal
architecture (`benchmarks/peer_models.py` says how, and what still differs). 39 fields as Criteo has, 1.08 million ids,
batch 2048. Ours: backbone and optimizer as the configs build them. The peer starts with the same weights and trains
with PyTorch's dense Adam, as both libraries do, in two ways:

- `equal`: our loss and our weight decay, so that both sides compute the same step (but for where dcnv2 drops out);
- `default`: the library's own loss, regularization and Adam, as a researcher gets them without asking. Its data loader,
  progress bar and metrics are left out.

A step is forward, loss, backward, optimizer, and gradients dropped, on ids that it has not seen: an optimizer that does
rows only when they are read again would look too fast on one and the same batch. All 30 comparisons may take half an
hour on 2 cores (an estimate: they were run in parts). xdeepfm at 10 is the largest: the products of a CIN layer of the
peer are 1.2 GB, in several copies.
"""

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.interleave import Action, Comparison, interleave
from benchmarks.peer_models import PEERS, Peer, copy_weights, parameter_counts, peer
from benchmarks.step import BATCH, RATE, batch, log_spaced_cardinalities
from recsys_collapse import cost
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.store import Store
from recsys_collapse.module import CTRModule
from recsys_collapse.train import build_module

Step = Callable[[Tensor, Tensor], None]
SCALES, TRAINED = (1, 4, 10), ("equal", "default")
CASES = [(name, scale) for name in PEERS for scale in SCALES]


def our_module(name: str, scale: int, cardinalities: list[int]) -> CTRModule:
    """What `model=<name> embed=se scale=<scale>` builds for these fields, at initialisation."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", [f"model={name}", "embed=se", f"scale={scale}"])
    x_BN, y_B = batch(cardinalities)
    splits = dict.fromkeys(("train", "valid", "test"), torch.arange(len(y_B), dtype=torch.int32))
    fields = [f"field{i}" for i in range(len(cardinalities))]
    store = Store(Path("memory"), "benchmark", fields, cardinalities, x_BN, y_B.to(torch.uint8), splits)
    return build_module(config, store)


def training_step(loss: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """One full step on ids (B, N) and labels (B,)."""

    def step(x_BN: Tensor, y_B: Tensor) -> None:
        loss(x_BN, y_B).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(module: CTRModule) -> Step:
    """As the trainer does it, without the trainer."""
    backbone = module.train().backbone
    return training_step(
        lambda x_BN, y_B: binary_cross_entropy_with_logits(backbone(x_BN), y_B), module.configure_optimizers()
    )


def peer_step(model: Peer, trained: str) -> Step:
    """`equal` or `default`, as the module says."""
    model.train()
    if trained == "default":
        return training_step(model.default_loss, model.default_optimizer())
    return training_step(
        lambda x_BN, y_B: binary_cross_entropy_with_logits(model(x_BN), y_B),
        torch.optim.Adam(model.parameters(), lr=RATE["lr"], weight_decay=RATE["weight_decay"]),
    )


def on_new_batches(step: Step, cardinalities: list[int]) -> Action:
    """`step` as a function to be timed, every time on the next batch of one sequence; it returns the step's seconds."""
    seeds = count()

    def action() -> float:
        data = batch(cardinalities, next(seeds))
        start = time.perf_counter()
        step(*data)
        return time.perf_counter() - start

    return action


def measure(name: str, scale: int, trained: str, repeats: int) -> tuple[Comparison, dict[str, Any]]:
    """A is ours, B the peer; and the parameters of both."""
    cardinalities = log_spaced_cardinalities()
    module = our_module(name, scale, cardinalities)
    model = peer(name, cardinalities, module.backbone.embedding.embed_size)
    copy_weights(module.backbone, model)
    parameters = {"ours": cost.parameter_counts(module.backbone), "peer": parameter_counts(model)}
    a, b = (on_new_batches(step, cardinalities) for step in (our_step(module), peer_step(model, trained)))
    return interleave(a, b, repeats), parameters


def case(text: str) -> tuple[str, int]:
    """`dcnv2:4` -> ("dcnv2", 4)."""
    name, _, scale = text.partition(":")
    if name not in PEERS or not scale.isdecimal() or int(scale) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected <backbone>:<scale> with one of {', '.join(PEERS)}")
    return name, int(scale)


def show(records: list[dict[str, Any]]) -> None:
    """Times, and parameters as embedding + dense."""
    heads = ("backbone", "scale", "peer", "trained", "ours ms", "peer ms", "peer / ours", "quartiles")
    table = Table(*heads, "parameters ours", "peer")
    for r in records:
        times = (f"{1000 * r[key]:.0f}" for key in ("a_seconds", "b_seconds"))
        spread = f"{1 / r['ratio_high']:.2f} to {1 / r['ratio_low']:.2f}"
        sizes = (f"{counts['embedding']:,} + {counts['dense']:,}" for counts in r["parameters"].values())
        what = (r["backbone"], str(r["scale"]), r["library"], r["trained"])
        table.add_row(*what, *times, f"{1 / r['ratio']:.2f}", spread, *sizes)
    Console(width=150).print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--case", type=case, action="append", help="e.g. dcnv2:4; may be given again; default: all")
    parser.add_argument("--trained", choices=TRAINED, action="append", help="may be given again; default: both")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of steps per case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)
    records = []
    for name, scale in options.case or CASES:
        for trained in options.trained or TRAINED:
            found, parameters = measure(name, scale, trained, options.repeats)
            gc.collect()  # before the next one takes its gigabytes
            what = {"backbone": name, "scale": scale, "library": PEERS[name], "trained": trained}
            records.append({**what, **found._asdict(), "parameters": parameters})
    show(records)
    if options.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        report = {"machine": machine, "batch": BATCH, "cases": records}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
