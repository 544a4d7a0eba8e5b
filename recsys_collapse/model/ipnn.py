"""IPNN: inner products of all field pairs beside the embeddings, then an MLP (paper, appendix).

Shapes: B batch, M embedding sets, N fields, K embedding size per set, P = N(N-1)/2 pairs.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import Concat, Projection, cut_hidden, pair_indices
from recsys_collapse.model.backbone import Backbone


class InnerProduct(nn.Module):
    """e_i . e_j of all pairs i < j in every set: (B, M, N, K) -> (B, M, P), ordered by i, then j."""

    place_P: Tensor

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        i_P, j_P = pair_indices(num_fields)
        self.register_buffer("place_P", i_P * num_fields + j_P, persistent=False)

    def forward(self, e_BMNK: Tensor) -> Tensor:
        e_MBNK = e_BMNK.transpose(0, 1)
        gram_MBNN = e_MBNK @ e_MBNK.mT
        return gram_MBNN.flatten(2).index_select(2, self.place_P).transpose(0, 1)


class IPNN(Backbone):
    """I = [embeddings, inner products] and projection to `hidden_sizes[0]`, one per set; F = the MLP's other layers.

    Args:
        cardinalities: D_i of every field, two or more.
        num_sets: M.
        embed_size: K.
        linear_signal: the embeddings stand beside the products. The official code has them with one set only; here SE
            and ME see the same input, whatever it is.
        hidden_sizes: widths of the MLP; the first layer is the set-specific projection.
        dropout: probability in every hidden layer.

    Raises:
        ValueError: a single field has no pairs.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_sets: int,
        embed_size: int,
        *,
        linear_signal: bool = True,
        hidden_sizes: Sequence[int] = (400, 400),
        dropout: float = 0.2,
    ) -> None:
        num_fields, (width, shared_sizes) = len(cardinalities), cut_hidden(hidden_sizes)
        product = InnerProduct(num_fields)
        signals = Concat(nn.Flatten(2), product) if linear_signal else product
        size = len(product.place_P) + linear_signal * num_fields * embed_size
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(signals, Projection(num_sets, size, width, dropout)),
            MLPHead(width, shared_sizes, dropout),
        )
