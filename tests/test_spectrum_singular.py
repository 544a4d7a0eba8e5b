"""Singular values of one table against scipy's of the table itself, and what either path promises.

A Gram matrix squares the singular values: rounding leaves about 1e-16 of the largest square. With QR, 1e-16 of the
largest one itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_collapse.spectrum import (
    field_grams,
    field_moments,
    gram,
    information_abundance,
    singular,
    singular_spectrum,
    singular_values,
    triangular_factor,
)

few = settings(max_examples=40, deadline=None)
SHAPES = [(60, 5), (6, 5), (5, 5), (4, 5), (2, 40), (1, 5), (1, 1), (7, 1), (0, 5), (5, 0), (0, 0), (500, 8)]
CONDITIONS = [1e2, 1e4, 3e5, 1e6, 1e10]
exact_or_not = pytest.mark.parametrize("exact", [True, False])


def svd(table: Tensor) -> np.ndarray:
    return scipy.linalg.svdvals(table.double().numpy()) if table.numel() else np.zeros(0)


def abundance(sigma: np.ndarray) -> float:
    return sigma.sum() / sigma.max()


def with_spectrum(sigma: np.ndarray, rows: int = 300, seed: int = 0) -> Tensor:
    """A float64 table that has these singular values, in directions of no importance."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(sigma))))[0] for size in (rows, len(sigma)))
    return torch.tensor(left * sigma @ right.T)


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((rows, columns)))


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """(D, C) float32 of any shape and rank, columns of any relative scale, the whole from 1e-12 to 1e6."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    rank = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    table *= 10.0 ** -rng.uniform(0, draw(st.sampled_from([0, 3, 10])), columns)
    return torch.tensor(table * 10.0 ** draw(st.integers(-12, 6)), dtype=torch.float32)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Of a row or a few, and R after a few of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gram.BLOCK_BYTES, "cpu", 200)
        patch.setattr(singular, "QR_ROWS_PER_COLUMN", 3)
        yield


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every table that is worked through by QR: its columns."""
    found: list[int] = []

    def spy(blocks: Iterator[Tensor], columns: int) -> Tensor:
        found.append(columns)
        return triangular_factor(blocks, columns)

    monkeypatch.setattr(singular, "triangular_factor", spy)
    return found


