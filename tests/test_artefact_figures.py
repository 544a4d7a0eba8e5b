"""The numbers of the figures on made-up runs: each estimate, its sign, its verdict, the CSV, and what is drawn."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from experiments import (
    fig1,
    fig2,
    fig3,
    fig5,
    fig6,
    fig8a,
    fig8b,
    fig8c,
    fig8d,
    sub_embeddings,
)
from experiments.claims import FAILS, HOLDS, OPEN
from experiments.found import Runs
from recsys_collapse.similarity import random_pattern_divergence
from tests.made_up import CARDINALITY, NOISE, ONE_SET, RANDOM, SEEDS, SHIFT, SPREAD, MadeUp, Shown, epoch_rows, lines_of
from tests.oracles import half, is_student_of, slope, spearman


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "out")


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], Shown]:
    return lambda name: Shown(tmp_path / "paper", name)


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
