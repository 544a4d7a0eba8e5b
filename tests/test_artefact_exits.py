"""What an artefact, and all of them, do where runs are missing or a drawing is refused: nothing is trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.table import Table

from experiments import (
    claims,
    paper,
    study,
)
from experiments.found import Runs
from experiments.output import Output
from experiments.study import Artefact
from recsys_collapse.launch.plan import Job, Plan
from recsys_collapse.runs.records import read_result, write_result
from recsys_collapse.stats import Interval
from tests.cli import SMALL_SYNTHETIC
from tests.made_up import artefact_json
from tests.test_records import result

GIVEN = ["dataset=tiny", *SMALL_SYNTHETIC]


def trivial(runs: Runs, output: Output) -> None:
    """Draws a table, and claims something."""
    output.table(Table("n"), pl.DataFrame({"n": [len(runs.results)]}))
    output.claim([claims.Claim(f"said by {output.artefact}", "all", "number", Interval(0.5, 0.01), digits=3)])


def refusing(runs: Runs, output: Output) -> None:
    """Has drawn half of it when it finds something wrong."""
    trivial(runs, output)
    raise ValueError("these runs cannot be drawn")


def finish(job: Job) -> None:
    """What a run leaves."""
    config = job.config
    own = {
        "run_name": job.name, "run_id": job.run_id, "dataset": config.dataset.name, "model": config.model.name,
        "embed": config.embed.name, "scale": config.scale, "seed": config.seed, "split_seed": 0, "protocol": "paper",
        "regularizer": config.regularizer.name, "data_fingerprint": "f", "code_version": f"v{config.seed}",
    }  # fmt: skip
    write_result(job.run_dir, result() | own)


@pytest.fixture
def finishes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models whose runs are finished when they are started; nothing is trained, priced, or read of the data."""
    models: list[str] = []

    def start(plan: Plan, jobs: Sequence[Job], status: Any) -> None:
        for job in jobs:
            if job.config.model.name in models:
                finish(job)

    def unfinished(plan: Plan) -> list[Job]:
        return [job for job in plan.jobs if read_result(job.run_dir, job.run_id) is None]

    monkeypatch.setattr(study, "start", start)
    monkeypatch.setattr(study, "check", unfinished)
    monkeypatch.setattr("experiments.price.price", lambda plan, missing: None)
    monkeypatch.setattr("experiments.price.show_price", lambda price: None)
    return models


def test_an_artefact_whose_runs_are_missing_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and no file; 0 and all of them when the runs are there; 2, and no claims, when it cannot be drawn."""
    folder = tmp_path / "paper" / "tiny"
    argv = ["fig6", *GIVEN, "scale=1", "seed=0,1", f"output_dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", argv)
    finishes.append("dcnv2")
    assert study.main(Artefact("fig6", trivial), "doc") == 1
    assert "fig6 is not drawn" in capsys.readouterr().err and not folder.exists()
    finishes.append("dnn")
    monkeypatch.setattr("sys.argv", [*argv, "--plan"])
    assert study.main(Artefact("fig6", trivial), "doc") == 0 and not folder.exists()
    monkeypatch.setattr("sys.argv", argv)
    assert study.main(Artefact("fig6", trivial), "doc") == 0
    found = json.loads((folder / "fig6.json").read_text())
    assert found["seeds"] == [0, 1] and len(found["runs"]) == 4 == len({*found["runs"]})
    assert found["run_versions"] == ["v0", "v1"] and found["data_fingerprint"] == "f" and found["dataset"] == "tiny"
    assert [claim["verdict"] for claim in found["claims"]] == ["holds"] and found["tables"] == ["fig6"]
    assert pl.read_csv(folder / "fig6.csv")["n"].item() == 4
    assert study.main(Artefact("fig6", refusing), "doc") == 2
    assert "these runs cannot be drawn" in capsys.readouterr().err and not (folder / "fig6.json").exists()


def test_the_paper_draws_what_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the others drawn and in RESULTS.md, an older file of what is missing removed, all of it named."""
    folder, toy = tmp_path / "paper" / "tiny", tmp_path / "paper" / "toy"
    artefacts = (
        Artefact("table1", refusing, any_model=True), Artefact("fig2", trivial), Artefact("fig6", trivial),
        Artefact("fig1", trivial, any_model=True),
    )  # fmt: skip
    monkeypatch.setattr(paper, "ARTEFACTS", artefacts)
    monkeypatch.setattr(paper.table2, "table2", lambda config, words: None)
    monkeypatch.setattr(paper, "is_drawn", lambda path, words: True)
    for place, name in ((toy, "fig4"), (folder, "fig6"), (folder, "table1"), (folder, "fig2")):
        place.mkdir(parents=True, exist_ok=True)
        old = artefact_json(name, notes=["an older one"] * (name != "fig4"))
        (place / f"{name}.json").write_text(json.dumps(old))
    finishes.append("dcnv2")
    argv = [*GIVEN, "model=dcnv2", "scale=2", "seed=0", f"output_dir={tmp_path}"]
    assert paper.run(argv) == 1
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("not drawn"))
    assert "fig6" in said and "table1 (these runs cannot be drawn)" in said
    assert "fig1" not in said and "fig2" not in said
    assert {path.stem for path in folder.glob("*.json")} == {"fig1", "fig2"}
    text = (folder / "RESULTS.md").read_text()
    assert "### fig2" in text and "### fig1" in text and "### fig4" in text and "an older one" not in text
    assert "### fig6" not in text and "### table1" not in text
    finishes.append("dnn")
    monkeypatch.setattr(paper, "ARTEFACTS", artefacts[1:3])
    assert paper.run(argv) == 0
    assert {path.stem for path in folder.glob("*.json")} == {"fig1", "fig2", "fig6"}
