"""Gram matrix, spectrum and information abundance against numpy's SVD of the table itself."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_collapse import spectrum
from recsys_collapse.spectrum import (
    FieldSpectrum,
    abundance_of_fields,
    field_grams,
    field_spectra,
    information_abundance,
    mean_relative,
    random_information_abundance,
    set_grams,
    singular_spectrum,
)

few = settings(max_examples=60, deadline=None)
SLICES = [slice(0, 9), slice(9, 10), slice(10, 12), slice(12, 40)]


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """(D, C) float32 of any shape and rank, columns of any relative scale, the whole from 1e-12 to 1e6."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    rank = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    table *= 10.0 ** -rng.uniform(0, draw(st.sampled_from([0, 3, 10])), columns)
    return torch.tensor(table * 10.0 ** draw(st.integers(-12, 6)), dtype=torch.float32)


def svd(table: Tensor) -> np.ndarray:
    return np.linalg.svd(table.double().numpy(), compute_uv=False)


def abundance(sigma: np.ndarray) -> np.ndarray:
    return sigma.sum(-1) / sigma.max(-1)


def assert_spectrum(sigma_C: Tensor, table_DC: Tensor) -> None:
    """Squares of singular values from a float64 Gram matrix are exact to some eps of the largest one."""
    expected = svd(table_DC)
    assert sigma_C.dtype == torch.float64 and sigma_C.shape == expected.shape
    assert (sigma_C >= 0).all() and (sigma_C.diff() <= 0).all()
    np.testing.assert_allclose(sigma_C.numpy() ** 2, expected**2, rtol=0, atol=100 * 2.2e-16 * expected[0] ** 2)
    np.testing.assert_allclose(information_abundance(sigma_C), abundance(expected), atol=1e-6)


@few
@given(tables(), st.sampled_from([1, 7, 65_536]))
def test_spectrum_is_numpys(table_DC: Tensor, rows_per_block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "ROWS_PER_BLOCK", rows_per_block)
        gram_NCC = field_grams(table_DC, [slice(0, len(table_DC))])
    exact = table_DC.double().numpy()
    np.testing.assert_allclose(gram_NCC[0], exact.T @ exact, rtol=1e-12, atol=1e-13 * (exact**2).sum())
    assert_spectrum(singular_spectrum(gram_NCC, min(table_DC.shape))[0], table_DC)


