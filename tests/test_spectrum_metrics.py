"""Every metric against its definition in plain loops, and what is provable of the family."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_collapse.spectrum import METRICS, information_abundance, spectrum_metrics, why_null

few = settings(max_examples=150, deadline=None)
EFFECTIVE = [
    "information_abundance",
    "effective_rank",
    "rank_me",
    "stable_rank",
    "participation_ratio",
    "covariance_effective_rank",
]
FLOAT32 = 2**-23


def metrics(sigma: list[float] | np.ndarray | Tensor, eps: float = FLOAT32) -> dict[str, float]:
    found = spectrum_metrics(torch.as_tensor(sigma, dtype=torch.float64).unsqueeze(0), eps=eps)
    return {name: value_S.item() for name, value_S in found.items()}


@st.composite
def spectra(draw: st.DrawFn) -> list[float]:
    """Descending, not all zero: of any shape that a table may have."""
    size = draw(st.integers(1, 48))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = np.arange(1, size + 1)
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "flat": lambda: np.ones(size),
        "random": lambda: rng.uniform(0.01, 1, size),
        "power law": lambda: k ** -draw(st.floats(0.05, 3)),
        "geometric": lambda: 10.0 ** (-draw(st.floats(0.05, 1)) * k),
        "one dominant": lambda: np.where(k == 1, 1e4, rng.uniform(0.5, 1, size)),
        "ties": lambda: rng.integers(1, 4, size) / 1.0,
        "zeros": lambda: np.where(k <= draw(st.integers(1, size)), rng.uniform(0.01, 1, size), 0),
    }
    sigma = kinds[draw(st.sampled_from(sorted(kinds)))]()
    return sorted(sigma.tolist(), reverse=True)


# Against the definitions


def entropy(share: list[float]) -> float:
    return -sum(p * math.log(p) for p in share if p > 0)


def fewest(energy: list[float], share: float) -> int:
    held = 0.0
    for count, value in enumerate(energy, 1):
        held += value
        if held >= share * sum(energy) * (1 - 1e-12):
            return count
    raise AssertionError


def slope(sigma: list[float]) -> float:
    last = len(sigma) // 2
    if len(sigma) < 16 or min(sigma[1:last]) == 0:
        return math.nan
    x = [math.log(k) for k in range(2, last + 1)]
    y = [math.log(sigma[k - 1] ** 2) for k in range(2, last + 1)]
    return -np.polyfit(x, y, 1)[0]


def twin(sigma: list[float], eps: float) -> dict[str, float]:
    total, energy = sum(sigma), [value**2 for value in sigma]
    floor = eps * math.sqrt(sum(energy))
    return {
        "information_abundance": total / max(sigma),
        "effective_rank": math.exp(entropy([value / total for value in sigma])),
        "rank_me": math.exp(entropy([value / total + 1e-7 for value in sigma])),
        "stable_rank": sum(energy) / max(energy),
        "participation_ratio": sum(energy) ** 2 / sum(value**2 for value in energy),
        "covariance_effective_rank": math.exp(entropy([value / sum(energy) for value in energy])),
        "numerical_rank": sum(value > floor for value in sigma),
        "condition_number": max(sigma) / min(sigma) if min(sigma) > floor else math.inf,
        "k90": fewest(energy, 0.9),
        "k99": fewest(energy, 0.99),
        "spectrum_slope": slope(sigma),
    }


def assert_same(found: dict[str, float], expected: dict[str, float], rel: float = 1e-9) -> None:
    assert list(found) == list(expected) == list(METRICS)
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=rel, abs=1e-9, nan_ok=True), name


@few
@given(spectra(), st.sampled_from([FLOAT32, 2**-7, 2**-52]))
def test_metrics_are_those_of_plain_loops(sigma: list[float], eps: float) -> None:
    assert_same(metrics(sigma, eps), twin(sigma, eps))


@few
@given(st.lists(spectra(), min_size=1, max_size=6), st.integers(0, 3))
def test_spectra_beside_each_other_do_not_touch(sigmas: list[list[float]], more: int) -> None:
    """Padded with zeros to the longest and further."""
    columns = max(map(len, sigmas)) + more
    sigma_SC = torch.tensor([sigma + [0.0] * (columns - len(sigma)) for sigma in sigmas])
    found = spectrum_metrics(sigma_SC, torch.tensor([len(sigma) for sigma in sigmas]))
    for i, sigma in enumerate(sigmas):
        alone = metrics(torch.tensor(sigma))  # both float32
        assert_same({name: value_S[i].item() for name, value_S in found.items()}, alone, rel=1e-12)


def test_values_are_float64_whatever_the_spectra_are() -> None:
    for dtype in (torch.float32, torch.float64):
        found = spectrum_metrics(torch.tensor([[3.0, 1.0], [2.0, 2.0]], dtype=dtype))
        assert all(value_S.dtype == torch.float64 and value_S.shape == (2,) for value_S in found.values())
    assert all(value_S.shape == (0,) for value_S in spectrum_metrics(torch.empty(0, 4)).values())


# What is provable


@few
@given(spectra())
def test_effective_numbers_have_an_order(sigma: list[float]) -> None:
    found, rank = metrics(sigma), sum(value > 0 for value in sigma)
    chains = [
        [1, found["stable_rank"], found["information_abundance"], found["effective_rank"], rank],
        [
            *(1, found["stable_rank"], found["participation_ratio"]),
            *(found["covariance_effective_rank"], found["effective_rank"], rank),
        ],
        [1, found["k90"], found["k99"], rank],
        [1, found["numerical_rank"], rank],
    ]
    for chain in chains:
        for less, more in pairwise(chain):
            assert less <= more * (1 + 1e-12)
    assert found["condition_number"] >= 1
    assert found["rank_me"] == pytest.approx(found["effective_rank"], rel=1e-4)


@few
@given(spectra(), st.sampled_from([1e-200, 1e-30, 0.37, 1e30, 1e200]))
def test_scale_does_not_matter(sigma: list[float], scale: float) -> None:
    assert_same(metrics([value * scale for value in sigma]), metrics(sigma))


@few
@given(spectra(), st.floats(0, 1))
def test_flatter_is_more(sigma: list[float], part: float) -> None:
    mean = sum(sigma) / len(sigma)
    flatter = metrics([(1 - part) * value + part * mean for value in sigma])
    before = metrics(sigma)
    for name in EFFECTIVE:
        assert flatter[name] >= before[name] * (1 - 1e-12), name


@pytest.mark.parametrize("rank", [1, 2, 7, 40])
@pytest.mark.parametrize("zeros", [0, 1, 30])
def test_equal_singular_values_count_once_each(rank: int, zeros: int) -> None:
    found = metrics([3.0] * rank + [0.0] * zeros)
    for name in (*EFFECTIVE, "numerical_rank"):
        assert found[name] == pytest.approx(rank, rel=1e-4 if name == "rank_me" else 1e-12), name
    assert found["condition_number"] == (math.inf if zeros else 1)
    assert (found["k90"], found["k99"]) == (math.ceil(0.9 * rank), math.ceil(0.99 * rank))


def test_information_abundance_and_participation_ratio_have_no_order() -> None:
    tail, head = metrics([10.0] + [1.0] * 30), metrics([1.0] * 5 + [0.01] * 2)
    assert tail["information_abundance"] > tail["participation_ratio"]
    assert head["information_abundance"] > head["participation_ratio"]
    two = metrics([1.1, *[1.0] * 9])
    assert two["information_abundance"] < two["participation_ratio"]


# Known values


def test_abundance_of_known_spectra() -> None:
    assert information_abundance(torch.tensor([3.0, 3.0, 3.0, 3.0])).item() == 4
    assert information_abundance(torch.tensor([4.0, 2.0, 1.0, 0.0])).item() == 1.75
    assert information_abundance(torch.tensor([[5.0, 0.0], [2.0, 1.0]])).tolist() == [1, 1.5]
    assert information_abundance(torch.zeros(2)).isnan() and information_abundance(torch.empty(3, 0)).isnan().all()


@pytest.mark.parametrize(
    ("sigma", "k90", "k99"),
    [
        ([1.0], 1, 1),
        ([1.0, 0.0, 0.0], 1, 1),
        ([3.0, 1.0], 1, 2),  # 90% exactly
        ([9.0, 3.0, 3.0, 1.0], 2, 3),  # 90% and 99% exactly, but not in floating point
        ([2.99, 1.0], 2, 2),
        ([1.0] * 10, 9, 10),
        ([1.0] * 100, 90, 99),
        ([1.0] * 20 + [0.0] * 20, 18, 20),
        ([10.0, 1.0], 1, 1),  # 99.01%
        ([9.9, 1.0], 1, 2),  # 98.99%
    ],
)
def test_fewest_values_that_hold_the_energy(sigma: list[float], k90: int, k99: int) -> None:
    found = metrics(sigma)
    assert (found["k90"], found["k99"]) == (k90, k99)


@pytest.mark.parametrize("size", [16, 17, 50, 301])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 3.0])
def test_slope_of_a_power_law_is_its_exponent(exponent: float, size: int) -> None:
    """Of the squares; the first value and the second half have no say."""
    sigma = np.arange(1, size + 1) ** (-exponent / 2)
    assert metrics(sigma)["spectrum_slope"] == pytest.approx(exponent, abs=1e-12)
    sigma[0] *= 100
    sigma[size // 2 :] = 0
    assert metrics(sigma)["spectrum_slope"] == pytest.approx(exponent, abs=1e-12)


def test_slope_sees_its_whole_window() -> None:
    before = metrics(np.linspace(2, 1, 20))["spectrum_slope"]
    for k, seen in [(1, False), (2, True), (10, True), (11, False)]:
        sigma = np.linspace(2, 1, 20)
        sigma[k - 1] *= 1.01
        assert (metrics(sigma)["spectrum_slope"] != pytest.approx(before, rel=1e-9)) == seen, k


def test_a_slope_takes_sixteen_values_none_of_them_zero_in_its_window() -> None:
    assert math.isnan(metrics(np.ones(15))["spectrum_slope"])
    for rank in range(1, 16):
        assert math.isnan(metrics([1.0] * rank + [0.0] * (16 - rank))["spectrum_slope"]) == (rank < 8)
    # A spectrum of 15 that stands in 30 columns is one of 15.
    assert spectrum_metrics(torch.ones(1, 30), torch.tensor([15]))["spectrum_slope"].isnan()


@pytest.mark.parametrize("eps", [2**-7, FLOAT32, 2**-52])
@pytest.mark.parametrize("rank", [1, 5, 8])
def test_numerical_rank_is_numpys_with_the_tolerance_of_weyls_inequality(rank: int, eps: float) -> None:
    rng = np.random.default_rng(rank)
    table = rng.standard_normal((300, rank)) @ rng.standard_normal((rank, 8))
    table += rng.uniform(-eps, eps, table.shape) * np.abs(table) / 100  # less than rounding
    sigma = np.linalg.svd(table, compute_uv=False)
    found = metrics(sigma, eps)
    assert found["numerical_rank"] == rank == np.linalg.matrix_rank(table, tol=eps * np.linalg.norm(table))
    assert found["condition_number"] == (pytest.approx(np.linalg.cond(table)) if rank == 8 else math.inf)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_of_entries_stays_below_the_floor(dtype: torch.dtype) -> None:
    """A table of rank 2 has rank 2 in any precision."""
    rng = np.random.default_rng(0)
    table = torch.tensor(rng.standard_normal((400, 2)) @ rng.standard_normal((2, 6))).to(dtype)
    sigma = torch.linalg.svdvals(table.double())
    assert metrics(sigma, torch.finfo(dtype).eps)["numerical_rank"] == 2
    assert metrics(sigma, 2**-52)["numerical_rank"] == 6


# No value


def expected_reason(name: str, sigma: list[float]) -> str | None:
    if not sigma:
        return "no spread: one row or none"
    if not all(map(math.isfinite, sigma)):
        return "an entry is not finite"
    if max(sigma) == 0:
        return None if name == "numerical_rank" else "all zero"
    if name == "spectrum_slope" and len(sigma) < 16:
        return f"{len(sigma)} singular values, a slope needs 16"
    if name == "spectrum_slope" and 0 in sigma[1 : len(sigma) // 2]:
        return "a singular value is zero"
    return None


@few
@given(
    st.one_of(
        spectra(),
        st.integers(0, 20).map(lambda size: [0.0] * size),
        st.integers(1, 20).map(lambda size: [math.nan] * size),
        st.tuples(spectra(), st.sampled_from([math.nan, math.inf])).map(lambda pair: [pair[1], *pair[0]]),
    )
)
def test_nothing_is_missing_without_its_reason(sigma: list[float]) -> None:
    for name, value in metrics(sigma).items():
        reason = expected_reason(name, sigma)
        assert math.isnan(value) == (reason is not None), name
        if reason:
            assert why_null(name, torch.tensor(sigma, dtype=torch.float64)) == reason


def test_a_slope_of_sixteen_values_is_not_too_short() -> None:
    sigma = torch.tensor([1.0] * 7 + [0.0] * 9)
    assert why_null("spectrum_slope", sigma) == "a singular value is zero"
    assert why_null("spectrum_slope", sigma[:15]) == "15 singular values, a slope needs 16"


def test_zeros_have_no_rank_but_nothing_else() -> None:
    found = metrics([0.0, 0.0])
    assert found.pop("numerical_rank") == 0
    assert all(map(math.isnan, found.values()))
    empty = spectrum_metrics(torch.zeros(1, 3), torch.tensor([0]))  # no row, although there are columns
    assert all(value_S.isnan() for value_S in empty.values())


def test_a_spectrum_that_is_not_finite_spoils_no_other() -> None:
    found = spectrum_metrics(torch.tensor([[2.0, 1.0], [math.nan, math.nan], [math.inf, 1.0], [0.0, 0.0]]))
    for name, value_S in found.items():
        assert value_S[0].item() == pytest.approx(metrics([2.0, 1.0])[name], nan_ok=True)
        assert value_S[1:3].isnan().all()
