"""The numbers of every artefact, on made-up runs: each estimate, its sign, its verdict, and the CSV behind the figure.

Guards what a contract on small trained runs cannot see: SE and ME swapped, another epoch, another set, a sign, a seed
that is not divided by, an interval without the test rows.
"""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import t as student_t

from experiments import (
    auc,
    claims,
    fig1,
    fig2,
    fig3,
    fig5,
    fig6,
    fig8a,
    fig8b,
    fig8c,
    fig8d,
    paper,
    results,
    scaling,
    study,
    sub_embeddings,
    table1,
)
from experiments.claims import FAILS, HOLDS, OPEN
from experiments.found import Cell, Runs
from experiments.output import Output
from experiments.study import Artefact
from recsys_collapse.launch.plan import Job, Plan
from recsys_collapse.runs.records import read_result, write_result
from recsys_collapse.similarity import random_pattern_divergence
from recsys_collapse.stats import Interval, student
from tests.cli import SMALL_SYNTHETIC
from tests.made_up import CARDINALITY, ONE_SET, RANDOM, SHIFT, SPREAD, MadeUp, Shown, epoch_rows, lines_of
from tests.test_records import result

SEEDS = (0, 1, 2)
NOISE = {0: 0.0, 1: 0.000004, 2: -0.000004}
"""Of the test AUC of a seed, in what only its size or its kind tells apart: sum 0."""


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "out")


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], Shown]:
    return lambda name: Shown(tmp_path / "paper", name)


def half(values: Sequence[float]) -> float:
    """Half a 95% interval of Student's t."""
    return float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def slope(by_scale: Mapping[int, float]) -> float:
    """Per doubling."""
    return float(np.polyfit(np.log2([*by_scale]), [*by_scale.values()], 1)[0])


def is_student_of(found: Interval, values: Sequence[float]) -> bool:
    """Whether an interval is that of these values."""
    return found.estimate == pytest.approx(statistics.fmean(values)) and found.half == pytest.approx(half(values))


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """From 0, ties in the middle."""
    value_n = np.asarray(values, dtype=float)
    below_n = (value_n[:, None] > value_n).sum(1)
    return below_n + ((value_n[:, None] == value_n).sum(1) - 1) / 2


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """By the correlation of ranks."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


# Contrasts of AUCs


def kernel(logit: NDArray[np.float64], label: NDArray[Any]) -> NDArray[np.float64]:
    """Of every positive and negative: 1 where it is above, .5 where they tie."""
    above, equal = (compare(logit[label == 1][:, None], logit[label == 0]) for compare in (np.greater, np.equal))
    return above + equal / 2


def naive(runs: Runs, weights: Mapping[Cell, float], seeds: Sequence[int]) -> tuple[list[float], float]:
    """The contrast of every seed, and DeLong's variance of its mean, by all pairs."""
    each = {
        seed: sum(w * kernel(*runs.scores(runs.cells[cell][seed])) for cell, w in weights.items()) for seed in seeds
    }
    pairs = np.mean(list(each.values()), axis=0)
    over_rows = sum(pairs.mean(axis).var(ddof=1) / pairs.shape[1 - axis] for axis in (0, 1))
    return [float(np.mean(each[seed])) for seed in seeds], float(over_rows)


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


def start_of(below: int, k: int) -> float:
    """sigma_k / sigma_1 of a made-up table of 8 columns."""
    place = k - (8 - below)
    return 1 - 0.01 * k if place < 0 else 0.05 if place == below - 1 else 0.45 - 0.01 * place


