"""What a plan takes before it starts: hours, memory and disk, and what these figures rest on.

The time of an epoch comes from the operations of a model and the numbers that it and its optimizer move, at the
speeds that a short test of this machine finds (`experiments/speed.py`). Finished runs on the same data, this device and
as many threads correct it by their median of actual / predicted: those of the cell, else of its model, else all.
They also tell how many epochs a run takes. What a regularizer adds is known from such runs only.
"""

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.found import Cell
from experiments.speed import Data, Known, Machine, epoch_seconds, known_runs, limits, measured, nearest, shape_of
from recsys_collapse.config import plain
from recsys_collapse.cost import outline
from recsys_collapse.data import load_data
from recsys_collapse.dataset.batches import num_bytes
from recsys_collapse.launch.plan import Job, Plan
from recsys_collapse.launch.status import span
from recsys_collapse.launch.subprocess import make_slots, visible_gpus
from recsys_collapse.memory import PROCESS, needed
from recsys_collapse.runs.identity import embed_name

START = 5.0  # seconds until a process of its own begins with its run
SCORE = 8  # bytes of a validation or test row in the files of scores
MORE_EPOCHS = 2  # than the patience has a run, where none on the data is finished


@dataclass(frozen=True)
class Estimate:
    """Of one run."""

    cell: Cell
    seconds: float
    epochs: float
    epochs_known: bool
    basis: str
    """Of the seconds: finished runs of its `own` model and regularizer, of `others`, or the speed `test` alone."""
    memory: int
    """Bytes while it trains, with its process, without the data."""
    kept: int
    """Bytes that stay on the disk."""
    checkpoints: int
    """Bytes on the disk while it runs, on top."""


@dataclass(frozen=True)
class Price:
    """What the missing runs of a plan take."""

    runs: int
    missing: tuple[Estimate, ...]
    at_once: int
    used: int
    """Finished runs that the time rests on."""
    elsewhere: str = ""
    """The launcher, if it is not this machine that runs them."""

    @property
    def cells(self) -> dict[Cell, list[Estimate]]:
        """The missing runs of each cell."""
        return _by_cell(self.missing)

    @property
    def seconds(self) -> float:
        """Until the last one is finished."""
        each = [run.seconds for run in self.missing]
        return max(sum(each) / self.at_once, *each)


def price(plan: Plan, missing: Sequence[Job]) -> Price:
    """What the missing runs take; prepares the data.

    Raises:
        ValueError: they do not fit into memory or on the disk, or the data cannot be used.
        OSError: something cannot be written.
    """
    config, here = plan.config, plan.hydra.launcher._target_.endswith("BasicLauncher")
    gpu = config.trainer.accelerator != "cpu" and bool(visible_gpus())
    own_processes = here and config.launch.name == "subprocess"
    slots = make_slots(config.launch, config.trainer.accelerator) if own_processes else [{}]
    at_once = min(len(slots), len(missing))
    threads = config.trainer.threads or int(slots[0].get("OMP_NUM_THREADS", torch.get_num_threads()))
    machine = measured(threads, config.trainer.accelerator, gpu)
    data = {key: _data(job) for key, job in {_data_key(job): job for job in missing}.items()}
    known = {key: known_runs(plan.output_dir, found, machine, list(config.allow)) for key, found in data.items()}
    estimates = tuple(_estimate(job, data[_data_key(job)], known[_data_key(job)], machine) for job in missing)
    if here:
        _refuse_memory(estimates, machine.free, max(one.bytes for one in data.values()), 1 if gpu else at_once)
    _refuse_disk(estimates, plan.output_dir, at_once)
    used = sum(one.ratio is not None for found in known.values() for one in found)
    return Price(len(plan.jobs), estimates, at_once, used, "" if here else config.launch.name)


def _data_key(job: Job) -> str:
    return json.dumps([plain(job.config.dataset), job.config.split_seed, job.config.store_dir])


def _data(job: Job) -> Data:
    store = load_data(job.config)[1]
    rows = {part: len(ids) for part, ids in store.splits.items()}
    return Data(store.fingerprint, store.cardinalities, rows, num_bytes(store))


def _estimate(job: Job, data: Data, known: Sequence[Known], machine: Machine) -> Estimate:
    config, trainer = job.config, job.config.trainer
    name = config.regularizer.get("name") or config.regularizer["_target_"]
    cell = Cell(config.model.name, embed_name(config), config.scale, name)
    shape = shape_of(plain(config), data.cardinalities)
    each = epoch_seconds(shape, trainer, data.rows, machine)
    timed = nearest([run for run in known if run.ratio is not None], cell)
    ended = nearest([run for run in known if run.limits == limits(trainer)], cell)
    most, patience = limits(trainer)
    epochs = statistics.median([run.epochs for run in ended]) if ended else min(most, patience + MORE_EPOCHS)
    ratio = statistics.median([run.ratio for run in timed]) if timed else 1.0
    counting = {part: plain(config[part]) for part in ("model", "embed", "optimizer", "regularizer", "trainer")}
    scores = SCORE * (data.rows["valid"] + data.rows["test"]) * config.save_scores
    return Estimate(
        cell=cell,
        seconds=epochs * each * ratio + START * (config.launch.name != "in_process"),
        epochs=epochs,
        epochs_known=bool(ended),
        basis="own" if timed and _kind(timed[0].cell) == _kind(cell) else "others" if timed else "test",
        memory=_memory(json.dumps(counting), tuple(data.cardinalities), tuple(data.rows.items())),
        kept=4 * shape.weights + scores,
        checkpoints=shape.checkpoints,
    )


