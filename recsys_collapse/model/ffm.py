"""FFM: an embedding of every field for every other field (paper, Evidence I).

Shapes: B batch, M embedding sets, N fields, K columns of the table, k embedding size per pair: K = (N-1)*k.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding, FirstOrder
from recsys_collapse.head import ScalarHead
from recsys_collapse.layers import pair_indices
from recsys_collapse.model.backbone import Backbone, refuse_sets


class FieldAwareProduct(nn.Module):
    """sum_{i<j} e_i^{->j} . e_j^{->i}: (B, M, N, K) -> (B, M, 1). Row i of K has its N-1 parts ordered by j != i."""

    slot_S: Tensor

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        i_P, j_P = pair_indices(num_fields)
        others = num_fields - 1
        # e_i^{->j} of all pairs i < j, then e_j^{->i} of the same pairs: every slot once.
        self.register_buffer("slot_S", torch.cat([i_P * others + j_P - 1, j_P * others + i_P]), persistent=False)
        self.others = others

    def forward(self, e_BMNK: Tensor) -> Tensor:
        e_BMSk = e_BMNK.unflatten(3, (self.others, -1)).flatten(2, 3).index_select(2, self.slot_S)
        towards_j, towards_i = e_BMSk.flatten(2).unsqueeze(2).chunk(2, dim=3)
        return (towards_j @ towards_i.mT).squeeze(3)


class FFM(Backbone):
    """I = sum of the pairs' inner products; F = that plus a bias.

    Args:
        cardinalities: D_i of every field, two or more.
        num_sets: M = 1: the interaction has no non-linearity.
        embed_size: k of one pair; the table has K = (N-1)*k columns.
        first_order: one weight per id is added, as in the official code (there it starts as N(0, 1), so that logits
            start near 6 in size; here at 0).

    Raises:
        ValueError: more than one embedding set, or a single field.
    """

    def __init__(
        self, cardinalities: Sequence[int], num_sets: int, embed_size: int, *, first_order: bool = True
    ) -> None:
        refuse_sets("ffm", num_sets)
        product = FieldAwareProduct(len(cardinalities))
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, product.others * embed_size),
            product,
            ScalarHead(),
            FirstOrder(cardinalities) if first_order else None,
        )

    def sub_gram(self, gram_MNKK: Tensor) -> Tensor:
        """The diagonal blocks of G_i, Gram matrices of E_i^{->j}: (M, N, N, k, k), NaN at i = j, which there is not."""
        others = gram_MNKK.shape[1] - 1
        blocks_MNSkSk = gram_MNKK.unflatten(3, (others, -1)).unflatten(2, (others, -1))
        blocks_MNSkk = blocks_MNSkSk.diagonal(dim1=2, dim2=4).permute(0, 1, 4, 2, 3)
        size = blocks_MNSkk.shape[-1]
        found = gram_MNKK.new_full((*gram_MNKK.shape[:2], others + 1, size, size), torch.nan)
        off_NN = ~torch.eye(others + 1, dtype=torch.bool, device=gram_MNKK.device)
        found[:, off_NN] = blocks_MNSkk.flatten(1, 2)  # row by row: j != i in order, as the table has them
        return found
