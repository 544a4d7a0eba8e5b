"""Slopes against numpy's least squares, laws against data that follow them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from recsys_collapse.stats import fit_scaling, slope_weights

few = settings(max_examples=60, deadline=None)
CELLS = [(1, False), *((scale, is_me) for scale in (2, 3, 4, 10) for is_me in (False, True))]
SIZES = 1e5 * 2.0 ** np.arange(8)


@few
@given(st.permutations(CELLS), st.lists(st.floats(-1, 1), min_size=9, max_size=9))
def test_slopes_are_those_of_least_squares(cells: list[tuple[int, bool]], auc: list[float]) -> None:
    """The model as it is written in the paper's terms: a + b log2(scale) + c log2(scale) [ME]."""
    doublings = np.array([math.log2(scale) for scale, _ in cells])
    is_me = np.array([float(is_me) for _, is_me in cells])
    (_, b, c), *_ = np.linalg.lstsq(np.stack([np.ones(9), doublings, doublings * is_me], axis=1), auc, rcond=None)
    found = {name: float(weight_C @ auc) for name, weight_C in slope_weights(cells).items()}
    assert found == pytest.approx({"se": b, "me": b + c, "difference": c}, abs=1e-12)


def test_one_family_is_polyfit() -> None:
    scales, auc = [1, 2, 3, 4, 10], [0.1, 0.5, 0.2, 0.3, 0.9]
    expected = np.polyfit(np.log2(scales), auc, 1)[0]
    for is_me, name in ((False, "se"), (True, "me")):
        found = slope_weights([(scale, is_me) for scale in scales])
        assert list(found) == [name] and found[name] @ auc == pytest.approx(expected)


def test_weights_of_two_cells() -> None:
    found = slope_weights([(1, False), (4, False), (4, True)])
    np.testing.assert_allclose(found["difference"], [0, -0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(found["se"], [-0.5, 0.5, 0], atol=1e-15)


@few
@given(st.sets(st.tuples(st.sampled_from([2, 3, 4, 10]), st.booleans()), min_size=1))
def test_a_level_that_all_share_does_not_matter(cells: set[tuple[int, bool]]) -> None:
    found = slope_weights([(1, True), *cells])
    assert found and all(abs(weight_C.sum()) < 1e-12 for weight_C in found.values())


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [(1, False)],
        [(4, False)],
        [(2, False), (2, True)],
        [(1, False), (1, True), (2, True)],
        [(2, True), (2, True), (1, False)],
        [(0, False), (1, False), (2, False)],
    ],
)
def test_slopes_that_are_not_identified(cells: list[tuple[int, bool]]) -> None:
    with pytest.raises(ValueError, match="found"):
        slope_weights(cells)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.2])
@pytest.mark.parametrize("floor", [None, 0.44])
def test_a_power_law_is_found(alpha: float, floor: float | None) -> None:
    loss = 0.44 + 0.8 * SIZES**-alpha
    found = fit_scaling(SIZES, loss, floor)
    expected = {"limit": 0.44, "factor": 0.8, "alpha": alpha}
    assert found.best == "power law" and found.candidates["power law"].parameters == pytest.approx(expected, rel=1e-3)
    low, high = found.alpha_interval or (math.nan, math.nan)
    assert low <= alpha * (1 + 1e-6) and alpha * (1 - 1e-6) <= high and high - low < 0.01 * alpha
    assert found.reason is None


def test_flat_and_straight_lines() -> None:
    flat = fit_scaling(SIZES, np.full(8, 0.45))
    assert flat.best == "flat" and flat.candidates["flat"].parameters == {"level": pytest.approx(0.45)}
    assert flat.alpha_interval is None and flat.reason
    for slope in (-0.003, 0.002):
        line = fit_scaling(SIZES, 0.5 + slope * np.log2(SIZES))
        assert line.best == "log-linear"
        assert line.candidates["log-linear"].parameters == pytest.approx({"level": 0.5, "slope": slope})
        assert line.alpha_interval is None and line.reason
    assert line.reason == "the loss does not fall with the size"
    assert line.candidates["power law"].parameters["factor"] == 0


def test_noise_alone_is_flat() -> None:
    rng = np.random.default_rng(0)
    found = [fit_scaling(SIZES, 0.45 + 1e-4 * rng.standard_normal(8)) for _ in range(40)]
    assert sum(one.best == "flat" for one in found) >= 32
    assert sum(one.alpha_interval is None for one in found) >= 32


def test_least_squares_and_aicc_by_definition() -> None:
    rng = np.random.default_rng(1)
    loss = 0.44 + 5 * SIZES**-0.4 + 2e-4 * rng.standard_normal(8)
    found = fit_scaling(SIZES, loss)

    def law(size: np.ndarray, limit: float, factor: float, alpha: float) -> np.ndarray:
        return limit + factor * size**-alpha

    parameters, _ = curve_fit(law, SIZES, loss, p0=(0.44, 5, 0.4))
    assert list(found.candidates["power law"].parameters.values()) == pytest.approx(parameters, rel=1e-3)
    assert found.best == "power law"
    for name, free in (("flat", 1), ("log-linear", 2), ("power law", 3)):
        squares, k = found.candidates[name].squares, free + 1
        variance = squares / 8
        likelihood = -4 * math.log(2 * math.pi * variance) - squares / (2 * variance)
        constant = 8 * (1 + math.log(2 * math.pi))  # the same for all
        expected = -2 * likelihood + 2 * k + 2 * k * (k + 1) / (8 - k - 1) - constant
        assert found.candidates[name].aicc == pytest.approx(expected)


@pytest.mark.parametrize(("floor", "points"), [(None, 6), (0.44, 5)])
def test_the_interval_of_alpha_holds_it(floor: float | None, points: int) -> None:
    rng, size = np.random.default_rng(2), SIZES[:points]
    law = 0.44 + 2 * size**-0.4
    found = [fit_scaling(size, law + 1e-5 * rng.standard_normal(points), floor).alpha_interval for _ in range(150)]
    assert None not in found
    assert 0.9 < np.mean([low < 0.4 < high for low, high in found]) < 0.99


def test_few_points_do_not_identify_a_power_law() -> None:
    rng = np.random.default_rng(0)
    size = SIZES[:5]
    loss = 0.44 + 0.01 * (size / size[0]) ** -0.3 + 1e-3 * rng.standard_normal(5)
    found = fit_scaling(size, loss)
    assert found.candidates["power law"].aicc is None and found.best != "power law"
    assert found.alpha_interval is None and "not identified" in (found.reason or "")
    four = fit_scaling(size[:4], loss[:4])
    assert [four.candidates[name].aicc is None for name in four.candidates] == [False, True, True]
    assert four.best == "flat"


@pytest.mark.parametrize(
    ("size", "loss", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "4 points and 3 sizes"),
        ([1, 1, 2, 2], [1, 2, 3, 4], "4 points and 3 sizes"),
        ([0, 1, 2, 3], [1, 2, 3, 4], "sizes above 0"),
        ([1, 2, 3, 4], [1, 2, 3], "sizes above 0"),
        ([1, 2, 3, 4], [1, 2, 3, math.nan], "finite losses"),
        ([1, 2, 3, math.inf], [1, 2, 3, 4], "found sizes"),
    ],
)
def test_what_is_refused(size: list, loss: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_scaling(size, loss)
