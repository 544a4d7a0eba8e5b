"""What random matrices have, against numpy's generators and SVD."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_collapse.spectrum import (
    METRICS,
    Reference,
    information_abundance,
    random,
    random_information_abundance,
    random_metrics,
    singular_spectrum,
    spectrum_metrics,
)

few = settings(max_examples=60, deadline=None)
SMALL = [(2, 2), (5, 3), (3, 8), (10, 10), (4, 50)]
STEEP = ((7.0, 1), (2.0, 2), (1.0, 5), (0.1, 12))
"""Groups of one row, of fewer rows than columns, of exactly one more, and of many."""


def fresh(reference: Reference) -> Mapping[str, float]:
    """`random_metrics`, drawn anew."""
    random._drawn_metrics.cache_clear()
    return random_metrics(reference)


def sample(
    rows: int, columns: int, draws: int, entries: str = "uniform", centred: bool = False, weights: tuple = ()
) -> dict[str, np.ndarray]:
    """Every metric of `draws` random matrices, by numpy's generator and SVD."""
    rng = np.random.default_rng(1)
    shape = (draws, rows, columns)
    e = rng.uniform(-1, 1, shape) if entries == "uniform" else rng.standard_normal(shape)
    w = np.array(weights) if weights else np.ones(rows)
    if centred:
        e -= np.average(e, axis=1, weights=w, keepdims=True)
    sigma = np.linalg.svd(np.sqrt(w)[:, None] * e, compute_uv=False)[:, : min(rows - centred, columns)]
    return {name: value_S.numpy() for name, value_S in spectrum_metrics(torch.tensor(sigma)).items()}


def assert_means(reference: Reference, expected: dict[str, np.ndarray], bias: float = 0) -> None:
    """Within four standard errors, those of ours included: of the condition number the medians of its logarithm."""
    found = random_metrics(reference)
    assert list(found) == list(METRICS)
    ours = math.ceil(random.DRAWN_VALUES / min(reference.rows - reference.centred, reference.columns))
    for name, values in expected.items():
        if name == "condition_number":
            values, value = np.log(values), math.log(found[name])
            centre, wide = np.median(values), 1.2533  # of a normal distribution
        else:
            centre, value, wide = values.mean(), found[name], 1
        error = wide * values.std() * math.sqrt(1 / len(values) + 1 / ours)
        assert value == pytest.approx(centre, abs=4 * error + bias * abs(centre) + 1e-9, nan_ok=True), name


# Information abundance


def monte_carlo(rows: int, columns: int, draws: int) -> tuple[float, float]:
    """Mean IA of random matrices and its standard error."""
    values = sample(rows, columns, draws, "uniform" if rows <= 1000 else "normal")["information_abundance"]
    return values.mean(), values.std(ddof=1) / math.sqrt(draws)


MONTE_CARLO = [
    *((rows, columns, 4000) for rows, columns in SMALL),
    *((1000, 10, 40), (1001, 10, 40), (1000, 40, 10), (1001, 40, 10), (5000, 3, 40), (7, 1500, 60), (1020, 1030, 2)),
]


@pytest.mark.parametrize(("rows", "columns", "draws"), MONTE_CARLO)
def test_random_abundance_is_that_of_random_matrices(rows: int, columns: int, draws: int) -> None:
    mean, error = monte_carlo(rows, columns, draws)
    assert random_information_abundance(rows, columns) == pytest.approx(mean, abs=4 * math.hypot(error, 0.005 * mean))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 3), (3, 4), (2, 6)])
