"""Slopes and differences of AUC against naive loops: pairs, least squares, the variance over test rows."""

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import (
    auc,
)
from experiments.found import Cell
from tests.made_up import MadeUp, Shown
from tests.oracles import half, kernel, naive, slope


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "out")


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], Shown]:
    return lambda name: Shown(tmp_path / "paper", name)


@pytest.fixture
def noisy(made: MadeUp) -> MadeUp:
    """Random scores with ties, unequal seeds: 1, 2, 3 and 5 are common."""
    rng = np.random.default_rng(5)
    label = (rng.random(90) < 0.4).astype(np.int8)
    have = {("se", 1): range(7), ("se", 2): (1, 2, 3, 5), ("se", 8): (5, 4, 3, 2, 1), ("me", 2): (1, 2, 3, 5, 9),
            ("me", 4): (0, 1, 2, 3, 5)}  # fmt: skip
    for (embed, scale), seeds in have.items():
        for seed in seeds:
            logit = np.round(rng.normal(size=90) + label * (0.4 + 0.1 * scale + 0.2 * (embed == "me")), 1)
            made.add("ffm", embed, scale, seed=seed, logits=(logit, label))
    return made


def test_contrasts_are_those_of_all_pairs(noisy: MadeUp) -> None:
    """Slopes by a fit for every seed, both from the shared base; both sources of chance; seeds that all cells have."""
    runs, seeds = noisy.runs, (1, 2, 3, 5)
    single, several = auc.line_cells(runs, "ffm", "se"), auc.line_cells(runs, "ffm", "me")
    assert [cell[1:3] for cell in several] == [("se", 1), ("me", 2), ("me", 4)]
    found = auc.contrasts(runs, auc.slopes(single, several) | {"top": auc.difference(single[-1], several[-1])})
    area = {
        (cell, seed): float(kernel(*runs.scores(run)).mean())
        for cell, own in runs.cells.items()
        for seed, run in own.items()
    }
    fitted = {
        name: [slope({cell.scale: area[cell, seed] for cell in cells}) for seed in seeds]
        for name, cells in (("one", single), ("other", several))
    }
    expected = fitted | {
        "difference": [other - one for one, other in zip(fitted["one"], fitted["other"], strict=True)],
        "top": [area[several[-1], seed] - area[single[-1], seed] for seed in seeds],
    }
    asked = auc.slopes(single, several) | {"top": auc.difference(single[-1], several[-1])}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        each, over_rows = naive(runs, asked[name], seeds)
        assert each == pytest.approx(values)
        over_seeds = statistics.variance(values) / len(seeds)
        assert found[name].estimate == pytest.approx(statistics.fmean(values))
        assert found[name].standard_error == pytest.approx(math.sqrt(over_seeds + over_rows))
        assert found[name].df == pytest.approx((len(seeds) - 1) * ((over_seeds + over_rows) / over_seeds) ** 2)


def test_seeds_are_those_that_all_asked_cells_have(noisy: MadeUp) -> None:
    """Of one contrast alone, others' seeds do not matter."""
    base, top = Cell("ffm", "se", 1), Cell("ffm", "me", 4)
    found = auc.contrasts(noisy.runs, {"gain": auc.difference(base, top)})["gain"]
    values, _ = naive(noisy.runs, {base: -1, top: 1}, (0, 1, 2, 3, 5))
    assert found.estimate == pytest.approx(statistics.fmean(values))


def test_two_seeds_have_an_estimate_and_no_interval(made: MadeUp) -> None:
    for seed, scale in itertools.product((0, 1), (1, 2)):
        made.add(scale=scale, seed=seed, auc=0.7 + 0.01 * scale + 0.002 * seed * scale)
    found = auc.contrasts(made.runs, {"it": auc.difference(Cell("dcnv2", "se", 1), Cell("dcnv2", "se", 2))})["it"]
    assert found.estimate == pytest.approx(0.011) and found.standard_error is None and found.half is None
    made.add(scale=1, seed=2)
    made.add(scale=2, seed=2)
    three = auc.contrasts(made.runs, {"it": auc.difference(Cell("dcnv2", "se", 1), Cell("dcnv2", "se", 2))})["it"]
    assert three.half is not None


def test_what_cannot_be_compared_is_refused(made: MadeUp) -> None:
    one, other = Cell("dcnv2", "se", 1), Cell("dcnv2", "se", 2)
    made.add(scale=1, seed=0)
    made.add(scale=2, seed=1)
    with pytest.raises(ValueError, match="no seed has all of dcnv2 se 1, dcnv2 se 2"):
        auc.contrasts(made.runs, {"it": auc.difference(one, other)})
    run = made.add(scale=1, seed=1, test_auc=None, null_reasons={"test_auc": "one class"})
    with pytest.raises(ValueError, match="no test AUC: one class"):
        auc.contrasts(made.runs, {"it": auc.difference(one, other)})
    with pytest.raises(ValueError, match="no test AUC"):
        auc.auc_frame(made.runs)
    run["test_auc"] = 0.7
    (made.runs.folder(run) / "test_scores.parquet").unlink()
    with pytest.raises(ValueError, match=r"test_scores\.parquet is not there"):
        auc.contrasts(made.runs, {"it": auc.difference(one, other)})


def test_the_frame_of_aucs(made: MadeUp) -> None:
    """Behind Figures 1a, 5, 6 and 8d and all tables."""
    for seed, area in ((0, 0.70), (1, 0.72), (4, 0.71)):
        made.add("dnn", "me", 2, seed=seed, auc=area, best=1 + seed % 2)
    made.add("dnn", "se", 1, auc=0.6)
    one = auc.auc_frame(made.runs).filter(scale=1).row(0, named=True)
    assert one["sd"] is None and one["half_interval"] is None and one["n"] == 1
    row = auc.auc_frame(made.runs).filter(scale=2).row(0, named=True)
    assert (row["model"], row["embed"], row["regularizer"], row["n"]) == ("dnn", "me", "none", 3)
    assert row["test_auc"] == pytest.approx(0.71) and row["sd"] == pytest.approx(0.01)
    assert row["half_interval"] == pytest.approx(half([0.70, 0.72, 0.71]))
    assert row["val_auc"] == pytest.approx(0.721) and row["test_logloss"] == pytest.approx(0.49)
    assert row["best_epochs"] == "1,2,1"
    assert (row["embedding_parameters"], row["dense_parameters"], row["flops_per_sample"]) == (2000, 80, 600)


# Figure 1
