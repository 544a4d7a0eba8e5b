"""Sums over the rows of a table against numpy's, whatever the blocks, panels, shards, types and settings.

Shapes: D rows, C columns, N fields.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_collapse.spectrum import Moments, field_grams, field_moments, gram, set_grams, unit_norm_gram

few = settings(max_examples=25, deadline=None)
SLICES = [slice(0, 9), slice(9, 10), slice(10, 12), slice(12, 12), slice(12, 40)]
KEPT = [[0, 2, 3, 4, 7, 8], [9], [], [], [13, *range(20, 40)]]
"""Of each field of SLICES; none of the third, and the fourth has none."""
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
block_rows = st.sampled_from([1, 7, 28, 65_536])
panels = st.sampled_from([1, 3, 5, 8, 64])


def table(columns: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(40, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def kept_rows() -> Tensor:
    kept_D = torch.zeros(40, dtype=torch.bool)
    kept_D[[row for rows in KEPT for row in rows]] = True
    return kept_D


@contextmanager
def pieces(rows: int, panel: int, columns: int = 6) -> Iterator[None]:
    """Blocks of so many rows, panels of so many columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gram.BLOCK_BYTES, "cpu", 8 * gram.augmented_size(columns) * rows)
        patch.setattr(gram, "PANEL", panel)
        yield


def expected(table_DC: Tensor, row_weight_D: Tensor | None = None) -> Moments:
    """By numpy, row by row; rows without a weight are left out."""
    found = []
    for rows in SLICES:
        e = table_DC[rows].double().numpy()
        w = np.ones(len(e)) if row_weight_D is None else row_weight_D[rows].double().numpy()
        e, w = e[w > 0], w[w > 0]
        found.append((np.einsum("d,da,db->ab", w, e, e), w @ e, w.sum(), len(w)))
    return Moments(*(torch.tensor(np.array(values)) for values in zip(*found, strict=True)))


def assert_same(ours: Moments, theirs: Moments, rtol: float = 1e-12) -> None:
    assert (ours.gram_NCC.dtype, ours.rows_N.dtype) == (torch.float64, torch.int64)
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=rtol, atol=1e-12)


def weights(kind: str) -> Tensor | None:
    rng = np.random.default_rng(3)
    return {
        "none": None,
        "bool": kept_rows(),
        "counts": torch.tensor(rng.integers(0, 50, 40)) * kept_rows(),
        "float": torch.tensor(rng.uniform(0.1, 5, 40), dtype=torch.float32) * kept_rows(),
    }[kind]


@pytest.mark.parametrize("kind", ["none", "bool", "counts", "float"])
@pytest.mark.parametrize("dtype", TYPES)
@few
@given(block_rows, panels)
def test_moments_are_numpys(dtype: torch.dtype, kind: str, rows: int, panel: int) -> None:
    table_DC, row_weight_D = table(6, dtype), weights(kind)
    with pieces(rows, panel):
        found = field_moments(table_DC, SLICES, row_weight_D)
    assert_same(found, expected(table_DC, row_weight_D))
    assert torch.equal(found.gram_NCC, found.gram_NCC.mT), "not symmetric"
    assert not any(tensor.requires_grad for tensor in found)


@few
@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 25), st.integers(1, 40), st.integers(0, 1000))
def test_a_table_of_any_shape_in_any_pieces(rows: int, columns: int, panel: int, block: int, seed: int) -> None:
    e = np.random.default_rng(seed).standard_normal((rows, columns))
    with pieces(block, panel, columns):
        gram_CC = field_grams(torch.tensor(e), [slice(0, rows)])[0]
    np.testing.assert_allclose(gram_CC, e.T @ e, rtol=1e-12, atol=1e-12)


