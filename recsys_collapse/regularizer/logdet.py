"""A large volume of the batch's embeddings: rate distortion, as in nCL (WSDM'24, 2312.17468).

Shapes: B batch, M embedding sets, N fields, K embedding size per set.
"""

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages


class LogDet(nn.Module):
    """-weight * mean over sets and fields of 1/(2K) log det(I + C / (epsilon^2 mean eigenvalue of C)), in nats.

    C = E^T E of the (B, K) embeddings of a field in a set. It is divided by its mean eigenvalue: only the shape
    of the spectrum counts, neither B nor the scale of the embeddings. At least -weight/2 log(1 + 1/epsilon^2), which is
    reached where all singular values are equal; 0 for an all-zero field. In float64.

    Args:
        backbone: one with an embedding size of at least 2.
        weight: of the mean.
        epsilon: the distortion: directions with less than epsilon^2 of the mean eigenvalue hardly count.

    Raises:
        ValueError: the embedding size is 1; epsilon is not above 0.
    """

    def __init__(self, backbone: Backbone, *, weight: float = 1e-2, epsilon: float = 0.5) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: expected a number above 0")
        size = backbone.embedding.embed_size
        if size < 2:
            raise ValueError(f"embed_size={size}: expected 2 or more columns to compare; raise model.base_size")
        self.weight, self.epsilon = weight, epsilon

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        e_MNBK = stages.e_BMNK.permute(1, 2, 0, 3).double()
        gram_MNKK = e_MNBK.mT @ e_MNBK
        mean_MN11 = gram_MNKK.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        scaled_MNKK = gram_MNKK / (self.epsilon**2 * torch.where(mean_MN11 > 0, mean_MN11, 1.0))
        size = gram_MNKK.shape[-1]
        one_KK = torch.eye(size, dtype=gram_MNKK.dtype, device=gram_MNKK.device)
        loss = -self.weight * torch.logdet(one_KK + scaled_MNKK).mean() / (2 * size)
        return loss.to(stages.e_BMNK.dtype)
