"""One step of an optimizer on next to nothing: whether it can be used, before anything is trained."""

from collections.abc import Callable
from typing import Any

import torch


def trial_step(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], sparse_gradients: bool) -> None:
    """Build the optimizer on a table (2, 2) and one other parameter, and step.

    Raises:
        ValueError: what it says when it cannot be built with these options or cannot take these gradients.
    """
    table, other = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (1,)))
    table.grad = torch.ones(2, 2).to_sparse(1) if sparse_gradients else torch.ones(2, 2)
    other.grad = torch.ones(1)
    try:
        optimizer = make([{"params": [table], "num_sets": 1}, {"params": [other]}])
    except Exception as error:  # whatever a user's optimizer raises
        raise ValueError(f"optimizer: cannot be built: {error}") from error
    try:
        optimizer.step()
    except Exception as error:
        kind, turned = ("sparse", "false") if sparse_gradients else ("dense", "true")
        raise ValueError(
            f"optimizer: no step with {kind} gradients of the tables: {error}; optimizer.sparse_gradients={turned} "
            "gives it the others"
        ) from error
