"""Figure 8(d): the norms ||W_{i->j}^(m)||_F, the interaction pattern of a set, are made alike in all sets.

Shapes: L cross layers, M embedding sets, N fields, K embedding size per set.
"""

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages


class NormAlign(nn.Module):
    """weight * mean over l, i, j of Var_m(||W_{i->j}^(m)||_F^p) (paper, "Different interaction patterns").

    The variance is over the M sets, divided by M. p = 2 as in the released code, or 1 as the paper writes the norm.

    Args:
        backbone: one with `pair_projections` and at least 2 embedding sets.
        weight: of the mean; the released code has 1.
        squared: p = 2; otherwise p = 1.

    Raises:
        ValueError: the backbone has no pair projections, or a single embedding set.
    """

    def __init__(self, backbone: Backbone, *, weight: float = 1.0, squared: bool = True) -> None:
        super().__init__()
        num_sets = backbone.pair_projections().shape[1]
        if num_sets < 2:
            raise ValueError(
                f"num_sets={num_sets}: the variance over embedding sets needs 2 or more; use embed=me with a scale of "
                "2 or more, and regularizer=none for the base run"
            )
        self.weight, self.squared = weight, squared

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        norm_LMNN = torch.linalg.vector_norm(backbone.pair_projections(), dim=(-2, -1))  # its gradient at 0 is 0
        pattern_LMNN = norm_LMNN.square() if self.squared else norm_LMNN
        return self.weight * pattern_LMNN.var(dim=1, correction=0).mean()
