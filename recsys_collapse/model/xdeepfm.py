"""xDeepFM: a compressed interaction network (CIN) beside an MLP (paper, appendix).

Shapes: B batch, M embedding sets, N fields, K embedding size per set, R = B*K columns of one number per field, I maps
that enter a layer, O that leave it, H width of h.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import CINHead
from recsys_collapse.layers import Concat, Projection, cut_hidden
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.products import sum_products


class CINLayer(nn.Module):
    """x'_o = ReLU( sum_{n,i} W_{o,n,i} x0_n * x_i + b_o ), element by element, in every set.

    `weight` is (M, O, N, I), `bias` (M, O). Each set starts as `nn.Conv1d` over the N*I products does, and equals it;
    that one would hold all products, (B, N*I, K).
    """

    def __init__(self, num_sets: int, num_fields: int, in_maps: int, out_maps: int) -> None:
        super().__init__()
        bound = (num_fields * in_maps) ** -0.5
        self.weight = nn.Parameter(torch.empty(num_sets, out_maps, num_fields, in_maps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_sets, out_maps).uniform_(-bound, bound))

    def forward(self, x0_BMNK: Tensor, x_BMIK: Tensor | None) -> Tensor:
        """(B, M, N, K) and (B, M, I, K) -> (B, M, O, K); None: the second is the first."""
        return torch.relu(sum_products(x0_BMNK, x_BMIK, self.weight) + self.bias.unsqueeze(2))


class CIN(nn.Module):
    """Every layer's maps, summed over the embedding's dimensions: (B, M, N, K) -> (B, M, sum of `maps`).

    No split in halves between the layers and no linear output, as in the official code.
    """

    def __init__(self, num_sets: int, num_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        if min(maps, default=0) < 1:
            raise ValueError(f"maps={list(maps)}: expected the feature maps of one CIN layer or more, each at least 1")
        sizes = zip((num_fields, *maps), maps, strict=False)
        self.layers = nn.ModuleList(CINLayer(num_sets, num_fields, *pair) for pair in sizes)

    def forward(self, e_BMNK: Tensor) -> Tensor:
        x, found = None, []
        for layer in self.layers:
            x = layer(e_BMNK, x)
            found.append(x.sum(dim=3))
        return torch.cat(found, dim=2)


class XDeepFM(Backbone):
    """I = [CIN, projection of the concatenated embeddings], one per set; F = linear on the CIN's part, plus the MLP.

    The CIN's output is averaged over the sets as it is, the MLP cut after its first layer as in the DNN.

    Args:
        cardinalities: D_i of every field.
        num_sets: M.
        embed_size: K.
        maps: number of feature maps of every CIN layer.
        hidden_sizes: widths of the MLP; the first layer is the set-specific projection.
        dropout: probability in every hidden layer of the MLP.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_sets: int,
        embed_size: int,
        *,
        maps: Sequence[int] = (16, 16),
        hidden_sizes: Sequence[int] = (400, 400),
        dropout: float = 0.2,
    ) -> None:
        num_fields, (width, shared_sizes) = len(cardinalities), cut_hidden(hidden_sizes)
        deep = nn.Sequential(nn.Flatten(2), Projection(num_sets, num_fields * embed_size, width, dropout))
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            Concat(CIN(num_sets, num_fields, maps), deep),
            CINHead(sum(maps), width, shared_sizes, dropout),
        )
