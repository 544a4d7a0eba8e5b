"""DNN: the embeddings of all fields side by side, then an MLP (paper, Evidence IV)."""

from collections.abc import Sequence

from torch import nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import Projection, cut_hidden
from recsys_collapse.model.backbone import Backbone


class DNN(Backbone):
    """I = projection of the concatenated embeddings to `hidden_sizes[0]`, one per set; F = the MLP's remaining layers.

    Args:
        cardinalities: D_i of every field.
        num_sets: M.
        embed_size: K.
        hidden_sizes: widths of the MLP; the first layer is the set-specific projection.
        dropout: probability in every hidden layer.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_sets: int,
        embed_size: int,
        *,
        hidden_sizes: Sequence[int] = (400, 400),
        dropout: float = 0.2,
    ) -> None:
        in_size, (width, shared_sizes) = len(cardinalities) * embed_size, cut_hidden(hidden_sizes)
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(nn.Flatten(2), Projection(num_sets, in_size, width, dropout)),
            MLPHead(width, shared_sizes, dropout),
        )
