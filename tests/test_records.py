"""What a run leaves: whole files or none, results that can be trusted, and the tables and figures made from them."""

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys_collapse.callback.spectrum import SPECTRA
from recsys_collapse.module import DivergedError
from recsys_collapse.runs import figure, table
from recsys_collapse.runs.cells import cells
from recsys_collapse.runs.durable import exclusive, seal, write, write_json, write_parquet, write_text
from recsys_collapse.runs.records import (
    FILES,
    REQUIRED,
    SCHEMA,
    clear,
    damage,
    read_failure,
    read_result,
    write_failure,
    write_result,
)


def abundance(whole: float | None, *per_set: float | None, random: float = 2.0) -> dict[str, Any]:
    seen = {"rows": 3, "whole": whole, "random": 4 * random}
    return {"whole": whole, "per_set": list(per_set), "random": random, "random_per_set": 4.0, "seen": seen}


def result(**changes: Any) -> dict[str, Any]:
    """A valid result of dnn at 1x; `lr` and `data` go into its identity."""
    lr, data = changes.pop("lr", 0.001), changes.pop("data", "f")
    found = dict.fromkeys(REQUIRED) | {
        "schema": SCHEMA, "dataset": "clicks", "model": "dnn", "embed": "se", "scale": 1, "num_sets": 1,
        "embed_size": 2, "seed": 0, "val_auc": 0.75, "test_auc": 0.7, "test_logloss": 0.5, "best_epoch": 1,
        "parameters": {"embedding": 1234, "dense": 56}, "wall_seconds": 2.0,
        "information_abundance": {"a": abundance(1.0, 1.0)},
    } | changes  # fmt: skip
    found["identity"] = {"seed": found["seed"], "data": data, "optimizer": {"lr": lr, "name": "adam"}}
    found["run_name"] = "-".join(str(found[key]) for key in ("model", "embed", "scale", "seed"))
    return found | {"run_id": f"id of {found['run_name']}"}


def save(output_dir: Path, found: dict[str, Any]) -> Path:
    run_dir = output_dir / "runs" / found["run_name"]
    write_result(run_dir, found)
    return run_dir