def test_triangular_factor_has_the_distribution_of_the_matrix(rows: int, columns: int) -> None:
    """Bartlett's decomposition, at sizes where one degree of freedom more or less shows."""
    gram = random._random_wishart(20_000, rows, columns, torch.Generator().manual_seed(3))
    assert gram.shape == (20_000, min(rows, columns), min(rows, columns))
    drawn = information_abundance(singular_spectrum(gram)).numpy()
    expected = sample(rows, columns, 20_000, "normal")["information_abundance"]
    error = math.hypot(drawn.std(), expected.std()) / math.sqrt(20_000)
    assert drawn.mean() == pytest.approx(expected.mean(), abs=4 * error)
    assert gram.diagonal(dim1=1, dim2=2).sum(1).mean().item() == pytest.approx(rows * columns, rel=0.02)


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (7, 1), (5000, 1), (1, 1)])
def test_random_abundance_of_a_vector_is_one(rows: int, columns: int) -> None:
    assert random_information_abundance(rows, columns) == pytest.approx(1, abs=1e-12)


STATED = [(2, 2), (2, 3), (3, 3), (4, 4), (5, 5), (10, 10), (40, 40), (2000, 10)]


@pytest.mark.parametrize("entries", random.ENTRIES)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("rows", "columns"), STATED)
def test_random_abundance_has_the_standard_error_it_states(
    rows: int, columns: int, centred: bool, entries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []

    def recorded(sigma_SC: Tensor, **options: float) -> dict[str, Tensor]:
        drawn.append(information_abundance(sigma_SC))
        return spectrum_metrics(sigma_SC, **options)

    monkeypatch.setattr(random, "spectrum_metrics", recorded)
    value = fresh(Reference(rows, columns, entries, centred))["information_abundance"]
    assert drawn[0].mean().item() == pytest.approx(value, rel=1e-12)
    assert drawn[0].std().item() / math.sqrt(len(drawn[0])) < 0.005 * value


def test_random_values_depend_on_the_reference_alone() -> None:
    references = [
        Reference(20, 5),
        Reference(2000, 5),
        Reference(20, 5, "normal", True),
        Reference(20, 4, weights=STEEP),
    ]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [fresh(reference) for reference in references]
    assert torch.equal(torch.get_rng_state(), before), "it moved the generator of the training"
    torch.manual_seed(1)
    for reference, found in zip(references, first, strict=True):
        assert_same(fresh(reference), found)


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found == {name: pytest.approx(value, rel=0, abs=0, nan_ok=True) for name, value in expected.items()}


def test_random_abundance_tells_tiny_distributions_apart() -> None:
    """Uniform entries, as the tables start: a Gaussian 10 x 10 matrix would be 4% away."""
    gaussian = sample(10, 10, 4000, "normal")["information_abundance"].mean()
    assert abs(random_information_abundance(10, 10) / gaussian - 1) > 0.02
    assert random_information_abundance(10, 10, "normal") == pytest.approx(gaussian, rel=0.01)


@pytest.mark.parametrize("rows", [0, 1])
def test_without_a_spread_there_is_no_value(rows: int) -> None:
    found = random_metrics(Reference(rows, 5, centred=True))
    assert list(found) == list(METRICS) and all(map(math.isnan, found.values()))
    assert math.isnan(random_information_abundance(0, 5))
    assert math.isnan(random_information_abundance(5, 0))


def test_unknown_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="entries=cauchy: expected one of uniform, normal"):
        random_metrics(Reference(5, 5, "cauchy"))


def test_matrices_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Reference] = []
    draw = random._draw
    monkeypatch.setattr(random, "_draw", lambda reference, size: drawn.append(reference) or draw(reference, size))
    random._drawn_metrics.cache_clear()
    for _ in range(3):
        random_metrics(Reference(6, 4))
        random_information_abundance(6, 4)
    random_metrics(Reference(6, 4, "normal"))
    assert drawn == [Reference(6, 4), Reference(6, 4, "normal")]


# Every metric


@pytest.mark.parametrize("entries", random.ENTRIES)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 3), (3, 8), (10, 10), (40, 20)])
def test_all_metrics_are_those_of_random_matrices(rows: int, columns: int, centred: bool, entries: str) -> None:
    assert_means(Reference(rows, columns, entries, centred), sample(rows, columns, 2000, entries, centred))


