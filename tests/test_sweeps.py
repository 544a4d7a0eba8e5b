"""Sweeps whose jobs fail in every way: the others finish, what failed is listed, the same command does the rest."""

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys_collapse import run as run_module
from recsys_collapse.launch.frozen import freeze, frozen, load_job
from recsys_collapse.launch.plan import make_plan
from recsys_collapse.runs import figure
from recsys_collapse.runs.durable import DamagedError, seal
from recsys_collapse.runs.version import own_package
from tests.cli import ROOT, run
from tests.sweeping import (
    STEPS,
    begin,
    finished,
    processes,
    read,
    runs,
    starts,
    status,
    wait_until,
    words,
    write_theirs,
)

SUBPROCESS = ["launch=subprocess", "launch.at_once=2"]


def forget_theirs() -> None:
    """As in another process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_pkg"]:
        del sys.modules[name]
    own_package.cache_clear()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> Iterator[Callable[..., int]]:
    """The command in this process, which has imported everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run_module, "end_on_signals", lambda: None)
    monkeypatch.setattr(run_module, "configure_log", lambda *_: None)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(figure, "draw", lambda *_: [])  # takes seconds

    def main(*arguments: str) -> int:
        forget_theirs()
        monkeypatch.setattr(sys, "argv", ["run", *arguments])
        return run_module.main()

    yield main
    forget_theirs()


# kind of failure, how often it is begun with one retry, words of the reason
FAILURES = {
    "mistake": ("raised", 1, "RuntimeError: their own mistake"),
    "diverges": ("diverged", 1, "learning rate 1e+30"),
    "memory": ("oom", 1, "MemoryError: a batch too many"),
    "kill": ("crashed", 2, "ended by SIGKILL; perhaps by the system, for lack of memory"),
    "segv": ("crashed", 2, "ended by SIGSEGV"),
    "exit0": ("crashed", 2, "ended with code 0 and without a result"),
    "exit_sys": ("raised", 1, "SystemExit: 0"),
    "hang": ("hung", 2, "hung: no sign of life for 24 s"),
}


@pytest.mark.slow
def test_failing_jobs_take_no_other_with_them(tmp_path: Path) -> None:
    traps: dict[str, dict[str, Any]] = {name: {"misbehave": name} for name in FAILURES}
    traps["diverges"] = {"lr": 1e30}
    # Killed in its second epoch, it goes on from the end of the first, which is too short to be killed again.
    write_theirs(tmp_path, fine={}, well={"lr": 0.02}, unlucky={"misbehave": "kill", "after": STEPS + 1}, **traps)
    good = {"fine", "unlucky", "well"}
    command = [*words("fine", "unlucky", *FAILURES, "well"), *SUBPROCESS, "launch.hang_minutes=0.4"]
    done = run(*command, cwd=tmp_path, timeout=600)
    assert done.returncode == 1, done.stderr
    assert finished(tmp_path) == good
    assert all(f"│ {name} " in done.stdout for name in good)  # the table
    found, lines = runs(tmp_path), done.stderr.splitlines()
    for name, (kind, times, reason) in FAILURES.items():
        failure, log = read(found[name] / "failure.json"), (found[name] / "log.txt").read_text()
        assert (name, failure["kind"], starts(found[name])) == (name, kind, times)
        said = next(i for i, line in enumerate(lines) if line.startswith(f"failed   {found[name].name}"))
        assert reason in failure["reason"] and reason in lines[said]
        assert lines[said + 1].strip() == f"outputs/runs/{found[name].name}/log.txt"
        if times == 1:
            assert "Traceback (most recent call last)" in failure["traceback"] and reason in failure["traceback"]
            assert failure["traceback"] in log
        else:
            assert failure["log"] and f"{found[name].name}: {failure['reason']}; it is tried again" in done.stdout
    assert starts(found["unlucky"]) == 2 and "goes on after epoch 0" in (found["unlucky"] / "log.txt").read_text()
    assert f"{len(FAILURES)} of {len(FAILURES) + 3} runs failed; the same command tries them again" in done.stderr
    stands = status(tmp_path)
    expected = {"total": len(FAILURES) + 3, "done": 3, "running": [], "left": 0}
    assert {key: stands[key] for key in expected} == expected
    assert {name.partition("-")[0] for name in stands["failed"]} == set(FAILURES)
    assert all(FAILURES[name.partition("-")[0]][2] in why for name, why in stands["failed"].items())
    assert processes(tmp_path) == []