def test_blocks_have_the_size_that_is_set() -> None:
    """The smaller of what is set and what there is, in order; one row where not even one fits."""
    with pieces(7, 64):
        assert [len(e_BA) for e_BA in gram.row_blocks(table(), slice(10, 40))] == [7, 7, 7, 7, 2]
        found = torch.cat([e_BA.clone() for e_BA in gram.row_blocks(table(), slice(10, 40))])
    assert torch.equal(found[:, :6], table()[10:].double())
    assert (found[:, 6] == 1).all() and (found[:, 7:] == 0).all()
    with pieces(0, 64):
        assert [len(e_BA) for e_BA in gram.row_blocks(table(), slice(10, 13))] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["bool", "counts", "float"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_stands_in_rows_that_do_not_count_does_not_matter(kind: str, value: float) -> None:
    row_weight_D = weights(kind)
    spoiled = table()
    spoiled[row_weight_D == 0] = value
    assert_same(field_moments(spoiled, SLICES, row_weight_D), expected(table(), row_weight_D))


@few
@given(st.lists(st.booleans(), min_size=40, max_size=40))
def test_rows_that_are_left_out_are_as_if_they_were_not_there(kept: list[bool]) -> None:
    kept_D = torch.tensor(kept)
    for i, rows in enumerate(SLICES):
        alone = table()[rows][kept_D[rows]]
        found = field_moments(alone, [slice(0, len(alone))])
        assert_same(Moments(*(tensor[i : i + 1] for tensor in field_moments(table(), SLICES, kept_D))), found)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_weight_of_one_is_no_weight(dtype: torch.dtype) -> None:
    for ours, theirs in zip(
        field_moments(table(), SLICES, torch.ones(40).to(dtype)), field_moments(table(), SLICES), strict=True
    ):
        assert torch.equal(ours, theirs)


# Several machines, or several parts


@few
@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.sampled_from(["none", "float"]))
def test_parts_of_the_rows_merge_to_the_whole(part: list[int], kind: str) -> None:
    row_weight_D = torch.ones(40) if kind == "none" else weights(kind)
    parts = [field_moments(table(), SLICES, row_weight_D * (torch.tensor(part) == number)) for number in range(4)]
    assert_same(parts[0].merge(parts[1]).merge(parts[2].merge(parts[3])), expected(table(), row_weight_D))


