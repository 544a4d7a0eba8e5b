"""Grouped layers: M independent copies of a layer, one per embedding set, computed in one operation.

Every layer maps (B, M, ...) to (B, M, ...); copy m sees only set m. `tests/reference.py` holds the loop they equal.

Shapes: B batch, M embedding sets, I inputs, O outputs, H width, N fields, K embedding size per set.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.dropout import ReLUDropout


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