def test_the_same_command_tries_only_what_failed(tmp_path: Path, here: Callable[..., int], capsys: Any) -> None:
    write_theirs(tmp_path, fine={}, kill={"misbehave": "kill"})
    command = [*words("fine", "kill"), *SUBPROCESS, "launch.retries=0"]
    assert here(*command) == 1
    found = runs(tmp_path)
    assert finished(tmp_path) == {"fine"} and read(found["kill"] / "failure.json")["kind"] == "crashed"
    assert "1 of 2 runs failed; the same command tries them again" in capsys.readouterr().err
    assert list(status(tmp_path)["failed"]) == [found["kill"].name]

    result = (found["fine"] / "result.json").read_bytes()
    path = tmp_path / "their_pkg" / "tiny.py"
    path.write_text(path.read_text().replace("os.kill(os.getpid(), signal.SIGKILL)", "return h"))  # mended
    assert here(*command) == 0
    assert "2 runs, 1 finished before" in capsys.readouterr().out
    assert finished(tmp_path) == {"fine", "kill"} and not (found["kill"] / "failure.json").exists()
    assert {name: starts(path) for name, path in found.items()} == {"fine": 1, "kill": 2}
    assert (found["fine"] / "result.json").read_bytes() == result
    stands = status(tmp_path)
    assert (stands["done"], stands["failed"], stands["running"], stands["left"]) == (2, {}, [], 0)


