"""NFwFM: NFM with the pooling of FwFM, a weighted sum over field pairs, then an MLP (paper, section 5.2 and appendix).

Shapes: B batch, M embedding sets, N fields, K embedding size per set, P = N(N-1)/2 pairs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.dropout import Dropout
from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import GroupedBatchNorm, Projection, cut_hidden, pair_indices
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.products import sum_products

PAIRS = ("full", "upper")


class FieldWeightedPooling(nn.Module):
    """Sum over pairs of r_ij e_i * e_j (element by element), in every set: (B, M, N, K) -> (B, M, K).

    As `sum_products` with one map: no (B, K, N, N) tensor. The weights start as N(0, 1), as in the official code.

    Args:
        num_sets: M.
        num_fields: N.
        pairs: `full`: all N x N weights, as in the official code, which has e_i * e_i and both (i, j) and (j, i);
            `upper`: i < j only, as in the FwFM paper.

    Raises:
        ValueError: another word for the pairs.
    """

    place_P: Tensor

    def __init__(self, num_sets: int, num_fields: int, pairs: str) -> None:
        super().__init__()
        if pairs not in PAIRS:
            raise ValueError(f"pairs={pairs}: expected one of {', '.join(PAIRS)}")
        self.num_fields, self.pairs = num_fields, pairs
        i_P, j_P = pair_indices(num_fields)
        self.register_buffer("place_P", i_P * num_fields + j_P, persistent=False)
        shape = (num_fields, num_fields) if pairs == "full" else (len(self.place_P),)
        self.weight = nn.Parameter(torch.randn(num_sets, *shape))

    def pair_weights(self) -> Tensor:
        """R of every set, (M, N, N); with `upper`, zeros on and below the diagonal."""
        if self.pairs == "full":
            return self.weight
        r_MQ = self.weight.new_zeros(len(self.weight), self.num_fields**2)
        return r_MQ.index_copy(1, self.place_P, self.weight).unflatten(1, (self.num_fields, self.num_fields))

    def forward(self, e_BMNK: Tensor) -> Tensor:
        return sum_products(e_BMNK, None, self.pair_weights().unsqueeze(1)).squeeze(2)


class NFwFM(Backbone):
    """I = pooling, batch norm, dropout and projection to `hidden_sizes[0]`, one per set; F = the MLP's other layers.

    Args:
        cardinalities: D_i of every field, two or more.
        num_sets: M.
        embed_size: K; the base size is 50, because pooling leaves only K numbers (paper, appendix).
        pairs: `full` or `upper`, see `FieldWeightedPooling`.
        hidden_sizes: widths of the MLP; the first layer is the set-specific projection.
        dropout: probability after the pooling and in every hidden layer.

    Raises:
        ValueError: a single field has no pairs; another word for the pairs.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_sets: int,
        embed_size: int,
        *,
        pairs: str = "full",
        hidden_sizes: Sequence[int] = (400, 400),
        dropout: float = 0.2,
    ) -> None:
        width, shared_sizes = cut_hidden(hidden_sizes)
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(
                FieldWeightedPooling(num_sets, len(cardinalities), pairs),
                GroupedBatchNorm(num_sets, embed_size),
                Dropout(dropout),
                Projection(num_sets, embed_size, width, dropout),
            ),
            MLPHead(width, shared_sizes, dropout),
        )
