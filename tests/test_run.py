"""A whole sweep through the command line: what it prints, what every run leaves, and that the numbers agree."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recsys_collapse.dataset.split import split_rows
from recsys_collapse.spectrum import random_information_abundance
from tests.cli import SMALL, run, write_clicks

CONTRACT = [
    "schema",
    "run_id",
    "run_name",
    "sweep",
    "model",
    "embed",
    "scale",
    "num_sets",
    "embed_size",
    "dataset",
    "data_fingerprint",
    "seed",
    "split_seed",
    "optimizer",
    "regularizer",
    "protocol",
    "init",
    "match",
    "val_auc",
    "test_auc",
    "val_logloss",
    "test_logloss",
    "best_epoch",
    "num_epochs",
    "parameters",
    "flops_per_sample",
    "information_abundance",
    "wall_seconds",
    "samples_per_second",
    "code_version",
    "environment",
    "null_reasons",
]


class Sweep(NamedTuple):
    arguments: list[str]
    done: CompletedProcess[str]
    folder: Path
    runs: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    data = write_clicks(folder / "clicks.csv")
    arguments = ["-m", "model=dcnv2,dnn", "scale=1,2", "embed=se,me", "seed=0,1", "optimizer.lr=0.01", *data, *SMALL]
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    results = {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("outputs/runs/*/result.json"))}
    return Sweep(arguments, done, folder, results)


def test_grid_and_names(sweep: Sweep) -> None:
    names = {name.rpartition("-")[0] for name in sweep.runs}
    cells = ("se-1x", "se-2x", "me-2x")  # SE and ME at 1x are one run
    assert names == {f"{m}-{c}-clicks-s{s}" for m in ("dcnv2", "dnn") for c in cells for s in (0, 1)}
    assert (
        ": 12 runs (16 cells of the grid), 0 finished before" in sweep.done.stdout
        and sweep.done.stdout.count(": starts") == 12
    )
    for name, result in sweep.runs.items():
        assert name == result["run_name"] and name.endswith(result["run_id"][:8])
        assert result["num_sets"] * result["embed_size"] == 10 * result["scale"]
        assert result["num_sets"] == (2 if result["embed"] == "me" else 1)


def test_table_and_figure_are_shown(sweep: Sweep) -> None:
    lines = sweep.done.stdout.splitlines()
    for cell in (("1x", "base"), ("2x", "SE"), ("2x", "ME")):
        shown = [line for line in lines if all(f"│ {word} " in line.replace("  ", " ") for word in cell)]
        assert len(shown) == 2 and all("±" in line for line in shown), cell
    paths = next(line for line in lines if line.startswith("figure")).split()[1:]
    assert [Path(path).suffix for path in paths] == [".svg", ".png"]
    assert all((sweep.folder / path).stat().st_size > 5000 for path in paths)


def test_table_of_fields_is_shown(sweep: Sweep) -> None:
    """IA/random of every field and cell, and its mean, which is what the sweep's table has."""
    (line,) = [line for line in sweep.done.stdout.splitlines() if line.startswith("fields")]
    pattern, parquet = line.split()[1:]
    folder = (sweep.folder / parquet).parent
    assert folder.parent == sweep.folder / "outputs" / "sweeps"
    words = ["", "_centred", "_seen", "_seen_centred", "_unit_norm"]
    assert sorted(path.name for path in sweep.folder.glob(pattern)) == sorted(f"fields{word}.txt" for word in words)
    frame = pl.read_parquet(sweep.folder / parquet)
    assert set(frame["cell"]) == {
        f"{model} {cell}" for model in ("dcnv2", "dnn") for cell in ("base", "SE 2x", "ME 2x")
    }
    for result in sweep.runs.values():
        label = "base" if result["scale"] == 1 else f"{result['embed'].upper()} 2x"
        own = frame.filter(cell=f"{result['model']} {label}", seed=result["seed"], metric="information_abundance")
        assert set(own["epoch"]) == {result["best_epoch"]}
        whole = {field: ia["whole"] / ia["random"] for field, ia in result["information_abundance"].items()}
        found = own.filter(pl.col("embedding_set").is_null()).select("field", "relative").rows()
        assert dict(found) == pytest.approx(whole, rel=1e-12)
    text, printed = (folder / "fields.txt").read_text(), sweep.done.stdout
    assert all(
        line.rstrip() in printed for line in text.splitlines() if line.startswith(("│ user", "│ item", "│ mean"))
    )
    assert "seen, best epoch" not in printed and "seen, best epoch" in (folder / "fields_seen.txt").read_text()