@few
@given(tables(), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_abundance_ignores_scale_and_rotation_and_lies_in_its_range(table_DC: Tensor, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table_DC = table_DC.double() / table_DC.abs().max()
    turns = [torch.tensor(np.linalg.qr(rng.standard_normal((size, size)))[0]) for size in table_DC.shape]

    def ia(table_DC: Tensor) -> float:
        gram_NCC = field_grams(table_DC, [slice(0, len(table_DC))])
        return information_abundance(singular_spectrum(gram_NCC, min(table_DC.shape))).item()

    value = ia(table_DC)
    assert 1 <= value <= min(table_DC.shape)
    assert ia(table_DC * scale) == pytest.approx(value, abs=1e-6)
    assert ia(turns[0] @ table_DC @ turns[1]) == pytest.approx(value, abs=1e-6)


def test_abundance_of_known_matrices() -> None:
    assert information_abundance(torch.tensor([3.0, 3.0, 3.0, 3.0])).item() == 4
    assert information_abundance(torch.tensor([4.0, 2.0, 1.0, 0.0])).item() == 1.75
    assert information_abundance(torch.tensor([[5.0, 0.0], [2.0, 1.0]])).tolist() == [1, 1.5]


def test_small_singular_values_survive() -> None:
    """Condition 1e5: gone in a float32 Gram matrix, exact to 1e-4 in a float64 one."""
    rng = np.random.default_rng(0)
    columns = np.linalg.qr(rng.standard_normal((500, 4)))[0]
    table_DC = torch.tensor(columns * [1, 1e-2, 1e-4, 1e-5], dtype=torch.float32)
    sigma_C = singular_spectrum(field_grams(table_DC, [slice(0, 500)]))[0]
    np.testing.assert_allclose(sigma_C, svd(table_DC), rtol=1e-4)


def table(columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(40, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_fields_and_sets_are_blocks() -> None:
    weight = table(6)
    gram_NCC = field_grams(weight, SLICES)
    assert gram_NCC.shape == (4, 6, 6)
    blocks = set_grams(gram_NCC, 3)
    assert blocks.shape == (3, 4, 2, 2)
    for i, rows in enumerate(SLICES):
        for m in range(3):
            alone = weight[rows, 2 * m : 2 * m + 2].double()
            torch.testing.assert_close(blocks[m, i], alone.T @ alone)


@pytest.mark.parametrize("num_sets", [1, 3])
def test_field_spectra(num_sets: int) -> None:
    weight, size = table(6), 6 // num_sets
    expected = [(None, i, slice(None)) for i in range(4)]
    if num_sets > 1:
        expected += [(m, i, slice(m * size, (m + 1) * size)) for m in range(num_sets) for i in range(4)]
    found = field_spectra(torch.nn.Parameter(weight), SLICES, num_sets)
    assert [(s.embedding_set, s.field) for s in found] == [(m, i) for m, i, _ in expected]
    for s, (_, i, columns) in zip(found, expected, strict=True):
        block = weight[SLICES[i], columns]
        assert s.cardinality == len(block)
        assert_spectrum(s.sigma, block)
        assert s.information_abundance == pytest.approx(abundance(svd(block)), abs=1e-6)
        assert s.random == random_information_abundance(*block.shape)
        assert not s.sigma.requires_grad


# Some rows only

KEPT = [[0, 2, 3, 4, 7, 8], [9], [], [13, *range(20, 40)]]
"""Of each field of SLICES; none of the third."""


def kept_rows() -> Tensor:
    kept_D = torch.zeros(40, dtype=torch.bool)
    kept_D[[row for rows in KEPT for row in rows]] = True
    return kept_D


@few
@given(st.data(), st.sampled_from([1, 7, 65_536]))
def test_grams_of_some_rows_are_those_of_a_table_of_these_rows(data: st.DataObject, rows_per_block: int) -> None:
    kept_D = torch.tensor(data.draw(st.lists(st.booleans(), min_size=40, max_size=40)))
    weight = table(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "ROWS_PER_BLOCK", rows_per_block)
        gram_NCC = field_grams(weight, SLICES, kept_D)
    assert gram_NCC.shape == (4, 6, 6) and gram_NCC.dtype == torch.float64
    for gram_CC, rows in zip(gram_NCC, SLICES, strict=True):
        alone = weight[rows][kept_D[rows]].double()
        torch.testing.assert_close(gram_CC, alone.T @ alone)


@pytest.mark.parametrize("num_sets", [1, 3])
def test_spectra_of_some_rows(num_sets: int) -> None:
    """Against the singular values of the table with these rows alone; what stands in the others does not matter."""
    weight, size = table(6), 6 // num_sets
    weight[~kept_rows()] = torch.nan
    found = field_spectra(weight, SLICES, num_sets, kept_rows())
    assert len(found) == (4 if num_sets == 1 else 16)
    for s in found:
        columns = (
            slice(None) if s.embedding_set is None else slice(s.embedding_set * size, (s.embedding_set + 1) * size)
        )
        block = weight[KEPT[s.field], columns]
        assert s.cardinality == len(block) == len(KEPT[s.field])
        if len(block):
            expected = torch.linalg.svdvals(block.double())
            torch.testing.assert_close(s.sigma, expected, rtol=1e-6, atol=1e-7)
            assert s.information_abundance == pytest.approx((expected.sum() / expected[0]).item(), abs=1e-6)
            assert s.random == random_information_abundance(*block.shape)


def test_all_rows_are_no_choice() -> None:
    every = torch.ones(40, dtype=torch.bool)
    assert torch.equal(field_grams(table(6), SLICES, every), field_grams(table(6), SLICES))
    for ours, theirs in zip(field_spectra(table(6), SLICES, 3, every), field_spectra(table(6), SLICES, 3), strict=True):
        assert torch.equal(ours.sigma, theirs.sigma)
        assert ours._replace(sigma=None) == theirs._replace(sigma=None)


def test_a_field_without_a_row_has_no_value() -> None:
    found = [s for s in field_spectra(table(6), SLICES, 3, kept_rows()) if s.field == 2]
    assert [s.embedding_set for s in found] == [None, 0, 1, 2]
    for s in found:
        assert (s.cardinality, s.sigma.shape) == (0, (0,))
        assert math.isnan(s.information_abundance) and math.isnan(s.random)
    nothing = field_spectra(table(6), SLICES, 3, torch.zeros(40, dtype=torch.bool))
    assert math.isnan(mean_relative(nothing)) and math.isnan(mean_relative(nothing, per_set=True))


@pytest.mark.parametrize("num_sets", [1, 3])
def test_abundance_of_fields(num_sets: int) -> None:
    """What `result.json` has: JSON values by field name, None where there is no value."""
    weight, size = table(6), 6 // num_sets
    weight[SLICES[1]] = 0  # and has no abundance
    names = ["a", "b", "c", "d"]
    found = abundance_of_fields(torch.nn.Parameter(weight), SLICES, num_sets, names, kept_rows())
    assert list(found) == names
    assert json.loads(json.dumps(found, allow_nan=False)) == found

    def ia(block: Tensor) -> Any:
        sigma = svd(block) if len(block) else np.zeros(1)
        return pytest.approx(abundance(sigma), abs=1e-6) if sigma.any() else None

    for i, (rows, kept) in enumerate(zip(SLICES, KEPT, strict=True)):
        block = weight[rows]
        assert found[names[i]] == {
            "whole": ia(block),
            "per_set": [ia(columns) for columns in block.split(size, dim=1)],
            "random": random_information_abundance(len(block), 6),
            "random_per_set": random_information_abundance(len(block), size),
            "seen": {
                "rows": len(kept),
                "whole": ia(weight[kept]),
                "random": random_information_abundance(len(kept), 6) if kept else None,
            },
        }
    assert found["b"]["whole"] is None and found["c"]["seen"]["whole"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_field_without_an_abundance(value: float) -> None:
    """NaN for one field (one set of it), no exception, and the others as before."""
    weight = table(6)
    before = field_spectra(weight, SLICES, 3)
    weight[SLICES[0], :2] = value  # field 0, set 0
    whole_is_lost = not math.isfinite(value)
    for old, new in zip(before, field_spectra(weight, SLICES, 3), strict=True):
        if old.field == 0 and (old.embedding_set == 0 or (old.embedding_set is None and whole_is_lost)):
            assert math.isnan(new.information_abundance)
            assert new.sigma.shape == old.sigma.shape
            assert (new.sigma == 0).all() if value == 0 else new.sigma.isnan().all()
        elif not (old.field == 0 and old.embedding_set is None):
            assert new.information_abundance == old.information_abundance
            assert torch.equal(new.sigma, old.sigma)


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_table_without_an_abundance(value: float) -> None:
    found = field_spectra(torch.full((40, 6), value), SLICES, 3)
    assert len(found) == 16 and all(math.isnan(s.information_abundance) for s in found)
    assert math.isnan(mean_relative(found)) and math.isnan(mean_relative(found, per_set=True))


def monte_carlo(rows: int, columns: int, draws: int) -> tuple[float, float]:
    """Mean IA of random matrices and its standard error, with numpy's generator and SVD."""
    rng = np.random.default_rng(1)
    shape = (draws, rows, columns)
    e = rng.uniform(-1, 1, shape) if rows <= 1000 else rng.standard_normal(shape)
    values = abundance(np.linalg.svd(e, compute_uv=False))
    return values.mean(), values.std(ddof=1) / math.sqrt(draws)


MONTE_CARLO = [
    *((rows, columns, 4000) for rows, columns in [(2, 2), (5, 3), (3, 8), (10, 10), (4, 50)]),
    *((1000, 10, 40), (1001, 10, 40), (1000, 40, 10), (1001, 40, 10), (5000, 3, 40), (7, 1500, 60), (1020, 1030, 2)),
]


@pytest.mark.parametrize(("rows", "columns", "draws"), MONTE_CARLO)
def test_random_abundance_is_that_of_random_matrices(rows: int, columns: int, draws: int) -> None:
    mean, error = monte_carlo(rows, columns, draws)
    assert random_information_abundance(rows, columns) == pytest.approx(mean, abs=4 * math.hypot(error, 0.005 * mean))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 3), (3, 4), (2, 6)])
def test_triangular_factor_has_the_distribution_of_the_matrix(rows: int, columns: int) -> None:
    """Bartlett's decomposition, at sizes where one degree of freedom more or less shows."""
    gram = spectrum._random_wishart(20_000, rows, columns, torch.Generator().manual_seed(3))
    assert gram.shape == (20_000, min(rows, columns), min(rows, columns))
    drawn = information_abundance(singular_spectrum(gram)).numpy()
    e = np.random.default_rng(4).standard_normal((20_000, rows, columns))
    expected = np.linalg.svd(e, compute_uv=False)
    error = math.hypot(drawn.std(), abundance(expected).std()) / math.sqrt(20_000)
    assert drawn.mean() == pytest.approx(abundance(expected).mean(), abs=4 * error)
    assert gram.diagonal(dim1=1, dim2=2).sum(1).mean().item() == pytest.approx(rows * columns, rel=0.02)


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (7, 1), (5000, 1), (1, 1)])
def test_random_abundance_of_a_vector_is_one(rows: int, columns: int) -> None:
    assert random_information_abundance(rows, columns) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (2, 3), (3, 3), (4, 4), (5, 5), (10, 10), (40, 40), (2000, 10)])
