"""Sweeps whose jobs fail in every way: the others finish, what failed is listed, the same command does the rest."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys_collapse import run as run_module
from recsys_collapse.runs import figure
from tests.cli import ROOT, python_path, run
from tests.sweeping import (
    STEPS,
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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command in this process, which has imported everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run_module, "end_on_signals", lambda: None)
    monkeypatch.setattr(run_module, "configure_log", lambda *_: None)
    monkeypatch.setattr(figure, "draw", lambda *_: [])  # takes seconds

    def main(*arguments: str) -> int:
        for name in [name for name in sys.modules if name.partition(".")[0] == "their_pkg"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "argv", ["run", *arguments])
        return run_module.main()

    yield main
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_pkg"]:
        del sys.modules[name]


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recsys_collapse.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
            assert failure["traceback"].splitlines()[-1] in log
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


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["in_process", "subprocess"])
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
    command = [*words("one", "two"), *SUBPROCESS]
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
        assert result["num_epochs"] == 2
        first = [attempt["first_epoch"] for attempt in result["attempts"]]
        assert len(first) <= 2 and first[-1] >= recorded[name] - 1, (name, first)
