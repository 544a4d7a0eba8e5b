"""Embedding sets of different column spaces: a variant of the released code's appendix, not in the paper.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, C = M*K columns of all sets, P pairs of sets.
"""

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages


class SpaceSimilarity(nn.Module):
    """weight * mean over pairs m < m' and k of (mean over fields of S_k)^2, S the singular values of E_m^T E_m'.

    E_m are the (B, K) embeddings of a field in set m; S_1 is the largest. 0 where the columns of any two sets are
    orthogonal. It grows with B^2 and with the 4th power of the embeddings: small embeddings make it small too.
    In float64; NaN for embeddings that are not finite.

    Args:
        backbone: one with at least 2 embedding sets.
        weight: of the mean; the released code has 1e-3 to 1e-5.

    Raises:
        ValueError: a single embedding set.
    """

    def __init__(self, backbone: Backbone, *, weight: float = 1e-4) -> None:
        super().__init__()
        num_sets = backbone.embedding.num_sets
        if num_sets < 2:
            raise ValueError(
                f"num_sets={num_sets}: pairs of embedding sets need 2 or more; use embed=me with a scale of 2 or more, "
                "and regularizer=none for the base run"
            )
        self.weight = weight

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        e_NBMK = stages.e_BMNK.permute(2, 0, 1, 3).double()
        num_sets, size = e_NBMK.shape[2:]
        e_NBC = e_NBMK.flatten(2)
        gram_NCC = e_NBC.mT @ e_NBC  # of all sets at once: twice the products, one matrix multiplication
        finite = gram_NCC.isfinite().all()
        gram_NMKMK = gram_NCC.unflatten(2, (num_sets, size)).unflatten(1, (num_sets, size))
        first_P, second_P = torch.triu_indices(num_sets, num_sets, 1, device=gram_NCC.device)
        cross_PNKK = gram_NMKMK[:, first_P, :, second_P]
        s_PNK = torch.linalg.svdvals(torch.where(finite, cross_PNKK, 0.0))
        loss = self.weight * s_PNK.mean(1).square().mean()
        return torch.where(finite, loss, torch.nan).to(stages.e_BMNK.dtype)
