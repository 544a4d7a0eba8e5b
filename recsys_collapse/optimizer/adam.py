"""Adam without a full-table gradient: the dense step of every row, from gradients that hold the rows of a batch only.

A dense gradient of a table of D rows is D*C zeros with some rows in them: allocated, written and read at every step, a
quarter of the memory of training. Yet with (coupled) weight decay every row moves at every step. So the table is passed
over in chunks: the gradient of a chunk is a small block of zeros into which its rows of the batch are put. The step
itself is the fused one of torch, so all numbers are those of `torch.optim.Adam(fused=True)`, to rounding.

Replaying skipped steps later instead, when a row is looked up, was measured and left: a step on numbers that lie in
the cache takes two thirds of one that streams the table, and everybody who reads the table would have to wait for it.

Shapes: D rows of the table, C columns, R rows of a chunk, n rows of the batch.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from recsys_collapse.embedding import coalesced

CHUNK = {"cpu": 2**20, "cuda": 2**22}  # weights of a chunk: its zeros (4 MB, 16 MB) stay in the cache


class Adam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015) as torch's with `fused=True`, and its state; sparse gradients (D, C) mean dense ones.

    Args:
        params: parameters or groups of them.
        lr: learning rate, 0 or more.
        betas: decay of the two moments, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: L2, added to the gradient (coupled, the paper's); of every row, whatever the batch.
        decoupled_weight_decay: the decay acts on the weights instead: AdamW.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, fused=True, decoupled_weight_decay=decoupled_weight_decay
        )
        self._step_supports_amp_scaling = False  # whoever scales gradients divides them again: not done in here

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # load_state_dict, too, puts new groups here: another Adam's may say otherwise
        for group in self.param_groups:
            group["fused"] = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient, after one call of `closure`; returns what that returned."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            found = [weight for weight in group["params"] if weight.grad is not None]
            self._step_dense([weight for weight in found if not weight.grad.is_sparse], group)
            for weight in found:
                if weight.grad.is_sparse:
                    self._step_table(weight, coalesced(weight.grad), group)
        return result

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state

    def _step_dense(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(weight) for weight in weights]
        first, second, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        decoupled = group["decoupled_weight_decay"]
        adam(
            weights,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            decoupled_weight_decay=decoupled,
            **_options(group),
        )

    def _step_table(self, weight_DC: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, row_n, sum_nC = self._state_of(weight_DC), gradient.indices()[0], gradient.values()
        state["step"] += 1
        rule = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        options = {**_options(group), "max_exp_avg_sqs": [], "state_steps": [state["step"]]}
        rows = max(1, CHUNK.get(weight_DC.device.type, CHUNK["cpu"]) // weight_DC.shape[1])
        parts = [part.split(rows) for part in (weight_DC.detach(), state["exp_avg"], state["exp_avg_sq"])]
        starts = range(0, len(weight_DC) + rows, rows)
        ends = torch.searchsorted(row_n, torch.tensor(starts, device=row_n.device)).tolist()
        block_RC = weight_DC.new_zeros(min(rows, len(weight_DC)), weight_DC.shape[1])
        for start, own, w_RC, m_RC, v_RC in zip(starts, pairwise(ends), *parts, strict=False):
            own_n, grad_RC = row_n[slice(*own)] - start, block_RC[: len(w_RC)]
            grad_RC.index_copy_(0, own_n, sum_nC[slice(*own)])
            # Not `adam`, which counts a step at every call, and takes longer to call than a chunk takes.
            rule([w_RC], [grad_RC], [m_RC], [v_RC], **options)
            grad_RC.index_fill_(0, own_n, 0)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What both of torch's functions want to know of a group."""
    beta1, beta2 = group["betas"]
    options = {key: group[key] for key in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    return {"beta1": beta1, "beta2": beta2, **options}
