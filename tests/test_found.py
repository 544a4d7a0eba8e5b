"""The runs of a study: which belong together, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from experiments.found import Cell, Runs
from tests.test_records import result


def one(**more: Any) -> dict[str, Any]:
    return result(**({"regularizer": "none", "split_seed": 0, "protocol": "paper"} | more))


def runs(*results: dict[str, Any]) -> Runs:
    return Runs(Path(), results)


def test_cells_lines_and_the_base_that_se_and_me_share() -> None:
    found = runs(
        *(one(seed=seed) for seed in (0, 1)),
        *(one(embed=embed, scale=scale, seed=0) for embed in ("me", "se") for scale in (10, 2)),
        one(model="ffm", seed=0),
    )
    assert found.scales == [1, 2, 10] and found.models == ["dnn", "ffm"] and found.dataset == "clicks"
    assert found.of("dnn", "me", 1).keys() == {0, 1} == found.of("dnn", "se", 1).keys()
    assert {scale: sorted(line) for scale, line in found.line("dnn", "me").items()} == {1: [0, 1], 2: [0], 10: [0]}
    assert found.of("dnn", "me", 3) == {} and found.line("dnn", "me", "unitary") == {}
    assert Cell("ffm", "se", 1) in found.cells


def test_two_runs_of_a_cell_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dnn se 1 none, seed 0: 2 runs that differ in optimizer\.lr"):
        runs(one(), one(lr=0.01))


@pytest.mark.parametrize("key", ["dataset", "split_seed", "protocol"])
def test_runs_of_different_data_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=.*expected one"):
        runs(one(), one(seed=1, **{key: "other"}))


def test_what_a_run_did_not_keep_is_named(tmp_path: Path) -> None:
    found = Runs(tmp_path, (one(),))
    with pytest.raises(ValueError, match=r"test_scores\.parquet is not there.*remove"):
        found.scores(found.results[0])
    with pytest.raises(ValueError, match="spectrum"):
        found.frame(found.results[0], "spectra")
