"""Decorrelated columns of the batch's embeddings, as in Barlow Twins (2103.03230) and VICReg (2105.04906).

Shapes: B batch, M embedding sets, N fields, K embedding size per set.
"""

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages

MATRICES = ("covariance", "correlation")


class Decorrelation(nn.Module):
    """weight * mean over sets and fields of (sum over a != b of C_ab^2) / K.

    C (K, K) is the covariance, divided by B - 1, of the columns of a field's (B, K) embeddings in a set: VICReg's
    covariance term. `of=correlation` divides it by the standard deviations: Barlow Twins' redundancy term; a constant
    column counts as 0, and the scale of the embeddings does not matter. In float64; 0 for a batch of 1.

    Args:
        backbone: one with an embedding size of at least 2.
        weight: of the mean.
        of: `covariance` or `correlation`.

    Raises:
        ValueError: the embedding size is 1; an unknown matrix.
    """

    def __init__(self, backbone: Backbone, *, weight: float = 1.0, of: str = "covariance") -> None:
        super().__init__()
        if of not in MATRICES:
            raise ValueError(f"of={of}: expected one of {', '.join(MATRICES)}")
        size = backbone.embedding.embed_size
        if size < 2:
            raise ValueError(f"embed_size={size}: expected 2 or more columns to decorrelate; raise model.base_size")
        self.weight, self.of = weight, of

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        e_MNBK = stages.e_BMNK.permute(1, 2, 0, 3).double()
        batch, size = e_MNBK.shape[2:]
        e_MNBK = e_MNBK - e_MNBK[:, :, :1].detach()  # constant columns become exactly 0
        e_MNBK = e_MNBK - e_MNBK.mean(2, keepdim=True)
        c_MNKK = e_MNBK.mT @ e_MNBK / max(batch - 1, 1)
        if self.of == "correlation":
            variance_MNK = c_MNKK.diagonal(dim1=-2, dim2=-1)
            scale_MNK = torch.where(variance_MNK > 0, variance_MNK, 1.0).rsqrt()
            c_MNKK = scale_MNK[..., :, None] * c_MNKK * scale_MNK[..., None, :]
        off_MNKK = c_MNKK.masked_fill(torch.eye(size, dtype=torch.bool, device=c_MNKK.device), 0.0)
        loss = self.weight * off_MNKK.square().sum((-2, -1)).mean() / size
        return loss.to(stages.e_BMNK.dtype)
