"""What a model costs, before it is built: parameters, floating-point operations per sample, and memory in training."""

import errno
import gc
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from recsys_collapse.build import build
from recsys_collapse.model.backbone import Backbone

BYTES_PER_WEIGHT = 16  # float32: the weight, its gradient and two moments of Adam


def outline(config: DictConfig, cardinalities: Sequence[int]) -> Backbone:
    """The backbone of a config as shapes without numbers (torch's meta device): no memory, whatever its size.

    Raises:
        ValueError: an option cannot be used.
    """
    sizes = {"num_sets": config.embed.num_sets, "embed_size": config.embed.embed_size}
    with torch.device("meta"):
        return build(config.model.backbone, "model.backbone", cardinalities=list(cardinalities), **sizes)


def cost(config: DictConfig, cardinalities: Sequence[int]) -> dict[str, Any]:
    """`parameters` {embedding, dense} and `flops_per_sample` of a config, without building it."""
    backbone = outline(config, cardinalities)
    return {"parameters": parameter_counts(backbone), "flops_per_sample": flops_per_sample(backbone)}


def parameter_counts(backbone: Backbone) -> dict[str, int]:
    """Number of `embedding` parameters (all that have one row per id) and of `dense` ones, all others of the backbone.

    A regularizer's own, such as the lambdas of `unitary`, are no part of the model and not counted.
    """
    embedding = sum(table.weight.numel() for table in backbone.tables())
    return {"embedding": embedding, "dense": sum(p.numel() for p in backbone.parameters()) - embedding}


@torch.no_grad()
def flops_per_sample(backbone: Backbone) -> int:
    """Operations of the matrix products of one forward pass, per row, as torch counts them (a multiply-add is two)."""
    training, rows = backbone.training, 2
    device = backbone.embedding.weight.device
    x_BN = torch.zeros(rows, len(backbone.embedding.cardinalities), dtype=torch.int32, device=device)
    with FlopCounterMode(display=False) as counter:
        backbone.eval()(x_BN)
    backbone.train(training)
    return counter.get_total_flops() // rows


def training_bytes(backbone: Backbone, optimizer: Mapping[Any, Any]) -> dict[str, int]:
    """Bytes of `embedding` and `dense` parameters in float32, with gradients and what the optimizer keeps of them.

    `optimizer` is its config: `bytes_per_weight` (default 16, Adam's) says what a table takes; all else has Adam. While
    a checkpoint is written there is a copy of the weights: in the place of a dense gradient, or beside the rest.
    """
    counts = parameter_counts(backbone)
    of_a_table = optimizer.get("bytes_per_weight", BYTES_PER_WEIGHT) + 4 * optimizer.get("sparse_gradients", False)
    return {"embedding": counts["embedding"] * of_a_table, "dense": counts["dense"] * BYTES_PER_WEIGHT}


def check_memory(backbone: Backbone, fields: Sequence[str], optimizer: Mapping[Any, Any], free: int | None) -> None:
    """Stop before something is allocated that cannot be trained.

    Args:
        backbone: the model; its outline will do.
        fields: names of the fields.
        optimizer: its config.
        free: bytes that can be had; None: not known, so nothing is checked.

    Raises:
        ValueError: names the largest fields and their bytes.
    """
    taken = training_bytes(backbone, optimizer)
    needed = sum(taken.values())
    if free is None or needed <= free:
        return
    columns = sum(table.weight.shape[1] for table in backbone.tables())
    each = taken["embedding"] // sum(backbone.embedding.cardinalities)
    largest = sorted(zip(backbone.embedding.cardinalities, fields, strict=True), reverse=True)[:3]
    shown = ", ".join(
        f"{name}: {size:,} ids x {columns} columns x {each // columns} B = {size * each / 1e9:.1f} GB"
        for size, name in largest
    )
    raise ValueError(
        f"training takes {needed / 1e9:.1f} GB (weights, gradient and what the optimizer keeps), of which "
        f"{taken['dense'] / 1e9:.1f} GB outside the table; {free / 1e9:.1f} GB are free; largest fields: {shown}: "
        "raise dataset.min_count, set dataset.hashed_cardinality, leave fields out with dataset.ignore, use a smaller "
        "scale, or optimizer=rowwise_adagrad"
    )


def checkpoint_bytes(backbone: Backbone, optimizer: Mapping[Any, Any]) -> int:
    """Bytes of the two checkpoints that an unfinished run may have, to go on from; the best weights come on top."""
    gradients = 0 if optimizer.get("sparse_gradients", False) else 4 * sum(parameter_counts(backbone).values())
    return 2 * (sum(training_bytes(backbone, optimizer).values()) - gradients)


def check_disk(backbone: Backbone, optimizer: Mapping[Any, Any], run_dir: Path) -> None:
    """Stop before training what could not be kept: two checkpoints to go on from, and the best weights.

    Raises:
        OSError: ENOSPC; says how many bytes are needed and free.
    """
    needed = checkpoint_bytes(backbone, optimizer) + 4 * sum(parameter_counts(backbone).values())
    free = shutil.disk_usage(next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())).free
    free += sum(path.stat().st_size for path in run_dir.glob("checkpoints/*.ckpt"))  # of this run, when it goes on
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the run needs up to {needed / 1e9:.2f} GB for its checkpoints, {free / 1e9:.2f} GB are free: make "
            "room, or choose another output_dir",
            str(run_dir),
        )


def free_memory(accelerator: str) -> int | None:
    """Bytes that can be had where a run trains: on the GPU, or of the machine; None where the system does not say."""
    if accelerator != "cpu" and torch.cuda.is_available():
        gc.collect()  # what the run before this one in the process left
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
