"""The table of fields after a sweep, made from collapse files and results that were made up."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys_collapse.callback.spectrum import COLLAPSE
from recsys_collapse.runs import fields as room
from recsys_collapse.runs import table
from recsys_collapse.runs.durable import write_parquet
from recsys_collapse.runs.fields import field_frame, field_table, show_fields
from tests.test_records import result

IA = "information_abundance"
Values = dict[tuple[str, int | None], float | None]


def measured(output_dir: Path, run: dict[str, Any], values: Values, *more: tuple[Any, ...]) -> dict[str, Any]:
    """Leaves a collapse file: IA by field and set at the best epoch, beside a random value of 4; others too."""
    best = run["best_epoch"]
    rows = [
        (epoch, field, m, 1000, IA, value if epoch == best else 4.0, 4.0, None if value else "all zero")
        for (field, m), value in values.items()
        for epoch in (best - 1, best, best + 1)
    ]
    frame = pl.DataFrame([*rows, *more], schema=COLLAPSE, orient="row")
    write_parquet(output_dir / "runs" / run["run_name"] / "collapse.parquet", frame)
    return run


def row(field: str, metric: str, value: float, best: int = 1) -> tuple[Any, ...]:
    return (best, field, None, 700, metric, value, 4.0, None)


def shown(frame: pl.DataFrame, folder: Path, variant: str = "") -> dict[str, list[str]]:
    """Cells of the table's text by first column; the two lines of the header are there as "" and "field"."""
    table.show(field_table(frame, variant), folder / "table.txt", aloud=False)
    lines = (folder / "table.txt").read_text().splitlines()
    rows = [[word.strip() for word in line.strip("│┃").split("│" if "│" in line else "┃")] for line in lines]
    return {words[0]: words[1:] for words in rows if len(words) > 1}


@pytest.fixture
def runs(tmp_path: Path) -> list[dict[str, Any]]:
    """Two seeds at 1x, one run with two sets at 4x whose second field is all zero, and one that did not measure."""
    base = [result(seed=seed) for seed in (0, 1)]
    measured(tmp_path, base[0], {("user", None): 2.0, ("shop", None): 4.0}, row("user", f"{IA}@seen", 1.0))
    measured(tmp_path, base[1], {("user", None): 3.0, ("shop", None): 4.0}, row("user", f"{IA}@seen", 3.0))
    several = result(scale=4, embed="me", num_sets=2, best_epoch=3)
    sets: Values = {("user", None): 1.0, ("user", 0): 3.0, ("user", 1): 4.0}
    measured(tmp_path, several, sets | {("shop", None): None, ("shop", 0): 2.0, ("shop", 1): None})
    return [*base, several, result(model="fm")]


