"""The numbers of Table 1, of scaling and of RESULTS.md on made-up runs."""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student_t

from experiments import (
    results,
    scaling,
    table1,
)
from experiments.claims import FAILS, HOLDS, OPEN
from experiments.found import Cell
from recsys_collapse.stats import student
from tests.made_up import NOISE, SEEDS, MadeUp, Shown, artefact_json, claim_row, lines_of
from tests.oracles import half, naive


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "out")


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], Shown]:
    return lambda name: Shown(tmp_path / "paper", name)


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
            assert found[shown_as].margin == (1e-4 if found[shown_as].kind in ("at most", "within") else 0)
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
    assert {"0.81102", "0.81222", "0.00002", "not reached"} <= {*row} and any(c.startswith("-0.00120 ±") for c in row)
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
