"""Peak memory of training against its estimate: `.venv/bin/python -m benchmarks.memory [--case nfwfm:10:se]`.

Every case is a process of its own: 39 fields as Criteo has, a table of 1.08 million rows, three training steps of 2048
rows as the framework takes them (its model, optimizer and batches, in Lightning's order: the gradients of a step are
there until the next one has done its forward pass). Its largest resident memory against `recsys_collapse.memory`.
Target: within 15%.

`--avazu`: nfwfm 10x at Avazu's size (22 fields, 2.02 million ids x 500 columns: the cell that the paper left out for
lack of memory), SE and ME, by `recsys_collapse.run` with validation, checkpoints, test and result, on rows made
up here. It needs 17 GB of memory and 30 GB of disk, and is no part of `make bench`.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks import avazu
from benchmarks.step import log_spaced_cardinalities
from recsys_collapse.config import config_dir, register
from recsys_collapse.cost import outline
from recsys_collapse.dataset.batches import Batches, num_bytes, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.heap import keep_freed_memory
from recsys_collapse.memory import Memory, needed
from recsys_collapse.train import build_module

MODELS, SCALES, STEPS, TOLERANCE = ("dnn", "ipnn", "nfwfm", "xdeepfm", "dcnv2", "finalmlp"), (1, 4, 10), 3, 0.15
CASES = [
    (model, scale, embed)
    for model in MODELS
    for scale in SCALES
    for embed in ("se", "me")
    if scale > 1 or embed == "se"
]


def peak() -> int:
    """Largest resident memory of this process until now, in bytes."""
    # Not ru_maxrss: a new process starts with that of its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def store(batch_size: int) -> Store:
    """So many rows as the steps need, in memory, small ids far more frequent."""
    cardinalities, generator = log_spaced_cardinalities(), torch.Generator().manual_seed(0)
    rows = STEPS * batch_size
    ids = (torch.rand(rows, len(cardinalities), generator=generator) ** 3 * torch.tensor(cardinalities)).to(torch.int32)
    labels = torch.randint(2, (rows,), generator=generator, dtype=torch.uint8)
    splits = {
        part: torch.arange(rows if part == "train" else 1, dtype=torch.int32) for part in ("train", "valid", "test")
    }
    return Store(Path("memory"), "benchmark", [f"C{i}" for i in range(39)], cardinalities, ids, labels, splits)


def composed(words: list[str]) -> DictConfig:
    """A run's config."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", words)


def measure(model: str, scale: int, embed: str, words: list[str]) -> dict[str, Any]:
    """In this process: three steps, and what was told before."""
    config = composed([f"model={model}", f"scale={scale}", f"embed={embed}", "trainer.accelerator=cpu", *words])
    data = store(config.trainer.batch_size)
    rows = {part: len(own) for part, own in data.splits.items()}
    told = needed(config, outline(config, data.cardinalities), rows, num_bytes(data))
    keep_freed_memory()
    module = build_module(config, data).train()
    backbone, optimizer = module.backbone, module.configure_optimizers()
    for x_BN, y_B in Batches(data, "train", config.trainer.batch_size, shuffled(0, lambda: 0)):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
            loss = binary_cross_entropy_with_logits(backbone(x_BN), y_B.to(torch.float32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"model": model, "scale": scale, "embed": embed, "peak": peak(), "told": told._asdict()}


def case(text: str) -> tuple[str, int, str]:
    """`nfwfm:10:se` -> ("nfwfm", 10, "se")."""
    model, scale, embed = [*text.split(":"), "", ""][:3]
    if model not in MODELS or not scale.isdecimal() or int(scale) < 1 or embed not in ("se", "me"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected <backbone>:<scale>:<se or me> with one of {', '.join(MODELS)}"
        )
    return model, int(scale), embed


def show(records: list[dict[str, Any]]) -> None:
    """The table, gigabytes."""
    names = ("process", "table", "optimizer", "dense", "data", "gradient", "activations")
    table = Table("case", *names, "told", "peak", "peak / told")
    for record in records:
        told = Memory(**record["told"])
        parts = (f"{getattr(told, name) / 1e9:.2f}" for name in names)
        sums = (f"{told.step / 1e9:.2f}", f"{record['peak'] / 1e9:.2f}", f"{record['peak'] / told.step:.3f}")
        table.add_row(f"{record['model']}:{record['scale']}:{record['embed']}", *parts, *sums)
    Console(width=140).print(table)


def train_at_the_size_of_avazu(embeds: list[str], words: list[str]) -> list[dict[str, Any]]:
    """Train SE and ME there, print what they took, and leave nothing behind."""
    records = []
    with tempfile.TemporaryDirectory(prefix="avazu-", dir=".") as folder:
        print(f"left out: all but {avazu.TRAIN} steps of an epoch, and the spectra (callback=[])")
        data = avazu.write_rows(Path(folder).absolute())
        for embed in embeds:
            found = avazu.train(Path(folder).absolute(), embed, data, words)
            records.append(found)
            print(
                f"nfwfm 10x {embed} at Avazu's size: trained, evaluated, saved and tested in {found['seconds']:.0f} s; "
                f"peak {found['anonymous'] / 1e9:.2f} GB ({found['peak'] / 1e9:.2f} GB with mapped files), told "
                f"{found['told'] / 1e9:.2f} GB: {found['anonymous'] / found['told']:.3f}",
                flush=True,
            )
            shutil.rmtree(Path(folder) / "outputs" / "runs")
    return records


def main(arguments: list[str] | None = None) -> int:
    """1 if an estimate is off by more than the target, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--case", type=case, action="append", help="e.g. nfwfm:10:se; may be given again; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--avazu", choices=["se", "me", "both"], help="train nfwfm 10x at Avazu's size")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help="of a config, such as optimizer=adagrad")
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(measure(*options.case[0], options.words)))
        return 0
    if options.avazu:
        found = train_at_the_size_of_avazu(["se", "me"] if options.avazu == "both" else [options.avazu], options.words)
        return 0 if all(abs(one["anonymous"] / one["told"] - 1) <= TOLERANCE for one in found) else 1
    records = []
    for model, scale, embed in options.case or CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--inside", "--case", f"{model}:{scale}:{embed}"]
        done = subprocess.run([*command, *options.words], stdout=subprocess.PIPE, text=True, check=True)
        records.append(json.loads(done.stdout.splitlines()[-1]))
    show(records)
    if options.json:
        machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        report = {"machine": machine | {"torch": torch.__version__}, "words": options.words, "cases": records}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    wrong = [r for r in records if abs(r["peak"] / Memory(**r["told"]).step - 1) > TOLERANCE]
    for record in wrong:
        print(f"missed: {record['model']}:{record['scale']}:{record['embed']} is off by more than {TOLERANCE:.0%}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
