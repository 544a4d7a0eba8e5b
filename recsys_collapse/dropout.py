"""Dropout whose mask does not cost more than the layer it belongs to.

On a CPU torch draws one Bernoulli number after the other, in one thread: a quarter of a training step of `dnn` with
ten embedding sets. Here 16 random bits decide on an element, drawn in bulk by numpy's SFC64, which torch's generator
seeds: a run is repeatable from `torch.manual_seed` as before. On other devices it is torch's own dropout.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = 16
SEEDS = 2**63 - 1


class Dropout(nn.Dropout):
    """In training every element is 0 with probability p, the others are divided by 1 - p.

    On a CPU p is rounded to a multiple of 2^-16 (0.2 becomes 0.199997), and so is the 1 - p that is divided by: the
    expected value is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        return _Dropout.apply(x, _dropped(self.p))


class ReLUDropout(nn.Module):
    """`Dropout` of max(x, 0), in the same passes: the sign of the result is all that the gradient needs.

    Args:
        p: probability of being dropped, in [0, 1].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = nn.Dropout(p).p  # refuses what is no probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return F.dropout(F.relu(x), self.p, self.training)
        return _ReLUDropout.apply(x, _dropped(self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _dropped(p: float) -> int:
    """How many of the 2^16 numbers of 16 bits mean that an element is dropped."""
    return round(p * 2**BITS)


def keep_mask(shape: torch.Size, dropped: int) -> Tensor:
    """True with probability 1 - dropped / 2^16, independently; on the CPU."""
    count = shape.numel()
    seed = int(torch.randint(SEEDS, (), dtype=torch.int64))
    words = np.random.SFC64(seed).random_raw(-(-count * BITS // 64))
    # Signed, -2^15 and up, for torch compares no other 16 bits.
    return torch.from_numpy(words.view(np.int16)[:count]).view(shape) >= dropped - 2 ** (BITS - 1)


def _factor(dropped: int) -> float:
    kept = 2**BITS - dropped
    return 2**BITS / kept if kept else 0.0


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        ctx.dropped, keep = dropped, keep_mask(x.shape, dropped)
        ctx.save_for_backward(keep)
        return (x * keep).mul_(_factor(dropped))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(_factor(ctx.dropped)), None


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        y = (x * keep_mask(x.shape, dropped)).clamp_min_(0).mul_(_factor(dropped))
        ctx.dropped = dropped
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0).mul_(_factor(ctx.dropped)), None
