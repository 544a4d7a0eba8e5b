"""Jobs that misbehave: a user's own backbone, in a package of their own, that fails in every way a job can fail in."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tests.cli import ROOT, python_path, rows

THEIRS = '''
import ctypes, os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import Projection
from recsys_collapse.model.backbone import Backbone

VERSION = 1

class Trap(nn.Module):
    """Lets everything pass, and misbehaves in this process's training step number `after`."""

    def __init__(self, misbehave, after):
        super().__init__()
        self.misbehave, self.after, self.steps = misbehave, after, 0

    def forward(self, h):
        if self.training and h.device.type != "meta":
            if self.steps == 0:
                print(f"made by {VERSION}", flush=True)
            if self.steps >= self.after and self.misbehave != "none":
                return getattr(self, self.misbehave)(h)
            self.steps += 1
        return h

    def nan(self, h):
        return h * float("nan")

    def mistake(self, h):
        raise RuntimeError("their own mistake")

    def memory(self, h):
        raise MemoryError("a batch too many")

    def full(self, h):
        raise OSError(28, "No space left on device", "their.file")

    def kill(self, h):
        os.kill(os.getpid(), signal.SIGKILL)

    def segv(self, h):
        ctypes.string_at(0)

    def exit0(self, h):
        os._exit(0)

    def exit_sys(self, h):
        sys.exit(0)

    def hang(self, h):
        time.sleep(3600)

    def stubborn(self, h):
        try:
            time.sleep(3600)
        except BaseException:
            print("does not end", flush=True)
            time.sleep(3600)
        return h

    def slow(self, h):
        time.sleep(0.3)
        return h

    def tell(self, h):
        words = {key: os.environ.get(key, "") for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
        print(f"slot {words} threads {torch.get_num_threads()}", flush=True)
        self.misbehave = "none"
        return h

    def edit(self, h):
        for path in [*Path("their_pkg").glob("*.py"), *Path("their_conf/model").glob("*.yaml")]:
            text = path.read_text().replace("VERSION = 1", "VERSION = 2")
            path.write_text(text.replace("width: 4", "width: 6"))
        self.misbehave = "none"
        return h


class Tiny(Backbone):
    def __init__(self, cardinalities, num_sets, embed_size, *, misbehave="none", after=0, width=4, lr=0.01):
        size = len(cardinalities) * embed_size
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(nn.Flatten(2), Projection(num_sets, size, width, 0.0), Trap(misbehave, after)),
            MLPHead(width, [], 0.0),
        )
'''
STEPS = 15  # of an epoch: 480 training rows in batches of 32
OPTIONS = [
    *("trainer.max_epochs=2", "trainer.patience=100", "trainer.batch_size=32", "trainer.progress_bar=false"),
    *(*rows(480, 60, 60), "dataset.num_fields=3", "dataset.max_cardinality=20"),
    *("logger=local", "optimizer.lr=${model.backbone.lr}"),
]


def write_theirs(folder: Path, **models: dict[str, Any]) -> None:
    """The package `their_pkg`, and `their_conf` with one model for each word: its options, such as `misbehave`."""
    (folder / "their_pkg").mkdir()
    (folder / "their_pkg" / "__init__.py").write_text("")
    (folder / "their_pkg" / "tiny.py").write_text(THEIRS)
    (folder / "their_conf" / "model").mkdir(parents=True)
    for name, options in models.items():
        backbone = {
            "_target_": "their_pkg.tiny.Tiny",
            "misbehave": "none",
            "after": 0,
            "width": 4,
            "lr": 0.01,
            **options,
        }
        node = OmegaConf.create({"name": name, "base_size": 3, "backbone": backbone})
        OmegaConf.save(node, folder / "their_conf" / "model" / f"{name}.yaml")


def words(*models: str) -> list[str]:
    """The command of a sweep over models."""
    return ["--config-dir", "their_conf", "-m", f"model={','.join(models)}", *OPTIONS]


def runs(folder: Path) -> dict[str, Path]:
    """The directory of every run, by its model."""
    return {path.name.partition("-")[0]: path for path in (folder / "outputs" / "runs").iterdir()}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def finished(folder: Path) -> set[str]:
    return {model for model, path in runs(folder).items() if (path / "result.json").is_file()}


def starts(run_dir: Path) -> int:
    """How often a run was begun."""
    return (run_dir / "log.txt").read_text().count(": starts")


def status(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("outputs/sweeps/*/status.json")
    return read(path)


def processes(folder: Path) -> list[int]:
    """Jobs that run now, by the plan in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{folder}/outputs/sweeps" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            pass
    return found


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, in a process that a test can send signals to."""
    return subprocess.Popen(
        [sys.executable, "-m", "recsys_collapse.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], Any], seconds: float = 120) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.05)