def test_results_table_holds_every_run(sweep: Sweep) -> None:
    table = pl.read_parquet(sweep.folder / "outputs" / "results.parquet")
    assert set(table["run_name"]) == set(sweep.runs)
    for row in table.iter_rows(named=True):
        result = sweep.runs[row["run_name"]]
        assert row["test_auc"] == result["test_auc"] and row["dense_parameters"] == result["parameters"]["dense"]
        whole = [ia["whole"] / ia["random"] for ia in result["information_abundance"].values()]
        assert row["ia_relative"] == pytest.approx(np.mean(whole), rel=1e-12)
    assert (sweep.folder / "outputs" / "results.csv").read_text().count("\n") == len(sweep.runs) + 1


def test_every_run_keeps_the_contract(sweep: Sweep) -> None:
    for name, result in sweep.runs.items():
        folder = sweep.folder / "outputs" / "runs" / name
        assert set(CONTRACT) <= set(result)
        epochs = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in epochs] == list(range(-1, result["num_epochs"]))
        best = max(epochs[1:], key=lambda record: record["val_auc"])
        assert best["epoch"] == result["best_epoch"]
        assert best["val_auc"] == result["val_auc"], "the best checkpoint scores as its epoch did"
        assert (folder / "config.yaml").is_file() and not (folder / "failure.json").exists()
        assert (folder / "figures" / "spectra.png").read_bytes().startswith(b"\x89PNG")


def test_scores_give_the_metrics(sweep: Sweep) -> None:
    for name, result in sweep.runs.items():
        splits = split_rows(1200, split_seed=0)
        for part, key in (("valid", "val"), ("test", "test")):
            scores = pl.read_parquet(sweep.folder / "outputs" / "runs" / name / f"{part}_scores.parquet")
            assert scores["row_id"].to_list() == splits[part].tolist()
            probability = 1 / (1 + np.exp(-scores["logit"].to_numpy().astype(float)))
            assert result[f"{key}_auc"] == pytest.approx(roc_auc_score(scores["label"], scores["logit"]), abs=1e-12)
            assert result[f"{key}_logloss"] == pytest.approx(log_loss(scores["label"], probability), abs=1e-9)
    assert np.mean([result["test_auc"] for result in sweep.runs.values()]) > 0.55, "the label can be learned"


def test_spectra_are_those_of_the_best_weights(sweep: Sweep) -> None:
    for name, result in sweep.runs.items():
        folder = sweep.folder / "outputs" / "runs" / name
        state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        table = state["backbone.embedding.weight"].double().numpy()
        spectra = pl.read_parquet(folder / "spectra.parquet").filter(pl.col("epoch") == result["best_epoch"])
        collapse = pl.read_parquet(folder / "collapse.parquet")
        start = 0
        for field, ia in result["information_abundance"].items():
            at_best = collapse.filter(pl.col("embedding_set").is_null(), field=field, epoch=result["best_epoch"])
            whole = at_best.filter(metric="information_abundance")
            rows = slice(start, start := start + whole["cardinality"].item())
            assert whole["value"].item() == ia["whole"] and whole["random_value"].item() == ia["random"]
            seen = at_best.filter(metric="information_abundance@seen")
            found = dict(
                zip(("rows", "whole", "random"), seen["cardinality", "value", "random_value"].row(0), strict=True)
            )
            assert found == ia["seen"]
            sets = [(None, table[rows])]
            if result["num_sets"] > 1:
                sets += enumerate(np.split(table[rows], result["num_sets"], axis=1))
            for m, matrix in sets:
                sigma = np.linalg.svd(matrix, compute_uv=False)
                own = pl.col("embedding_set").is_null() if m is None else pl.col("embedding_set") == m
                found = spectra.filter((pl.col("field") == field) & own).sort("index")["singular_value"].to_numpy()
                np.testing.assert_allclose(found, sigma, atol=1e-7 * sigma[0])
                expected = ia["whole"] if m is None else ia["per_set"][m]
                assert expected == pytest.approx(sigma.sum() / sigma[0], rel=1e-6)
        assert start == len(table)
        assert set(spectra["embedding_set"].unique()) == ({None} if result["num_sets"] == 1 else {None, 0, 1})
        initial = collapse.filter(epoch=-1, metric="information_abundance")
        assert (initial["value"] / initial["random_value"]).mean() == pytest.approx(1, abs=0.15)


