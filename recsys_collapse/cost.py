"""What a model costs: parameters, floating-point operations per sample, and the memory of its table."""

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from recsys_collapse.model.backbone import Backbone

BYTES_PER_WEIGHT = 16  # float32: the weight, its gradient and two moments of Adam


def parameter_counts(backbone: Backbone) -> dict[str, int]:
    """Number of `embedding` parameters (one row per id: the fused table) and of `dense` ones (everything else)."""
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


def check_memory(cardinalities: Sequence[int], fields: Sequence[str], columns: int, free: int | None) -> None:
    """Stop before a table is allocated that cannot be trained.

    Args:
        cardinalities: D_i of every field.
        fields: their names.
        columns: M*K.
        free: bytes that can be had; None: not known, so nothing is checked.

    Raises:
        ValueError: names the largest fields and their bytes.
    """
    each = columns * BYTES_PER_WEIGHT
    needed = sum(cardinalities) * each
    if free is None or needed <= free:
        return
    largest = sorted(zip(cardinalities, fields, strict=True), reverse=True)[:3]
    shown = ", ".join(
        f"{name}: {size:,} ids x {columns} columns x {BYTES_PER_WEIGHT} B = {size * each / 1e9:.1f} GB"
        for size, name in largest
    )
    raise ValueError(
        f"the embedding table and its training (weights, gradient and two moments of Adam) take {needed / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free; largest fields: {shown}: raise dataset.min_count, set "
        "dataset.hashed_cardinality, leave fields out with dataset.ignore, or use a smaller scale"
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
