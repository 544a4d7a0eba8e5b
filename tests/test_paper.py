"""The paper's AUCs as package data, and the verdict on runs against them."""

import math
import statistics

import pytest
from scipy.stats import t, ttest_ind_from_stats

from recsys_collapse.paper import NOT_REACHED, OPEN, REACHED, WITHIN, PaperAUC, paper_auc, paper_cell, reached
from tests.cli import ROOT

CELL = PaperAUC(0.81300, 0.00010)


def test_the_table_is_whole() -> None:
    table = paper_auc()
    assert table.columns == ["dataset", "model", "embed", "scale", "test_auc", "std"]
    assert len(table) == 106 == len(table.unique(["dataset", "model", "embed", "scale"]))
    assert table["test_auc"].is_between(0.78, 0.82).all() and table["std"].is_between(0.00001, 0.001).all()
    assert {*table["embed"]} == {"base", "se", "me"} and {*table["scale"]} == {1, 2, 3, 4, 10}
    models = {"dnn", "ipnn", "nfwfm", "xdeepfm", "dcnv2", "finalmlp"}
    assert {*table["model"]} == models <= {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    cells = [paper_cell(d, m, e, s) for d in ("criteo", "avazu") for m in models for e, s in [("se", 10), ("me", 10)]]
    assert cells.count(None) == 2  # NFwFM at 10x on Avazu


def test_a_cell_is_found_by_name() -> None:
    assert paper_cell("criteo", "dnn", "se", 2) == PaperAUC(0.81222, 0.00002, 3)
    assert paper_cell("criteo", "dnn", "se", 1) == paper_cell("criteo", "dnn", "me", 1) == PaperAUC(0.81228, 0.00004)
    assert paper_cell("criteo", "dnn", "me", 2) != paper_cell("criteo", "dnn", "se", 2)
    assert paper_cell("mini", "dnn", "se", 2) is None and paper_cell("criteo", "dnn", "se", 7) is None


def test_the_interval_is_welchs() -> None:
    ours = [0.8121, 0.8125, 0.8127, 0.8119]
    difference, _ = reached(dict(enumerate(ours)), CELL)
    other = ttest_ind_from_stats(
        statistics.fmean(ours), statistics.stdev(ours), 4, CELL.mean, CELL.sd, 3, equal_var=False
    )
    assert difference.p_value == pytest.approx(other.pvalue)
    own, paper = statistics.variance(ours) / 4, CELL.sd**2 / 3
    df = (own + paper) ** 2 / (own**2 / 3 + paper**2 / 2)
    half = t.ppf(0.975, df) * math.sqrt(own + paper)
    assert difference.half == pytest.approx(half)
    assert difference.estimate == pytest.approx(statistics.fmean(ours) - CELL.mean)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.81302, 0.81299, 0.81305], REACHED),
        ([0.8200, 0.8100, 0.8150], REACHED),  # above, however wide
        ([0.81298, 0.81292, 0.81304], WITHIN),  # below, but neither significantly nor by 0.001
        ([0.81250, 0.81262, 0.81255], NOT_REACHED),  # significantly below, by less than 0.001
        ([0.8120, 0.8140, 0.8125], OPEN),  # below, and the interval is wide
        ([0.8128, 0.81200], OPEN),  # half the interval reaches beyond -0.001
        ([0.81300], OPEN),
        ([0.9], OPEN),  # one seed
        ([0.81299], OPEN),
        ([0.5], OPEN),
    ],
)
def test_verdicts(ours: list[float], verdict: str) -> None:
    difference, found = reached(dict(enumerate(ours)), CELL)
    assert found == verdict
    assert (difference.standard_error is None) == (len(ours) == 1)


def test_the_same_value_every_time() -> None:
    difference, found = reached({0: 0.8, 1: 0.8}, PaperAUC(0.8, 0.0))
    assert found == REACHED and difference.half == 0 and math.isinf(difference.df)
    assert reached({0: 0.79, 1: 0.79}, PaperAUC(0.8, 0.0))[1] == NOT_REACHED
    with pytest.raises(ValueError, match="one value at least"):
        reached({}, CELL)