def test_same_command_skips_everything(sweep: Sweep) -> None:
    files = sorted(path for path in sweep.folder.glob("outputs/runs/*/*") if path.name != ".lock")
    before = [path.stat().st_mtime_ns for path in files]
    again = run(*sweep.arguments, cwd=sweep.folder)
    assert again.returncode == 0
    assert "12 runs (16 cells of the grid), 12 finished before" in again.stdout and "starts" not in again.stdout
    assert [path.stat().st_mtime_ns for path in files] == before


def test_same_numbers_bit_for_bit_elsewhere(sweep: Sweep, tmp_path: Path) -> None:
    """Another directory, another copy of the data, another hash seed; only one job, so nothing ran before it."""
    data = write_clicks(tmp_path / "clicks.csv")
    arguments = ["model=dcnv2", "scale=2", "embed=me", "seed=1", "optimizer.lr=0.01", *data, *SMALL]
    done = run(*arguments, cwd=tmp_path, PYTHONHASHSEED="7", POLARS_MAX_THREADS="1")
    assert done.returncode == 0, done.stderr
    (one,) = (tmp_path / "outputs" / "runs").iterdir()
    other = sweep.folder / "outputs" / "runs" / one.name
    for name in ("spectra", "collapse", "valid_scores", "test_scores"):
        assert pl.read_parquet(one / f"{name}.parquet").equals(
            pl.read_parquet(other / f"{name}.parquet"), null_equal=True
        )
    weights = [torch.load(p / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for p in (one, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_seeds_differ(sweep: Sweep) -> None:
    by_seed = [{r["test_logloss"] for r in sweep.runs.values() if r["seed"] == seed} for seed in (0, 1)]
    assert not by_seed[0] & by_seed[1]


def test_what_a_finished_run_has_not_measured_is_said(sweep: Sweep) -> None:
    """And a wrong option is an error, though nothing would be run."""
    again = run(*sweep.arguments, "callback=[spectrum,pair_norm]", cwd=sweep.folder)
    assert again.returncode == 0 and "12 runs (16 cells of the grid), 12 finished before" in again.stdout
    assert "not measured then: callback.pair_norm; remove outputs/runs/" in again.stdout
    assert not list(sweep.folder.rglob("pair_norm.parquet"))
    wrong = run(*sweep.arguments, "callback.spectrum.variants=[sen]", cwd=sweep.folder)
    assert wrong.returncode == 2 and "unknown word 'sen'" in wrong.stderr


def test_random_values_are_those_of_the_initialisation(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    done = run("model=dnn", "init=normal", *data, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/result.json")
    frame = pl.read_parquet(path.parent / "collapse.parquet").filter(metric="information_abundance", epoch=-1)
    for field, found in json.loads(path.read_text())["information_abundance"].items():
        (row,) = frame.filter(field=field).rows(named=True)
        expected = random_information_abundance(row["cardinality"], 10, "normal")
        assert found["random"] == row["random_value"] == expected
        assert expected != random_information_abundance(row["cardinality"], 10, "uniform")
