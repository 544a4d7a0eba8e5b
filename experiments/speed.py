"""How fast this machine is, the time of an epoch that follows from it, and what finished runs say about that."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.found import Cell
from recsys_collapse.cost import checkpoint_bytes, flops_per_sample, outline, parameter_counts
from recsys_collapse.memory import free_memory
from recsys_collapse.runs.table import scan
from recsys_collapse.trust import check_trusted

OVERHEAD = 0.003  # seconds of a batch that do not depend on the model: Lightning, cutting the batch
PASSES = 8  # over every value that a layer writes: it and its gradient written and read, by this layer and the next
TOUCHED = 8  # passes over every weight: it, its gradient and two moments, each read and written; a table's has none
MOVES_EVERY_ROW = "recsys_collapse.optimizer.adam.Adam"  # though its gradients have the rows of a batch only
GRAM, EIGENVALUES = 24, 240  # operations of a spectrum: 3 variants, 2 and 20 for each number, 4 for float64


class Data(NamedTuple):
    """A prepared data set: rows of `train`, `valid` and `test`, and bytes in memory."""

    fingerprint: str
    cardinalities: list[int]
    rows: dict[str, int]
    bytes: int


class Machine(NamedTuple):
    """Where runs would train, as measured now."""

    flops: float
    """Of float32 matrix products, per second."""
    values: float
    """float32 numbers read or written, per second."""
    free: int | None
    """Bytes of memory; None: not known."""
    device: str
    threads: int


class Shape(NamedTuple):
    """What a model asks of a machine."""

    flops: int
    """Of a forward pass of a row."""
    written: int
    """Numbers that a forward pass writes for a row."""
    touched: float
    """Weights that a step of the optimizer changes."""
    measuring: float
    """Of the spectra after an epoch, in float32 operations that take as long."""
    weights: int
    checkpoints: int
    """Bytes of the checkpoints of an unfinished run."""


class Known(NamedTuple):
    """A finished run on the same data; `ratio` is actual / predicted seconds, None if it was made elsewhere."""

    cell: Cell
    limits: tuple[int, int]
    epochs: int
    ratio: float | None


def measured(threads: int, accelerator: str, gpu: bool) -> Machine:
    """Speed and free memory of this machine, in well under a second; a GPU is asked by a process that then ends."""
    if not gpu:
        return _measure(threads, accelerator)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, threads, accelerator).result()


def _measure(threads: int, accelerator: str) -> Machine:
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    free, before = free_memory(accelerator), torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.rand(2048, 400, device=device), torch.rand(400, 400, device=device)
    long, other = torch.zeros(2, 16_000_000, device=device)  # larger than caches
    flops = 2 * a.shape[0] * b.numel() / _median_seconds(lambda: a @ b, device)
    values = 3 * long.numel() / _median_seconds(lambda: long.add_(other), device)
    torch.set_num_threads(before)
    return Machine(flops, values, free, name, threads)


def _median_seconds(work: Callable[[], object], device: torch.device, times: int = 7) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


class _Written(TorchDispatchMode):
    """Counts the numbers that operations write; a view writes none."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            found = result if isinstance(result, list | tuple) else [result]
            self.values += sum(value.numel() for value in found if isinstance(value, torch.Tensor))
        return result


def shape_of(own: Mapping[str, Any], cardinalities: Sequence[int]) -> Shape:
    """Of a plain config, or the identity of a run: `model`, `embed`, `optimizer` and `trainer` count."""
    sizes = {key: own["embed"][key] for key in ("num_sets", "embed_size")}
    wanted = [own["model"]["backbone"], sizes, own["optimizer"], own["trainer"]["batch_size"]]
    return _shape(json.dumps(wanted), tuple(cardinalities))


@cache
@torch.no_grad()
def _shape(wanted: str, cardinalities: tuple[int, ...]) -> Shape:
    """Once for all seeds. Where a step moves only rows with a gradient, no more of a field than a batch has."""
    model, sizes, optimizer, batch_size = json.loads(wanted)
    backbone = outline(OmegaConf.create({"model": {"backbone": model}, "embed": sizes}), cardinalities)
    counts = parameter_counts(backbone)
    with _Written() as counter:
        backbone(torch.zeros(2, len(cardinalities), dtype=torch.int32, device="meta"))
    share = 1.0
    if optimizer.get("sparse_gradients") and optimizer["_target_"] != MOVES_EVERY_ROW:
        share = sum(min(size, batch_size) for size in cardinalities) / sum(cardinalities)
    columns = counts["embedding"] / sum(cardinalities)
    return Shape(
        flops=flops_per_sample(backbone),
        written=counter.values // 2,
        touched=counts["dense"] + counts["embedding"] * share,
        measuring=GRAM * sum(cardinalities) * columns**2 + EIGENVALUES * len(cardinalities) * columns**3,
        weights=sum(counts.values()),
        checkpoints=checkpoint_bytes(backbone, optimizer),
    )


def epoch_seconds(shape: Shape, trainer: Mapping[Any, Any], rows: Mapping[str, int], machine: Machine) -> float:
    """Between two evaluations, with one of them; `trainer` is its config, `rows` those of `train` and `valid`."""
    train = rows["train"] / trainer["evaluations_per_epoch"]
    each = 3 * shape.flops / machine.flops + PASSES * shape.written / machine.values
    steps = train / trainer["batch_size"] * (TOUCHED * shape.touched / machine.values + OVERHEAD)
    batches = rows["valid"] / trainer["eval_batch_size"] * OVERHEAD
    return train * each + steps + rows["valid"] * each / 3 + batches + shape.measuring / machine.flops


def limits(trainer: Mapping[Any, Any]) -> tuple[int, int]:
    """Most epochs of a run, and how many without progress end it; counted as evaluations."""
    return trainer["max_epochs"] * trainer["evaluations_per_epoch"], trainer["patience"]


def known_runs(output_dir: Path, data: Data, machine: Machine, allow: Sequence[str] = ()) -> list[Known]:
    """The finished runs on this data; `allow` as on the command line, for what their files may name."""
    found = []
    for run in scan(output_dir):
        if run.get("data_fingerprint") != data.fingerprint:
            continue
        made, ratio = run["environment"], None
        if (made["device"], made["threads"]) == (machine.device, machine.threads):
            ratio = run["wall_seconds"] / (run["num_epochs"] * _predicted(run, data, machine, allow))
        cell = Cell(run["model"], run["embed"], run["scale"], run["regularizer"])
        found.append(Known(cell, limits(run["identity"]["trainer"]), run["num_epochs"], ratio))
    return found


def _predicted(run: dict[str, Any], data: Data, machine: Machine, allow: Sequence[str]) -> float:
    """Seconds of an epoch of a finished run."""
    own = run["identity"]
    check_trusted({"model": own["model"]}, allow, run["run_name"])
    return epoch_seconds(shape_of(own, data.cardinalities), own["trainer"], data.rows, machine)


def nearest(known: Sequence[Known], cell: Cell) -> list[Known]:
    """Of these runs, those most like a cell: of the cell, else of other scales, else of the model, else all."""
    for like in (lambda c: c, lambda c: (c.model, c.embed, c.regularizer), lambda c: c.model):
        if found := [run for run in known if like(run.cell) == like(cell)]:
            return found
    return list(known)
