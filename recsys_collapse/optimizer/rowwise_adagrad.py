"""Row-wise Adagrad: one step size per row and embedding set, learned from the mean square of its gradients.

As the exact row-wise Adagrad of DLRM and FBGEMM, where the whole row is one set. Rows without a gradient stay.

Shapes: D rows of the table, M embedding sets, K embedding size per set, n rows with a gradient, C = M*K columns.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from recsys_collapse.embedding import coalesced


class RowwiseAdagrad(Optimizer):
    """acc += mean over the set's K columns of g^2; w -= lr * g / (sqrt(acc) + eps).

    `state[weight]["sum"]` is acc (D, M), of the weight's dtype. Sparse gradients (uncoalesced will do) and dense ones
    give the same; a sparse step allocates for its n rows only.

    Args:
        params: weights (D, M*K) or groups of them; a group says M with the key `num_sets`, else it is 1.
        lr: learning rate, 0 or more.
        eps: above 0: rows with acc = 0 must not give 0 / 0.
        initial_accumulator_value: acc before the first step, 0 or more.

    Raises:
        ValueError: an option is out of its range, or a weight is no table of `num_sets` equal parts.
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.01, eps: float = 1e-10, initial_accumulator_value: float = 0.0
    ) -> None:
        options = {"lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value}
        for name, value in options.items():
            if not (0 <= value < math.inf) or (name == "eps" and value == 0):
                raise ValueError(f"{name}={value}: expected a number {'above 0' if name == 'eps' else 'of 0 or more'}")
        super().__init__(params, {**options, "num_sets": 1})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        num_sets = param_group["num_sets"]
        for weight in param_group["params"]:
            if weight.ndim != 2 or num_sets < 1 or weight.shape[1] % num_sets:
                raise ValueError(
                    f"weight of shape {tuple(weight.shape)} with num_sets={num_sets}: expected an embedding table "
                    "(D, M*K) with num_sets=M of 1 or more; other parameters need another optimizer (Split)"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every weight that has a gradient, after one call of `closure`; returns what that returned."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group)
        return result

    def _step(self, w_DC: Tensor, grad_DC: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w_DC]
        if not state:
            state["sum"] = w_DC.new_full((len(w_DC), group["num_sets"]), group["initial_accumulator_value"])
        acc_DM, lr, eps = state["sum"], group["lr"], group["eps"]
        if not grad_DC.is_sparse:
            _descend(w_DC, grad_DC, acc_DM, lr, eps)
            return
        grad_DC = coalesced(grad_DC)  # the sum of a row's gradients comes before the square
        row_n, grad_nC = grad_DC.indices()[0], grad_DC.values()
        w_nC, acc_nM = w_DC.index_select(0, row_n), acc_DM.index_select(0, row_n)
        _descend(w_nC, grad_nC, acc_nM, lr, eps)
        w_DC.index_copy_(0, row_n, w_nC)
        acc_DM.index_copy_(0, row_n, acc_nM)


def _descend(w_nC: Tensor, grad_nC: Tensor, acc_nM: Tensor, lr: float, eps: float) -> None:
    """One step in place on n rows, or on all of them."""
    folded = (acc_nM.shape[1], -1)
    grad_nMK = grad_nC.unflatten(1, folded)
    acc_nM.add_(grad_nMK.square().mean(2))
    w_nC.unflatten(1, folded).addcdiv_(grad_nMK, acc_nM.sqrt().add_(eps).unsqueeze(2), value=-lr)
