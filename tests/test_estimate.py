"""`python -m recsys_collapse.estimate`: what it shows are the numbers of the models, and nothing is trained."""

import sys
from pathlib import Path

import pytest

from recsys_collapse import estimate
from tests.cli import write_clicks


def show(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["estimate", *arguments, "trainer.progress_bar=false"])
    return estimate.main()


def test_it_shows_what_the_models_would_cost(tmp_path: Path, monkeypatch, capsys) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    sweep = ["-m", "model=fm,dnn", "scale=1,1000", "model.base_size=2", "optimizer=adam,rowwise_adagrad"]
    assert show([*sweep, *data], tmp_path, monkeypatch) == 0
    printed = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in printed.splitlines() if " SE " in line]
    ids = 31 + 13 + 5  # users, items and sites, each with one id for the rest
    found, parts = ({tuple(row[:4]): row[4:] for row in half} for half in (rows[:8], rows[8:]))
    assert len(found) == len(parts) == 8
    # FM: a bias; sum of all embeddings with itself, 2K, and of each, 2NK.
    assert found["fm", "1x", "SE", "adam"][:3] == [f"{2 * ids}", "1", f"{2 * 2 + 2 * 3 * 2}"]
    dense = 3 * 2000 * 400 + 400 + 2 * 400 + 400 * 400 + 400 + 2 * 400 + 400 + 1
    flops = 2 * (3 * 2000 * 400 + 400 * 400 + 400)
    assert found["dnn", "1000x", "SE", "adam"][:3] == [f"{2000 * ids:,}", f"{dense:,}", f"{flops:,}"]
    for key, numbers in parts.items():
        process, table, optimizer, others, data, gradient, activations, evaluation, copy = map(float, numbers)
        once = max(gradient + activations, gradient + evaluation, copy + evaluation)
        total = process + table + optimizer + others + data + once
        assert float(found[key][3]) == pytest.approx(total, abs=0.05)  # each is rounded to 0.01
    assert parts["dnn", "1000x", "SE", "adam"][3] == f"{16 * dense / 1e9:.2f}"
    assert not list(tmp_path.glob("outputs/runs/*"))


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    assert show(["model=fm", "embed=me", "scale=2", *data], tmp_path, monkeypatch) == 2
    assert "use embed=se" in capsys.readouterr().err
    assert show(["model=fmm", *data], tmp_path, monkeypatch) == 2
    assert "did you mean model=fm?" in capsys.readouterr().err