@pytest.mark.parametrize("centred", [False, True])
def test_all_metrics_of_tall_random_matrices(centred: bool) -> None:
    assert_means(Reference(1001, 4, centred=centred), sample(1001, 4, 300, "normal", centred))


def test_drawn_and_triangular_matrices_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same references by the other way."""
    monkeypatch.setattr(random, "DRAWN_ROWS", 0)
    for reference in (Reference(4, 3, "normal"), Reference(4, 3, "normal", True), Reference(3, 5, "normal", True)):
        found = fresh(reference)["information_abundance"]
        expected = sample(*reference[:2], 20_000, *reference[2:4])["information_abundance"].mean()
        assert found == pytest.approx(expected, rel=0.015)


def test_fields_of_about_the_same_cardinality_share_a_value() -> None:
    """Where rows are many; and it is that of these very rows."""
    assert random_metrics(Reference(6682, 10)) is random_metrics(Reference(6681, 10, centred=True))
    assert random_metrics(Reference(1234, 200)) is not random_metrics(Reference(1231, 200))
    exact = spectrum_metrics(random._draw(Reference(6684, 100, "normal"), 100))["information_abundance"].mean().item()
    assert random_metrics(Reference(6684, 100))["information_abundance"] == pytest.approx(exact, rel=1e-3)


def test_a_value_cannot_be_changed_for_others() -> None:
    with pytest.raises(TypeError):
        random_metrics(Reference(5, 3))["k90"] = 1.0  # type: ignore[index]


def test_equal_weights_are_no_weights() -> None:
    assert random_metrics(Reference(5, 3, weights=((7.0, 5),))) is random_metrics(Reference(5, 3))


def test_the_precision_of_the_entries_decides_on_rank_and_condition() -> None:
    coarse, fine = (random_metrics(Reference(200, 200, eps=eps)) for eps in (2**-7, 2**-23))
    assert coarse["numerical_rank"] < fine["numerical_rank"] == 200
    assert math.isinf(coarse["condition_number"]) and math.isfinite(fine["condition_number"])
    assert coarse["information_abundance"] == fine["information_abundance"]


MEASURED = [
    (4, 10, 2.74, 3.74, 2.13, 2.86),
    (100, 10, 7.92, 9.87, 6.43, 9.09),
    (1000, 10, 9.23, 9.99, 8.55, 9.90),
    (4, 100, 3.57, 3.98, 3.23, 3.86),
    (100, 100, 43.5, 80.3, 26.3, 49.8),
    (1000, 100, 75.9, 98.7, 59.1, 90.8),
    (10_000, 100, 90.9, 99.9, 82.9, 99.0),
]


@pytest.mark.parametrize(("rows", "columns", "ia", "erank", "stable", "participation"), MEASURED)
def test_values_of_a_pilot(
    rows: int, columns: int, ia: float, erank: float, stable: float, participation: float
) -> None:
    found = random_metrics(Reference(rows, columns, "normal"))
    names = ("information_abundance", "effective_rank", "stable_rank", "participation_ratio")
    assert [found[name] for name in names] == pytest.approx([ia, erank, stable, participation], rel=0.04)


# Weighted rows


def rows_of(weights: tuple[tuple[float, int], ...]) -> tuple[float, ...]:
    return tuple(weight for weight, rows in weights for _ in range(rows))


@few
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300), st.integers(0, 5))
def test_groups_keep_rows_and_weight_and_are_narrow(weights: list[float], zeros: int) -> None:
    groups = random.grouped_weights(torch.tensor(weights + [0.0] * zeros, dtype=torch.float64))
    assert sum(rows for _, rows in groups) == len(weights)
    assert sum(weight * rows for weight, rows in groups) == pytest.approx(sum(weights), rel=1e-12)
    assert [weight for weight, _ in groups] == sorted((weight for weight, _ in groups), reverse=True)
    grouped = rows_of(groups)
    for own, of_group in zip(sorted(weights, reverse=True), grouped, strict=True):
        assert 1 / 1.1001 < own / of_group < 1.1001


def test_groups_of_counts() -> None:
    assert random.grouped_weights(torch.tensor([0, 3, 1, 0, 3, 100])) == ((100, 1), (3, 2), (1, 1))
    assert random.grouped_weights(torch.tensor([100.0, 104.0])) == ((102, 2),)
    assert len(random.grouped_weights(torch.tensor([1.0, 1.15]))) == 2
    assert random.grouped_weights(torch.zeros(4)) == ()
    zipf = 1 / torch.arange(1, 100_001)
    assert len(random.grouped_weights(zipf)) < 125, "as few as steps of 10% between the largest and the smallest"


@pytest.mark.parametrize("centred", [False, True])
def test_weighted_gram_matrices_have_the_distribution_of_weighted_matrices(centred: bool) -> None:
    """Without drawing every row, at sizes where one degree of freedom more or less shows."""
    gram = random._weighted_grams(20_000, STEEP, 4, centred, torch.Generator().manual_seed(3))
    w = np.array(rows_of(STEEP))
    mass = w.sum() - centred * (w**2).sum() / w.sum()
    assert gram.diagonal(dim1=1, dim2=2).sum(1).mean().item() == pytest.approx(4 * mass, rel=0.02)
    found = spectrum_metrics(singular_spectrum(gram))
    expected = sample(20, 4, 20_000, "normal", centred, rows_of(STEEP))
    for name in ("information_abundance", "effective_rank", "stable_rank", "participation_ratio"):
        error = math.hypot(found[name].std().item(), expected[name].std()) / math.sqrt(20_000)
        assert found[name].mean().item() == pytest.approx(expected[name].mean(), abs=4 * error), name


ZIPF = [(30, 4, 1.0), (3, 6, 1.0), (200, 5, 1.3), (60, 20, 0.5)]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("rows", "columns", "exponent"), ZIPF)
@pytest.mark.parametrize("drawn_rows", [1000, 0])
@pytest.mark.parametrize("entries", ["uniform", "normal"])
def test_metrics_of_rows_with_the_weights_of_a_zipf_law(
    rows: int,
    columns: int,
    exponent: float,
    centred: bool,
    entries: str,
    drawn_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row by row as they are initialised, and, above so many rows, group by group, Gaussian."""
    if drawn_rows == 0 and entries == "uniform":
        pytest.skip("groups are Gaussian")
    monkeypatch.setattr(random, "DRAWN_ROWS", drawn_rows)
    random._drawn_metrics.cache_clear()
    weights = torch.arange(1, rows + 1).double() ** -exponent
    reference = Reference(rows, columns, entries, centred, random.grouped_weights(weights))
    expected = sample(rows, columns, 2000, entries, centred, tuple(weights.tolist()))
    assert_means(reference, expected, bias=0.002)  # the groups'


def test_steep_weights_alone_look_like_collapse() -> None:
    """Which is why they have a reference of their own."""
    steep = random_metrics(Reference(20, 4, weights=((1000.0, 1), (1.0, 19))))["information_abundance"]
    assert steep < 0.6 * random_information_abundance(20, 4)


def test_a_field_of_few_rows_in_a_wide_table_is_drawn_on_its_small_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """C x C Gram matrices of 400 draws at C = 500 would take gigabytes."""
    shapes = []
    monkeypatch.setattr(
        random, "singular_spectrum", lambda gram: (shapes.append(gram.shape), singular_spectrum(gram))[1]
    )
    weights = random.grouped_weights(1000 / torch.arange(1, 11))
    fresh(Reference(10, 500, weights=weights))
    assert [shape[1:] for shape in shapes] == [(10, 10)]
