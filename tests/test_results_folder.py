"""A results folder in which something lies that should not: of an older command, damaged, or of somebody else."""

import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from omegaconf import OmegaConf

from recsys_collapse import cost, run
from recsys_collapse.dataset.table import Table
from recsys_collapse.launch import check
from recsys_collapse.launch import subprocess as pool
from recsys_collapse.launch.job import FAILED, run_job
from recsys_collapse.launch.plan import Job, make_plan
from recsys_collapse.launch.status import Status
from recsys_collapse.runs import records, table
from recsys_collapse.runs.durable import exclusive, seal, write_json
from recsys_collapse.runs.heartbeat import NAME, beat, beating
from recsys_collapse.runs.records import RESUMABLE, read_failure
from tests.cli import ROOT, python_path, rows
from tests.test_launch_subprocess import FINISHES, NOWHERE, options, scripts, started
from tests.test_records import result, save

__all__ = ["scripts"]
WORDS = [
    *("model=dnn", "model.backbone.hidden_sizes=[4,4]", *rows(160, 20, 20), "dataset.num_fields=2", "callback=[]"),
    *("trainer.max_epochs=1", "trainer.batch_size=32", "trainer.progress_bar=false", "logger=local"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command, in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "argv", ["run", *words, *WORDS])
    monkeypatch.setattr("recsys_collapse.runs.figure.draw", lambda *args: [])
    try:
        return run.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def only_run() -> Path:
    (path,) = Path("outputs/runs").iterdir()
    return path


def test_what_a_finished_run_does_not_need_goes_with_the_next_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was killed between its result and that; what cannot be removed is said, and harms nobody."""
    assert command(monkeypatch) == 0
    left = (*RESUMABLE, "failure.json", NAME)
    for name in left:
        (only_run() / name).write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(records, "remove", lambda path: (_ for _ in ()).throw(OSError(5, "no")))
        assert command(patch) == 0
    assert capsys.readouterr().out.count("the run is finished and does not need it") == 4
    assert command(monkeypatch) == 0
    assert [name for name in left if (only_run() / name).exists()] == []


@pytest.mark.parametrize("text", ["a: [", "[1, 2]", "null", "callback: 3"])
def test_a_config_that_cannot_be_read_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert command(monkeypatch) == 0
    (only_run() / "config.yaml").write_text(text)
    assert command(monkeypatch) == 0


@pytest.mark.parametrize("key", ["parameters", "information_abundance"])
def test_a_result_of_other_types_is_left_out_of_the_table(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, result())
    save(tmp_path, result(seed=1, **{key: [1]}))
    table.rebuild(tmp_path)
    assert pl.read_parquet(tmp_path / "results.parquet")["seed"].to_list() == [0]
    assert "left out of the results: dnn-se-1-1: " in caplog.text


@pytest.mark.parametrize("text", ["[1]", "3", '{"a": 1}', '{"reason": 3}', "{", "[" * 100_000])
def test_a_failure_that_is_none_is_not_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "failure.json").write_text(text)
    assert read_failure(tmp_path) is None


def test_the_table_is_made_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    save(tmp_path, result())
    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(ValueError, match="file_locks=false"):
        table.rebuild(tmp_path)
    table.rebuild(tmp_path, file_locks=False)
    assert (tmp_path / "results.csv").is_file()


def test_links_lead_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in (".lock", "log.txt", NAME):
        (run_dir / name).symlink_to(precious)
    with pytest.raises(ValueError, match="cannot be written"), exclusive(run_dir / ".lock", "tries"):
        pass
    os.utime(precious, (1, 1))
    with beating(run_dir):
        beat()
    assert run_job(Job(OmegaConf.create({"file_locks": True}), "x", run_dir)) == FAILED
    (run_dir / ".lock").unlink()
    assert run_job(Job(OmegaConf.create({"file_locks": True}), "x", run_dir)) == FAILED  # its config is none
    assert precious.read_text() == "mine" and precious.stat().st_mtime == 1


@pytest.mark.parametrize("name", ["", "log.txt"])
def test_a_job_that_cannot_start_takes_no_other_with_it(
    scripts: Callable[..., list[Job]], tmp_path: Path, name: str
) -> None:
    """A file where its folder should be, or a folder where its log should be."""
    jobs = scripts(one=FINISHES, two=FINISHES)
    if name:
        (jobs[0].run_dir / name).mkdir()
    else:
        jobs[0] = Job(jobs[0].config, "one", tmp_path / "file")
        (tmp_path / "file").write_text("")
    status = Status(2, 0, None)
    pool.launch(jobs, status, NOWHERE, [{}], options())
    assert (status.done, list(status.failed)) == (1, [jobs[0].name])
    assert status.failed[jobs[0].name].startswith("cannot start: [Errno")


def test_a_job_that_says_that_another_has_it_is_not_believed_for_ever(
    scripts: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PAUSE", 0.01)
    (job,) = scripts(one="exit 73")
    status = Status(1, 0, None)
    pool.launch([job], status, NOWHERE, [{}], options())
    assert started(job) == pool.NOBODY + 1 and "nobody else has it" in status.failed["one"]
    assert (read_failure(job.run_dir) or {})["kind"] == "crashed"


def test_its_own_checkpoints_are_room_for_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "training_bytes", lambda *args: {"embedding": 1600, "dense": 0})
    monkeypatch.setattr(cost, "parameter_counts", lambda *args: {"embedding": 100, "dense": 0})
    usage = namedtuple("usage", "free")  # needed: twice 1600 - 400, and 400
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda path: usage(free=2700))
    with pytest.raises(OSError, match="make room"):
        cost.check_disk(None, {}, tmp_path / "run")  # type: ignore[arg-type]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(bytes(100))
    cost.check_disk(None, {}, tmp_path / "run")  # type: ignore[arg-type]


# What is wrong in one cell starts nothing


def test_a_column_that_is_not_there_starts_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clicks.csv").write_text("click,a,b\n" + "1,x,z\n0,q,w\n" * 40)
    words = [word for word in WORDS if not word.startswith("dataset")]
    monkeypatch.setattr(sys.modules[__name__], "WORDS", words)
    data = ["dataset=table", "dataset.path=clicks.csv"]
    assert command(monkeypatch, "-m", *data, "dataset.label=click,clik") == 2
    assert "clik" in capsys.readouterr().err and not Path("outputs/runs").exists()
    assert command(monkeypatch, "-m", *data, "dataset.label=click") == 0
    with monkeypatch.context() as patch:  # what is prepared is not read again
        patch.setattr(Table, "read", lambda self: (_ for _ in ()).throw(ValueError("read")))
        assert command(patch, "-m", *data, "dataset.label=click", "seed=1") == 0


@pytest.mark.parametrize(
    ("words", "gpus", "said"),
    [
        (["trainer.accelerator=cuda"], [], "trainer.accelerator=cuda: no GPU is visible here"),
        (["trainer.precision=16-mixed"], [], "a CPU has bf16-mixed only"),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], ["0"], "a CPU has bf16-mixed only"),
        (["trainer.precision=16-mixed"], ["0"], None),
        (["trainer.accelerator=gpu"], ["0"], None),
        (["trainer.precision=bf16-mixed", "trainer.accelerator=cpu"], [], None),
    ],
)
def test_a_device_that_is_not_there_starts_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], gpus: list[str], said: str | None
) -> None:
    monkeypatch.setattr(pool, "visible_gpus", lambda: gpus)
    plan = make_plan([*WORDS, *words])
    assert plan is not None
    if said is None:
        check.check_devices(plan.jobs)
        return
    with pytest.raises(ValueError, match=said.split(":")[-1].strip()):
        check.check_devices(plan.jobs)


def test_cells_that_are_one_run_are_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "-m", "embed=se,me") == 0
    assert ": 1 runs (2 cells of the grid), 0 finished before" in capsys.readouterr().out


def test_the_second_signal_ends_it_whoever_put_the_handler_back(tmp_path: Path) -> None:
    code = """
import os, signal
from recsys_collapse.launch.signals import Interrupted, end_on_signals
end_on_signals()
handler = signal.getsignal(signal.SIGTERM)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Interrupted as stop:
    print(stop.code, flush=True)
signal.signal(signal.SIGTERM, handler)
os.kill(os.getpid(), signal.SIGTERM)
print("still here", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGTERM, ["143"])


def test_a_sealed_result_is_of_its_folder(tmp_path: Path) -> None:
    found = seal(result() | {"run_name": "../elsewhere"})
    write_json(tmp_path / "dnn" / "result.json", found)
    assert "is of run ../elsewhere, not of its folder" in str(records.damage(tmp_path / "dnn"))
    assert json.loads((tmp_path / "dnn" / "result.json").read_text()) == found
