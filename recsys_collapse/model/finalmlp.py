"""FinalMLP: two MLPs beside each other, fused by a bilinear form (paper, appendix)."""

from collections.abc import Sequence

from torch import nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import BilinearHead
from recsys_collapse.layers import Concat, Projection, cut_hidden
from recsys_collapse.model.backbone import Backbone


class FinalMLP(Backbone):
    """I = two MLPs over the concatenated embeddings, both one per set; F = bilinear fusion of the averaged streams.

    Without feature selection, as the official code runs it: the streams see the same input.

    Args:
        cardinalities: D_i of every field.
        num_sets: M.
        embed_size: K.
        hidden_sizes: widths of each stream's MLP; all its layers are set-specific (paper, appendix: "we average the
            two-stream outputs").
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
        width, deeper = cut_hidden(hidden_sizes)
        sizes = (len(cardinalities) * embed_size, width, *deeper)

        def stream() -> nn.Module:
            pairs = zip(sizes, hidden_sizes, strict=False)
            return nn.Sequential(nn.Flatten(2), *(Projection(num_sets, *pair, dropout) for pair in pairs))

        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size), Concat(stream(), stream()), BilinearHead(sizes[-1])
        )