def left(folder: Path) -> list[str]:
    """Everything in a folder that is not a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    target = tmp_path / "new" / "folder" / "a.txt"
    with pytest.raises(KeyboardInterrupt):
        write(target, fail)
    assert left(tmp_path) == []
    write_text(target, "é, whole")
    with pytest.raises(KeyboardInterrupt):
        write(target, fail)
    assert left(tmp_path) == ["new/folder/a.txt"]
    assert target.read_bytes() == "é, whole".encode()
    write_text(target, "other")
    assert target.read_text() == "other"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        after = os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert after == mask


def test_json_is_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None, "é"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None, "é"]}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(tmp_path / "b.json", {"a": value})
    assert left(tmp_path) == ["a.json"]


def test_a_valid_result_is_read(tmp_path: Path) -> None:
    found = result(test_auc=None)
    run_dir = save(tmp_path, found)
    assert read_result(run_dir) == read_result(run_dir, found["run_id"]) == seal(found)


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{}", '{"schema": 1}'])
def test_an_invalid_result_is_not_a_finished_run(tmp_path: Path, text: str) -> None:
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    assert read_result(tmp_path) is None


def test_a_truncated_result_is_not_a_finished_run(tmp_path: Path) -> None:
    file = save(tmp_path, result()) / "result.json"
    whole = file.read_bytes().rstrip()
    for size in (len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert read_result(file.parent) is None
    file.write_bytes(b"\xff" + whole)
    assert read_result(file.parent) is None


@pytest.mark.parametrize("key", REQUIRED)
def test_a_result_without_a_key_is_not_a_finished_run(tmp_path: Path, key: str) -> None:
    found = result()
    write_json(tmp_path / "result.json", {name: value for name, value in found.items() if name != key})
    assert read_result(tmp_path) is None


def test_a_foreign_result_is_not_this_run(tmp_path: Path) -> None:
    assert read_result(save(tmp_path, result()), "another id") is None
    assert read_result(save(tmp_path, result(schema=SCHEMA + 1))) is None


def test_clear_removes_what_a_run_writes_and_nothing_else(tmp_path: Path) -> None:
    for name in (*FILES, "notes.txt", "checkpoints/mine.ckpt", "wandb/run.log"):
        write_text(tmp_path / name, "x")
    clear(tmp_path)
    assert left(tmp_path) == ["checkpoints/mine.ckpt", "notes.txt", "wandb/run.log"]
    clear(tmp_path / "nowhere")


def test_one_process_works_on_a_run(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / ".lock", "waits"),
        (tmp_path / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failure_is_recorded(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    try:
        raise ValueError("the reason") from KeyError("the cause")
    except ValueError as error:
        write_failure(tmp_path / "dnn-se-1x", error)
    found = read_failure(tmp_path / "dnn-se-1x")
    assert found is not None
    assert (found["run_name"], found["reason"]) == ("dnn-se-1x", "ValueError: the reason")
    assert (found["step"], found["lr"], found["schema"]) == (None, None, SCHEMA)
    assert "the cause" in found["traceback"]
    assert Path(__file__).name in found["traceback"]
    assert read_result(tmp_path / "dnn-se-1x") is None


def test_a_diverged_run_says_where(tmp_path: Path) -> None:
    write_failure(tmp_path, DivergedError(37, 0.5))
    found = read_failure(tmp_path)
    assert found is not None
    assert (found["step"], found["lr"]) == (37, 0.5)
    assert "step 37 with learning rate 0.5" in found["reason"]


def test_spread() -> None:
    assert table.spread([0.5], 3) == "0.500"
    assert table.spread([1.0, 2.0, 3.0], 2) == "2.00 ±1.00"
    assert table.spread([0.70001, 0.70003], 5) == "0.70002 ±0.00001"
    assert table.spread([], 2) == table.spread([None], 2) == table.spread([0.5, None], 2) == "–"


def test_relative_abundance() -> None:
    fields = {"a": abundance(1.0, 1.0, 3.0), "b": abundance(None, None, 2.0), "c": abundance(3.0, None, random=6.0)}
    found = table.relative_abundance(result(information_abundance=fields))
    assert {key: round(value, 9) for key, value in found.items()} == {
        "ia_relative": 0.5,
        "ia_relative_seen": 0.125,
        "ia_relative_per_set": 0.5,
    }
    nothing = table.relative_abundance(result(information_abundance={"a": abundance(None, None)}))
    assert nothing == {"ia_relative": None, "ia_relative_seen": None, "ia_relative_per_set": None}


def test_cells_hold_the_seeds_in_the_order_of_the_table() -> None:
    wanted = [("dnn", 1, "base", 2), ("dnn", 2, "SE", 1), ("dnn", 2, "ME", 2), ("dnn", 10, "ME", 1)]
    wanted.append(("fm", 1, "base", 1))
    results = [
        result(model=model, scale=scale, embed="me" if label == "ME" else "se", seed=seed)
        for model, scale, label, seeds in wanted
        for seed in range(seeds)
    ]
    found = cells(results[::-1])
    assert [(cell.model, cell.scale, cell.label, len(runs)) for cell, runs in found.items()] == wanted
    assert [sorted(run["seed"] for run in runs) for runs in found.values()] == [list(range(n)) for *_, n in wanted]
    assert {cell.other for cell in found} == {()}


def test_a_name_stands_for_the_options_of_a_section(tmp_path: Path) -> None:
    """Only options in which runs of one name differ stand beside it."""
    adam, other = result(optimizer="adam"), result(optimizer="adagrad")
    other["identity"]["optimizer"] = {"table": {"lr": 0.1}, "dense": {"lr": 0.1}}
    found = [cell.other for cell in cells([adam, other])]
    assert found == [(("optimizer", "adagrad"),), (("optimizer", "adam"),)]
    faster = result(lr=0.01, optimizer="adam")
    found = [cell.other for cell in cells([adam, other, faster])]
    names = [("–", "adagrad"), ("0.001", "adam"), ("0.01", "adam")]
    assert sorted(found) == [(("optimizer", name), ("optimizer.lr", lr)) for lr, name in names]
    slower = result(optimizer="adagrad")
    slower["identity"]["optimizer"] = {"table": {"lr": 0.2}, "dense": {"lr": 0.2}}
    table.show(table.sweep_table([adam, other, slower], title=""), tmp_path / "table.txt")
    text = (tmp_path / "table.txt").read_text()
    assert all(word in text for word in (" dense.lr ", " table.lr ", " optimizer ", "│ 0.1 ", "│ 0.2 "))
    assert "…" not in text


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    found = cells([result(lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in (0, 1)])
    both = [(("optimizer.lr", "0.1"),), (("optimizer.lr", "0.2"),)]
    assert [(cell.other, len(runs)) for cell, runs in found.items()] == [(other, 2) for other in both]
    by_data = cells([result(data="f"), result(data="g")])
    assert [cell.other for cell in by_data] == [(("data", "f"),), (("data", "g"),)]
    by_cause = cells([result(data="f", lr=0.1), result(data="g", lr=0.2)])
    assert [cell.other for cell in by_cause] == both
    crossed = cells([result(data=data, lr=lr) for data in "fg" for lr in (0.1, 0.2)])
    assert [len(runs) for runs in crossed.values()] == [1, 1, 1, 1], "two data sets are no two seeds"


def test_the_table_shows_mean_and_spread(tmp_path: Path, capsys) -> None:
    runs = [result(seed=seed, test_auc=0.7 + seed / 100) for seed in (0, 1)]
    runs += [result(scale=4, embed="me", num_sets=4, lr=lr, test_auc=None) for lr in (0.1, 0.2)]
    table.show(table.sweep_table(runs, title="my sweep"), tmp_path / "table.txt")
    text = (tmp_path / "table.txt").read_text()
    assert ("my sweep" in text, "my sweep" in capsys.readouterr().out) == (True, True)
    rows = [line.split() for line in text.splitlines()]
    rows = [[word.strip("│┃") for word in row if word.strip("│┃")] for row in rows if "dnn" in row]
    assert [row[:3] for row in rows] == [["dnn", "1x", "base"], ["dnn", "4x", "ME"], ["dnn", "4x", "ME"]]
    base = "2 0.70500 ±0.00707 0.50000 ±0.00000 0.75000 ±0.00000 0.500 ±0.000 0.125 ±0.000 0.250 ±0.000 1,234 56 1,1"
    assert base in " ".join(rows[0])
    assert [row[3:6] for row in rows[1:]] == [["0.1", "1", "–"], ["0.2", "1", "–"]]


def test_results_are_rebuilt_from_the_runs(tmp_path: Path) -> None:
    results = [result(seed=seed, test_auc=None if seed else 0.7) for seed in range(2)]
    assert all(save(tmp_path, found) for found in results)
    write_text(tmp_path / "runs" / "unfinished" / "result.json", "{")
    table.rebuild(tmp_path)
    frame = pl.read_parquet(tmp_path / "results.parquet")
    assert frame["run_name"].to_list() == sorted(found["run_name"] for found in results)
    assert frame.select("test_auc", "embedding_parameters", "ia_relative").row(0) == (0.7, 1234, 0.5)
    with (tmp_path / "results.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == frame.columns
    assert rows == [["" if value is None else str(value) for value in row] for row in frame.rows()]
    save(tmp_path, result(seed=2))
    table.rebuild(tmp_path)
    assert len(pl.read_parquet(tmp_path / "results.parquet")) == 3


def test_a_sweep_that_ends_meanwhile_is_not_lost(tmp_path: Path, monkeypatch) -> None:
    """What is there once the lock is ours counts, not what was there while another held it."""
    save(tmp_path, result())

    @contextmanager
    def waits(lock: Path, doing: str, *, enabled: bool) -> Iterator[None]:
        save(tmp_path, result(seed=1))
        yield

    monkeypatch.setattr(table, "exclusive", waits)
    table.rebuild(tmp_path)
    assert len(pl.read_parquet(tmp_path / "results.parquet")) == 2


def write_spectra(output_dir: Path, run: dict[str, Any], fields: dict[str, list[float | None]]) -> Path:
    """Spectra at the best epoch; epoch 0 and the single sets, which do not count, are all 7."""
    rows = [(1, name, None, i, value) for name, values in fields.items() for i, value in enumerate(values)]
    rows += [(e, name, m, i, 7.0) for name in fields for e, m in ((0, None), (1, 0)) for i in range(2)]
    path = output_dir / "runs" / run["run_name"] / "spectra.parquet"
    write_parquet(path, pl.DataFrame(rows, schema=SPECTRA, orient="row"))
    return path


def test_median_spectrum_is_over_the_fields_with_enough_rows(tmp_path: Path) -> None:
    run = result(embed_size=1, num_sets=2)
    path = write_spectra(tmp_path, run, {"a": [4.0, 1.0], "b": [2.0, 1.0], "c": [8.0, 7.9], "one value": [3.0]})
    assert np.allclose(figure._median_spectrum(run, path), [1.0, 0.5])
    assert figure._median_spectrum(run, tmp_path / "nowhere") is None


@pytest.mark.parametrize("collapsed", [[0.0, 0.0], [None, None]])
def test_a_collapsed_field_does_not_end_the_figure(tmp_path: Path, collapsed: list[float | None]) -> None:
    """A table of zeros has no normalised spectrum; the other fields have."""
    run = result()
    path = write_spectra(tmp_path, run, {"a": [4.0, 1.0], "b": collapsed})
    assert np.allclose(figure._median_spectrum(run, path), [1.0, 0.25])
    write_spectra(tmp_path, run, {"b": collapsed})
    assert [file.stat().st_size > 0 for file in figure.draw([run], tmp_path, tmp_path / "f")] == [True, True]


def test_the_figure_shows_every_model(tmp_path: Path) -> None:
    runs = [result(model=m, scale=s, embed=e) for m in ("dnn", "fm") for s, e in ((1, "se"), (4, "se"), (4, "me"))]
    runs.append(result(seed=1))
    for run in runs[:3]:  # fm has no spectra
        write_spectra(tmp_path, run, {"a": [4.0, 1.0]})
    svg, png = figure.draw(runs, tmp_path, tmp_path / "sweeps" / "auc")
    assert (svg, png) == (tmp_path / "sweeps" / "auc.svg", tmp_path / "sweeps" / "auc.png")
    drawn = svg.read_text()
    for words in ("dnn on clicks", "fm on clicks", "SE 4x", "ME 4x", "base"):
        assert f"<!-- {words} -->" in drawn, words
    assert png.read_bytes().startswith(b"\x89PNG")
    _, again = figure.draw(runs, tmp_path, tmp_path / "again")
    _, shifted = figure.draw([run | {"test_auc": run["scale"] / 10} for run in runs], tmp_path, tmp_path / "shifted")
    assert again.read_bytes() == png.read_bytes() != shifted.read_bytes()


def test_a_hostile_result_is_no_formula_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(optimizer="=cmd('x')", regularizer="@SUM(A1)", protocol="[red]x[/red]")
    save(tmp_path, found)
    table.rebuild(tmp_path)
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (row["optimizer"], row["regularizer"]) == ("'=cmd('x')", "'@SUM(A1)")
    assert float(row["val_auc"]) == 0.75 and row["protocol"] == "[red]x[/red]"
    moved = tmp_path / "runs" / "elsewhere"
    (tmp_path / "runs" / found["run_name"]).rename(moved)
    assert read_result(moved) is None and "is of run dnn-se-1-0" in str(damage(moved))
