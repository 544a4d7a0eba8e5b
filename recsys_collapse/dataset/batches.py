"""Batches as slices of two tensors: no per-row Python, and an order that is a function of (seed, epoch) alone.

Shapes: B batch, N fields.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from recsys_collapse.dataset.store import Store
from recsys_collapse.seeding import derive

SHARE = 0.5  # of the device's free memory that the data may take; the rest is for the model


class Batches:
    """Batches (x_BN int32, y_B uint8) of one part of a store; iterating again gives the next epoch's order.

    Args:
        store: the prepared data, on any device.
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
        rows = self.rows
        if self.order is not None:
            rows = rows.index_select(0, self.order(len(rows)).to(rows.device))
        ends = [(i + 1) * self.batch_size for i in range(len(self) - 1)]
        for rows_B in torch.tensor_split(rows, ends):
            yield self.store.ids.index_select(0, rows_B), self.store.labels.index_select(0, rows_B)


def shuffled(seed: int, epoch: Callable[[], int]) -> Callable[[int], Tensor]:
    """An order for `Batches`: a permutation that depends on the seed and on the epoch running when it is asked for."""

    def order(num_rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch()))
        return torch.randperm(num_rows, generator=generator, dtype=torch.int32)  # the order does not depend on the type

    return order


def resident(store: Store, device: torch.device, wanted: str | bool) -> Store:
    """The store in the memory of `device`, where batches are then cut without crossing the bus; or as it is.

    Args:
        store: the prepared data, mapped from files.
        device: where the model trains; nothing is to be done for a CPU.
        wanted: `auto`: if the data fits into half of the device's free memory; True; False.

    Raises:
        ValueError: True, and the device has too little free memory.
    """
    if device.type != "cuda" or wanted is False:
        return store
    needed, free = num_bytes(store), torch.cuda.mem_get_info(device)[0]
    if not fits(needed, free):
        if wanted is True:
            raise ValueError(
                f"dataset.device_resident=true: the data takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on "
                f"{device} and half of that is for the model: set dataset.device_resident=auto or false"
            )
        return store
    return replace(
        store,
        ids=store.ids.to(device),
        labels=store.labels.to(device),
        splits={part: rows.to(device) for part, rows in store.splits.items()},
    )


def num_bytes(store: Store) -> int:
    """Bytes of ids, labels and splits."""
    return sum(tensor.nbytes for tensor in (store.ids, store.labels, *store.splits.values()))


def fits(needed: int, free: int) -> bool:
    """Whether the data leaves half of the free memory to the model."""
    return needed <= SHARE * free
