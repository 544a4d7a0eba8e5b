"""Grouped layers: M independent copies of a layer, one per embedding set, computed in one operation.

Every layer maps (B, M, ...) to (B, M, ...); copy m sees only set m. `tests/reference.py` holds the loop they equal.

Shapes: B batch, M embedding sets, I inputs, O outputs, H width, N fields, K embedding size per set, R = B*K columns of
one number per field.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys_collapse.dropout import ReLUDropout

BLOCK = {"cpu": 2**20, "cuda": 2**25}  # numbers made at a time by `sum_products`: what the cache holds


class GroupedLinear(nn.Module):
    """M linear layers: (B, M, I) -> (B, M, O), y^(m) = W^(m) x^(m) + b^(m) in one batched product.

    `weight` is (M, O, I), `bias` (M, O). Each copy starts as `nn.Linear` does: U(-a, a) with a = 1/sqrt(I).
    """

    def __init__(self, num_sets: int, in_size: int, out_size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_size)
        self.weight = nn.Parameter(torch.empty(num_sets, out_size, in_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_sets, out_size).uniform_(-bound, bound))

    def forward(self, x_BMI: Tensor) -> Tensor:
        y_MBO = torch.baddbmm(self.bias.unsqueeze(1), x_BMI.transpose(0, 1), self.weight.transpose(1, 2))
        return y_MBO.transpose(0, 1)


class GroupedBatchNorm(nn.Module):
    """M batch normalisations of width H: (B, M, H) -> (B, M, H), statistics of each set on its own."""

    def __init__(self, num_sets: int, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_sets * size)

    def forward(self, x_BMH: Tensor) -> Tensor:
        return self.norm(x_BMH.flatten(1)).view(x_BMH.shape)


class Projection(nn.Sequential):
    """The paper's non-linear projection after I: linear, batch norm, ReLU, dropout, (B, M, I) -> (B, M, H).

    It is the first hidden layer of the MLP, cut off and made set-specific ("add a projection, drop one layer of F").
    At M=1 nothing changes, so SE and ME at scale 1 are the same model.
    """

    def __init__(self, num_sets: int, in_size: int, out_size: int, dropout: float) -> None:
        super().__init__(
            GroupedLinear(num_sets, in_size, out_size),
            GroupedBatchNorm(num_sets, out_size),
            ReLUDropout(dropout),
        )


class Concat(nn.Module):
    """Several streams over the same embeddings, side by side: (B, M, N, K) -> (B, M, sum of the streams' widths).

    The mean over sets commutes with it: the head may split what it gets.
    """

    def __init__(self, *streams: nn.Module) -> None:
        super().__init__()
        self.streams = nn.ModuleList(streams)

    def forward(self, e_BMNK: Tensor) -> Tensor:
        # Concatenated set by set in memory, as the grouped layers want it.
        return torch.cat([stream(e_BMNK).transpose(0, 1) for stream in self.streams], dim=2).transpose(0, 1)


class CrossNet(nn.Module):
    """L cross layers of DCNv2 for every set: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, (B, M, N*K) -> (B, M, N*K).

    W is Xavier-uniform and b zero, as in the official code.
    """

    def __init__(self, num_sets: int, size: int, num_layers: int) -> None:
        super().__init__()
        layers = [GroupedLinear(num_sets, size, size) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        bound = math.sqrt(6 / (size + size))
        for layer in layers:
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, x0_BMH: Tensor) -> Tensor:
        x_BMH = x0_BMH
        for layer in self.layers:
            x_BMH = torch.addcmul(x_BMH, x0_BMH, layer(x_BMH))
        return x_BMH


def sum_products(x0_BMNK: Tensor, x_MIR: Tensor | None, weight_MONI: Tensor) -> Tensor:
    """y_o = sum_{n,i} W_{o,n,i} x0_n * x_i, element by element, in every set: -> (M, O, R). `x=None`: x is x0."""
    device = x0_BMNK.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not mixed:
        return _SumProducts.apply(x0_BMNK.transpose(0, 1), x_MIR, weight_MONI)
    low = torch.get_autocast_dtype(device)  # by hand: autocast does not look into a function of our own
    given = [None if x is None else x.to(low) for x in (x0_BMNK.transpose(0, 1), x_MIR, weight_MONI)]
    with torch.autocast(device, enabled=False):
        return _SumProducts.apply(*given)


class _SumProducts(torch.autograd.Function):
    """All W_{o,n} x, (M, O*N, R), would be far larger than what goes in and out: they are made block by block.

    A block lies in the cache, and is made again in the backward pass. Where x is x0 the gradient needs no product
    again: that of x0_n is sum_{o,i} g_o (W_{o,n,i} + W_{o,i,n}) x0_i.
    """

    @staticmethod
    def forward(ctx: Any, x0_MBNK: Tensor, x_MIR: Tensor | None, weight_MONI: Tensor) -> Tensor:
        ctx.save_for_backward(x0_MBNK, x_MIR, weight_MONI)
        found_MOR = x0_MBNK.new_empty(*weight_MONI.shape[:2], x0_MBNK.shape[1] * x0_MBNK.shape[3])
        for m, samples, part in _blocks(x0_MBNK, weight_MONI.shape[1]):
            x0_NR = x0_MBNK[m, samples].transpose(0, 1).flatten(1)
            wx_PR = weight_MONI[m].flatten(0, 1) @ (x0_NR if x_MIR is None else x_MIR[m, :, part])
            torch.sum(wx_PR.view(-1, *x0_NR.shape).mul_(x0_NR), dim=1, out=found_MOR[m, :, part])
        return found_MOR

    @staticmethod
    def backward(ctx: Any, grad_MOR: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x0_MBNK, x_MIR, weight_MONI = ctx.saved_tensors
        weight_MPI = weight_MONI.flatten(1, 2)
        back_MPI = (weight_MONI + weight_MONI.mT).flatten(1, 2) if x_MIR is None else weight_MPI
        grad_x0_MBNK, grad_MPI = torch.empty_like(x0_MBNK), torch.zeros_like(weight_MPI)
        grad_x_MIR = None if x_MIR is None else torch.empty_like(x_MIR)
        for m, samples, part in _blocks(x0_MBNK, grad_MOR.shape[1]):
            grad_O1R, x0_NR = grad_MOR[m, :, None, part], x0_MBNK[m, samples].transpose(0, 1).flatten(1)
            x_IR = x0_NR if x_MIR is None else x_MIR[m, :, part]
            grad_PR = (grad_O1R * x0_NR).flatten(0, 1)
            grad_MPI[m].addmm_(grad_PR, x_IR.mT)
            grad_x0_NR = grad_x_IR = back_MPI[m].mT @ grad_PR
            if grad_x_MIR is not None:
                grad_x_MIR[m, :, part] = grad_x_IR
                wx_PR = torch.mm(weight_MPI[m], x_IR, out=grad_PR)
                grad_x0_NR = wx_PR.view(-1, *x0_NR.shape).mul_(grad_O1R).sum(dim=0)
            grad_x0_MBNK[m, samples] = grad_x0_NR.unflatten(1, (-1, x0_MBNK.shape[3])).transpose(0, 1)
        return grad_x0_MBNK, grad_x_MIR, grad_MPI.view_as(weight_MONI)


def _blocks(x0_MBNK: Tensor, out_maps: int) -> Iterator[tuple[int, slice, slice]]:
    """Every set, and of its samples as many at a time as the cache has room for; the same as columns of R."""
    num_sets, batch, num_fields, size = x0_MBNK.shape
    together = max(1, BLOCK.get(x0_MBNK.device.type, BLOCK["cpu"]) // (out_maps * num_fields * size))
    for m in range(num_sets):
        for start in range(0, batch, together):
            end = min(start + together, batch)
            yield m, slice(start, end), slice(start * size, end * size)


def cut_hidden(hidden_sizes: Sequence[int]) -> tuple[int, list[int]]:
    """Widths of an MLP -> that of the set-specific projection, its first hidden layer, and those of the shared rest.

    Raises:
        ValueError: there is no hidden layer, or one without a unit.
    """
    if min(hidden_sizes, default=0) < 1:
        raise ValueError(
            f"hidden_sizes={list(hidden_sizes)}: expected one width or more, each 1 or more; the first projects"
        )
    width, *shared_sizes = hidden_sizes
    return width, shared_sizes


def pair_indices(num_fields: int) -> Tensor:
    """All pairs i < j of fields, (2, N(N-1)/2), ordered by i, then j.

    Raises:
        ValueError: fewer than two fields.
    """
    if num_fields < 2:
        raise ValueError(f"{num_fields} field: an interaction of pairs needs two or more; use model=dnn")
    return torch.triu_indices(num_fields, num_fields, offset=1)
