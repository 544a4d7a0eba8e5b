"""What goes wrong in a sweep: it is said, recorded, and nothing else is harmed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys_collapse.launch import job as job_module
from recsys_collapse.launch.plan import make_plan
from tests.cli import ROOT, SMALL, python_path, run, write_clicks


def runs_in(folder: Path) -> dict[str, list[str]]:
    return {p.name: sorted(q.name for q in p.iterdir()) for p in sorted((folder / "outputs" / "runs").iterdir())}


def test_nan_loss_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    arguments = ["-m", "optimizer.lr=1e30,0.001", *data, *SMALL]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr and "learning rate 1e+30" in done.stderr
    states = {name: "failed" if "failure.json" in files else "finished" for name, files in runs_in(tmp_path).items()}
    assert sorted(states.values()) == ["failed", "finished"]
    bad = next(name for name, state in states.items() if state == "failed")
    failure = json.loads((tmp_path / "outputs" / "runs" / bad / "failure.json").read_text())
    assert failure["lr"] == 1e30 and failure["step"] >= 1 and "DivergedError" in failure["reason"]
    assert "training_step" in failure["traceback"]
    assert "result.json" not in runs_in(tmp_path)[bad]

    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert "2 runs, 1 finished before" in again.stdout and again.stdout.count(": starts") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["scale=0"], "scale=0: expected an integer of 1 or more"),
        (["-m", "scale=1,two"], "scale=two"),
        (["modle=dnn"], "did you mean model"),
        (["model=dcnv3"], "did you mean model=dcnv2"),
        (["dataset=table", "dataset.label=click", "dataset.path=nowhere.csv"], "nowhere.csv: no such file"),
        (["model.backbone.dropout=high"], "model.backbone.dropout=high: expected float"),
        (["output_dir=/dev/null"], "output_dir=/dev/null"),
    ],
)
def test_wrong_command_starts_nothing(tmp_path: Path, wrong: list[str], said: str) -> None:
    done = run(*wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_data_fails_the_run_and_damages_nothing(tmp_path: Path) -> None:
    """Given parts: a one-class validation part is an error; a one-class test part is a null with its reason."""
    for part in ("train", "valid", "test"):
        write_clicks(tmp_path / f"{part}.csv", rows=300, seed=len(part))
    header, *lines = (tmp_path / "test.csv").read_text().splitlines()
    positive = "\n".join([header, *(line for line in lines if line.split(",")[2] == "1")])
    (tmp_path / "ones.csv").write_text(positive)

    def parts(valid: str, test: str) -> list[str]:
        files = [f"dataset.{p}={tmp_path / f}" for p, f in (("train", "train.csv"), ("valid", valid), ("test", test))]
        return ["dataset=table", "dataset.label=click", *files, *SMALL]

    good = run(*parts("valid.csv", "ones.csv"), cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    (name,) = runs_in(tmp_path)
    kept = tmp_path / "outputs" / "runs" / name / "result.json"
    result = json.loads(kept.read_text())
    assert result["test_auc"] is None and result["test_logloss"] > 0
    assert result["null_reasons"] == {"test_auc": "the test rows have one class only"}

    before = kept.read_bytes()
    bad = run(*parts("ones.csv", "test.csv"), cwd=tmp_path)
    assert bad.returncode == 1 and "valid rows have label 1" in bad.stderr
    assert kept.read_bytes() == before and len(runs_in(tmp_path)) == 2


def test_fewer_rows_than_a_batch(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv", rows=60)
    done = run(*data, "trainer.max_epochs=1", "logger=local", cwd=tmp_path)  # batch 2048
    assert done.returncode == 0, done.stderr


def test_interrupt_leaves_a_clean_state(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    arguments = [*data, *SMALL, "trainer.max_epochs=400", "trainer.patience=400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recsys_collapse.run", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = time.monotonic()
    while not list(tmp_path.glob("outputs/runs/*/checkpoints/best.ckpt")):
        assert process.poll() is None and time.monotonic() - started < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command" in stderr and "Traceback" not in stderr
    (files,) = runs_in(tmp_path).values()
    assert "result.json" not in files and "failure.json" not in files


def test_options_may_stand_behind_the_overrides(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    done = run("scale=1,2", *data, *SMALL, "trainer.max_epochs=1", "-m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(runs_in(tmp_path)) == 2


@pytest.mark.slow  # test_sweeps.py::test_two_sweeps_at_once_share_the_work does so with several runs
def test_two_commands_at_once_train_a_run_once(tmp_path: Path) -> None:
    data = write_clicks(tmp_path / "clicks.csv")
    command = [sys.executable, "-m", "recsys_collapse.run", *data, *SMALL]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    pipes = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(": starts" in words for words in said) == 1
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["num_epochs"] == 2


def test_a_run_that_cannot_be_locked_does_not_end_the_sweep(tmp_path: Path, monkeypatch, caplog) -> None:
    def no_locks(*args: object, **options: object) -> None:
        raise ValueError("this file system has no file locks: set file_locks=false")

    plan = make_plan(["dataset=synthetic", f"output_dir={tmp_path}"])
    assert plan is not None
    monkeypatch.setattr(job_module, "exclusive", no_locks)
    assert job_module.run_job(plan.jobs[0]) == job_module.FAILED
    assert "cannot start: this file system has no file locks" in caplog.text
