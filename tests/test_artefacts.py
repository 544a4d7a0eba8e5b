"""Every artefact of the paper on small runs: one contract for all of them, and what each finds in made-up ones."""

import json
from pathlib import Path

import polars as pl
import pytest
from omegaconf import OmegaConf

from experiments import paper, results
from experiments.study import Artefact, plan_of, run_missing
from experiments.words import enlarged, numbers, parse, said
from recsys_collapse.launch.plan import Plan
from recsys_collapse.runs.table import scan
from tests.cli import ROOT, SMALL, SMALL_SYNTHETIC

WORDS = ["dataset=tiny", "model=dnn,dcnv2", "scale=1,2", "seed=0,1", "trainer.max_epochs=1", "trainer.threads=1"]
SMALLER = [word for word in (*SMALL, *SMALL_SYNTHETIC) if not word.startswith(("trainer.max_epochs", "model."))]
TOY = ["toy.embed_sizes=[6]", "toy.seeds=2", "toy.iterations=20", "toy.every=10", "toy.workers=1"]
every_artefact = pytest.mark.parametrize("artefact", paper.ARTEFACTS, ids=lambda artefact: artefact.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory on which `experiments.paper` was run, as `make paper DATASET=tiny` does."""
    folder = tmp_path_factory.mktemp("paper")
    assert paper.run([*WORDS, *SMALLER, *TOY, f"output_dir={folder}"]) == 0
    return folder


@every_artefact
def test_every_artefact_leaves_figures_data_and_claims(artefact: Artefact, made: Path) -> None:
    folder = made / "paper" / "tiny"
    found = json.loads((folder / f"{artefact.name}.json").read_text())
    assert found["figures"] and found["seeds"] == [0, 1] and found["dataset"] == "tiny"
    for name in found["figures"]:
        assert all((folder / f"{name}.{kind}").stat().st_size > 1000 for kind in ("pdf", "svg", "png"))
        assert len(pl.read_csv(folder / f"{name}.csv", infer_schema_length=None)) > 1
    assert found["claims"] or artefact.name == "scaling"  # which is not in the paper
    assert all(claim["verdict"] in results.VERDICTS for claim in found["claims"])
    assert {claim["artefact"] for claim in found["claims"]} <= {artefact.name}
    assert set(found["runs"]) <= {run["run_name"] for run in scan(made)}
    assert (
        found["command"].startswith(f"python -m experiments.{artefact.name} ") and "output_dir" not in found["command"]
    )


@every_artefact
def test_every_artefact_has_its_lab_notes(artefact: Artefact) -> None:
    text = (ROOT / "conf" / "experiment" / f"{artefact.name}.yaml").read_text()
    assert f"python -m experiments.{artefact.name} " in text and (
        "Figure" in text or "Table" in text or "Not in the paper" in text
    )
    assert OmegaConf.create(text).hydra.sweeper.params.seed == "0,1,2"


def planned(name: str, words: list[str]) -> Plan:
    """Of one artefact, with the words that `experiments.paper` would give it."""
    artefact = next(one for one in paper.ARTEFACTS if one.name == name)
    return plan_of(artefact, paper.words_for(artefact, parse(words)))


def test_runs_are_made_once(made: Path, capsys: pytest.CaptureFixture) -> None:
    """dnn and dcnv2: base, SE 2x, ME 2x; dcnv2 unitary 1x and 2x, norm_align 2x; ffm: each with two seeds."""
    assert len(scan(made)) == 2 * (2 * 3 + 2 + 1 + 1)
    before = {path: path.stat().st_mtime_ns for path in made.glob("runs/*/result.json")}
    assert run_missing(planned("fig8d", [*WORDS, *SMALLER, f"output_dir={made}"]), only_plan=False)
    assert "all 6 runs are there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made.glob("runs/*/result.json")} == before


def test_a_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert not run_missing(planned("fig8d", [*WORDS, *SMALLER, f"output_dir={tmp_path}"]), only_plan=True)
    assert "6 runs: 0 there, 6 missing" in capsys.readouterr().out
    assert scan(tmp_path) == [] and not (tmp_path / "paper").exists()


def test_a_wrong_word_of_the_toy_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds=0"):
        paper.run([*WORDS, *SMALLER, "toy.seeds=0", f"output_dir={tmp_path}"])
    assert scan(tmp_path) == []


def test_results_have_every_claim_and_its_command(made: Path, tmp_path: Path) -> None:
    text = (made / "paper" / "tiny" / "RESULTS.md").read_text()
    for artefact in paper.ARTEFACTS:
        found = json.loads((made / "paper" / "tiny" / f"{artefact.name}.json").read_text())
        assert f"`{found['command']}`" in text
        assert all(results.escaped(claim["text"]) in text for claim in found["claims"])
        assert all(f"![{name}](./{name}.png)" in text for name in found["figures"])
    assert "### fig4" in text and "### table2" in text
    path = results.write_results([made / "paper" / "tiny", made / "paper" / "toy"], tmp_path, "made by a test")
    shown = path.read_text()
    assert "made by a test" in shown and "](results/tiny/fig1.png)" in shown
    linked = [word.partition(")")[0] for word in shown.split("](")[1:]]
    assert linked and all((tmp_path / name).is_file() for name in linked)
    assert {path.suffix for path in (tmp_path / "results" / "tiny").iterdir()} == {".csv", ".json", ".png"}


def test_the_table_of_results_has_the_numbers_of_the_runs(made: Path) -> None:
    values = [run["test_auc"] for run in scan(made) if (run["model"], run["embed"], run["scale"]) == ("dnn", "me", 2)]
    frame = pl.read_csv(made / "paper" / "tiny" / "table1.csv").filter(model="dnn", embed="me", scale=2)
    assert len(values) == 2 and frame["test_auc"].item() == pytest.approx(sum(values) / 2, abs=1e-6)
    text = (made / "paper" / "tiny" / "RESULTS.md").read_text()
    assert f"{frame['test_auc'].item():.5f} ±{frame['sd'].item():.5f}" in text


def test_words() -> None:
    assert parse(["dataset=mini", "seed=0,1"]) == {"dataset": "mini", "seed": "0,1"}
    assert enlarged({"scale": "1,10,2", "seed": "0"}) == [{"scale": "10", "seed": "0"}] and enlarged({}) == [{}]
    assert said("fig2", {"dataset": "table", "dataset.path": "/home/me/clicks.csv", "output_dir": "x"}) == (
        "python -m experiments.fig2 dataset=table dataset.path=clicks.csv"
    )
    for wrong in (["--fast"], ["dataset"], ["seed=0", "seed=1"]):
        with pytest.raises(ValueError, match=r"expected key=value|given twice"):
            parse(wrong)
    with pytest.raises(ValueError, match="expected integers such as"):
        numbers("1,x")


def test_what_an_artefact_does_not_vary_stays(tmp_path: Path) -> None:
    words = ["model=dnn", "scale=1,2,4", "seed=0", "dataset=tiny", f"output_dir={tmp_path}"]
    jobs = {
        name: {(job.config.model.name, job.config.scale, job.config.embed.name) for job in planned(name, words).jobs}
        for name in ("fig2", "fig3", "fig8d", "table1")
    }
    assert jobs["fig2"] == {("dcnv2", 4, "se")} and jobs["fig3"] == {("dcnv2", 1, "se"), ("ffm", 1, "se")}
    assert jobs["fig8d"] == {("dcnv2", 2, "me"), ("dcnv2", 4, "me"), ("dcnv2", 1, "se")}
    assert {(model, scale) for model, scale, _ in jobs["table1"]} == {("dnn", 1), ("dnn", 2), ("dnn", 4)}