def test_figure_1(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """(a) means with their intervals; (b) shares of small singular values, trained - new, in tables of full rank."""
    few, many = {"big": 1, "mid": 2, "low": 1, "top": 0, "few": 4}, {"big": 7, "mid": 5, "low": 6, "top": 5, "few": 1}
    area, relative = {}, {}
    for (model, falls), scale, seed in itertools.product((("dcnv2", True), ("dnn", False)), (1, 2, 4), SEEDS):
        more = {name: count - (name == "mid" and seed == 1) for name, count in many.items()}
        area[model, scale, seed] = 0.7 + 0.01 * scale * (2 if falls else 1) + 0.002 * seed * scale
        relative[model, scale, seed] = 0.5 + (-0.05 if falls else 0.03) * scale + 0.001 * seed * scale
        made.add(
            model, scale=scale, seed=seed, auc=area[model, scale, seed], relative=relative[model, scale, seed],
            small=(more, few) if falls else (few, more),
        )  # fmt: skip
    output = shown("fig1")
    fig1.draw(made.runs, output)
    full = ("big", "mid", "low", "top")  # at least as many rows as the 8 columns
    share = {s: sum(many[n] - (n == "mid" and s == 1) - few[n] for n in full) / 8 / len(full) for s in SEEDS}
    found = output.about("singular values become small")
    assert is_student_of(found["DCNv2"].interval, [share[s] for s in SEEDS]) and found["DCNv2"].verdict == HOLDS
    assert is_student_of(found["DNN"].interval, [-share[s] for s in SEEDS]) and found["DNN"].verdict == FAILS
    falling = output.about("larger single embeddings collapse more")
    for model, name, verdict in (("dcnv2", "DCNv2", HOLDS), ("dnn", "DNN", FAILS)):
        fitted = [slope({scale: relative[model, scale, seed] for scale in (1, 2, 4)}) for seed in SEEDS]
        assert is_student_of(falling[name].interval, fitted) and falling[name].verdict == verdict
    trained = statistics.fmean((many[n] - (n == "mid" and s == 1)) / 8 for n in full for s in SEEDS)
    (note,) = [note for note in output.notes if note.startswith("DCNv2 4x")]
    assert f"{trained:.0%} below 0.5" in note and f"{1 / 8:.0%} below 0.1" in note
    left, right = output.drawn["fig1"].axes
    for model, name in (("dcnv2", "DCNv2"), ("dnn", "DNN")):
        values = [[area[model, scale, seed] for seed in SEEDS] for scale in (1, 2, 4)]
        heights, bars = lines_of(left)[name]
        assert heights == pytest.approx([statistics.fmean(own) for own in values])
        assert bars == pytest.approx([half(own) for own in values])
    assert "DCNv2 4x" in right.get_title()
    drawn = {line.get_label(): line for line in right.lines}
    below = [few[name] for name in full]  # of 8: the fifth of five is small in one field of four
    medians = [statistics.median(start_of(count, k) for count in below) for k in range(8)]
    assert drawn["initialisation, median"].get_ydata().tolist() == pytest.approx(medians)
    assert sum(np.asarray(line.get_ydata()).size == 8 for line in right.lines) == len(full) + 1
    csv = output.csv()
    own = csv.filter(model="dcnv2", seed=0, epoch="best", field="big")
    assert own["k"].to_list() == [*range(1, 9)] and own["relative"].max() == 1.0
    assert (own["relative"] < 0.5).sum() == 7 and set(csv["field"]) == {*full}
    assert (csv.filter(model="dcnv2", seed=0, epoch="initialisation", field="big")["relative"] < 0.5).sum() == 1
    assert output.csv("fig1a").filter(model="dnn", scale=4)["test_auc"].item() == pytest.approx(
        statistics.fmean(area["dnn", 4, seed] for seed in SEEDS)
    )


def test_figure_1_is_of_the_seeds_that_all_sizes_have(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """Of others, there is no slope."""
    for scale, seed in itertools.product((1, 2), (*SEEDS, 7)):
        if scale == 2 or seed != 7:
            made.add(scale=scale, seed=seed, relative=0.5 - 0.1 * scale - 0.01 * seed * scale)
    output = shown("fig1")
    fig1.draw(made.runs, output)
    fitted = [-0.1 - 0.01 * seed for seed in SEEDS]
    assert is_student_of(output.only("larger single embeddings collapse more").interval, fitted)


def test_figure_1_of_one_size_asks_no_slope(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    for seed in SEEDS:
        made.add(scale=4, seed=seed, small=({"big": 3 + seed}, {"big": 1}))
    output = shown("fig1")
    fig1.draw(made.runs, output)
    assert {claim.text for claim in output.claims} == {"singular values become small"}


# Figure 2


def test_figure_2(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """IA at the best epoch, whole tables; below random or not; its order by cardinality, against all 720 orders."""
    against = dict(zip(CARDINALITY, (2, 500, 5, 40, 90, 9), strict=True))  # cardinalities turned around
    means = {("dcnv2", s): 0.5 + 0.01 * s for s in SEEDS} | {("dnn", s): 1.2 + 0.01 * s for s in SEEDS}
    for (model, seed), relative in means.items():
        made.add(model, scale=4, seed=seed, relative=relative, cardinality=CARDINALITY if model == "dcnv2" else against)
    for model, verdict, sizes in (("dcnv2", HOLDS, CARDINALITY), ("dnn", FAILS, against)):
        own = MadeUp(made.folder, results=[run for run in made.results if run["model"] == model])
        output = shown(f"fig2_{model}")
        fig2.draw(own.runs, output)
        collapse = output.only("tables collapse")
        assert is_student_of(collapse.interval, [means[model, s] - 1 for s in SEEDS]) and collapse.verdict == verdict
        middle = means[model, 1]
        ia = {name: (middle + SHIFT[name]) * RANDOM[name] for name in sizes}
        names = sorted(sizes, key=lambda name: sizes[name])
        order = output.only("control")
        rho = spearman([*sizes.values()], [ia[name] for name in sizes])
        orders = [spearman([*sizes.values()], one) for one in itertools.permutations(ia[name] for name in sizes)]
        as_large = min(np.mean(np.array(orders) >= rho - 1e-9), np.mean(np.array(orders) <= rho + 1e-9))
        assert order.interval.estimate == pytest.approx(rho) and abs(rho) > 0.9
        assert order.p_value == pytest.approx(2 * as_large) and order.verdict == verdict
        csv = output.csv()
        assert csv["field"].unique(maintain_order=True).to_list() == names and len(csv) == 3 * len(sizes)
        row = csv.filter(field="low", seed=2).row(0, named=True)
        assert row["ia"] == pytest.approx((means[model, 2] + SHIFT["low"]) * RANDOM["low"])
        assert row["random"] == RANDOM["low"] and row["cardinality"] == sizes["low"] and row["embedding_set"] is None
        (axes,) = output.drawn[output.artefact].axes
        heights, bars = next(iter(lines_of(axes).values()))
        assert heights == pytest.approx([ia[name] for name in names])
        assert bars == pytest.approx([0.01 * RANDOM[name] for name in names])  # from the lowest seed to the highest
        random = next(line for line in axes.lines if line.get_label() == "random")
        assert random.get_ydata().tolist() == [RANDOM[name] for name in names]


# Figure 3


def test_figure_3(made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """The law on means over seeds, first set, against all 720 labellings, two-sided; centred tables apart."""
    names = [*CARDINALITY]
    generator = torch.Generator().manual_seed(1)
    ia_SN = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.6]) + 0.2 * torch.rand(3, 6, generator=generator)
    sign = {"dcnv2": 1.0, "ffm": -1.0}
    noise_SNN = torch.rand(3, 6, 6, generator=generator)
    ia_SNN = {m: 5 + s * ia_SN[:, None] / 9 + torch.arange(6.0)[:, None] + 0.3 * noise_SNN for m, s in sign.items()}

    def loaded(self: Runs, run: dict[str, Any]) -> Any:
        return SimpleNamespace(store=SimpleNamespace(fields=names), run=run)

    def measured(found: Any, centred: bool = False) -> sub_embeddings.SubEmbeddings:
        own_NN = ia_SNN[found.run["model"]][found.run["seed"]].double()
        own_N = ia_SN[found.run["seed"]].double()
        first, other = (own_NN, 20 - own_NN) if not centred else (20 - own_NN, own_NN)
        return sub_embeddings.SubEmbeddings(torch.stack([first, other]), torch.stack([own_N, own_N.flip(0)]))

    monkeypatch.setattr(Runs, "loaded", loaded)
    monkeypatch.setattr(fig3, "sub_embeddings", measured)
    for model, seed in itertools.product(sign, SEEDS):
        made.add(model, seed=seed)
    output = shown("fig3")
    fig3.draw(made.runs, output)
    law, control = output.about("interaction-collapse law"), output.about("...")
    towards = ia_SN.mean(0).tolist()
    for model, name in (("dcnv2", "DCNv2 base"), ("ffm", "FFM base")):
        mean_NN = ia_SNN[model].mean(0).numpy()

        def statistic(order: Sequence[int], mean_NN: NDArray[np.float32] = mean_NN) -> float:
            others = [[j for j in range(6) if j != i] for i in range(6)]
            return statistics.fmean(
                spearman(mean_NN[i][js].tolist(), [towards[order[j]] for j in js]) for i, js in enumerate(others)
            )

        rho = statistic(range(6))
        all_rho = np.array([statistic(order) for order in itertools.permutations(range(6))])
        p = 2 * min(np.mean(all_rho >= rho - 1e-9), np.mean(all_rho <= rho + 1e-9))
        assert law[name].interval.estimate == pytest.approx(rho, abs=1e-6) and rho * sign[model] > 0.8
        assert law[name].verdict == (HOLDS if model == "dcnv2" else FAILS)
        assert law[name].p_value == pytest.approx(2 * p)  # Holm, of two alike
        assert control[name].interval.estimate == pytest.approx(-rho, abs=1e-6)
        assert control[name].verdict == (FAILS if model == "dcnv2" else HOLDS)
    csv = output.csv().filter(model="dcnv2", field="mid", towards="few").row(0, named=True)
    assert csv["ia"] == pytest.approx(ia_SNN["dcnv2"][:, 2, 4].mean().item(), rel=1e-6)
    assert csv["ia_towards"] == pytest.approx(towards[4], rel=1e-6)
    heat, of_field, to_field = output.drawn["fig3"].axes[:3]
    order = np.argsort(towards)
    shown_NN = ia_SNN["dcnv2"].double().mean(0).numpy()[order][:, order]
    assert np.allclose(heat.images[0].get_array(), shown_NN)
    off = np.where(np.eye(6, dtype=bool), np.nan, shown_NN)
    assert np.allclose([bar.get_height() for bar in of_field.patches], np.nansum(off, 1))
    assert np.allclose([bar.get_height() for bar in to_field.patches], np.nansum(off - np.nanmean(off, 1)[:, None], 0))


# What is measured on weights


class Projecting:
    """A backbone with known projections (L, M, N, N, K, K)."""

    def __init__(self, w_LMNNKK: torch.Tensor) -> None:
        self.backbone = self
        self.pair_projections = lambda: w_LMNNKK


def test_distance_from_unitary_and_patterns() -> None:
    """0 for a multiple of an orthogonal matrix, sqrt(1 - 1 / K) for rank 1; mean over layers, first set."""
    turned = 3 * torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    flat = torch.zeros(3, 3)
    flat[1, 2] = 5.0
    w_LMNNKK = torch.stack([torch.stack([turned, flat]), torch.stack([flat, turned])])[:, :, None, None]
    w_LMNNKK = w_LMNNKK.repeat(1, 1, 2, 2, 1, 1)
    w_LMNNKK[0, 0, 0, 1] = flat
    run: Any = Projecting(w_LMNNKK)
    expected = math.sqrt(1 - 1 / 3) * 5 / 8  # of 8 matrices in the first set: one of the first layer, all of the second
    assert sub_embeddings.distance_from_unitary(run) == pytest.approx(expected, abs=1e-3)
    norm_MNN = sub_embeddings.patterns(run)
    assert norm_MNN.shape == (2, 2, 2)
    assert norm_MNN[0, 0, 1].item() == pytest.approx(5) and norm_MNN[0, 1, 0].item() == pytest.approx(3 * math.sqrt(3))
    assert sub_embeddings.patterns(run, 1)[1, 0, 1].item() == pytest.approx(3 * math.sqrt(3))


# Figure 5

EVERY_CLAIM_OF_5 = ("projections held near unitary", "... and the model overfits more", "... and does not scale")


def unitary_runs(made: MadeUp, monkeypatch: pytest.MonkeyPatch, acts: int, better: int) -> dict[str, list[float]]:
    """Runs with and without; signs of what the regularizer does. What every claim should find, by seed."""
    distance, expected = {}, {name: [] for name in ("nearer", "higher", "gap", "slope")}
    monkeypatch.setattr(Runs, "loaded", lambda self, run: run)
    for kind, scale, seed in itertools.product(("none", "unitary"), (1, 2, 8), SEEDS):
        held = kind == "unitary"
        count = 3 + seed if held else 5  # epochs: the last common one is 2, 3, 4
        gap = (0.02 + 0.001 * seed) * better if held else 0.0
        valid = [0.492 + 0.001 * scale + 0.003 * e for e in range(count)]
        train = [v - 0.1 - gap * (1 + e) for e, v in enumerate(valid)]
        relative = 0.5 + 0.01 * scale + ((0.1 + 0.003 * seed) * better if held else 0)
        area = 0.7 + NOISE[seed] * scale + (-better * 0.004 * math.log2(scale) if held else 0.01 * math.log2(scale))
        made.add(
            scale=scale, regularizer=kind, seed=seed, auc=area, relative=relative,
            epochs=epoch_rows(
                train=train, valid=valid, auc=[0.6 + 0.001 * e for e in range(count)], ia=[0.9] + [0.8] * count
            ),
        )  # fmt: skip
        distance[kind, scale, seed] = 0.4 + 0.02 * scale + (-acts * (0.1 + 0.01 * seed) * scale / 8 if held else 0)
        if held and scale == 8:
            expected["nearer"].append(-acts * (0.1 + 0.01 * seed) * (1 + 2 + 8) / 3 / 8)  # mean over sizes
            expected["higher"].append((0.1 + 0.003 * seed) * better)
            expected["gap"].append(gap * (1 + count - 1))
        if held and scale == 1:
            expected["slope"].append(-better * 0.004 + NOISE[seed] * slope({1: 1.0, 2: 2.0, 8: 8.0}))
    monkeypatch.setattr(
        fig5, "distance_from_unitary", lambda run: distance[run["regularizer"], run["scale"], run["seed"]]
    )
    return expected


@pytest.mark.parametrize(("better", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_figure_5(
    made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch, better: int, verdict: str
) -> None:
    """With - without, at the largest size; overfitting at the last epoch that both have."""
    expected = unitary_runs(made, monkeypatch, acts=1, better=better)
    output = shown("fig5")
    fig5.draw(made.runs, output)
    check = output.only("check")
    assert is_student_of(check.interval, expected["nearer"]) and check.verdict == HOLDS
    for text, name in zip(EVERY_CLAIM_OF_5, ("higher", "gap", "slope"), strict=True):
        claim = output.only(text)
        assert claim.interval.estimate == pytest.approx(statistics.fmean(expected[name]), abs=1e-5)
        assert claim.verdict == verdict
    assert is_student_of(output.only(EVERY_CLAIM_OF_5[0]).interval, expected["higher"])
    assert is_student_of(output.only(EVERY_CLAIM_OF_5[1]).interval, expected["gap"])
    csv = output.csv()
    assert set(csv["regularizer"]) == {"none", "unitary"} and csv["epoch"].min() == 0
    assert len(csv) == 3 * 5 + 3 + 4 + 5  # of the largest size only
    row = csv.filter(regularizer="unitary", seed=1, epoch=3).row(0, named=True)
    assert row["val_logloss"] == pytest.approx(0.509) and row["val_auc"] == pytest.approx(0.603)
    assert row["train_loss"] == pytest.approx(0.409 - better * 0.021 * 4)
    axes = output.drawn["fig5"].axes
    by_scale = [
        statistics.fmean(run["test_auc"] for run in made.runs.of("dcnv2", "se", scale, "unitary").values())
        for scale in (1, 2, 8)
    ]
    assert lines_of(axes[0])["regularised"][0] == pytest.approx(by_scale)
    assert lines_of(axes[1])["standard"][0] == pytest.approx([0.5 + 0.01 * scale for scale in (1, 2, 8)])
    assert axes[2].lines[0].get_ydata()[0] == pytest.approx(0.4) and axes[3].lines[0].get_ydata()[1] == 0.601
    assert output.csv("fig5ab").filter(regularizer="unitary", scale=8)["test_auc"].item() == pytest.approx(by_scale[2])


@pytest.mark.parametrize("acts", [0, -1])
def test_figure_5_decides_nothing_where_the_regularizer_did_not_act(
    made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch, acts: int
) -> None:
    expected = unitary_runs(made, monkeypatch, acts=acts, better=1)
    output = shown("fig5")
    fig5.draw(made.runs, output)
    assert output.only("check").verdict == (FAILS if acts else OPEN)
    for text, name in zip(EVERY_CLAIM_OF_5, ("higher", "gap", "slope"), strict=True):
        claim = output.only(text)
        assert claim.verdict == OPEN and claim.p_value is None
        assert claim.interval.estimate == pytest.approx(statistics.fmean(expected[name]), abs=1e-5)
    assert len(output.notes) == 1


def test_figure_5_is_of_one_model(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    made.add()
    made.add("dnn")
    with pytest.raises(ValueError, match="model=dnn,dcnv2"):
        fig5.draw(made.runs, shown("fig5"))


# Figure 6


@pytest.mark.parametrize(("sign", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_figure_6(made: MadeUp, shown: Callable[[str], Shown], sign: int, verdict: str) -> None:
    """DNN - DCNv2: IA of the largest size, slopes."""
    for model, scale, seed in itertools.product(("dcnv2", "dnn"), (1, 2, 8), SEEDS):
        doublings = math.log2(scale)
        dnn = model == "dnn"
        made.add(
            model, scale=scale, seed=seed,
            auc=0.7 + NOISE[seed] * scale + doublings * (-0.004 * sign if dnn else 0.003 * sign),
            relative=0.5 + 0.01 * scale + (0.05 + 0.01 * seed) * sign * dnn * doublings,
        )  # fmt: skip
    output = shown("fig6")
    fig6.draw(made.runs, output)
    less = output.only("DNN collapses less than DCNv2")
    assert is_student_of(less.interval, [3 * (0.05 + 0.01 * seed) * sign for seed in SEEDS]) and less.verdict == verdict
    worse, scales = output.only("DNN gets worse with size"), output.only("... and scales worse")
    assert worse.interval.estimate == pytest.approx(-0.004 * sign, abs=1e-5) and worse.verdict == verdict
    assert scales.interval.estimate == pytest.approx(-0.007 * sign, abs=1e-5) and scales.verdict == verdict
    left, right = (lines_of(axes) for axes in output.drawn["fig6"].axes)
    assert left["DNN"][0] == pytest.approx([0.7 - 0.004 * sign * d for d in (0, 1, 3)])
    assert right["DCNv2"][0] == pytest.approx([0.51, 0.52, 0.58])
    assert right["DNN"][1][1] == pytest.approx(half([0.05, 0.06, 0.07]))
    row = output.csv().filter(model="dnn", scale=8).row(0, named=True)
    assert row["test_auc"] == pytest.approx(0.7 - 0.012 * sign) and row["n"] == 3


# Figure 8


@pytest.mark.parametrize(("sign", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_figure_8a(made: MadeUp, shown: Callable[[str], Shown], sign: int, verdict: str) -> None:
    """ME - SE of whole tables, at the best epochs; and at the earlier one of both."""
    for embed, seed in itertools.product(("se", "me"), SEEDS):
        me = embed == "me"
        relative = 0.5 + 0.01 * seed + (0.1 + 0.01 * seed) * sign * me
        # by epoch: -1, 0, 1, 2, 3, 4; the best is 1 of ME and 3 of SE, or, of the last seed, the other way around
        ia = [0.9, *(0.8 - 0.1 * e + (0.01 * (e + 1) * (1 + seed) * -sign if me else 0) for e in range(5))]
        epochs = epoch_rows(train=[0.5] * 5, valid=[0.5] * 5, auc=[0.6] * 5, ia=ia)
        made.add(embed=embed, scale=4, seed=seed, relative=relative, epochs=epochs, best=1 if me == (seed < 2) else 3)
    output = shown("fig8a")
    fig8a.draw(made.runs, output)
    found, same = output.only("ME has higher"), output.only("...")
    assert is_student_of(found.interval, [(0.1 + 0.01 * seed) * sign for seed in SEEDS]) and found.verdict == verdict
    assert is_student_of(same.interval, [-0.02 * (1 + seed) * sign for seed in SEEDS])
    csv = output.csv()
    assert set(csv["embed"]) == {"se", "me"} and len(csv) == 2 * 3 * len(CARDINALITY)
    me = csv.filter(embed="me", seed=1, field="top").row(0, named=True)
    assert me["ia"] == pytest.approx((0.51 + 0.11 * sign + SHIFT["top"]) * RANDOM["top"]) and me["random"] == 5.0
    (axes,) = output.drawn["fig8a"].axes
    names = sorted(CARDINALITY, key=lambda name: CARDINALITY[name])
    drawn = lines_of(axes)
    assert drawn["DCNv2 SE 4x"][0] == pytest.approx([(0.51 + SHIFT[n]) * RANDOM[n] for n in names])
    assert drawn["DCNv2 ME 4x"][0] == pytest.approx([(0.51 + 0.11 * sign + SHIFT[n]) * RANDOM[n] for n in names])


def test_figure_8a_at_the_same_epoch_decides(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """The two claims have each its own verdict."""
    for embed, seed in itertools.product(("se", "me"), SEEDS):
        ia = [0.9, *(0.5 + (0.1 + 0.01 * seed) * (embed == "me") for _ in range(5))]
        made.add(
            embed=embed, scale=2, seed=seed, relative=0.5 + 0.05 * (embed == "se") + 0.001 * seed * (embed == "me"),
            epochs=epoch_rows(train=[0.5] * 5, valid=[0.5] * 5, auc=[0.6] * 5, ia=ia),
        )  # fmt: skip
    output = shown("fig8a")
    fig8a.draw(made.runs, output)
    assert (output.only("ME has higher").verdict, output.only("...").verdict) == (FAILS, HOLDS)


@pytest.mark.parametrize(("sign", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_figure_8b(made: MadeUp, shown: Callable[[str], Shown], sign: int, verdict: str) -> None:
    """Sample sd over sets of IA / random, mean over fields, trained - initialisation."""
    for seed in SEEDS:
        wide, narrow = 0.05 + 0.001 * seed, 0.01
        made.add(embed="me", scale=4, seed=seed, spread=(wide, narrow) if sign > 0 else (narrow, wide))
    output = shown("fig8b")
    fig8b.draw(made.runs, output)
    claim, unit = output.only("sets vary"), statistics.stdev(range(4))
    assert is_student_of(claim.interval, [sign * (0.04 + 0.001 * seed) * unit for seed in SEEDS])
    assert claim.verdict == verdict
    own = 0.05 if sign > 0 else 0.01
    names = sorted(CARDINALITY, key=lambda name: CARDINALITY[name])
    expected = np.array([[0.3 + own * SPREAD[name] / 3 * m for m in range(4)] for name in names])
    assert np.allclose(output.drawn["fig8b"].axes[0].images[0].get_array(), expected)
    csv = output.csv()
    assert len(csv) == 3 * 4 * len(CARDINALITY) and csv["embedding_set"].null_count() == 0
    row = csv.filter(seed=0, field="low", embedding_set=3).row(0, named=True)
    assert row["relative"] == pytest.approx(expected[names.index("low"), 3])
    assert row["random"] == pytest.approx(ONE_SET * RANDOM["low"]) and row["ia"] == pytest.approx(
        row["relative"] * row["random"]
    )


def norms_of(seed: int, apart: float) -> torch.Tensor:
    """(3, 4, 4): sets that follow patterns of their own, `apart` from a common one."""
    generator = torch.Generator().manual_seed(seed)
    common_NN = 1 + 0.3 * torch.rand(4, 4, generator=generator, dtype=torch.float64)
    own_MNN = torch.linalg.qr(torch.randn(16, 3, generator=generator, dtype=torch.float64))[0].T.reshape(3, 4, 4)
    return common_NN + apart * (own_MNN - own_MNN.mean(0))


def variation(norm_MNN: torch.Tensor) -> float:
    """Standard deviation (divided by M) / mean over sets, mean over pairs."""
    sets = norm_MNN.numpy()
    return float(np.mean(sets.std(0) / sets.mean(0)))


def correlation(norm_MNN: torch.Tensor) -> float:
    """Pearson's, mean over pairs of sets."""
    flat = norm_MNN.flatten(1).numpy()
    return statistics.fmean(float(np.corrcoef(a, b)[0, 1]) for a, b in itertools.combinations(flat, 2))


@pytest.mark.parametrize(("apart", "verdict"), [(1.5, HOLDS), (0.05, FAILS)])
def test_figure_8c(
    made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch, apart: float, verdict: str
) -> None:
    """Variation and correlation of the sets' norms, trained - new models of the same shape."""
    names = [*CARDINALITY][:4]
    norms = {seed: norms_of(seed, apart) for seed in SEEDS}
    monkeypatch.setattr(
        Runs, "loaded", lambda self, run: SimpleNamespace(store=SimpleNamespace(fields=names), seed=run["seed"])
    )
    monkeypatch.setattr(fig8c, "patterns", lambda found: norms[found.seed])
    for seed in (2, 0, 1):
        made.add(embed="me", scale=3, seed=seed)
    output = shown("fig8c")
    fig8c.draw(made.runs, output)
    new = random_pattern_divergence(num_sets=3, num_fields=4, size=2)
    vary, alike = output.only("sets learn different interaction patterns"), output.only("...")
    assert is_student_of(vary.interval, [variation(norms[s]) - new.variation for s in SEEDS])
    assert vary.verdict == verdict
    assert is_student_of(alike.interval, [correlation(norms[s]) - new.correlation for s in SEEDS])
    assert alike.verdict == verdict
    csv = output.csv()
    assert len(csv) == 3 * 3 * 4 * 4
    row = csv.filter(seed=1, embedding_set=2, field=names[3], towards=names[1])
    assert row["norm"].item() == pytest.approx(norms[1][2, 3, 1].item())
    images = [axes.images[0] for axes in output.drawn["fig8c"].axes[:3]]
    assert all(np.allclose(image.get_array(), norms[0][m]) for m, image in enumerate(images))  # of the first seed
    assert {image.get_clim() for image in images} == {(norms[0].min().item(), norms[0].max().item())}


def kept_runs(
    made: MadeUp, monkeypatch: pytest.MonkeyPatch, acts: int, worse: int
) -> dict[tuple[str, int], torch.Tensor]:
    """Base, ME and ME with `norm_align`; the norms of the largest size by regularizer and seed."""
    norms = {}
    for seed in SEEDS:
        made.add(scale=1, seed=seed, auc=0.7 + NOISE[seed])
        for kind, scale in itertools.product(("none", "norm_align"), (2, 4)):
            held = kind == "norm_align"
            gain = 0.01 - 0.006 * worse * held
            area = 0.7 + gain * math.log2(scale) + NOISE[seed] * scale * (2 if held else 1)
            made.add(embed="me", scale=scale, regularizer=kind, seed=seed, auc=area)
        norms |= {(kind, seed): norms_of(seed, 0.8 - 0.3 * acts * (kind != "none")) for kind in ("none", "norm_align")}
    monkeypatch.setattr(Runs, "loaded", lambda self, run: run)
    monkeypatch.setattr(
        fig8d, "patterns",
        lambda run: norms[run["regularizer"], run["seed"]] if run["scale"] == 4 else torch.ones(2, 4, 4),
    )  # fmt: skip
    return norms


@pytest.mark.parametrize(("worse", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_figure_8d(
    made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch, worse: int, verdict: str
) -> None:
    """Restricted - free: the patterns' variation, the slopes from the shared base, the AUC of the largest size."""
    norms = kept_runs(made, monkeypatch, acts=1, worse=worse)
    output = shown("fig8d")
    fig8d.draw(made.runs, output)
    check = output.only("check")
    differences = [variation(norms["norm_align", s]) - variation(norms["none", s]) for s in SEEDS]
    assert is_student_of(check.interval, differences) and check.verdict == HOLDS
    slopes, top = output.only("restricting"), output.only("... and AUC at 4x")
    assert slopes.interval.estimate == pytest.approx(-0.006 * worse, abs=1e-5) and slopes.verdict == verdict
    assert top.interval.estimate == pytest.approx(-0.012 * worse, abs=1e-5) and top.verdict == verdict
    drawn = lines_of(output.drawn["fig8d"].axes[0])
    assert drawn["ME"][0] == pytest.approx([0.7, 0.71, 0.72])
    assert drawn["ME, divergence restricted"][0] == pytest.approx(
        [0.7, *(0.7 + (0.01 - 0.006 * worse) * d for d in (1, 2))]
    )
    csv = output.csv()
    assert csv.filter(regularizer="norm_align", scale=4)["test_auc"].item() == pytest.approx(0.72 - 0.012 * worse)


def test_figure_8d_decides_nothing_where_the_regularizer_did_not_act(
    made: MadeUp, shown: Callable[[str], Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_runs(made, monkeypatch, acts=-1, worse=1)
    output = shown("fig8d")
    fig8d.draw(made.runs, output)
    assert [claim.verdict for claim in output.claims] == [FAILS, OPEN, OPEN] and len(output.notes) == 1
    assert output.claims[1].interval.estimate == pytest.approx(-0.006, abs=1e-5)


# Table 1 and RESULTS.md

SAID = {
    "SE scales poorly": "one", "SE is flat": "one", "ME scales": "other", "ME scales better than SE": "difference",
    "the largest ME is better than the base model": "base",
    "the largest ME is better than SE of the same size": "same",
}  # fmt: skip


def table_runs(made: MadeUp, gains: Mapping[str, tuple[float, float]], scales: Sequence[int] = (1, 2, 4)) -> MadeUp:
    """Models with so much AUC per doubling, SE and ME."""
    for (model, own), embed, scale, seed in itertools.product(gains.items(), ("se", "me"), scales, SEEDS):
        if scale > 1 or embed == "se":
            gain = own[embed == "me"] * math.log2(scale)
            made.add(model, embed, scale, seed=seed, auc=0.7 + gain + NOISE[seed] * scale * (2 if embed == "me" else 1))
    return made


def test_table_1(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """Every claim of two models: the paper's of one, the contrary of another one that the paper does not have."""
    gains = {"dcnv2": (0.00001, 0.01), "mine": (0.006, -0.008)}
    table_runs(made, gains)
    output = shown("table1")
    table1.draw(made.runs, output)
    assert {claim.text for claim in output.claims} == {*SAID} and output.notes == []
    for text, name in SAID.items():
        found = {about.partition(" ")[0]: claim for about, claim in output.about(text).items()}
        assert {*found} == {"DCNv2", "mine"} and all(claim.sources == "seeds and test rows" for claim in found.values())
        for model, shown_as, verdict in (("dcnv2", "DCNv2", HOLDS), ("mine", "mine", FAILS)):
            se, me = gains[model]
            value = {"one": se, "other": me, "difference": me - se, "base": 2 * me, "same": 2 * (me - se)}[name]
            assert found[shown_as].interval.estimate == pytest.approx(value, abs=6e-6), text
            assert found[shown_as].verdict == verdict, text
            assert found[shown_as].margin == 1e-4
    kinds = {claim.text: claim.kind for claim in output.claims}
    assert (kinds["SE scales poorly"], kinds["SE is flat"], kinds["ME scales"]) == ("at most", "within", "above")
    csv = output.csv().filter(model="mine", embed="me", scale=4).row(0, named=True)
    assert csv["test_auc"] == pytest.approx(0.684, abs=6e-6) and csv["n"] == 3
    assert output.tables == ["table1", "table3_4"] and output.figures == ["fig7", "fig9_10"]
    single, several = (lines_of(axes) for axes in output.drawn["fig7"].axes)
    assert single["mine"][0] == pytest.approx([0, 0.006, 0.012], abs=1e-8)
    assert several["DCNv2"][0] == pytest.approx([0, 0.01, 0.02], abs=1e-8)
    paired = [NOISE[seed] * (2 * 4 - 1) for seed in SEEDS]  # less the base of the same seed
    assert several["DCNv2"][1][2] == pytest.approx(half(paired))
    panels = {axes.get_title(): lines_of(axes) for axes in output.drawn["fig9_10"].axes}
    assert panels["DCNv2"]["ME"][0] == pytest.approx([0.7, 0.71, 0.72]) and panels["mine"]["SE"][0][1] == 0.706


def test_a_falling_se_scales_poorly_and_is_not_flat(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    table_runs(made, {"ipnn": (-0.01, 0.00002)})
    output = shown("table1")
    table1.draw(made.runs, output)
    verdicts = {text: output.only(text).verdict for text in SAID if text != "ME scales"}
    assert (verdicts["SE scales poorly"], verdicts["SE is flat"]) == (HOLDS, FAILS)
    assert verdicts["ME scales better than SE"] == HOLDS


def test_slopes_that_cannot_be_asked_are_named(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    table_runs(made, {"dnn": (0.0, 0.01)})
    table_runs(made, {"ipnn": (0.0, 0.01)}, scales=(1,))
    for seed in SEEDS:
        made.add("ffm", "me", 2, seed=seed, auc=0.8)
    output = shown("table1")
    table1.draw(made.runs, output)
    (note,) = output.notes
    assert "IPNN" in note and "FFM" in note and "DNN" not in note.replace("IPNN", "")
    assert {claim.about for claim in output.claims} == {"DNN"}


def test_the_chance_of_test_rows_is_in_the_interval(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """Seeds that agree, and rows that do not: without their variance, everything would be significant."""
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], 20).astype(np.int8)
    for number, (embed, scale) in enumerate((("se", 1), ("se", 2), ("me", 2))):
        shared = rng.normal(size=40) + 0.3 * number * label
        for seed in SEEDS:
            logit = shared + 0.01 * rng.normal(size=40)
            made.add("dnn", embed, scale, seed=seed, logits=(logit, label), auc=0.7)
    output = shown("table1")
    table1.draw(made.runs, output)
    top, base = Cell("dnn", "me", 2), Cell("dnn", "se", 1)
    values, over_rows = naive(made.runs, {base: -1, top: 1}, SEEDS)
    claim = output.only("the largest ME is better than the base model")
    alone = student(values).p_value
    assert claim.verdict == OPEN and alone is not None and alone < 0.05
    assert claim.interval.standard_error == pytest.approx(math.sqrt(over_rows + statistics.variance(values) / 3))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({1: 0.7, 2: 0.70005, 4: 0.69996}, {1, 2, 4}),
        ({1: 0.7, 2: 0.7001, 4: 0.7002}, {2, 4}),  # .0001 below the best is marked, .0002 is not
        ({1: 0.7, 2: 0.70011, 4: 0.69}, {2}),
    ],
)
def test_the_best_are_marked_as_in_the_paper(values: dict[int, float], expected: set[int]) -> None:
    frame = pl.DataFrame({"scale": [*values], "test_auc": [*values.values()]})
    assert table1.best(frame) == expected


def written(output: Shown, made: MadeUp, **about: Any) -> None:
    """`<name>.json`, as `study.draw` writes it."""
    output.write(
        **{"command": f"python -m experiments.{output.artefact} seed=0,1,2", "dataset": made.dataset,
           "seeds": [0, 1, 2], "data_fingerprint": "f", "runs": [run["run_name"] for run in made.results],
           "run_versions": ["1"]} | about
    )  # fmt: skip


def rows_with(text: str, start: str) -> list[list[str]]:
    """Cells of the table rows that start so."""
    found = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found]


def test_beside_the_paper(tmp_path: Path, shown: Callable[[str], Shown]) -> None:
    """Criteo: ours, the paper's, the difference with Welch's interval and its verdict, through to RESULTS.md."""
    made = MadeUp(tmp_path / "out", dataset="criteo")
    paper = {("se", 1): (0.81228, 4e-5), ("se", 2): (0.81222, 2e-5)}
    ours = {
        ("dnn", "se", 1): [0.81240, 0.81242, 0.81244],  # above
        ("dnn", "se", 2): [0.81100, 0.81102, 0.81104],  # clearly below
        ("dnn", "me", 2): [0.80, 0.82, 0.81],  # noisy, the mean below
        ("mine", "se", 1): [0.8, 0.8, 0.81],  # not in the paper
    }
    for (model, embed, scale), values in ours.items():
        for seed, value in enumerate(values):
            made.add(model, embed, scale, seed=seed, auc=value, differs_from_paper=["another optimizer"] * (seed == 1))
    output = shown("table1")
    table1.draw(made.runs, output)
    assert output.tables == ["table1", "table3", "beside_the_paper"] and output.figures == ["fig7", "fig9"]
    csv = output.csv("beside_the_paper")
    assert set(csv["model"]) == {"dnn"} and len(csv) == 3
    base, two, noisy = (csv.filter(embed=e, scale=s).row(0, named=True) for e, s in (("se", 1), ("se", 2), ("me", 2)))
    assert (base["ours"], base["paper"], base["paper_sd"]) == pytest.approx((0.81242, *paper["se", 1]))
    assert (noisy["paper"], noisy["paper_sd"]) == (0.81261, 4e-05)
    assert base["difference"] == pytest.approx(0.00014) and two["difference"] == pytest.approx(-0.0012)
    assert [row["verdict"] for row in (base, two, noisy)] == ["reached", "not reached", "not decidable"]
    error = math.sqrt((2e-5**2 + 4e-5**2) / 3)
    df = (2e-5**2 + 4e-5**2) ** 2 / ((2e-5**4 + 4e-5**4) / 2)
    assert base["difference_half"] == pytest.approx(student_t.ppf(0.975, df) * error, rel=1e-3)
    assert 2 * error < base["detectable"] < 6 * error
    written(output, made)
    results.write_results([output.folder], output.folder, "made by a test")
    text = (output.folder / "RESULTS.md").read_text()
    (row,) = [cells for cells in rows_with(text, "dnn") if cells[2] == "2" and cells[1] == "se"]
    assert {"0.81102", "0.81222", "0.00002", "-0.00120", "not reached"} <= {*row}
    assert [cells[-1] for cells in rows_with(text, "dnn")] == ["reached", "not reached", "not decidable"]
    assert any("another optimizer" in note for note in output.notes)


def test_the_interval_beside_the_paper_is_in_results(tmp_path: Path, shown: Callable[[str], Shown]) -> None:
    """Welch's, from `difference_half`."""
    made = MadeUp(tmp_path / "out", dataset="criteo")
    for seed, value in enumerate((0.8110, 0.8112, 0.8111)):
        made.add("dnn", "se", 1, seed=seed, auc=value)
    output = shown("table1")
    table1.draw(made.runs, output)
    width = output.csv("beside_the_paper")["difference_half"].item()
    text = results.table_of(output.folder / "beside_the_paper.csv", "beside_the_paper")
    assert f"±{width:.5f}" in text


def test_results_of_table_1(made: MadeUp, shown: Callable[[str], Shown], capsys: pytest.CaptureFixture[str]) -> None:
    """Five digits and the sample sd; the best of SE in italics, of ME bold; every verdict in the summary."""
    means = {("dcnv2", "se"): (0.7, 0.70004, 0.69), ("dcnv2", "me"): (0.7, 0.71, 0.72),
             ("mine", "se"): (0.65, 0.6, 0.6), ("mine", "me"): (0.65, 0.6, 0.6)}  # fmt: skip
    for ((model, embed), values), seed in itertools.product(means.items(), SEEDS):
        for scale, value in zip((1, 2, 4), values, strict=True):
            if scale > 1 or embed == "se":
                made.add(model, embed, scale, seed=seed, auc=value + (seed - 1) * 0.00002 * scale)
    output = shown("table1")
    table1.draw(made.runs, output)
    assert "0.72000 ±0.00008" in capsys.readouterr().out
    written(output, made)
    text = results.write_results([output.folder], output.folder, "made by a test").read_text()
    (single,) = rows_with(text, "DCNv2 | SE")
    assert single[2:] == ["_0.70000 ±0.00002_", "_0.70004 ±0.00004_", "0.69000 ±0.00008"]
    several, mine_several = (cells for cells in rows_with(text, " | ME"))
    assert several[2:] == ["", "0.71000 ±0.00004", "**0.72000 ±0.00008**"]
    (mine,) = rows_with(text, "mine | SE")
    assert mine[2] == "_0.65000 ±0.00002_" and mine[3:] == ["0.60000 ±0.00004", "0.60000 ±0.00008"]
    assert not any("*" in cell for cell in mine_several)  # the base is the best of ME, and stands in the row of SE
    for said in SAID:
        (summed,) = [cells for cells in rows_with(text, "table1") if cells[1] == said]
        for about, claim in output.about(said).items():
            assert f"{about}: {results.VERDICTS[claim.verdict]}" in summed[2].split("; ")
    claim = output.about("ME scales better than SE")["DCNv2"]
    own = next(line for line in text.splitlines() if "| ME - SE: " in line and "DCNv2" in line)
    shown_half = results.number(claim.interval.estimate, claim.interval.half)
    assert f"| {shown_half} |" in own and own.endswith(f"{results.VERDICTS[claim.verdict]} |")
    assert float(shown_half.partition("±")[2]) == pytest.approx(claim.interval.half, rel=0.06)
    assert "(seeds and test rows)" in own and f"{claim.p_value:.2g}" in own


@pytest.mark.parametrize(
    ("value", "width", "expected"),
    [
        (0.123456, 0.0234, "0.123 ±0.023"),
        (-0.001234, 0.00056, "-0.00123 ±0.00056"),
        (3.0, None, "3"),
        (12345.0, None, "12,345"),
        (0.12345, None, "0.123"),
        (-0.00012345, None, "-0.000123"),
        (3.0, 0.5, "3.00 ±0.50"),
        (123.4, 56.7, "123 ±57"),
    ],
)
def test_numbers_have_the_digits_of_their_half_width(value: float, width: float | None, expected: str) -> None:
    assert results.number(value, width) == expected


def claim_row(text: str = "it holds", **more: Any) -> dict[str, Any]:
    found = claims.decided([claims.Claim(text, "DNN", "number", Interval(0.5, 0.01, 7), digits=3)])[0]
    return found.row() | more


def artefact_json(name: str, **more: Any) -> dict[str, Any]:
    return {"artefact": name, "figures": [], "tables": [], "notes": [], "claims": [], "code_version": "abc",
            "command": f"python -m experiments.{name}", "dataset": "mini", "data_fingerprint": "f", "seeds": [0, 1],
            "runs": ["r"], "run_versions": ["1"]} | more  # fmt: skip


def test_results_of_several_data_sets(tmp_path: Path) -> None:
    """A column for each, what one lacks as a dash, the paper's order; half widths from both ends of the interval."""
    verdicts = {"holds": "**holds**", "does not hold": "does **not** hold", "not decidable": "not decidable"}
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, verdict, names in ((one, "does not hold", ("fig2", "table1")), (other, "holds", ("fig10000", "fig2"))):
        folder.mkdir()
        for name in names:
            made = [
                claim_row(verdict=verdict, about=f"{name} a|b"),
                claim_row("rare", verdict="not decidable", p_value=None),
            ]
            own = artefact_json(name, claims=made if name == "fig2" else made[:1], notes=["a note"])
            (folder / f"{name}.json").write_text(json.dumps(own))
    text = results.write_results([one, other], tmp_path, "made by a test").read_text()
    in_short = text[text.index("## In short") :].partition("## one")[0]
    cells = {(row[0], row[1]): row[2:] for name in ("fig2", "table1", "fig10000") for row in rows_with(in_short, name)}
    assert cells["fig2", "it holds"] == [f"fig2 a\\|b: {verdicts['does not hold']}", f"fig2 a\\|b: {verdicts['holds']}"]
    assert cells["fig2", "rare"] == ["DNN: not decidable"] * 2
    assert cells["table1", "it holds"][1] == "–" == cells["fig10000", "it holds"][0]
    sections = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert sections == ["table1", "fig2", "fig2", "fig10000"]
    row = next(line for line in text.splitlines() if line.startswith("| it holds | fig2"))
    half_width = student_t.ppf(0.975, 7) * 0.01
    assert f"| 0.500 ±{half_width:.3f} |" in row and row.endswith("| does **not** hold |")
    rare = next(line for line in text.splitlines() if line.startswith("| rare | DNN"))
    assert "| – | not decidable |" in rare and text.count("- a note") == 4


def test_a_folder_of_several_data_is_refused(tmp_path: Path) -> None:
    for name, print_ in (("fig1", "f"), ("fig2", "g")):
        (tmp_path / f"{name}.json").write_text(json.dumps(artefact_json(name, data_fingerprint=print_)))
    with pytest.raises(ValueError, match="different data, f, g"):
        results.artefacts_of(tmp_path)
    with pytest.raises(ValueError, match="no artefacts"):
        results.artefacts_of(tmp_path / "empty")


def test_other_tables_of_results(tmp_path: Path) -> None:
    """Half widths beside their numbers, AUCs to five digits, nothing for what is missing."""
    pl.DataFrame(
        {"name": ["a|b", "c"], "x": [0.123456, None], "x_half": [0.0234, None], "ours": [0.8, None], "n": [3, 1200]}
    ).write_csv(tmp_path / "some.csv")
    lines = results.table_of(tmp_path / "some.csv", "some").splitlines()
    assert lines[0] == "| name | x | ours | n |"
    assert lines[2:] == ["| a\\|b | 0.123 ±0.023 | 0.80000 | 3 |", "| c |  |  | 1,200 |"]


# Scaling


@pytest.mark.parametrize("known", [True, False])
def test_scaling(made: MadeUp, shown: Callable[[str], Shown], known: bool) -> None:
    """Regret where it is known, else log-loss; three sizes; the law of each line."""
    noise = {0: 1.0, 1: 1.001, 2: 0.999}
    for embed, scale, seed in itertools.product(("se", "me"), (1, 2, 4, 8), SEEDS):
        if scale > 1 or embed == "se":
            parameters = 1000 * scale + 60 + 10 * scale
            regret = noise[seed] * (parameters**-0.5 if embed == "me" else 1070**-0.5)
            more = {"truth": {"test": {"regret": regret}, "valid": {"regret": 9.0}}} if known else {}
            made.add("dnn", embed, scale, seed=seed, test_logloss=0.4 + regret, **more)
    output = shown("scaling")
    scaling.draw(made.runs, output)
    csv = output.csv()
    assert len(csv) == 2 * 4 * 3 and output.claims == []
    row = csv.filter(embed="me", scale=4, seed=1).row(0, named=True)
    regret = 1.001 * 4100**-0.5
    assert row["loss"] == pytest.approx(regret if known else 0.4 + regret, abs=1e-8)
    assert (row["parameters"], row["dense parameters"], row["FLOPs per sample"]) == (4100, 100, 1200)
    table = output.csv("scaling_laws")
    laws = {(row[table.columns[1]], row["of"]): row for row in table.iter_rows(named=True)}
    assert len(laws) == 6
    assert laws["SE", "parameters"]["law"] == "flat"
    if known:
        law = laws["ME", "parameters"]
        assert law["law"] == "power law" and "alpha 0.5" in law["with"] and "limit 0," in law["with"]
        low, high = map(float, law["95% interval of alpha"].split(" to "))
        assert 0.45 < low <= 0.5 <= high < 0.55
    first = output.drawn["scaling"].axes[0]
    drawn = lines_of(first)
    offset = 0 if known else 0.4
    expected = [offset + (1010 * s + 60) ** -0.5 for s in (1, 2, 4, 8)]
    assert drawn["ME"][0] == pytest.approx(expected)
    assert drawn["ME"][1][1] == pytest.approx(half([value * 2080**-0.5 for value in noise.values()]))
    assert ("regret" if known else "log-loss") in first.get_ylabel()


def test_three_sizes_have_no_law(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    table_runs(made, {"dnn": (0.0, 0.01)})
    output = shown("scaling")
    scaling.draw(made.runs, output)
    assert output.tables == [] and output.figures == ["scaling"]


def test_a_model_whose_dense_parameters_do_not_grow_is_drawn(made: MadeUp, shown: Callable[[str], Shown]) -> None:
    """No law of them, but of the others."""
    for scale, seed in itertools.product((1, 2, 4, 8), SEEDS):
        made.add("fm", scale=scale, seed=seed, parameters={"embedding": 36 * scale, "dense": 1})
    output = shown("scaling")
    scaling.draw(made.runs, output)
    assert "parameters" in output.csv("scaling_laws")["of"]


# What is missing

GIVEN = ["dataset=tiny", *SMALL_SYNTHETIC]


def trivial(runs: Runs, output: Output) -> None:
    """Draws a table, and claims something."""
    output.table(Table("n"), pl.DataFrame({"n": [len(runs.results)]}))
    output.claim([claims.Claim(f"said by {output.artefact}", "all", "number", Interval(0.5, 0.01), digits=3)])


def refusing(runs: Runs, output: Output) -> None:
    """Has drawn half of it when it finds something wrong."""
    trivial(runs, output)
    raise ValueError("these runs cannot be drawn")


def finish(job: Job) -> None:
    """What a run leaves."""
    config = job.config
    own = {
        "run_name": job.name, "run_id": job.run_id, "dataset": config.dataset.name, "model": config.model.name,
        "embed": config.embed.name, "scale": config.scale, "seed": config.seed, "split_seed": 0, "protocol": "paper",
        "regularizer": config.regularizer.name, "data_fingerprint": "f", "code_version": f"v{config.seed}",
    }  # fmt: skip
    write_result(job.run_dir, result() | own)


@pytest.fixture
def finishes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models whose runs are finished when they are started; nothing is trained, priced, or read of the data."""
    models: list[str] = []

    def start(plan: Plan, jobs: Sequence[Job], status: Any) -> None:
        for job in jobs:
            if job.config.model.name in models:
                finish(job)

    def unfinished(plan: Plan) -> list[Job]:
        return [job for job in plan.jobs if read_result(job.run_dir, job.run_id) is None]

    monkeypatch.setattr(study, "start", start)
    monkeypatch.setattr(study, "check", unfinished)
    monkeypatch.setattr("experiments.price.price", lambda plan, missing: None)
    monkeypatch.setattr("experiments.price.show_price", lambda price: None)
    return models


def test_an_artefact_whose_runs_are_missing_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and no file; 0 and all of them when the runs are there; 2, and no claims, when it cannot be drawn."""
    folder = tmp_path / "paper" / "tiny"
    argv = ["fig6", *GIVEN, "scale=1", "seed=0,1", f"output_dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", argv)
    finishes.append("dcnv2")
    assert study.main(Artefact("fig6", trivial), "doc") == 1
    assert "fig6 is not drawn" in capsys.readouterr().err and not folder.exists()
    finishes.append("dnn")
    monkeypatch.setattr("sys.argv", [*argv, "--plan"])
    assert study.main(Artefact("fig6", trivial), "doc") == 0 and not folder.exists()
    monkeypatch.setattr("sys.argv", argv)
    assert study.main(Artefact("fig6", trivial), "doc") == 0
    found = json.loads((folder / "fig6.json").read_text())
    assert found["seeds"] == [0, 1] and len(found["runs"]) == 4 == len({*found["runs"]})
    assert found["run_versions"] == ["v0", "v1"] and found["data_fingerprint"] == "f" and found["dataset"] == "tiny"
    assert [claim["verdict"] for claim in found["claims"]] == ["holds"] and found["tables"] == ["fig6"]
    assert pl.read_csv(folder / "fig6.csv")["n"].item() == 4
    assert study.main(Artefact("fig6", refusing), "doc") == 2
    assert "these runs cannot be drawn" in capsys.readouterr().err and not (folder / "fig6.json").exists()


def test_the_paper_draws_what_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the others drawn and in RESULTS.md, an older file of what is missing removed, all of it named."""
    folder, toy = tmp_path / "paper" / "tiny", tmp_path / "paper" / "toy"
    artefacts = (
        Artefact("table1", refusing, any_model=True), Artefact("fig2", trivial), Artefact("fig6", trivial),
        Artefact("fig1", trivial, any_model=True),
    )  # fmt: skip
    monkeypatch.setattr(paper, "ARTEFACTS", artefacts)
    monkeypatch.setattr(paper.table2, "table2", lambda config, words: None)
    monkeypatch.setattr(paper, "draw_toy", lambda output_dir, words: None)
    for place, name in ((toy, "fig4"), (folder, "fig6"), (folder, "table1"), (folder, "fig2")):
        place.mkdir(parents=True, exist_ok=True)
        old = artefact_json(name, notes=["an older one"] * (name != "fig4"))
        (place / f"{name}.json").write_text(json.dumps(old))
    finishes.append("dcnv2")
    argv = [*GIVEN, "model=dcnv2", "scale=2", "seed=0", f"output_dir={tmp_path}"]
    assert paper.run(argv) == 1
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("not drawn"))
    assert "fig6" in said and "table1 (these runs cannot be drawn)" in said
    assert "fig1" not in said and "fig2" not in said
    assert {path.stem for path in folder.glob("*.json")} == {"fig1", "fig2"}
    text = (folder / "RESULTS.md").read_text()
    assert "### fig2" in text and "### fig1" in text and "### fig4" in text and "an older one" not in text
    assert "### fig6" not in text and "### table1" not in text
    finishes.append("dnn")
    monkeypatch.setattr(paper, "ARTEFACTS", artefacts[1:3])
    assert paper.run(argv) == 0
    assert {path.stem for path in folder.glob("*.json")} == {"fig1", "fig2", "fig6"}
