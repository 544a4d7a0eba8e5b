"""Batches as slices of two tensors: no per-row Python, and an order that is a function of (seed, epoch) alone.

Shapes: B batch, N fields.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recsys_collapse.dataset.store import Store
from recsys_collapse.seeding import derive


class Batches:
    """Batches (x_BN int32, y_B uint8) of one part of a store; iterating again gives the next epoch's order.

    Args:
        store: the prepared data.
        part: `train`, `valid` or `test`.
        batch_size: rows of a batch; a last batch of a single row joins the one before (batch norm needs two).
        order: the order of the part's rows for this pass, asked for when the first batch is fetched; None: as split.
    """

    def __init__(self, store: Store, part: str, batch_size: int, order: Callable[[int], Tensor] | None = None) -> None:
        self.store, self.rows, self.batch_size, self.order = store, store.splits[part], batch_size, order

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return max(1, full + (rest > 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self.rows if self.order is None else self.rows[self.order(len(self.rows))]
        ends = [(i + 1) * self.batch_size for i in range(len(self) - 1)]
        for rows_B in torch.tensor_split(rows, ends):
            yield self.store.ids.index_select(0, rows_B), self.store.labels.index_select(0, rows_B)


def shuffled(seed: int, epoch: Callable[[], int]) -> Callable[[int], Tensor]:
    """An order for `Batches`: a permutation that depends on the seed and on the epoch running when it is asked for."""

    def order(num_rows: int) -> Tensor:
        return torch.randperm(num_rows, generator=torch.Generator().manual_seed(derive(seed, "order", epoch())))

    return order
