"""Equal singular values of the batch's embeddings: a variant of the released code's appendix, not in the paper.

Shapes: B batch, M embedding sets, N fields, K embedding size per set.
"""

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages

ZERO = 1e-12  # an eigenvalue of the Gram matrix below this part of the largest one is rounding noise


class SingularValue(nn.Module):
    """weight * mean over sets and fields of Var(sigma / mean(sigma)), the variance divided by K - 1.

    sigma are the K singular values of the (B, K) embeddings of a field in a set, from their float64 Gram matrix. The
    scale of the embeddings does not matter. Each term lies between 0, all singular values equal, and K, a single one
    above 0. A singular value of 0 (a field with fewer than K values in the batch) counts as 0 with gradient 0; so does
    an all-zero field. NaN for embeddings that are not finite.

    Args:
        backbone: one with an embedding size of at least 2.
        weight: of the mean; the released code has 1e-3 to 1e-5.

    Raises:
        ValueError: the embedding size is 1.
    """

    def __init__(self, backbone: Backbone, *, weight: float = 1e-3) -> None:
        super().__init__()
        size = backbone.embedding.embed_size
        if size < 2:
            raise ValueError(f"embed_size={size}: expected 2 or more columns to compare; raise model.base_size")
        self.weight = weight

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        e_MNBK = stages.e_BMNK.permute(1, 2, 0, 3).double()
        gram_MNKK = e_MNBK.mT @ e_MNBK
        finite = gram_MNKK.isfinite().all()
        eigenvalue_MNK = torch.linalg.eigvalsh(torch.where(finite, gram_MNKK, 0.0))
        above = eigenvalue_MNK > ZERO * eigenvalue_MNK.amax(-1, keepdim=True)
        sigma_MNK = torch.where(above, torch.where(above, eigenvalue_MNK, 1.0).sqrt(), 0.0)
        mean_MN1 = sigma_MNK.mean(-1, keepdim=True)
        ratio_MNK = sigma_MNK / torch.where(mean_MN1 > 0, mean_MN1, 1.0)
        loss = self.weight * ratio_MNK.var(-1, correction=1).mean()
        return torch.where(finite, loss, torch.nan).to(stages.e_BMNK.dtype)