def reduced(rank: int, folder: str) -> None:
    """In a process of its own: the moments of half of the rows, before and after all ranks have met."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    row_weight_D = weights("float") * (torch.arange(40) % 2 == rank)
    mine = field_moments(table(), SLICES, row_weight_D)
    torch.save((tuple(mine.all_reduce()), tuple(mine)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_reduce_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(reduced, (str(tmp_path),), nprocs=2)
    after, before = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)
    for moments in after:
        assert_same(Moments(*moments), expected(table(), weights("float")))
    assert_same(Moments(*before[0]).merge(Moments(*before[1])), Moments(*after[0]))  # not changed in place


# Centred


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_centred_grams_are_those_of_rows_minus_their_mean(kind: str) -> None:
    row_weight_D = weights(kind)
    table_DC = table() + 3
    moments = field_moments(table_DC, SLICES, row_weight_D)
    for i, rows in enumerate(SLICES):
        e = table_DC[rows].double().numpy()
        w = np.ones(len(e)) if row_weight_D is None else row_weight_D[rows].double().numpy()
        mean = np.average(e, axis=0, weights=w) if w.sum() else np.zeros(6)
        np.testing.assert_allclose(moments.mean_NC()[i], mean, rtol=1e-12)
        np.testing.assert_allclose(moments.centred_gram()[i], ((e - mean).T * w) @ (e - mean), atol=1e-10)


def test_a_row_alone_leaves_nothing_when_centred() -> None:
    centred_NCC = field_moments(table(), SLICES).centred_gram()
    assert centred_NCC[1].abs().max() < 1e-15
    assert (centred_NCC[3] == 0).all()


@pytest.mark.parametrize("kind", ["none", "float"])
def test_blocks_of_centred_rows(kind: str) -> None:
    """What QR reads: sqrt(w) (e - mean); nothing of a row that does not count."""
    row_weight_D, spoiled = weights(kind), table()
    if row_weight_D is not None:
        spoiled[row_weight_D == 0] = torch.nan
    moments = field_moments(spoiled, SLICES, row_weight_D)
    for i, rows in enumerate(SLICES):
        with pieces(7, 64):
            blocks = gram.row_blocks(spoiled, rows, row_weight_D, moments.mean_NC()[i])
            blocks = [e_BA[:, :6].clone() for e_BA in blocks]
        e_RC = torch.cat([torch.empty(0, 6, dtype=torch.float64), *blocks])
        torch.testing.assert_close(e_RC.T @ e_RC, moments.centred_gram()[i], rtol=1e-12, atol=1e-12)


# Weights


@pytest.mark.parametrize(
    ("row_weight_D", "message"),
    [
        (torch.ones(39), r"row weights of shape \(39,\): expected one for each of 40 rows"),
        (torch.ones(40, 1), "expected one for each of 40 rows"),
        (torch.ones(39, dtype=torch.bool), "expected one for each of 40 rows"),
        (torch.arange(40) - 1, "negative or not finite; expected 0 or more"),
        (torch.full((40,), torch.nan), "negative or not finite"),
        (torch.full((40,), torch.inf), "negative or not finite"),
    ],
)
def test_bad_weights_are_refused(row_weight_D: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        field_moments(table(), SLICES, row_weight_D)


# Sets


def test_grams_of_sets_are_the_diagonal_blocks() -> None:
    blocks = set_grams(field_grams(table(), SLICES), 3)
    assert blocks.shape == (3, 5, 2, 2)
    for i, rows in enumerate(SLICES):
        for m in range(3):
            alone = table()[rows, 2 * m : 2 * m + 2].double()
            torch.testing.assert_close(blocks[m, i], alone.T @ alone)
    assert torch.equal(set_grams(field_grams(table(), SLICES), 1)[0], field_grams(table(), SLICES))


@pytest.mark.parametrize("num_sets", [1, 2, 3, 6])
def test_at_unit_norm_a_set_of_small_numbers_counts_as_much(num_sets: int) -> None:
    scale = 10.0 ** (-4 * torch.arange(num_sets)).double().repeat_interleave(6 // num_sets)
    found = unit_norm_gram(field_grams(table().double() * scale, SLICES), num_sets)
    for gram_CC, rows in zip(found, SLICES, strict=True):
        sets = table()[rows].double().unflatten(1, (num_sets, -1)).numpy()
        alone = (sets / np.maximum(np.sqrt((sets**2).sum((0, 2), keepdims=True)), 1e-300)).reshape(len(sets), 6)
        np.testing.assert_allclose(gram_CC, alone.T @ alone, rtol=1e-9, atol=1e-14)


def test_at_unit_norm_a_set_of_zeros_stays_and_one_that_is_not_finite_is_not_hidden() -> None:
    weight = table()
    weight[SLICES[0], :2] = 0
    weight[20, 2] = torch.nan
    found = unit_norm_gram(field_grams(weight, SLICES), 3)
    assert (found[0, :2] == 0).all() and (found[0, :, :2] == 0).all()
    assert found[0].trace().item() == pytest.approx(2)
    assert found[4, 2].isnan().all() and found[:4].isfinite().all()


# Surroundings


def test_surrounding_precision_changes_no_number() -> None:
    before = field_moments(table(), SLICES, weights("float"))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            after = field_moments(table(), SLICES, weights("float"))
            centred = after.centred_gram()
    finally:
        torch.set_float32_matmul_precision(precision)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))
    assert torch.equal(centred, before.centred_gram())


def test_nothing_is_tracked() -> None:
    weight = torch.nn.Parameter(table())
    assert not any(tensor.requires_grad for tensor in field_moments(weight, SLICES, weights("float")))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_moments_of_the_gpu_are_those_of_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where float32 products are rounded to 10 bits, in several blocks, with weights that lie on the CPU."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    monkeypatch.setitem(gram.BLOCK_BYTES, "cuda", 8 * gram.augmented_size(6) * 7)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = field_moments(table().cuda(), SLICES, weights(kind))
    assert found.gram_NCC.device.type == "cuda"
    assert_same(Moments(*(tensor.cpu() for tensor in found)), expected(table(), weights(kind)))
