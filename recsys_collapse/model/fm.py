"""FM: inner products of all field pairs, and nothing else (paper, section 4.1, theory and toy experiment).

Shapes: B batch, M embedding sets, N fields, K embedding size per set.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding, FirstOrder
from recsys_collapse.head import ScalarHead
from recsys_collapse.layers import pair_indices
from recsys_collapse.model.backbone import Backbone, refuse_sets


class PairSum(nn.Module):
    """sum_{i<j} e_i . e_j = (|sum_i e_i|^2 - sum_i |e_i|^2) / 2: (B, M, N, K) -> (B, M, 1), linear in N."""

    def forward(self, e_BMNK: Tensor) -> Tensor:
        sum_BMK1, flat_BMC1 = e_BMNK.sum(dim=2).unsqueeze(3), e_BMNK.flatten(2).unsqueeze(3)
        return (sum_BMK1.mT @ sum_BMK1 - flat_BMC1.mT @ flat_BMC1).squeeze(3) / 2


class FM(Backbone):
    """I = sum of the pairs' inner products, h of the paper's equation; F = that plus a bias.

    Args:
        cardinalities: D_i of every field, two or more.
        num_sets: M = 1: the interaction has no non-linearity.
        embed_size: K.
        first_order: one weight per id is added, as factorisation machines usually have it; the paper's have not.

    Raises:
        ValueError: more than one embedding set, or a single field.
    """

    def __init__(
        self, cardinalities: Sequence[int], num_sets: int, embed_size: int, *, first_order: bool = False
    ) -> None:
        refuse_sets("fm", num_sets)
        pair_indices(len(cardinalities))  # one field has no pair
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            PairSum(),
            ScalarHead(),
            FirstOrder(cardinalities) if first_order else None,
        )
