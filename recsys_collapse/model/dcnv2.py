"""DCNv2, stacked: cross layers, then an MLP (paper, Evidence II; appendix "Specific multi-embedding design").

Shapes: L cross layers, M embedding sets, N fields, K embedding size per set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import CrossNet, Projection, cut_hidden
from recsys_collapse.model.backbone import Backbone


class DCNv2(Backbone):
    """I = cross network and projection to `hidden_sizes[0]`, one per set; F = the MLP's remaining layers.

    Args:
        cardinalities: D_i of every field.
        num_sets: M.
        embed_size: K.
        num_cross_layers: L.
        hidden_sizes: widths of the MLP; the first layer is the set-specific projection.
        dropout: probability in every hidden layer.

    Raises:
        ValueError: no cross layer or no hidden layer.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_sets: int,
        embed_size: int,
        *,
        num_cross_layers: int = 4,
        hidden_sizes: Sequence[int] = (400, 400),
        dropout: float = 0.2,
    ) -> None:
        in_size, (width, shared_sizes) = len(cardinalities) * embed_size, cut_hidden(hidden_sizes)
        if num_cross_layers < 1:
            raise ValueError(f"num_cross_layers={num_cross_layers}: expected 1 or more; model=dnn has none")
        cross = CrossNet(num_sets, in_size, num_cross_layers)
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(nn.Flatten(2), cross, Projection(num_sets, in_size, width, dropout)),
            MLPHead(width, shared_sizes, dropout),
        )
        self.num_cross_layers = num_cross_layers

    @property
    def cross(self) -> CrossNet:
        """The cross layers inside the interaction."""
        return self.interaction[1]  # type: ignore[index]

    def pair_projections(self) -> Tensor:
        """W_{i->j}, (L, M, N, N, K, K). In W x over concatenated fields, block [j, i] projects field i towards j."""
        weight_LMHH = torch.stack([layer.weight for layer in self.cross.layers])  # type: ignore[misc]
        size = self.embedding.embed_size
        blocks_LMjKiK = weight_LMHH.unflatten(3, (-1, size)).unflatten(2, (-1, size))
        return blocks_LMjKiK.permute(0, 1, 4, 2, 3, 5)

    def sub_gram(self, gram_MNKK: Tensor) -> Tensor:
        """W G_i W^T for the first cross layer, as in the paper: E_i^{->j} = E_i W_{i->j}^T. Same dtype as the Gram."""
        w_MijKK = self.pair_projections()[0].to(gram_MNKK.dtype)
        return w_MijKK @ gram_MNKK.unsqueeze(2) @ w_MijKK.mT
