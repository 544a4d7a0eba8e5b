"""Sums of products over field pairs, of which CIN and FwFM's pooling are made, block by block in the cache.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, R = B*K columns of one number per field, I maps
that enter, O that leave, P = O*N.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = {"cpu": 2**20, "cuda": 2**25}  # numbers made at a time: on a CPU, what its cache holds


def sum_products(x0_BMNK: Tensor, x_BMIK: Tensor | None, weight_MONI: Tensor) -> Tensor:
    """y_o = sum_{n,i} W_{o,n,i} x0_n * x_i, element by element, in every set: -> (B, M, O, K). `x=None`: x is x0."""
    x0_MBNK, x_MIBK = x0_BMNK.transpose(0, 1), None if x_BMIK is None else x_BMIK.permute(1, 2, 0, 3)
    if torch.compiler.is_compiling():  # or exporting: then the number of blocks, one for so many rows, is not known
        found_MOBK = _all_at_once(x0_MBNK, x_MIBK, weight_MONI)
    else:
        found_MOBK = _block_by_block(x0_MBNK, x_MIBK, weight_MONI)
    return found_MOBK.permute(2, 0, 1, 3)


def _all_at_once(x0_MBNK: Tensor, x_MIBK: Tensor | None, weight_MONI: Tensor) -> Tensor:
    """The formula, with all products in memory."""
    x0_MNBK = x0_MBNK.transpose(1, 2)
    wx_MPR = torch.bmm(weight_MONI.flatten(1, 2), (x0_MNBK if x_MIBK is None else x_MIBK).flatten(2))
    wx_MONBK = wx_MPR.unflatten(1, weight_MONI.shape[1:3]).unflatten(3, x0_MNBK.shape[2:])
    return (wx_MONBK * x0_MNBK.unsqueeze(1)).sum(dim=2)


def _block_by_block(x0_MBNK: Tensor, x_MIBK: Tensor | None, weight_MONI: Tensor) -> Tensor:
    device, x_MIR = x0_MBNK.device.type, None if x_MIBK is None else x_MIBK.flatten(2)
    given = (x0_MBNK, x_MIR, weight_MONI)
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)  # by hand: autocast does not look into a function of our own
        with torch.autocast(device, enabled=False):
            found_MOR = _SumProducts.apply(*(None if x is None else x.to(low) for x in given))
    else:
        found_MOR = _SumProducts.apply(*given)
    return found_MOR.unflatten(2, (x0_MBNK.shape[1], x0_MBNK.shape[3]))


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
    @once_differentiable
    def backward(ctx: Any, grad_MOR: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x0_MBNK, x_MIR, weight_MONI = ctx.saved_tensors
        weight_MPI = weight_MONI.flatten(1, 2)
        back_MPI = (weight_MONI + weight_MONI.mT).flatten(1, 2) if x_MIR is None else weight_MPI
        # Of all blocks together, in float32: bfloat16 would round the sum at every block.
        sums = torch.promote_types(weight_MPI.dtype, torch.float32)
        grad_x0_MBNK, grad_MPI = torch.empty_like(x0_MBNK), torch.zeros_like(weight_MPI, dtype=sums)
        grad_x_MIR = None if x_MIR is None else torch.empty_like(x_MIR)
        for m, samples, part in _blocks(x0_MBNK, grad_MOR.shape[1]):
            grad_O1R, x0_NR = grad_MOR[m, :, None, part], x0_MBNK[m, samples].transpose(0, 1).flatten(1)
            x_IR = x0_NR if x_MIR is None else x_MIR[m, :, part]
            grad_PR = (grad_O1R * x0_NR).flatten(0, 1)
            grad_MPI[m] += grad_PR @ x_IR.mT
            grad_x0_NR = grad_x_IR = back_MPI[m].mT @ grad_PR
            if grad_x_MIR is not None:
                grad_x_MIR[m, :, part] = grad_x_IR
                wx_PR = torch.mm(weight_MPI[m], x_IR, out=grad_PR)
                grad_x0_NR = wx_PR.view(-1, *x0_NR.shape).mul_(grad_O1R).sum(dim=0)
            grad_x0_MBNK[m, samples] = grad_x0_NR.unflatten(1, (-1, x0_MBNK.shape[3])).transpose(0, 1)
        return grad_x0_MBNK, grad_x_MIR, grad_MPI.to(weight_MPI.dtype).view_as(weight_MONI)


def _blocks(x0_MBNK: Tensor, out_maps: int) -> Iterator[tuple[int, slice, slice]]:
    """Every set, and of its samples as many at a time as the cache has room for; the same as columns of R."""
    num_sets, batch, num_fields, size = x0_MBNK.shape
    together = max(1, BLOCK.get(x0_MBNK.device.type, BLOCK["cpu"]) // (out_maps * num_fields * size))
    for m in range(num_sets):
        for start in range(0, batch, together):
            end = min(start + together, batch)
            yield m, slice(start, end), slice(start * size, end * size)
