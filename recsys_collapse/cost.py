"""What a model costs: parameters and floating-point operations per sample."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from recsys_collapse.model.backbone import Backbone


def parameter_counts(backbone: Backbone) -> dict[str, int]:
    """Number of `embedding` parameters (the fused table) and of `dense` ones (everything else)."""
    embedding = sum(p.numel() for p in backbone.embedding.parameters())
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