@pytest.mark.parametrize("launch", ["in_process", pytest.param("subprocess", marks=pytest.mark.slow)])
def test_two_sweeps_at_once_share_the_work(tmp_path: Path, launch: str) -> None:
    """Each run is trained once, by whichever is first; both show all of them."""
    write_theirs(tmp_path, fine={}, well={"lr": 0.02}, good={"lr": 0.03})
    command = [*words("fine", "well", "good"), f"launch={launch}"]
    both = [begin(tmp_path, *command) for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        assert all(f"│ {name} " in stdout for name in ("fine", "well", "good"))
    assert finished(tmp_path) == {"fine", "well", "good"}
    assert [(path / "log.txt").read_text().count("made by") + starts(path) for path in runs(tmp_path).values()] == (
        [2] * 3 if launch == "subprocess" else [1] * 3  # what is printed goes to the terminal there
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "number", "code"),
    [
        ("in_process", signal.SIGTERM, 143),
        ("subprocess", signal.SIGTERM, 143),
        ("subprocess", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_it_in_order(tmp_path: Path, launch: str, number: int, code: int) -> None:
    write_theirs(tmp_path, long={"misbehave": "slow"}, next={})
    process = begin(tmp_path, *words("long", "next"), "trainer.max_epochs=100", f"launch={launch}")
    wait_until(lambda: list(tmp_path.glob("outputs/runs/*/checkpoints/last.ckpt")))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "run the same command again" in stderr and "Traceback" not in stderr
    assert processes(tmp_path) == []
    assert not list(tmp_path.glob("outputs/runs/*/result.json")) + list(tmp_path.glob("outputs/runs/*/failure.json"))
    assert not (tmp_path / "outputs" / "runs" / "next").exists() and set(runs(tmp_path)) == {"long"}


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Also if a job does not want to end: it does, for whoever watched it is gone."""
    write_theirs(tmp_path, stubborn={"misbehave": "stubborn"})
    process = begin(tmp_path, *words("stubborn"), *SUBPROCESS)
    said = tmp_path / "outputs" / "runs"
    wait_until(lambda: any("made by" in path.read_text() for path in said.glob("*/log.txt")))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: any("does not end" in path.read_text() for path in said.glob("*/log.txt")))
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: processes(tmp_path) == [], 60)
    assert not list(said.glob("*/result.json")) + list(said.glob("*/failure.json"))


@pytest.mark.slow
@pytest.mark.parametrize("misbehave", ["slow", "stubborn"])
def test_the_sweep_is_killed(tmp_path: Path, misbehave: str) -> None:
    """Its jobs end with it, and the same command goes on from their last epoch."""
    write_theirs(tmp_path, one={"misbehave": misbehave, "after": STEPS + 2}, two={"misbehave": "slow", "lr": 0.02})
    command = [*words("one", "two"), *SUBPROCESS, "trainer.max_epochs=4"]
    process = begin(tmp_path, *command)
    wait_until(lambda: len(list(tmp_path.glob("outputs/runs/*/checkpoints/last.ckpt"))) == 2)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: processes(tmp_path) == [], 60)
    recorded = {
        name: len((path / "epochs.jsonl").read_text().splitlines()) - 1 for name, path in runs(tmp_path).items()
    }
    for path in (tmp_path / "their_pkg").glob("*.py"):  # what made it slow or stubborn is gone
        path.write_text(path.read_text().replace("time.sleep(", "bool("))
    again = run(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name, path in runs(tmp_path).items():
        result = read(path / "result.json")
        assert result["num_epochs"] == 4
        first = [attempt["first_epoch"] for attempt in result["attempts"]]
        assert len(first) <= 2 and first[-1] >= recorded[name] - 1, (name, first)


# Editing code and configs


@pytest.mark.slow
def test_edits_during_a_sweep_change_no_queued_job(tmp_path: Path) -> None:
    """The first job rewrites the user's module and configs: the second has them as they were, a new command sees it."""
    write_theirs(tmp_path, edit={"misbehave": "edit"}, fine={"width": 4})
    command = [*words("edit", "fine"), "launch=subprocess"]  # one after the other
    done = run(*command, "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = runs(tmp_path)
    assert "VERSION = 2" in (tmp_path / "their_pkg" / "tiny.py").read_text()
    assert "width: 6" in (tmp_path / "their_conf" / "model" / "fine.yaml").read_text()
    for path in first.values():
        assert "made by 1\n" in (path / "log.txt").read_text()
        assert "width: 4" in (path / "config.yaml").read_text()
    (plan,) = tmp_path.glob("outputs/sweeps/*/plan-*.json")
    results = [read(path / "result.json") for path in first.values()]
    assert {result["code_version"] for result in results} == {read(plan)["code_version"]}
    own = [result["own_code"]["their_pkg"] for result in results]
    assert own[0] == own[1]

    again = run(*words("fine"), "launch=subprocess", "trainer.max_epochs=1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (new,) = set((tmp_path / "outputs" / "runs").iterdir()) - {*first.values()}
    assert "made by 2\n" in (new / "log.txt").read_text() and "width: 6" in (new / "config.yaml").read_text()
    assert read(new / "result.json")["own_code"]["their_pkg"] != own[0]


def test_the_copy_of_the_code_has_the_users_files_and_is_made_for_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a folder named conf, as this package has one, and files that are not Python; after it, nothing is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_theirs(tmp_path, fine={})
    inside = tmp_path / "their_pkg"
    (inside / "conf").mkdir()
    for name in ("outputs/runs/a/log.txt", "outputs/sweeps/b/plan.json", "large.bin", ".hidden/x.py"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_bytes(bytes(2**20 + 1) if name == "large.bin" else b"x")
    plans = set()
    for text in ("a", "b"):
        (inside / "conf" / "words.txt").write_text(text)
        forget_theirs()
        plan = make_plan(words("fine"))
        assert plan is not None
        with frozen(plan, elsewhere=False) as copy, frozen(plan, elsewhere=False) as another:
            assert copy.code != another.code and copy.plan == another.plan
            assert (copy.code / "their_pkg" / "conf" / "words.txt").read_text() == text
            assert (copy.code / "conf" / "config.yaml").is_file()
            assert (copy.code / "recsys_collapse" / "run.py").read_bytes() == (
                ROOT / "recsys_collapse/run.py"
            ).read_bytes()
            kept = {path.name for path in (copy.code / "their_pkg").iterdir()}
            assert {"__init__.py", "conf"} <= kept and not {"outputs", "large.bin", ".hidden"} & kept
        plans.add(copy.plan)
        assert {path.name for path in plan.folder.iterdir()} == {path.name for path in plans}


def test_a_plan_that_was_changed_is_set_aside_and_no_job_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_theirs(tmp_path, fine={})
    plan = make_plan(words("fine"))
    assert plan is not None
    path = freeze(plan)
    whole = path.read_bytes()
    name = plan.jobs[0].name
    other = seal(json.loads(whole) | {"jobs": {name: {"run_id": "x", "config": {}}}})
    for wrong in (whole[:100], json.dumps(other).encode()):
        path.write_bytes(wrong)
        with pytest.raises(DamagedError):
            load_job(path, name, ["their_pkg"])
        assert freeze(plan) == path and path.read_bytes() == whole
    assert caplog.text.count("set aside as plan-") == 2
    assert load_job(path, name, ["their_pkg"]).run_id == plan.jobs[0].run_id


def test_a_run_that_other_code_goes_on_with_says_so(
    tmp_path: Path, here: Callable[..., int], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The disk is full in its second epoch; then there is room again, and other code."""
    write_theirs(tmp_path, full={"misbehave": "full", "after": STEPS + 2})
    command = words("full")
    assert here(*command) == 75
    path = runs(tmp_path)["full"]
    code = tmp_path / "their_pkg" / "tiny.py"
    code.write_text(
        code.read_text()
        .replace("raise OSError(28", "print(OSError(28")
        .replace('"their.file")', '"x"))\n        return h')
    )
    assert here(*command) == 0
    result = read(path / "result.json")
    first, second = (attempt["own_code"]["their_pkg"] for attempt in result["attempts"])
    assert first != second == result["own_code"]["their_pkg"]
    assert result["mixed_environment"] is True
    assert "began with other code or on another machine; its result says mixed_environment" in caplog.text
    assert [attempt["first_epoch"] for attempt in result["attempts"]] == [0, 1]


# Nothing starts


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("model=fine,gone", "model=gone: no such option"),
        ("trainer.batch_size=32,1", "trainer.batch_size=1: expected an integer of 2 or more"),
        ("scale=1,two", "scale=two"),
        ("+model.backbone.widht=3,4", "did you mean model.backbone.width"),
        ("launch=subprocess,in_process", "a sweep has one launch"),
        ("launch.hang_minutes=0", "launch.hang_minutes=0.0: expected a number above 0, or null"),
        ("launch.retries=-1", "launch.retries=-1: expected 0 or more"),
        ("output_dir=file", "output_dir=file"),
        ("output_dir=file/below", "output_dir=file/below"),
        ("output_dir=/proc/nothing", "output_dir=/proc/nothing"),
        ("store_dir=/proc/nothing", "store_dir=/proc/nothing"),
    ],
)
def test_one_wrong_cell_starts_nothing(
    tmp_path: Path, here: Callable[..., int], capsys: Any, wrong: str, said: str
) -> None:
    write_theirs(tmp_path, fine={})
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    command = [word for word in words("fine") if word.partition("=")[0] != wrong.partition("=")[0]]
    assert here(*command, wrong, "seed=0,1") == 2
    assert said in capsys.readouterr().err
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_starts_nothing(tmp_path: Path, here: Callable[..., int], capsys: Any) -> None:
    write_theirs(tmp_path, fine={})
    (tmp_path / "outputs").mkdir(mode=0o555)
    assert here(*words("fine")) == 2
    assert "not a folder one can write to" in capsys.readouterr().err


# In this process


def test_jobs_in_one_process_take_no_other_with_them(tmp_path: Path, here: Callable[..., int], capsys: Any) -> None:
    """Whatever they raise, and also if they leave: the exit code is not theirs."""
    traps = {name: {"misbehave": name} for name in ("mistake", "memory", "exit_sys")}
    write_theirs(tmp_path, diverges={"lr": 1e30}, fine={}, **traps)
    assert here(*words("diverges", *traps, "fine")) == 1
    assert finished(tmp_path) == {"fine"}
    kinds = {name: read(path / "failure.json")["kind"] for name, path in runs(tmp_path).items() if name != "fine"}
    assert kinds == {"diverges": "diverged", "mistake": "raised", "memory": "oom", "exit_sys": "raised"}
    said = capsys.readouterr().err
    for name, reason in {
        "diverges": "learning rate 1e+30",
        "mistake": "their own",
        "exit_sys": "SystemExit: 0",
    }.items():
        assert reason in read(runs(tmp_path)[name] / "failure.json")["traceback"]
        assert reason in next(line for line in said.splitlines() if line.startswith(f"failed   {name}-"))
        assert reason in next(why for run_, why in status(tmp_path)["failed"].items() if run_.startswith(name))
    assert "4 of 5 runs failed" in said and status(tmp_path)["left"] == 0


def test_a_full_disk_stops_the_sweep(tmp_path: Path, here: Callable[..., int], monkeypatch: Any, capsys: Any) -> None:
    """What was finished is kept, no further job starts, and with room again the same command does the rest."""
    write_theirs(tmp_path, fine={}, well={"lr": 0.02}, good={"lr": 0.03})
    command, room = words("fine", "well", "good"), shutil.disk_usage
    used = room(tmp_path)

    def full_for_the_second(path: Any) -> Any:
        return used._replace(free=0 if "/well-" in str(path) else used.free)

    monkeypatch.setattr(shutil, "disk_usage", full_for_the_second)
    assert here(*command) == 75
    said = capsys.readouterr()
    assert finished(tmp_path) == {"fine"} and set(runs(tmp_path)) == {"fine", "well"}
    assert "for its checkpoints, 0.00 GB are free: make room, or choose another output_dir" in said.err
    failure = read(runs(tmp_path)["well"] / "failure.json")
    assert failure["kind"] == "disk_full"
    assert list(status(tmp_path)["failed"].values()) == [failure["reason"]] and status(tmp_path)["left"] == 1
    assert "good-" in said.err and "not started" in said.err

    monkeypatch.setattr(shutil, "disk_usage", room)
    assert here(*command) == 0
    assert finished(tmp_path) == {"fine", "well", "good"}
    assert {name: starts(path) for name, path in runs(tmp_path).items()} == {"fine": 1, "well": 2, "good": 1}


def test_a_job_has_the_threads_and_the_gpu_of_its_slot(
    tmp_path: Path, here: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    write_theirs(tmp_path, tell={"misbehave": "tell"})
    options = ["launch=subprocess", "launch.cores_per_job=2", "trainer.max_epochs=1"]
    assert here(*words("tell"), *options) == 0
    told = (runs(tmp_path)["tell"] / "log.txt").read_text()
    assert "slot {'OMP_NUM_THREADS': '2', 'CUDA_VISIBLE_DEVICES': '7'} threads 2\n" in told
