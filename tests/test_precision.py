"""What experiments.precision makes of finished runs."""

from pathlib import Path
from typing import Any

import pytest

from experiments import precision
from experiments.precision import by_precision, difference, words
from recsys_collapse.stats import student


def run(seed: int, name: str, auc: float, lr: float = 1e-3) -> dict[str, Any]:
    own = {"trainer": {"precision": name}, "seed": seed, "optimizer": {"lr": lr}}
    return {"model": "dnn", "embed": "me", "scale": 2, "dataset": "mini", "identity": own, "test_auc": auc}


RESULTS = [
    *(run(seed, "32-true", 0.7 + seed / 100) for seed in range(4)),
    *(run(seed, "bf16-mixed", 0.701 + seed / 100 + 1e-4 * seed) for seed in (1, 2, 3)),
    run(0, "bf16-mixed", 0.9, lr=1e-2),  # another study: no pair
    run(7, "bf16-mixed", 0.1),  # no float32
]


def test_seeds_are_paired_within_what_is_otherwise_equal() -> None:
    found = by_precision(RESULTS)
    assert len(found) == 2
    intervals = [difference(runs) for runs in found.values()]
    (interval,) = [one for one in intervals if one is not None]
    expected = student([0.701 + s / 100 + 1e-4 * s - (0.7 + s / 100) for s in (1, 2, 3)])
    assert interval == expected and interval.estimate == pytest.approx(0.0012)


def test_words_say_whether_it_is_significant() -> None:
    assert words(student([0.001, 0.0011, 0.0012])).endswith("3 seeds)")
    assert words(student([0.001, -0.001, 0.0002])).endswith("3 seeds; not significant)")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert precision.main([str(tmp_path)]) == 1
    assert "experiment=precision" in capsys.readouterr().err
    monkeypatch.setattr(precision, "scan", lambda folder: RESULTS)
    assert precision.main([str(tmp_path)]) == 0
    assert "dnn me 2x mini" in capsys.readouterr().out
