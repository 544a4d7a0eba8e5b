"""Two optimizers in one: a rule for the embedding tables, another for all other parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Split(Optimizer):
    """One optimizer to whoever holds it: groups and state are those of the two inside, as the same objects.

    A learning rate written into `param_groups` therefore reaches them, and `state_dict` is an ordinary one.

    Args:
        params: groups; the embedding tables' have the key `num_sets`.
        table: groups with `num_sets` -> optimizer.
        dense: the other groups -> optimizer.

    Raises:
        ValueError: there is no group of either kind.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        table: Callable[..., Optimizer],
        dense: Callable[..., Optimizer],
    ) -> None:
        super().__init__(params, {})
        tables, others = self._groups()
        if not tables or not others:
            raise ValueError(
                f"params: {len(tables)} groups with the key num_sets and {len(others)} without, expected at least one "
                'of each: {"params": [weight], "num_sets": M} for every embedding table and {"params": [...]} for the '
                "rest; a single rule needs no Split"
            )
        self.table, self.dense = table(tables), dense(others)
        for inner in (self.table, self.dense):  # some begin with a state
            self.state.update(inner.state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step both, after one call of `closure`; returns what that returned."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self.table.step()
        self.dense.step()
        return result

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if hasattr(self, "dense"):  # not while __init__ collects the groups
            inner = self.table if "num_sets" in param_group else self.dense
            inner.add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "table": self.table, "dense": self.dense}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # load_state_dict, too, puts new groups and a new state here
        self._share()

    def _groups(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Those of embedding tables, and the others."""
        tables = [group for group in self.param_groups if "num_sets" in group]
        return tables, [group for group in self.param_groups if "num_sets" not in group]

    def _share(self) -> None:
        self.table.param_groups, self.dense.param_groups = self._groups()
        self.table.state = self.dense.state = self.state
