"""Evidence III: every projection W_{i->j} is held near a multiple of a unitary matrix, which changes no spectrum.

Shapes: L regularized layers, M embedding sets, N fields, K embedding size per set.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from recsys_collapse.model.backbone import Backbone, Stages

FORMS = ("paper", "official")


class Unitary(nn.Module):
    """weight * sum over layers, sets and field pairs of ||W^T W - lambda I||_F^2, W = W_{i->j} (paper, Evidence III).

    `factor` (L, M, N, N) is learned with the model and starts at 1:

    - `paper`: it is lambda. W = 0, lambda = 0 is a minimum.
    - `official`: it is n of the released code, which multiplies a matrix V by n in the forward pass and penalises
      ||I - V V^T||_F^2. Of the effective projection W = n V that is ||I - W W^T / n^2||_F^2, and the same with W^T W,
      as W is square: lambda = n^2, and each term is divided by lambda^2. So the model needs no gate. What differs: Adam
      and weight decay act on W and n, there on V and n. W = 0 is no minimum: it costs K.

    A sum, as in the paper: it grows with the number of blocks and with K. In full precision also under autocast.

    Args:
        backbone: one with `pair_projections`.
        weight: of the sum; the released code has 1e-5, the paper names none.
        form: `paper` or `official`.
        layers: numbers of the cross layers, from 0; all by default.

    Raises:
        ValueError: the backbone has no pair projections; an unknown form; a layer that is unknown or given twice.
    """

    def __init__(
        self, backbone: Backbone, *, weight: float = 1e-5, form: str = "paper", layers: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form={form}: expected one of {', '.join(FORMS)}")
        w_LMNNKK = backbone.pair_projections()
        known = range(len(w_LMNNKK))
        self.weight, self.form, self.layers = weight, form, list(known if layers is None else layers)
        if not self.layers or not set(self.layers) <= set(known) or len(set(self.layers)) < len(self.layers):
            raise ValueError(
                f"layers={self.layers}: expected null for all, or distinct numbers from 0 to {known.stop - 1} "
                f"(the backbone has {known.stop} cross layers)"
            )
        self.factor = nn.Parameter(w_LMNNKK.new_ones(len(self.layers), *w_LMNNKK.shape[1:4]))

    def forward(self, backbone: Backbone, stages: Stages) -> Tensor:
        layers = backbone.pair_projections().unbind()
        w_LMNNKK = torch.stack([layers[number] for number in self.layers])
        lambda_LMNN = self.factor if self.form == "paper" else self.factor.square()
        device = w_LMNNKK.device.type
        # The meta device, where memory is estimated, knows no autocast.
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            rest_LMNNKK = w_LMNNKK.mT @ w_LMNNKK
        rest_LMNNKK.diagonal(dim1=-2, dim2=-1).sub_(lambda_LMNN[..., None])
        square_LMNN = rest_LMNNKK.square().sum((-2, -1))
        if self.form == "official":
            square_LMNN = square_LMNN / lambda_LMNN.square()
        return self.weight * square_LMNN.sum()
