"""Batches as slices of two tensors: no per-row Python, and an order that is a function of (seed, pass) alone.

Shapes: B batch, N fields, n rows of a piece.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from recsys_collapse.dataset.store import Store
from recsys_collapse.seeding import derive

ROWS_PER_BLOCK = 500_000  # to count in: 40 fields as int64 are 160 MB
SHARE = 0.5  # of the device's free memory that the data may take; the rest is for the model


class Batches:
    """Batches (x_BN int32, y_B uint8) of one part of a store; iterating again gives the next order or piece.

    Args:
        store: the prepared data, on any device.
        part: `train`, `valid` or `test`.
        batch_size: rows of a batch; a last batch of a single row joins the one before (batch norm needs two).
        order: the order of the part's rows for this pass, asked for when the first batch is fetched; None: as split.
        pieces: a pass is cut into this many pieces of whole batches, as equal as can be; iterating gives one of them.
        piece: which one, from 0, asked for at the same time.

    Raises:
        ValueError: more pieces than batches.
    """

    def __init__(
        self,
        store: Store,
        part: str,
        batch_size: int,
        order: Callable[[int], Tensor] | None = None,
        pieces: int = 1,
        piece: Callable[[], int] = lambda: 0,
    ) -> None:
        self.store, self.rows, self.batch_size, self.order = store, store.splits[part], batch_size, order
        self.pieces, self.piece = pieces, piece
        if pieces > self._batches_of_a_pass():
            raise ValueError(
                f"trainer.evaluations_per_epoch={pieces}: the {part} rows are {self._batches_of_a_pass()} batches of "
                f"{batch_size}: expected at most as many evaluations; lower it or trainer.batch_size"
            )

    def _batches_of_a_pass(self) -> int:
        return count_batches(len(self.rows), self.batch_size)

    def _of_the_piece(self) -> range:
        """Numbers of its batches."""
        batches, piece = self._batches_of_a_pass(), self.piece()
        return range(batches * piece // self.pieces, batches * (piece + 1) // self.pieces)

    def __len__(self) -> int:
        return len(self._of_the_piece())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        numbers, last = self._of_the_piece(), self._batches_of_a_pass() - 1
        start = numbers.start * self.batch_size
        stop = len(self.rows) if numbers.stop > last else numbers.stop * self.batch_size
        rows = self.rows[start:stop]
        if self.order is not None:
            rows = self.rows.index_select(0, self.order(len(self.rows))[start:stop].to(self.rows.device))
        ends = [(i + 1) * self.batch_size for i in range(len(numbers) - 1)]
        for rows_B in torch.tensor_split(rows, ends):
            yield self.store.ids.index_select(0, rows_B), self.store.labels.index_select(0, rows_B)


def count_batches(rows: int, batch_size: int) -> int:
    """How many batches so many rows are: a last one of a single row joins the one before."""
    full, rest = divmod(rows, batch_size)
    return max(1, full + (rest > 1))


def regroup(pieces: Iterable[tuple[np.ndarray, ...]], batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows that come in pieces of any size, as the batches that `Batches` would make of all of them, in order.

    A piece is some arrays with a row in each of them for every row, such as (x_nN, y_n).
    """
    waiting: tuple[np.ndarray, ...] = ()
    for piece in pieces:
        waiting = tuple(map(_joined, waiting, piece)) if waiting else piece
        whole = max(0, (len(waiting[0]) - 2) // batch_size)  # the last batch may get one row more, so two have to wait
        for i in range(whole):
            yield tuple(array[i * batch_size : (i + 1) * batch_size] for array in waiting)
        waiting = tuple(array[whole * batch_size :] for array in waiting)
    rows = len(waiting[0]) if waiting else 0
    number = count_batches(rows, batch_size) if rows else 0
    for i in range(number):
        end = rows if i == number - 1 else (i + 1) * batch_size
        yield tuple(array[i * batch_size : end] for array in waiting)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate([first, second])


def train_counts(store: Store) -> Tensor:
    """How often every id occurs among the training rows: (D,) int64, fields below each other as in the table."""
    ends = list(accumulate(store.cardinalities))
    offset_N = torch.tensor([0, *ends[:-1]], device=store.ids.device)
    count_D = torch.zeros(ends[-1], dtype=torch.int64, device=store.ids.device)
    for rows in store.splits["train"].split(ROWS_PER_BLOCK):
        count_D += torch.bincount((store.ids.index_select(0, rows) + offset_N).flatten(), minlength=ends[-1])
    return count_D


def shuffled(seed: int, epoch: Callable[[], int]) -> Callable[[int], Tensor]:
    """An order for `Batches`: a permutation that depends on the seed and on the pass running when it is asked for."""

    @lru_cache(maxsize=1)  # the pieces of a pass share it
    def permutation(num_rows: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(seed, "order", number))
        return torch.randperm(num_rows, generator=generator, dtype=torch.int32)  # the order does not depend on the type

    return lambda num_rows: permutation(num_rows, epoch())


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


def resident_bytes(store: Store, accelerator: str, wanted: str | bool, free: int | None) -> int:
    """Bytes of a GPU that `resident` would fill, of which so many are free; 0 where nothing trains on one."""
    if accelerator == "cpu" or not torch.cuda.is_available() or wanted is False:
        return 0
    needed = num_bytes(store)
    return needed if wanted is True or free is None or fits(needed, free) else 0


def num_bytes(store: Store) -> int:
    """Bytes of ids, labels and splits."""
    return sum(tensor.nbytes for tensor in (store.ids, store.labels, *store.splits.values()))


def fits(needed: int, free: int) -> bool:
    """Whether the data leaves half of the free memory to the model."""
    return needed <= SHARE * free