def test_the_frame_has_every_run_at_its_best_epoch(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    frame = field_frame(runs, tmp_path)
    assert frame.columns == ["dataset", "cell", "seed", *COLLAPSE, "relative"]
    whole = frame.filter(pl.col("embedding_set").is_null(), pl.col("metric") == IA)
    assert whole.select("cell", "seed", "epoch", "field", "value", "relative").rows() == [
        ("dnn base", 0, 1, "user", 2.0, 0.5),
        ("dnn base", 0, 1, "shop", 4.0, 1.0),
        ("dnn base", 1, 1, "user", 3.0, 0.75),
        ("dnn base", 1, 1, "shop", 4.0, 1.0),
        ("dnn ME 4x", 0, 3, "user", 1.0, 0.25),
        ("dnn ME 4x", 0, 3, "shop", None, None),
    ]
    assert frame.filter(field="shop", embedding_set=1).select("relative", "reason").row(0) == (None, "all zero")


def test_mean_and_spread_over_the_seeds(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    """Per set: the mean over the sets that have a value; a field without any has a dash, and is in no mean."""
    found = shown(field_frame(runs, tmp_path), tmp_path)
    assert found[""] == ["", "dnn base", "dnn ME 4x", "dnn ME 4x"]
    assert found["field"] == ["rows", "whole", "whole", "per set"]
    assert found["user"] == ["1,000", "0.625 ±0.177", "0.250", "0.875"]
    assert found["shop"] == ["1,000", "1.000 ±0.000", "–", "0.500"]
    assert found["mean"] == ["", "0.812 ±0.088", "0.250", "0.750"]


def test_a_variant_has_a_table_of_its_own(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    """With its rows; cells that did not measure it say so."""
    found = shown(field_frame(runs, tmp_path), tmp_path, "seen")
    assert (found[""], found["field"]) == (["", "dnn base", "dnn ME 4x"], ["rows", "whole", "whole, n=0"])
    assert found["user"] == ["700", "0.500 ±0.354", "–"] and "shop" not in found
    text = " ".join((tmp_path / "table.txt").read_text().split())
    assert "IA/random by field of clicks, seen, best epoch" in text


def test_cells_that_differ_in_something_else_have_its_value(tmp_path: Path) -> None:
    runs = [measured(tmp_path, result(lr=lr, seed=seed), {("a", None): 2.0}) for lr in (0.1, 0.2) for seed in (0, 1)]
    assert set(field_frame(runs, tmp_path)["cell"]) == {"dnn base 0.1", "dnn base 0.2"}


def test_a_file_of_an_older_version_has_no_reasons(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    path = tmp_path / "runs" / runs[0]["run_name"] / "collapse.parquet"
    write_parquet(path, pl.read_parquet(path).drop("reason"))
    frame = field_frame(runs, tmp_path)
    assert frame.columns[-2:] == ["reason", "relative"]
    assert frame.filter(cell="dnn base", seed=0)["reason"].is_null().all()
    assert shown(frame, tmp_path)["user"] == ["1,000", "0.625 ±0.177", "0.250", "0.875"]


def test_without_a_measured_run_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for runs in ([], [result()]):
        assert field_frame(runs, tmp_path).is_empty()
        assert show_fields(runs, tmp_path, tmp_path / "sweep") == []
    assert not (tmp_path / "sweep").exists() and capsys.readouterr().out == ""


def test_files_of_a_sweep(tmp_path: Path, runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """One per variant; only all rows as they are are printed."""
    measured(
        tmp_path, runs[3], {("user", None): 2.0}, row("user", f"{IA}@min_count:3+centred", 1.0), row("user", "k90", 1)
    )
    folder = tmp_path / "sweep"
    paths = show_fields(runs, tmp_path, folder)
    assert [path.name for path in paths] == [
        *["fields.parquet", "fields.txt", "fields_min_count3_centred.txt", "fields_seen.txt"]
    ]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert pl.read_parquet(paths[0]).equals(field_frame(runs, tmp_path))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("IA/random by field") == 1 and ", all rows, " in printed and "0.625 ±0.177" in printed


def test_data_sets_have_tables_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields of the same name in two of them are not the same."""
    runs = [result(dataset="clicks"), result(dataset="ads", model="fm")]
    for run, value in zip(runs, (2.0, 1.0), strict=True):
        measured(tmp_path, run, {("user", None): value}, row("user", f"{IA}@seen", 3.0))
    paths = show_fields(runs, tmp_path, tmp_path / "sweep")
    assert [path.name for path in paths[1:]] == [
        *["fields_ads.txt", "fields_ads_seen.txt", "fields_clicks.txt", "fields_clicks_seen.txt"]
    ]
    assert "0.250" in paths[1].read_text() and "0.500" not in paths[1].read_text()
    assert "0.500" in paths[3].read_text()
    printed = " ".join(capsys.readouterr().out.split())
    assert all(f"IA/random by field of {name}, all rows, best epoch" in printed for name in ("ads", "clicks"))
    assert "seen" not in printed


def test_a_sweep_of_many_cells_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [measured(tmp_path, result(model=f"m{i}"), {("a", None): 2.0}) for i in range(room.SHOWN_CELLS + 1)]
    assert [path.name for path in show_fields(runs, tmp_path, tmp_path / "sweep")] == ["fields.parquet", "fields.txt"]
    assert capsys.readouterr().out == ""
    assert all(f"m{i} base" in (tmp_path / "sweep" / "fields.txt").read_text() for i in range(room.SHOWN_CELLS + 1))
    show_fields(runs[1:], tmp_path, tmp_path / "sweep")
    assert "m1 base" in capsys.readouterr().out


def test_a_seed_without_a_value_is_left_out(tmp_path: Path) -> None:
    runs = [measured(tmp_path, result(seed=seed), {("a", None): value}) for seed, value in enumerate((2.0, None, 4.0))]
    assert shown(field_frame(runs, tmp_path), tmp_path)["a"] == ["1,000", "0.750 ±0.354"]


def test_a_run_without_a_value_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = measured(tmp_path, result(), {("a", None): None, ("b", None): None})
    assert len(show_fields([run], tmp_path, tmp_path / "sweep")) == 2
    found = shown(field_frame([run], tmp_path), tmp_path)
    assert found["a"] == ["1,000", "–"] and found["mean"] == ["", "–"]
    assert "–" in capsys.readouterr().out


def test_columns_say_how_many_runs_measured_them() -> None:
    """A variant that an older run lacks is not passed off as a mean over all seeds."""
    key = {"dataset": "d", "field": "a", "embedding_set": None, "cardinality": 5, "epoch": 0, "random_value": 1.0}
    rows = [{**key, "cell": "m base", "seed": s, "metric": "information_abundance", "value": 0.5} for s in (0, 1, 2)]
    rows.append({**rows[0], "metric": "information_abundance@seen"})
    rows += [{**row, "cell": "m SE 2x"} for row in rows[:3]]
    frame = pl.DataFrame(rows, schema_overrides={"embedding_set": pl.Int32}).with_columns(relative=pl.col("value"))
    headers = [column.header for column in field_table(frame, "seen").columns]
    assert headers == ["field", "rows", "m base\nwhole, n=1", "m SE 2x\nwhole, n=0"]
    assert [column.header for column in field_table(frame).columns][2:] == ["m base\nwhole", "m SE 2x\nwhole"]