def assert_near(found: Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Descending, as many as expected, each within a share of the largest one."""
    assert (found.dtype, found.device.type, tuple(found.shape)) == (torch.float64, "cpu", expected.shape)
    assert (found >= 0).all() and (found.diff() <= 0).all()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance * max(expected, default=0))


# From a Gram matrix


@few
@given(tables())
def test_squares_from_a_gram_matrix_are_exact_to_rounding_of_the_largest(table_DC: Tensor) -> None:
    sigma_C = singular_spectrum(field_grams(table_DC, [slice(0, len(table_DC))]), min(table_DC.shape))[0]
    expected = svd(table_DC)
    assert_near(sigma_C.square(), expected**2, 100 * 2.2e-16)
    assert information_abundance(sigma_C).item() == pytest.approx(abundance(expected), abs=1e-6)


def test_a_gram_matrix_that_is_not_finite_has_no_spectrum_and_spoils_no_other() -> None:
    gram_NCC = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    gram_NCC[1, 0, 2], gram_NCC[2, 1, 1] = torch.nan, torch.inf
    sigma_NC = singular_spectrum(gram_NCC)
    assert sigma_NC[[1, 2]].isnan().all()
    assert (sigma_NC[[0, 3]] == 1).all()
    assert singular_spectrum(gram_NCC, 2).shape == (4, 2)


def test_rounding_below_zero_is_zero() -> None:
    assert singular_spectrum(torch.diag(torch.tensor([4.0, -1e-17]).double())).tolist() == [2, 0]


# Whatever the shape


@exact_or_not
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_singular_values_are_scipys(rows: int, columns: int, dtype: torch.dtype, centred: bool, exact: bool) -> None:
    table_DC = normal(rows, columns).to(dtype)
    found = singular_values(table_DC, centred=centred, exact=exact)
    e_DC = table_DC.double() - (table_DC.double().mean(0) if centred else 0)
    assert_near(found, svd(e_DC)[: max(0, min(rows - centred, columns))], 1e-12)


@few
@given(tables(), st.booleans())
def test_any_table_to_rounding_of_its_largest_value(table_DC: Tensor, centred: bool) -> None:
    e_DC = table_DC.double()
    shift = e_DC.mean(0) if centred else 0
    size = max(0, min(len(e_DC) - centred, e_DC.shape[1]))
    with small_blocks():
        found = singular_values(table_DC, centred=centred)
    bound = 1e-10 * svd(e_DC)[0]  # where QR was not needed; 1e-14 where it was
    np.testing.assert_allclose(found, svd(e_DC - shift)[:size], rtol=0, atol=bound)


@few
@given(tables(), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_abundance_ignores_scale_and_rotation_and_lies_in_its_range(table_DC: Tensor, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table_DC = table_DC.double() / table_DC.abs().max()
    turns = [torch.tensor(np.linalg.qr(rng.standard_normal((size, size)))[0]) for size in table_DC.shape]

    def ia(table_DC: Tensor) -> float:
        return information_abundance(singular_values(table_DC)).item()

    value = ia(table_DC)
    assert 1 <= value <= min(table_DC.shape)
    assert ia(table_DC * scale) == pytest.approx(value, rel=1e-9)
    assert ia(turns[0] @ table_DC @ turns[1]) == pytest.approx(value, rel=1e-9)


# What is promised of hard tables


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("columns", [2, 8, 40])
def test_exact_values_of_ill_conditioned_tables(columns: int, condition: float, factored: list[int]) -> None:
    """QR where the last value is below 1e-6 of the norm, and only there: without it 1e-10 of the largest remain."""
    table_DC = with_spectrum(np.geomspace(1, 0.9 / condition, columns))
    found, expected = singular_values(table_DC), svd(table_DC)
    assert factored == [columns] * (condition >= 1e6)
    assert_near(found, expected, 1e-14 if factored else 1e-10)
    assert abundance(found.numpy()) == pytest.approx(abundance(expected), rel=1e-12 if factored else 1e-9)
    if factored:  # what sums do not notice
        assert found[-1].item() == pytest.approx(expected[-1], rel=1e-15 * condition)


@pytest.mark.parametrize(("condition", "rel"), [(1e2, 1e-12), (1e4, 1e-10), (1e6, 1e-8), (1e10, 1e-5)])
@pytest.mark.parametrize("columns", [2, 8, 40])
def test_abundance_without_qr(columns: int, condition: float, rel: float, factored: list[int]) -> None:
    table_DC = with_spectrum(np.geomspace(1, 1 / condition, columns))
    found = singular_values(table_DC, exact=False)
    assert abundance(found.numpy()) == pytest.approx(abundance(svd(table_DC)), rel=rel)
    assert not factored


@pytest.mark.parametrize("rank", [1, 3, 19])
def test_rank_deficient_tables(rank: int, factored: list[int]) -> None:
    table_DC = normal(400, rank) @ normal(rank, 20, seed=1)
    found = singular_values(table_DC, exact=False).numpy()
    assert abundance(found) == pytest.approx(abundance(svd(table_DC)), rel=1e-5)
    assert not factored
    assert_near(singular_values(table_DC), svd(table_DC), 1e-14)
    assert factored == [20]


def test_small_singular_values_survive_without_qr() -> None:
    """Condition 1e5: gone in a float32 Gram matrix, exact to 1e-4 in a float64 one."""
    table_DC = with_spectrum(np.array([1, 1e-2, 1e-4, 1e-5])).float()
    np.testing.assert_allclose(singular_values(table_DC, exact=False), svd(table_DC), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_badly_scaled_columns_and_tables(scale: float, factored: list[int]) -> None:
    """Every value to a millionth of itself, although they lie twelve orders of magnitude apart."""
    table_DC = (normal(300, 3) * torch.tensor([1, 1e-6, 1e-12]) * scale).float().double()
    expected = svd(table_DC)
    assert_near(singular_values(table_DC), expected, 1e-14)
    assert factored == [3]
    columns = np.linalg.norm(table_DC.numpy(), axis=0)
    np.testing.assert_allclose(singular_values(table_DC), columns, rtol=0.02)
    assert_near(singular_values(table_DC, exact=False), expected, 1e-7)


@pytest.mark.parametrize("times", [1e2, 1e3, 1e4, 1e5, 1e6, 1e9])
def test_a_mean_far_above_the_spread(times: float, factored: list[int]) -> None:
    """Centred, the rounding errors are those of the entries with their mean: QR is needed long before 1e6."""
    table_DC = normal(300, 4) + times * torch.tensor([1.0, -2.0, 0.5, 0.0])
    assert_near(singular_values(table_DC, centred=True), svd(table_DC - table_DC.mean(0)), max(1e-10, 1e-16 * times))
    assert factored == [4] * (times >= 1e3)


def test_rows_that_are_all_the_same_have_no_spread() -> None:
    table_DC = normal(1, 6).float().expand(5000, 6)
    assert (singular_values(table_DC, centred=True) == 0).all()
    assert abundance(singular_values(table_DC).numpy()) == pytest.approx(1)


# Weights


def weighted(table_DC: Tensor, row_weight_D: Tensor, centred: bool) -> np.ndarray:
    e, w = table_DC.double().numpy(), row_weight_D.double().numpy()
    e, w = e[w > 0], w[w > 0]
    if centred and len(e):
        e = e - np.average(e, axis=0, weights=w)
    sigma = svd(torch.tensor(np.sqrt(w)[:, None] * e))
    return sigma[: max(0, min(len(e) - centred, e.shape[1]))]


@exact_or_not
@pytest.mark.parametrize("centred", [False, True])
@few
@given(st.lists(st.sampled_from([0, 0, 1, 2, 7.5, 1e4]), min_size=30, max_size=30), st.sampled_from([1e-9, 1.0]))
def test_weighted_rows(centred: bool, exact: bool, weights: list[float], last: float) -> None:
    row_weight_D = torch.tensor(weights)
    table_DC = normal(30, 4) * torch.tensor([1, 1, 1, last])
    expected = weighted(table_DC, row_weight_D, centred)
    table_DC[row_weight_D == 0] = torch.nan
    with small_blocks():
        found = singular_values(table_DC, row_weight_D, centred=centred, exact=exact)
    assert_near(found, expected, 1e-10 if exact else 1e-5)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 30])
def test_rows_that_are_left_out_are_as_if_they_were_not_there(kept: int, centred: bool) -> None:
    kept_D = torch.arange(30) % 7 == 3
    kept_D = kept_D | (torch.arange(30) % 2 == 0)
    kept_D &= kept_D.cumsum(0) <= kept
    found = singular_values(normal(30, 4), kept_D, centred=centred)
    expected = singular_values(normal(30, 4)[kept_D], centred=centred)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_bad_tables_and_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a table of shape \(5,\): expected two dimensions, rows and columns"):
        singular_values(torch.ones(5))
    with pytest.raises(ValueError, match="expected one for each of 5 rows"):
        singular_values(torch.ones(5, 2), torch.ones(4))
    with pytest.raises(ValueError, match="negative or not finite"):
        singular_values(torch.ones(5, 2), -torch.ones(5))


@exact_or_not
@pytest.mark.parametrize("rows", [3, 4, 40])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_table_that_is_not_finite_has_no_spectrum(value: float, rows: int, exact: bool, factored: list[int]) -> None:
    table_DC = normal(rows, 4)
    table_DC[1, 2] = value
    for centred in (False, True):
        found = singular_values(table_DC, centred=centred, exact=exact)
        assert found.isnan().all() and len(found) == min(rows - centred, 4)
    assert not factored, "QR cannot help"


def test_surrounding_precision_changes_no_number_and_nothing_is_tracked() -> None:
    weight = torch.nn.Parameter(with_spectrum(np.geomspace(1, 1e-9, 6)).float())
    before = singular_values(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = singular_values(weight)
    assert torch.equal(after, before) and not after.requires_grad


# R


@few
@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 6), st.integers(0, 1000))
def test_the_triangular_factor_stands_for_the_table(sizes: list[int], columns: int, seed: int) -> None:
    blocks = list(normal(sum(sizes), columns, seed).split(sizes)) if sizes else []
    e_DC = torch.cat([torch.empty(0, columns, dtype=torch.float64), *blocks])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(singular, "QR_ROWS_PER_COLUMN", 2)
        r_RC = triangular_factor(iter(blocks), columns)
    assert r_RC.shape == (min(e_DC.shape), columns) and r_RC.dtype == torch.float64
    assert torch.equal(r_RC, r_RC.triu())
    torch.testing.assert_close(r_RC.T @ r_RC, e_DC.T @ e_DC)


def test_factors_of_shards_are_blocks_again() -> None:
    e_DC = with_spectrum(np.geomspace(1, 1e-12, 5), rows=60)
    shards = [triangular_factor([shard], 5) for shard in e_DC.split([30, 3, 0, 27])]
    assert [len(r_RC) for r_RC in shards] == [5, 3, 0, 5]
    assert_near(torch.linalg.svdvals(triangular_factor(shards, 5)), svd(e_DC), 1e-15)


def test_r_is_taken_as_soon_as_enough_rows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than that of the table is in memory."""
    heights: list[int] = []
    qr = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda e, mode: heights.append(len(e)) or qr(e, mode=mode))
    monkeypatch.setattr(singular, "QR_ROWS_PER_COLUMN", 4)
    triangular_factor(normal(30, 3).split(5), 3)
    assert heights == [15, 3 + 15]
    heights.clear()
    triangular_factor(normal(20, 3).split(5), 3)
    assert heights == [15, 3 + 5]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("rows", [0, 2, 5, 6, 40])
def test_a_factor_of_a_field_has_its_gram_matrix(rows: int, centred: bool) -> None:
    """Between other rows, with weights and without, of fewer rows than columns and of more."""
    table_DC, own = normal(50, 5), slice(4, 4 + rows)
    for row_weight_D in (None, torch.arange(50) % 3 + 0.5, torch.arange(50) % 3 != 1):
        moments = field_moments(table_DC, [own], row_weight_D)
        mean_C = moments.mean_NC()[0] if centred else None
        with small_blocks():
            f_RC = singular.field_factor(table_DC, own, int(moments.rows_N), row_weight_D, mean_C)
        expected = moments.centred_gram() if centred else moments.gram_NCC
        torch.testing.assert_close(f_RC.T @ f_RC, expected[0], rtol=1e-12, atol=1e-12)
        assert len(f_RC) == min(5, int(moments.rows_N))
