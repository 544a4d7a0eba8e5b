"""xDeepFM: a compressed interaction network (CIN) beside an MLP (paper, appendix).

Shapes: B batch, M embedding sets, N fields, K embedding size per set, R = B*K columns of one number per field, I maps
that enter a layer, O that leave it, H width of h.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import CINHead
from recsys_collapse.layers import Concat, Projection, cut_hidden
from recsys_collapse.model.backbone import Backbone

BLOCK = {"cpu": 2**20, "cuda": 2**25}  # numbers of the products (O*N, part of R) at a time: what the cache holds


class Compress(torch.autograd.Function):
    """x'_o = sum_{n,i} W_{o,n,i} x0_n * x_i, element by element; x0 (M, N, R), x (M, I, R), W (M, O, N, I).

    All products W_{o,n} x, (M, O*N, R), would be far larger than what goes in and out: they are made block by block,
    in the cache, and again in the backward pass. `x=None`: x is x0, as in the first layer, where the gradient needs
    no product again: that of x0_n is sum_{o,i} g_o (W_{o,n,i} + W_{o,i,n}) x0_i.
    """

    @staticmethod
    def forward(ctx: Any, x0_MNR: Tensor, x_MIR: Tensor | None, weight_MONI: Tensor) -> Tensor:
        ctx.save_for_backward(x0_MNR, x_MIR, weight_MONI)
        num_sets, out_maps, num_fields, _ = weight_MONI.shape
        found_MOR = x0_MNR.new_empty(num_sets, out_maps, x0_MNR.shape[2])
        entering_MIR = x0_MNR if x_MIR is None else x_MIR
        for m, part in _blocks(x0_MNR, out_maps):
            wx_ONR = (weight_MONI[m].flatten(0, 1) @ entering_MIR[m, :, part]).unflatten(0, (out_maps, num_fields))
            torch.sum(wx_ONR.mul_(x0_MNR[m, :, part]), dim=1, out=found_MOR[m, :, part])
        return found_MOR

    @staticmethod
    def backward(ctx: Any, grad_MOR: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x0_MNR, x_MIR, weight_MONI = ctx.saved_tensors
        first, entering_MIR = x_MIR is None, x0_MNR if x_MIR is None else x_MIR
        weight_MPI = weight_MONI.flatten(1, 2)
        back_MPI = (weight_MONI + weight_MONI.mT).flatten(1, 2) if first else weight_MPI
        grad_x0_MNR, grad_MPI = torch.empty_like(x0_MNR), torch.zeros_like(weight_MPI)
        grad_x_MIR = grad_x0_MNR if first else torch.empty_like(x_MIR)
        for m, part in _blocks(x0_MNR, grad_MOR.shape[1]):
            grad_O1R, x0_NR, x_IR = grad_MOR[m, :, None, part], x0_MNR[m, :, part], entering_MIR[m, :, part]
            grad_PR = (grad_O1R * x0_NR).flatten(0, 1)
            grad_MPI[m].addmm_(grad_PR, x_IR.mT)
            grad_x_MIR[m, :, part] = back_MPI[m].mT @ grad_PR
            if not first:
                wx_PR = torch.mm(weight_MPI[m], x_IR, out=grad_PR)
                torch.sum(wx_PR.view(-1, *x0_NR.shape).mul_(grad_O1R), dim=0, out=grad_x0_MNR[m, :, part])
        return grad_x0_MNR, None if first else grad_x_MIR, grad_MPI.view_as(weight_MONI)


def _blocks(x0_MNR: Tensor, out_maps: int) -> Iterator[tuple[int, slice]]:
    """Every set, and of its columns as many at a time as the cache has room for."""
    num_sets, num_fields, columns = x0_MNR.shape
    size = max(1, BLOCK.get(x0_MNR.device.type, BLOCK["cpu"]) // (out_maps * num_fields))
    for m in range(num_sets):
        for start in range(0, columns, size):
            yield m, slice(start, min(start + size, columns))


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

    def forward(self, x0_MNR: Tensor, x_MIR: Tensor | None) -> Tensor:
        """(M, N, R) and (M, I, R) -> (M, O, R); None: the second is the first."""
        device, weight = x0_MNR.device.type, self.weight
        if torch.is_autocast_enabled(device):  # which does not look into a function of our own
            low = torch.get_autocast_dtype(device)
            x0_MNR, weight, x_MIR = x0_MNR.to(low), weight.to(low), None if x_MIR is None else x_MIR.to(low)
        with torch.autocast(device, enabled=False):
            x_MOR = Compress.apply(x0_MNR, x_MIR, weight)
        return torch.relu(x_MOR + self.bias.unsqueeze(2))


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
        x0_MNR = e_BMNK.permute(1, 2, 0, 3).flatten(2)
        x, found = None, []
        for layer in self.layers:
            x = layer(x0_MNR, x)
            found.append(x.unflatten(2, (len(e_BMNK), -1)).sum(dim=3))
        return torch.cat(found, dim=1).permute(2, 0, 1)


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
