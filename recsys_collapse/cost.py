"""What a model costs, before it is built: parameters, floating-point operations per sample, bytes of its parameters.

Memory in training, with everything beside the parameters: `recsys_collapse.memory`.
"""

import errno
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

    `optimizer` is its config: `bytes_per_weight` (default 16, Adam's) says what a table takes; all else has Adam.
    Gradients with the rows of a batch only do not count: see `recsys_collapse.memory`, which knows the batch.
    """
    counts, of_a_table = parameter_counts(backbone), optimizer.get("bytes_per_weight", BYTES_PER_WEIGHT)
    return {"embedding": counts["embedding"] * of_a_table, "dense": counts["dense"] * BYTES_PER_WEIGHT}


def checkpoint_bytes(backbone: Backbone, optimizer: Mapping[Any, Any]) -> int:
    """Bytes of the two checkpoints that an unfinished run may have, to go on from; the best weights come on top."""
    counts, sparse = parameter_counts(backbone), optimizer.get("sparse_gradients", False)
    gradients = 4 * (counts["dense"] + (0 if sparse else counts["embedding"]))
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
