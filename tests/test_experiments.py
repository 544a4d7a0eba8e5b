"""The scripts of `experiments/`: their numbers on made-up results, and the whole thing on small runs."""

import sys
from pathlib import Path

import pytest

from experiments import planted
from tests.cli import SMALL, run
from tests.test_records import abundance, result


def known(embed: str, seed: int, auc: float, patterns: int = 4, lr: float = 0.001) -> dict:
    learned = {
        name: {"r2": 0.5, "slope": 1.0} for name in ("linear", *(f"pattern{p}" for p in range(patterns)), "third_order")
    }
    test = {"bayes_auc": 0.8, "bayes_logloss": 0.47, "regret": 0.05, "auc_regret": 0.8 - auc, "learned": learned}
    more: dict = {"val_auc": auc, "information_abundance": {"a": abundance(2.0, 2.0)}}
    more |= {"data": f"data of {patterns} patterns", "lr": lr}
    found = result(embed=embed, scale=2, seed=seed, dataset="mini", num_sets=1 + (embed == "me"), **more)
    return found | {"truth": {"valid": test, "test": test}}


def lines(table: object) -> list[list[str]]:
    """Cells of a table as it is printed."""
    with planted.console.capture() as capture:
        planted.console.print(table)
    return [[word.strip() for word in line.strip("│").split("│")] for line in capture.get().splitlines() if "│" in line]


def test_me_against_se_is_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds differ by far more than ME and SE of one seed do: only a paired difference is significant."""
    runs = [known("se", seed, 0.60 + seed / 20) for seed in range(3)]
    runs += [known("me", seed, 0.60 + seed / 20 + 0.01 + seed / 1000) for seed in (0, 1, 2, 7)]  # 7 has no partner
    runs += [known("se", 0, 0.7, patterns=1), result(dataset="clicks")]
    monkeypatch.setattr(planted, "scan", lambda output_dir: runs)
    found = planted.finished(tmp_path, "mini")
    assert [planted.about(*item) for item in found.items()] == [("4", "SE 2x"), ("4", "ME 2x"), ("1", "SE 2x")]
    single, several, difference, other = lines(planted.comparison(found))
    assert single[:4] == ["4", "dnn", "SE 2x", "3"] and single[4].startswith("0.65000 ±0.12421")
    assert several[:4] == ["4", "dnn", "ME 2x", "4"]
    assert difference[:5] == ["4", "dnn", "ME - SE 2x", "3", "0.01100 ±0.00248 *"]
    assert other[4] == "0.70000"
    assert lines(planted.learned(found))[2] == ["1", "dnn", "SE 2x", "0.500", "0.500", "", "", "", "0.500"]


def test_runs_of_another_protocol_are_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [known(embed, 0, 0.7, lr=lr) for embed in ("se", "me") for lr in (0.001, 0.01)]
    monkeypatch.setattr(planted, "scan", lambda output_dir: runs)
    labels = [line[2] for line in lines(planted.comparison(planted.finished(tmp_path, "mini")))]
    assert labels == [
        *("SE 2x optimizer.lr=0.001", "SE 2x optimizer.lr=0.01"),
        *("ME 2x optimizer.lr=0.001", "ME - SE 2x", "ME 2x optimizer.lr=0.01", "ME - SE 2x"),
    ]


@pytest.mark.slow
def test_the_whole_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    sizes = ["dataset.train_rows=300", "dataset.valid_rows=100", "dataset.test_rows=100"]
    words = ["dataset=tiny", "model=dnn", "scale=2", "embed=se,me", "seed=0,1", "callback=[]", *SMALL, *sizes]
    done = run("-m", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "tiny", "--rows", "2000", "--data-seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["planted", *words])
    planted.main()
    printed = capsys.readouterr().out
    assert "ME - SE 2x" in printed and "8 of 8" in printed and "pattern4" in printed
    monkeypatch.setattr(sys, "argv", ["planted", *words, "--output-dir", "elsewhere"])
    planted.main()
    assert "no finished runs on tiny in elsewhere" in capsys.readouterr().out