@cache
def _memory(config: str, cardinalities: tuple[int, ...], rows: tuple[tuple[str, int], ...]) -> int:
    """The peak of a run; once for all seeds."""
    counting = OmegaConf.create(json.loads(config))
    assert isinstance(counting, DictConfig)
    return needed(counting, outline(counting, cardinalities), dict(rows)).peak


def _by_cell(runs: Sequence[Estimate]) -> dict[Cell, list[Estimate]]:
    found: dict[Cell, list[Estimate]] = {}
    for run in runs:
        found.setdefault(run.cell, []).append(run)
    return found


def _refuse_memory(runs: Sequence[Estimate], free: int | None, data: int, together: int) -> None:
    """`together`: how many share the memory; `data`: bytes that they share."""
    cells = {cell: together * own[0].memory + data for cell, own in _by_cell(runs).items()}
    large = {cell: needed for cell, needed in cells.items() if free is not None and needed > free}
    if large:
        named = "; ".join(f"{_words(cell)} {needed / 1e9:.1f} GB" for cell, needed in large.items())
        fitting = ",".join(str(scale) for scale in sorted({c.scale for c in cells} - {c.scale for c in large}))
        fewer = int((free - data) // max(run.memory for run in runs))
        raise ValueError(
            f"{free / 1e9:.1f} GB of memory are free, and {together} at once would take: {named} (of which "
            f"{together * PROCESS / 1e9:.1f} GB for processes, {data / 1e9:.1f} GB for the data): leave the scale out "
            f"(scale={fitting or '...'}), {f'launch.at_once={fewer}, ' if fewer > 0 else ''}optimizer=rowwise_adagrad, "
            "or a GPU or machine with more"
        )


def _refuse_disk(runs: Sequence[Estimate], output_dir: Path, at_once: int) -> None:
    kept, resumable = sum(run.kept for run in runs), at_once * max(run.checkpoints for run in runs)
    folder = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if kept + resumable > (free := shutil.disk_usage(folder).free):
        each = {cell: sum(run.kept for run in own) for cell, own in _by_cell(runs).items()}
        largest = sorted(each, key=lambda cell: each[cell], reverse=True)[:3]
        raise ValueError(
            f"output_dir={output_dir}: {free / 1e9:.2f} GB are free, and {len(runs)} runs need {kept / 1e9:.2f} GB for "
            f"best weights and scores, and {resumable / 1e9:.2f} GB for checkpoints while they run; most of it: "
            f"{'; '.join(f'{_words(cell)} {each[cell] / 1e9:.2f} GB' for cell in largest)}: make room, choose another "
            "output_dir, or leave the largest scale out"
        )


def _kind(cell: Cell) -> str:
    """`dcnv2 unitary`."""
    return cell.model if cell.regularizer == "none" else f"{cell.model} {cell.regularizer}"


def _words(cell: Cell) -> str:
    """`dcnv2 unitary me 10x`."""
    return f"{_kind(cell)} {cell.embed} {cell.scale}x"


def show_price(price: Price) -> None:
    """A table of the cells, and the whole in a line."""
    table = Table(caption="all: one after the other; GB: of memory, a run")
    for name in ("model", "embed", "scale", "regularizer"):
        table.add_column(name)
    for name in ("missing", "epochs", "each", "all", "GB"):
        table.add_column(name, justify="right")
    for cell, runs in price.cells.items():
        one, seconds = runs[0], sum(run.seconds for run in runs)
        epochs = f"{one.epochs:.0f}{'' if one.epochs_known else '?'}"
        numbers = (str(len(runs)), epochs, span(seconds / len(runs)), span(seconds), f"{one.memory / 1e9:.1f}")
        table.add_row(cell.model, cell.embed, f"{cell.scale}x", cell.regularizer, *numbers)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(summary(price), highlight=False, soft_wrap=True)


def summary(price: Price) -> str:
    """In a line; a second one says what was assumed."""
    there, largest = price.runs - len(price.missing), max(run.memory for run in price.missing)
    parts = [
        f"{price.runs} runs: {there} there, {len(price.missing)} missing",
        f"about {span(price.seconds)} ({_basis(price)})",
        f"at most {largest / 1e9:.1f} GB of memory each",
        f"one after the other if on this machine, but launch={price.elsewhere} decides"
        if price.elsewhere
        else f"{price.at_once} at once",
    ]
    unknown = any(not run.epochs_known for run in price.missing)
    said = f"epochs with ? are a guess, patience + {MORE_EPOCHS} or max_epochs: no run is finished, it may be many more"
    return ", ".join(parts) + (f"\n{said}" if unknown else "")


def _basis(price: Price) -> str:
    """What the time rests on."""
    kinds = {run.basis for run in price.missing}
    others = sorted({_kind(run.cell) for run in price.missing if run.basis == "others"})
    found = [f"from {price.used} finished runs"] if kinds & {"own", "others"} else []
    found += [f"of others for {', '.join(others)}: may be off by a factor of 3"] if others else []
    found += ["from a speed test of this machine; may be off by a factor of 3"] if "test" in kinds else []
    return ", ".join(found)
