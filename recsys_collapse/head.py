"""The heads F: what is shared by all embedding sets, from the averaged h to the logit.

Shapes: B batch, H width of h.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class MLPHead(nn.Module):
    """Multi-layer perceptron (B, H) -> logit (B,); every hidden layer is linear, batch norm, ReLU, dropout."""

    def __init__(self, in_size: int, hidden_sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.Linear(in_size, size), nn.BatchNorm1d(size), nn.ReLU(), nn.Dropout(dropout)]
            in_size = size
        self.mlp = nn.Sequential(*layers, nn.Linear(in_size, 1))

    def forward(self, h_BH: Tensor) -> Tensor:
        return self.mlp(h_BH).squeeze(1)