def test_random_abundance_has_the_standard_error_it_states(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []

    def recorded(sigma: Tensor) -> Tensor:
        drawn.append(information_abundance(sigma))
        return drawn[-1]

    monkeypatch.setattr(spectrum, "information_abundance", recorded)
    value = random_information_abundance.__wrapped__(rows, columns)
    assert drawn[0].mean().item() == value
    assert drawn[0].std().item() / math.sqrt(len(drawn[0])) < 0.005 * value


def test_random_abundance_depends_on_the_shape_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [random_information_abundance.__wrapped__(*shape) for shape in ((20, 5), (2000, 5))]
    assert torch.equal(torch.get_rng_state(), before), "it moved the generator of the training"
    torch.manual_seed(1)
    assert [random_information_abundance.__wrapped__(*shape) for shape in ((20, 5), (2000, 5))] == first


def test_random_abundance_tells_tiny_distributions_apart() -> None:
    """Uniform entries, as the tables start: a Gaussian 10 x 10 matrix would be 4% away."""
    rng = np.random.default_rng(2)
    gaussian = abundance(np.linalg.svd(rng.standard_normal((4000, 10, 10)), compute_uv=False)).mean()
    assert abs(random_information_abundance(10, 10) / gaussian - 1) > 0.02


def entry(embedding_set: int | None, abundance: float, random: float) -> FieldSpectrum:
    return FieldSpectrum(0, embedding_set, 5, torch.ones(1), abundance, random)


def test_mean_relative() -> None:
    spectra = [entry(None, 2, 4), entry(None, 3, 4), entry(None, math.nan, 4), entry(0, 1, 4), entry(1, 4, 4)]
    assert mean_relative(spectra) == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert mean_relative(spectra, per_set=True) == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert mean_relative(iter(spectra)) == mean_relative(spectra)
    assert math.isnan(mean_relative(spectra[:3], per_set=True))
