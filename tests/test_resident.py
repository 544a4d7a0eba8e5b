"""Data in the device's memory: only where it fits, and the same batches."""

from dataclasses import replace

import pytest
import torch

from recsys_collapse.dataset import batches
from recsys_collapse.dataset.batches import Batches, fits, num_bytes, resident, resident_bytes, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.memory import free_memory
from tests.test_dataset import numbered

CUDA = torch.device("cuda", 0)


def all_batches(store: Store) -> list[tuple[list, list]]:
    found = Batches(store, "train", 8, shuffled(3, lambda: 1))
    return [(x_BN.tolist(), y_B.tolist()) for x_BN, y_B in found]


def test_half_of_the_free_memory_is_for_the_model() -> None:
    assert fits(500, 1000)
    assert not fits(501, 1000)
    store = numbered(50)
    assert num_bytes(store) == 50 * 2 * 4 + 50 + sum(rows.nbytes for rows in store.splits.values())


@pytest.mark.parametrize("wanted", ["auto", True, False])
def test_on_a_cpu_the_files_stay_mapped(wanted: str | bool) -> None:
    store = numbered(50)
    assert resident(store, torch.device("cpu"), wanted) is store


def test_the_bytes_that_would_stay_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    store = numbered(50)
    size = num_bytes(store)
    assert resident_bytes(store, "auto", True, 9 * size) == 0 or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for accelerator, wanted, free, expected in (
        ("auto", "auto", 2 * size, size),
        ("auto", "auto", 2 * size - 1, 0),
        ("cuda", True, 1, size),
        ("cuda", False, 9 * size, 0),
        ("cpu", True, 9 * size, 0),
    ):
        assert resident_bytes(store, accelerator, wanted, free) == expected


@pytest.fixture
def small_gpu(monkeypatch) -> list[torch.device]:
    """A device with 1000 bytes of free memory; moving a tensor there is recorded and does nothing."""
    moved: list[torch.device] = []
    to = torch.Tensor.to

    def pretend(tensor: torch.Tensor, target: object) -> torch.Tensor:
        if not isinstance(target, torch.device):
            return to(tensor, target)
        moved.append(target)
        return tensor

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    monkeypatch.setattr(torch.Tensor, "to", pretend)
    return moved


@pytest.mark.parametrize(("rows", "wanted", "moves"), [(20, "auto", 3), (20, True, 3), (20, False, 0), (90, "auto", 0)])
def test_data_moves_if_it_fits(small_gpu: list[torch.device], rows: int, wanted: str | bool, moves: int) -> None:
    resident(numbered(rows), CUDA, wanted)
    assert small_gpu == [CUDA] * moves


def test_data_that_must_move_and_does_not_fit_is_an_error(small_gpu: list[torch.device]) -> None:
    with pytest.raises(ValueError, match=r"dataset.device_resident=true: the data takes .* GB are free on cuda:0"):
        resident(numbered(90), CUDA, True)
    assert small_gpu == []


def test_the_type_of_the_row_numbers_does_not_change_the_order() -> None:
    store = numbered(50)
    narrow = replace(store, splits={part: rows.int() for part, rows in store.splits.items()})
    assert all_batches(narrow) == all_batches(store)
    generator = torch.Generator().manual_seed(batches.derive(3, "order", 1))
    assert shuffled(3, lambda: 1)(50).tolist() == torch.randperm(50, generator=generator).tolist()


@pytest.mark.gpu
def test_batches_of_the_gpu_are_those_of_the_cpu() -> None:
    store = numbered(1000)
    there = resident(store, CUDA, True)
    assert there.ids.device == CUDA
    assert all_batches(there) == all_batches(store)


def test_free_memory_is_that_of_the_machine() -> None:
    free = free_memory("cpu")
    assert free is not None and 10**8 < free < 10**14
