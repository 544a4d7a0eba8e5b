"""The heads F: what is shared by all embedding sets, from the averaged h to the logit.

Shapes: B batch, H width of h.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_collapse.dropout import ReLUDropout


class MLPHead(nn.Module):
    """Multi-layer perceptron (B, H) -> logit (B,); every hidden layer is linear, batch norm, ReLU, dropout."""

    def __init__(self, in_size: int, hidden_sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        for i, size in enumerate(hidden_sizes):
            layer = (nn.Linear(in_size, size), nn.BatchNorm1d(size), ReLUDropout(dropout))
            # Numbered by four: checkpoints name weights so, from when ReLU and dropout were two modules.
            layers |= {str(4 * i + j): part for j, part in enumerate(layer)}
            in_size = size
        layers[str(4 * len(hidden_sizes))] = nn.Linear(in_size, 1)
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, h_BH: Tensor) -> Tensor:
        return self.mlp(h_BH).squeeze(1)


class CINHead(nn.Module):
    """xDeepFM's F: [CIN's part, MLP's part], (B, C + H), -> linear on the first plus `MLPHead` on the second, (B,)."""

    def __init__(self, cin_size: int, in_size: int, hidden_sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.sizes = [cin_size, in_size]
        self.linear, self.deep = nn.Linear(cin_size, 1), MLPHead(in_size, hidden_sizes, dropout)

    def forward(self, h_BH: Tensor) -> Tensor:
        cin_BC, deep_BH = h_BH.split(self.sizes, dim=1)
        return self.linear(cin_BC).squeeze(1) + self.deep(deep_BH)


class BilinearHead(nn.Module):
    """FinalMLP's F: streams [x, y], both H wide, (B, 2H) -> w_x.x + w_y.y + x W y + biases, (B,).

    `weight` W starts at 0, as in the official code: the streams first learn on their own.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_x, self.linear_y = nn.Linear(size, 1), nn.Linear(size, 1)
        self.weight = nn.Parameter(torch.zeros(size, size))

    def forward(self, h_BH: Tensor) -> Tensor:
        x_BH, y_BH = h_BH.chunk(2, dim=1)
        return (self.linear_x(x_BH) + self.linear_y(y_BH)).squeeze(1) + ((x_BH @ self.weight) * y_BH).sum(dim=1)


class ScalarHead(nn.Module):
    """F of FM and FFM: their h is the logit but for a bias, which starts at 0; (B, 1) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, h_B1: Tensor) -> Tensor:
        return h_B1.squeeze(1) + self.bias
