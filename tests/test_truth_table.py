"""What runs on data whose answer is known report beside the rest, and the table after a sweep."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
import torch

from recsys_collapse.dataset.store import open_store
from recsys_collapse.runs.truth import show_truth
from recsys_collapse.truth import against_truth
from tests.cli import SMALL, SMALL_SYNTHETIC, run, write_clicks
from tests.test_records import result

COMPONENTS = ["linear", "pattern1", "pattern2", "pattern3", "pattern4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep on synthetic rows, and a run on a table."""
    path = tmp_path_factory.mktemp("truth")
    words = ["model=dnn", "callback=[]", *SMALL]
    done = run("-m", *words, "scale=2", "embed=se,me", "group=mine", *SMALL_SYNTHETIC, cwd=path)
    assert done.returncode == 0, done.stderr
    (path / "out.txt").write_text(done.stdout)
    done = run(*words, *write_clicks(path / "clicks.csv"), cwd=path)
    assert done.returncode == 0, done.stderr
    assert "against the truth" not in done.stdout
    return path


def results(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/runs/*/result.json")]
    return {f"{one['dataset']}-{one['embed']}-{one['scale']}": one for one in found}


def test_a_run_reports_what_its_scores_and_the_store_say(folder: Path) -> None:
    found = results(folder)
    assert {*found} == {"mini-se-2", "mini-me-2", "clicks-se-1"}
    assert "truth" not in found["clicks-se-1"]
    one = found["mini-me-2"]
    (path,) = folder.glob(f"outputs/stores/*-{one['data_fingerprint']}")
    store = open_store(path)
    assert store.truth is not None
    for part in ("valid", "test"):
        scores = pl.read_parquet(folder / "outputs" / "runs" / one["run_name"] / f"{part}_scores.parquet")
        expected = against_truth(
            torch.tensor(scores["logit"].to_numpy()),
            torch.tensor(scores["label"].to_numpy()),
            store.truth[torch.tensor(scores["row_id"].to_numpy())],
            store.manifest()["answer"]["coefficients"],
        )
        assert one["truth"][part] == expected
        assert list(expected["learned"]) == COMPONENTS
        assert expected["bayes_logloss"] < one[{"valid": "val"}.get(part, part) + "_logloss"]


def test_the_results_table_has_it_where_it_is_known(folder: Path) -> None:
    with (folder / "outputs" / "results.csv").open() as file:
        rows = {f"{row['dataset']}-{row['embed']}-{row['scale']}": row for row in csv.DictReader(file)}
    assert float(rows["mini-se-2"]["test_regret"]) == results(folder)["mini-se-2"]["truth"]["test"]["regret"]
    names = [f"test_{name}" for name in ("bayes_auc", "bayes_logloss", "regret", "auc_regret")]
    assert [rows["clicks-se-1"][name] for name in names] == [""] * 4


def test_the_sweep_ends_with_the_table(folder: Path) -> None:
    text = (folder / "outputs" / "sweeps" / "mine" / "truth.txt").read_text()
    assert text in (folder / "out.txt").read_text()
    for name, one in (("dnn SE 2x", "mini-se-2"), ("dnn ME 2x", "mini-me-2")):
        (line,) = [line for line in text.splitlines() if name in line]
        test = results(folder)[one]["truth"]["test"]
        numbers = [f"{test['auc_regret']:.5f}", f"{test['regret']:.5f}"]
        numbers += [f"{test['learned'][component]['r2']:.3f}" for component in COMPONENTS]
        assert [word.strip() for word in line.strip("│").split("│")] == [name, "1", *numbers]


def known(seed: int = 0, components: tuple[str, ...] = ("linear",), best: float = 0.47, **more: object) -> dict:
    learned = {name: {"r2": 0.25 + seed / 10, "slope": 1.0} for name in components}
    test = {"bayes_auc": 0.8, "bayes_logloss": best, "regret": 0.05 + seed, "auc_regret": 0.125, "learned": learned}
    return result(seed=seed, **({"dataset": "mini"} | more)) | {"truth": {"valid": test, "test": test}}


def test_seeds_are_averaged_and_data_sets_kept_apart(tmp_path: Path) -> None:
    mine = [known(0), known(1), known(0, ("linear", "pattern1"), dataset="other"), result(dataset="a table")]
    paths = show_truth(mine, tmp_path)
    assert [path.name for path in paths] == ["truth_mini.txt", "truth_other.txt"]
    first, second = (path.read_text() for path in paths)
    assert "0.12500 ±0.00000" in first and "0.55000 ±0.70711" in first and "0.300 ±0.071" in first
    assert "best possible AUC 0.80000, log-loss 0.47000" in first and "pattern1" not in first
    assert "other against the truth" in second and "pattern1" in second
    assert show_truth([result()], tmp_path) == []


def test_data_that_differs_has_no_one_best_and_may_have_other_components(tmp_path: Path) -> None:
    two = [known(0, data="f"), known(0, ("linear", "pattern1"), best=0.5, data="g")]
    (path,) = show_truth(two, tmp_path)
    assert "best possible" not in path.read_text()
    lines = [line for line in path.read_text().splitlines() if "dnn base" in line]
    assert [[word.strip() for word in line.strip("│").split("│")][-2:] for line in lines] == [
        ["0.250", "–"],
        ["0.250", "0.250"],
    ]
