"""`python -m experiments.table2`: the statistics of data sets, end to end."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from experiments import table2
from tests.cli import SMALL_SYNTHETIC, write_clicks


def command(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["table2", *words, "trainer.progress_bar=false"])
    return table2.main()


def test_two_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert command(["dataset=tiny,mini", *SMALL_SYNTHETIC], tmp_path, monkeypatch) == 0
    assert "#Instances" in capsys.readouterr().out
    for name in ("tiny", "mini"):
        folder = tmp_path / "outputs" / "paper" / name
        (row,) = pl.read_csv(folder / "table2.csv").to_dicts()
        written = json.loads((folder / "table2.json").read_text())
        (manifest,) = (tmp_path / "outputs" / "stores").glob(f"{name}-*/manifest.json")
        sizes = json.loads(manifest.read_text())["cardinalities"]
        assert row == {"dataset": name, "source": "here", "rows": 600, "fields": 4} | {
            "sum": sum(sizes),
            "max": max(sizes),
            "min": min(sizes),
        }
        assert written["statistics"]["here"]["sum"] == sum(sizes) and written["dataset"] == name
    assert not (tmp_path / "outputs" / "runs").exists()


def test_what_is_published_stands_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    published = "dataset.published_as={by: 'the paper, Table 2', rows: '1200', fields: '3', sum: 1.08M, min: '4'}"
    assert command([*data, published], tmp_path, monkeypatch) == 0
    folder = tmp_path / "outputs" / "paper" / "clicks"
    here, paper = pl.read_csv(folder / "table2.csv").to_dicts()
    assert (here["rows"], here["sum"], here["min"]) == (1200, 31 + 13 + 5, 5)
    assert (paper["source"], paper["rows"], paper["sum"], paper["max"]) == ("the paper, Table 2", 1200, 1_080_000, None)
    written = json.loads((folder / "table2.json").read_text())
    assert written["notes"] == ["sum: 49 here, 1.08M in the paper, Table 2", "min: 5 here, 4 in the paper, Table 2"]
    assert "dataset.path=clicks.csv" in written["command"] and str(tmp_path) not in written["command"]


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert command(["dataset=tinny"], tmp_path, monkeypatch) == 2
    assert "did you mean dataset=tiny?" in capsys.readouterr().err
    assert table2.number("45.8M") == 45_800_000 and table2.number("39") == 39
