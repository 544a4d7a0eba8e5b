"""Spectra of the fields and sets of a fused table against those of matrices that are built one by one.

Shapes: D rows, C = M*K columns of M embedding sets, N fields.
"""

import json
import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys_collapse.spectrum import (
    METRICS,
    FieldSpectrum,
    Reference,
    TableSpectra,
    abundance_of_fields,
    field_spectra,
    fields,
    information_abundance,
    mean_relative,
    random_information_abundance,
    random_metrics,
    singular,
    spectrum_metrics,
)
from recsys_collapse.spectrum.random import grouped_weights

SIZES = {"plain": 60, "one": 1, "two": 2, "none": 0, "square": 6, "one more": 7, "steep": 40, "shifted": 50, "zero": 8}
ENDS = np.cumsum([0, *SIZES.values()])
SLICES = [slice(int(start), int(stop)) for start, stop in pairwise(ENDS)]
FIELDS = dict(zip(SIZES, SLICES, strict=True))
ROWS = int(ENDS[-1])
every_view = pytest.mark.parametrize(("centred", "unit_norm"), list(product([False, True], repeat=2)))
every_weight = pytest.mark.parametrize("kind", ["none", "bool", "float"])


def table(columns: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two of the fields are hard: in "steep" the last set is tiny, and "shifted" has in one set a mean far above its
    spread, and in another one a small spread and a small mean.
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((ROWS, columns))
    weight[FIELDS["steep"], -columns // 3 :] *= 1e-9
    weight[FIELDS["shifted"], : columns // 3] = 1 + 1e-5 * weight[FIELDS["shifted"], : columns // 3]
    weight[FIELDS["shifted"], -columns // 3 :] *= 1e-4
    weight[FIELDS["zero"]] = 0
    return torch.tensor(weight).to(dtype)


def weights(kind: str) -> Tensor | None:
    rng = np.random.default_rng(1)
    kept_D = torch.tensor(rng.uniform(size=ROWS) < 0.7)
    return {
        "none": None,
        "bool": kept_D,
        "float": kept_D * torch.tensor(rng.integers(1, 9, ROWS) / 2),
    }[kind]


def matrix(
    weight: Tensor,
    rows: slice,
    num_sets: int,
    row_weight_D: Tensor | None = None,
    centred: bool = False,
    unit_norm: bool = False,
) -> np.ndarray:
    """The matrix (D, M, K) whose singular values are meant, step by step."""
    e = weight[rows].double().numpy()
    w = np.ones(len(e)) if row_weight_D is None else row_weight_D[rows].double().numpy()
    e, w = e[w > 0], w[w > 0]
    if centred and len(e):
        e = e - (w[:, None] * e).sum(0) / w.sum()
    sets = (np.sqrt(w)[:, None] * e).reshape(len(e), num_sets, e.shape[1] // num_sets)
    if unit_norm:
        norm = np.sqrt((sets**2).sum((0, 2), keepdims=True))
        sets = np.divide(sets, norm, out=np.zeros_like(sets), where=norm > 0)
    return sets


def svd(matrix: np.ndarray, centred: bool = False) -> np.ndarray:
    size = max(0, min(len(matrix) - centred, matrix.shape[1]))
    return np.linalg.svd(matrix, compute_uv=False)[:size] if size else np.zeros(0)


def abundance(sigma: np.ndarray) -> float:
    return sigma.sum() / sigma.max() if sigma.any() else math.nan


def assert_metrics(found: dict[str, float], expected: dict[str, float], rel: float = 0.0) -> None:
    assert list(found) == list(METRICS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=0, nan_ok=True), name


# Every view


@every_view
@every_weight
@pytest.mark.parametrize("num_sets", [1, 3])
def test_spectra_are_those_of_matrices_built_one_by_one(
    num_sets: int, kind: str, centred: bool, unit_norm: bool
) -> None:
    weight, row_weight_D = table(), weights(kind)
    found = TableSpectra(torch.nn.Parameter(weight), SLICES, num_sets, row_weight_D).spectra(centred, unit_norm)
    sets = [None, *(range(num_sets) if num_sets > 1 and not unit_norm else [])]
    assert [(s.embedding_set, s.field) for s in found] == list(product(sets, range(len(SLICES))))
    for s in found:
        e_DMK = matrix(weight, SLICES[s.field], num_sets, row_weight_D, centred, unit_norm)
        e_DC = e_DMK.reshape(len(e_DMK), 6) if s.embedding_set is None else e_DMK[:, s.embedding_set]
        expected = svd(e_DC, centred)
        assert s.sigma.shape == expected.shape and s.sigma.dtype == torch.float64
        assert not s.sigma.requires_grad
        np.testing.assert_allclose(s.sigma, expected, rtol=0, atol=1e-10 * max(expected, default=0))
        assert s.information_abundance == pytest.approx(abundance(expected), rel=1e-9, nan_ok=True)

        row_groups = grouped_weights(row_weight_D[SLICES[s.field]]) if kind == "float" else ()
        assert s.reference == Reference(len(e_DC), e_DC.shape[1], "uniform", centred, row_groups)
        assert s.cardinality == len(e_DC)
        assert_metrics(s.metrics, {name: v.item() for name, v in spectrum_metrics(s.sigma.unsqueeze(0)).items()})


def test_a_table_of_several_types_and_their_precision() -> None:
    """What rounding of the entries may have made does not count as rank."""
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 6))
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        weight = torch.tensor(exact).to(dtype)
        found = TableSpectra(weight, [slice(0, 60)]).spectra()[0]
        np.testing.assert_allclose(found.sigma, svd(weight.double().numpy()), rtol=0, atol=1e-10 * found.sigma[0])
        assert found.metrics["numerical_rank"] == 2
        assert found.metrics["condition_number"] == math.inf
    assert TableSpectra(weight, [slice(0, 60)], entries="normal").spectra()[0].reference.entries == "normal"


@pytest.mark.parametrize("num_sets", [1, 3])
def test_field_spectra_is_the_plain_view(num_sets: int) -> None:
    for ours, theirs in zip(
        field_spectra(table(), SLICES, num_sets, weights("bool")),
        TableSpectra(table(), SLICES, num_sets, weights("bool")).spectra(),
        strict=True,
    ):
        assert torch.equal(ours.sigma, theirs.sigma) and ours.reference == theirs.reference
    assert field_spectra(table(), [], num_sets) == []


def test_one_column_and_one_row() -> None:
    for s in field_spectra(table(3), [slice(5, 6), slice(10, 30)], 3)[2:]:
        assert len(s.sigma) == 1 and s.information_abundance == s.random == 1
    for s in TableSpectra(table(3), [slice(5, 6)], 3).spectra(centred=True):
        assert len(s.sigma) == 0 and s.cardinality == 1
        assert math.isnan(s.information_abundance) and math.isnan(s.random)


def test_random_values_are_those_of_the_shape_and_the_weights() -> None:
    for s in TableSpectra(table(), SLICES, 3, weights("float")).spectra(centred=True):
        assert_metrics(s.random_metrics, random_metrics(s.reference))
        assert s.random == pytest.approx(s.random_metrics["information_abundance"], nan_ok=True)
    plain = field_spectra(table(), SLICES, 3)
    assert plain[0].random == random_information_abundance(60, 6)
    assert plain[len(SLICES)].random == random_information_abundance(60, 2)


def test_all_rows_are_no_choice() -> None:
    every = torch.ones(ROWS, dtype=torch.bool)
    for ours, theirs in zip(field_spectra(table(), SLICES, 3, every), field_spectra(table(), SLICES, 3), strict=True):
        assert torch.equal(ours.sigma, theirs.sigma)
        assert_metrics(ours.metrics, theirs.metrics)
        assert (ours[:2], ours.reference) == (theirs[:2], theirs.reference)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("centred", [False, True])
def test_what_stands_in_rows_that_do_not_count_does_not_matter(kind: str, centred: bool) -> None:
    spoiled = table()
    spoiled[weights(kind) == 0] = torch.nan
    for ours, theirs in zip(
        TableSpectra(spoiled, SLICES, 3, weights(kind)).spectra(centred),
        TableSpectra(table(), SLICES, 3, weights(kind)).spectra(centred),
        strict=True,
    ):
        assert torch.equal(ours.sigma, theirs.sigma)


# One read of the table


def calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple]:
    """The arguments of every call of a function of a module, from now on."""
    found: list[tuple] = []
    real: Callable = getattr(module, name)

    def spy(*args: Any) -> Any:
        found.append(args)
        return real(*args)

    monkeypatch.setattr(module, name, spy)
    return found


def test_the_table_is_read_once_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more only the fields that a Gram matrix does not resolve: once as they are, once centred."""
    passes, factors = calls(monkeypatch, fields, "field_moments"), calls(monkeypatch, fields, "field_factor")
    spectra = TableSpectra(table(), SLICES, 3)
    assert not passes
    for _ in range(2):
        for centred, unit_norm in product([False, True], repeat=2):
            spectra.spectra(centred, unit_norm)
        spectra.grams(), spectra.grams(centred=True)
    assert len(passes) == 1
    again = [next(name for name, rows in FIELDS.items() if rows == args[1]) for args in factors]
    assert sorted(again) == sorted([*["two", "steep", "zero"] * 2, "one", "square", "shifted"])


@every_view
def test_without_exact_values_only_fields_of_few_rows_are_read_again(
    centred: bool, unit_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    factored, again = calls(monkeypatch, singular, "triangular_factor"), calls(monkeypatch, fields, "field_factor")
    weight = table().double()
    found = TableSpectra(weight, SLICES, exact=False).spectra(centred, unit_norm)
    assert not factored and {len(weight[args[1]]) for args in again} <= {1, 2, 6}
    for s in found:
        e_DMK = matrix(weight, SLICES[s.field], 1, None, centred, unit_norm)
        expected = svd(e_DMK.reshape(len(e_DMK), 6), centred)
        assert s.information_abundance == pytest.approx(abundance(expected), rel=1e-4, nan_ok=True)


# Sets that a Gram matrix resolves only together with others, or not at all


def test_a_set_of_small_spread_beside_a_larger_one() -> None:
    """Centred, alone and at unit norm: what matters is the rounding of this set, not that of the table."""
    rng = np.random.default_rng(5)
    for mean, spread in [(1, 1e-5), (1e-3, 1e-9), (1e-3, 1e-11)]:
        e = rng.standard_normal((500, 6))
        e[:, :2] = mean + spread * e[:, :2]
        weight = torch.tensor(e)
        spectra = TableSpectra(weight, [slice(0, 500)], 3)
        e_DMK = matrix(weight, slice(0, 500), 3, None, True, False)
        alone = spectra.spectra(centred=True)[1]
        np.testing.assert_allclose(alone.sigma, svd(e_DMK[:, 0], True), rtol=1e-10)
        e_DMK = matrix(weight, slice(0, 500), 3, None, True, True)
        np.testing.assert_allclose(spectra.spectra(True, True)[0].sigma, svd(e_DMK.reshape(500, 6), True), rtol=1e-10)


@pytest.mark.parametrize("rows", [4, 7, 5000])
def test_a_set_without_a_spread_does_not_count(rows: int) -> None:
    """Not even its rounding, which a scale of 1e16 would make visible."""
    weight = torch.tensor(np.random.default_rng(5).standard_normal((rows, 6)))
    weight[:, :2] = 0.25
    e_DMK = matrix(weight, slice(0, rows), 3, None, True, True)
    found = TableSpectra(weight, [slice(0, rows)], 3).spectra(True, True)[0]
    np.testing.assert_allclose(found.sigma, svd(e_DMK.reshape(rows, 6), True), rtol=0, atol=1e-12)
    assert found.metrics["numerical_rank"] == min(rows - 1, 4)


# No value


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("name", ["plain", "two", "square", "one more", "shifted"])
def test_a_set_without_a_value_leaves_all_others_as_they_are(name: str, value: float, centred: bool) -> None:
    spoiled, lost = table(), list(SIZES).index(name)
    spoiled[FIELDS[name], 2:4] = value  # set 1
    before = TableSpectra(table(), SLICES, 3).spectra(centred)
    after = TableSpectra(spoiled, SLICES, 3).spectra(centred)
    for old, new in zip(before, after, strict=True):
        assert new.sigma.shape == old.sigma.shape
        if old.field == lost and old.embedding_set == 1:
            assert math.isnan(new.information_abundance)
            assert (new.sigma == 0).all() if value == 0 else new.sigma.isnan().all()
        elif old.field == lost and old.embedding_set is None:
            assert new.sigma.isnan().all() if value != 0 else new.sigma.isfinite().all()
        elif old.field == lost:  # QR, which "shifted" takes, would spread NaN
            torch.testing.assert_close(new.sigma, old.sigma, rtol=1e-4 if name == "shifted" else 1e-12, atol=0)
        else:
            assert torch.equal(new.sigma, old.sigma)


@every_view
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_single_entry_is_enough_to_lose_the_whole(value: float, centred: bool, unit_norm: bool) -> None:
    for name in ("plain", "two", "square", "steep"):
        spoiled = table()
        spoiled[FIELDS[name].start, 3] = value
        found = TableSpectra(spoiled, SLICES, 3).spectra(centred, unit_norm)[list(SIZES).index(name)]
        assert len(found.sigma) and found.sigma.isnan().all(), name


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_a_table_without_a_value(value: float) -> None:
    found = field_spectra(torch.full((ROWS, 6), value), SLICES, 3)
    assert len(found) == 4 * len(SLICES) and all(math.isnan(s.information_abundance) for s in found)
    assert math.isnan(mean_relative(found)) and math.isnan(mean_relative(found, per_set=True))


@every_view
def test_a_field_without_a_row_has_no_value(centred: bool, unit_norm: bool) -> None:
    nothing = TableSpectra(table(), SLICES, 3, torch.zeros(ROWS, dtype=torch.bool)).spectra(centred, unit_norm)
    empty = [s for s in TableSpectra(table(), SLICES, 3).spectra(centred, unit_norm) if SIZES["none"] == s.cardinality]
    assert len(empty) == (1 if unit_norm else 4)
    for s in [*nothing, *empty]:
        assert (s.cardinality, s.sigma.shape) == (0, (0,))
        assert all(map(math.isnan, [*s.metrics.values(), *s.random_metrics.values()]))
    assert math.isnan(mean_relative(nothing)) and math.isnan(mean_relative(nothing, per_set=True))


# By name


@pytest.mark.parametrize("entries", ["uniform", "normal"])
@pytest.mark.parametrize("num_sets", [1, 3])
def test_abundance_of_fields(num_sets: int, entries: str) -> None:
    """What `result.json` has: JSON values by field name, None where there is no value."""
    weight, size, kept_D = table(), 6 // num_sets, weights("bool")
    kept_D[FIELDS["two"]] = False
    found = abundance_of_fields(torch.nn.Parameter(weight), SLICES, num_sets, list(SIZES), kept_D, entries)
    assert list(found) == list(SIZES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found

    def ia(block: Tensor) -> Any:
        sigma = svd(block.double().numpy())
        return pytest.approx(abundance(sigma), rel=1e-9) if sigma.any() else None

    def random(rows: int, columns: int) -> float | None:
        return random_information_abundance(rows, columns, entries) if rows else None

    for name, rows in FIELDS.items():
        block, kept = weight[rows], weight[rows][kept_D[rows]]
        assert found[name] == {
            "whole": ia(block),
            "per_set": [ia(columns) for columns in block.split(size, dim=1)],
            "random": random(len(block), 6),
            "random_per_set": random(len(block), size),
            "seen": {"rows": len(kept), "whole": ia(kept), "random": random(len(kept), 6)},
        }
    assert found["zero"]["whole"] is None and found["two"]["seen"]["whole"] is None


def entry(embedding_set: int | None, ratio: float, rows: int = 10) -> FieldSpectrum:
    """With so many times the information abundance of a random matrix."""
    reference = Reference(rows, 5)
    value = ratio * random_metrics(reference)["information_abundance"]
    return FieldSpectrum(0, embedding_set, torch.ones(1), {"information_abundance": value}, reference)


def test_mean_relative() -> None:
    spectra = [entry(None, 2 / 4), entry(None, 3 / 4), entry(None, math.nan)]
    spectra += [entry(0, 1 / 4), entry(1, 1), entry(2, 1, rows=0)]
    assert mean_relative(spectra) == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert mean_relative(spectra, per_set=True) == pytest.approx((1 / 4 + 1) / 2)
    assert mean_relative(iter(spectra)) == mean_relative(spectra)
    assert math.isnan(mean_relative(spectra[:3], per_set=True))


def test_abundance_is_one_of_the_metrics() -> None:
    s = field_spectra(table(), SLICES)[0]
    assert s.information_abundance == s.metrics["information_abundance"]
    assert s.information_abundance == pytest.approx(information_abundance(s.sigma).item(), rel=1e-12)


def test_surrounding_precision_changes_no_number() -> None:
    before = TableSpectra(table(), SLICES, 3, weights("float")).spectra(centred=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = TableSpectra(table(), SLICES, 3, weights("float")).spectra(centred=True)
    for ours, theirs in zip(after, before, strict=True):
        assert torch.equal(ours.sigma, theirs.sigma)
        assert_metrics(ours.metrics, theirs.metrics)


@pytest.mark.gpu
@every_view
@every_weight
def test_spectra_of_the_gpu_are_those_of_the_cpu(
    kind: str, centred: bool, unit_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    row_weight_D = weights(kind)
    theirs = TableSpectra(table(), SLICES, 3, row_weight_D).spectra(centred, unit_norm)
    on_gpu = row_weight_D if row_weight_D is None else row_weight_D.cuda()
    ours = TableSpectra(table().cuda(), SLICES, 3, on_gpu).spectra(centred, unit_norm)
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.sigma.device.type == "cpu" and mine.reference == yours.reference
        largest = yours.sigma.max().item() if len(yours.sigma) else 0.0
        torch.testing.assert_close(mine.sigma, yours.sigma, rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize("rows", [2, 50, 20_000])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_equal_rows_have_no_spread_however_many(rows: int, exact: bool, weighted: bool) -> None:
    """Centred, they are zero and not rounding noise; beside them, a set that varies is what it is alone."""
    generator = torch.Generator().manual_seed(0)
    equal = 3 * torch.randn(1, 4, dtype=torch.float64, generator=generator).expand(rows, 4)
    varies = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    weight_D = torch.rand(rows, generator=generator) if weighted else None
    found = TableSpectra(torch.cat([equal, varies], 1), [slice(0, rows)], 2, weight_D, exact=exact)
    alone = TableSpectra(varies, [slice(0, rows)], 1, weight_D, exact=exact).spectra(centred=True)[0].sigma
    whole, first, second = found.spectra(centred=True)
    assert math.isnan(first.information_abundance) and (first.sigma == 0).all()
    torch.testing.assert_close(second.sigma, alone, rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.sigma[: len(alone)], alone, rtol=1e-9, atol=0)
    unit = found.spectra(centred=True, unit_norm=True)[0].sigma
    torch.testing.assert_close(unit[: len(alone)], alone / alone.norm(), rtol=1e-9, atol=0)


def test_rounding_is_that_of_the_entries_before_centring() -> None:
    """Rank one around a mean row: float32 entries are rounded at the size of the mean."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(5000, 1, generator=generator) * torch.randn(1, 10, generator=generator)
    for size, rank in ((1.0, 1), (100.0, 1)):
        weight = 1e-2 * spread + size * torch.randn(1, 10, generator=generator)
        raw, centred = (TableSpectra(weight, [slice(0, 5000)]).spectra(c)[0].metrics for c in (False, True))
        assert (raw["numerical_rank"], centred["numerical_rank"]) == (2, rank)
        assert math.isinf(raw["condition_number"]) and math.isinf(centred["condition_number"])


def test_a_column_too_large_to_square_is_not_constant() -> None:
    weight = torch.randn(500, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight[:, 0] *= 1e160
    (found,) = TableSpectra(weight, [slice(0, 500)]).spectra(centred=True)
    assert math.isnan(found.information_abundance)
