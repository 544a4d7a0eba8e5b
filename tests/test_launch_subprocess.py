"""Watching jobs: how each way to end is judged, who is tried again, what runs at once. The jobs are shell scripts."""

import json
import logging
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recsys_collapse.launch import subprocess as pool
from recsys_collapse.launch import watch
from recsys_collapse.launch.frozen import Frozen
from recsys_collapse.launch.job import BUSY, DISK_FULL, FAILED, FINISHED
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.status import Status
from recsys_collapse.launch.subprocess import launch, make_slots
from recsys_collapse.runs.durable import exclusive, seal
from recsys_collapse.runs.heartbeat import NAME
from recsys_collapse.runs.records import REQUIRED, SCHEMA, read_failure

NOWHERE = Frozen(Path("plan.json"), Path("code"), ())
FINISHES = "cp prepared.json result.json"
RAISES = "cp prepared_failure.json failure.json; exit 1"


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """Jobs that are shell scripts, each in its run directory; every line of `starts.txt` there is a start."""
    commands: dict[str, str] = {}

    def command(frozen: Frozen, name: str) -> list[str]:
        folder = tmp_path / "runs" / name
        return ["sh", "-c", f"cd '{folder}'; echo $$ >> starts.txt; {commands[name]}"]

    def make(**given: str) -> list[Job]:
        jobs = []
        for name, script in given.items():
            commands[name], folder = script, tmp_path / "runs" / name
            folder.mkdir(parents=True)
            result = {key: 0 for key in REQUIRED if key != "checksum"} | {
                "schema": SCHEMA,
                "run_id": name,
                "run_name": name,
            }
            (folder / "prepared.json").write_text(json.dumps(seal(result | {"wall_seconds": 1.0})))
            (folder / "prepared_failure.json").write_text('{"kind": "raised", "reason": "ValueError: no"}')
            jobs.append(Job(OmegaConf.create({"file_locks": True}), name, folder))
        return jobs

    monkeypatch.setattr(watch, "command", command)
    monkeypatch.setattr(pool, "LOOK", 0.01)
    return make


def options(**given: Any) -> Any:
    return OmegaConf.create(
        {"name": "subprocess", "at_once": None, "cores_per_job": None, "hang_minutes": None, "retries": 1, **given}
    )


def started(job: Job) -> int:
    path = job.run_dir / "starts.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def judged(job: Job, hang_seconds: float | None = None) -> tuple[str, watch.Child]:
    child = watch.Child(NOWHERE, job, {}, hang_seconds)
    began = time.monotonic()
    while (outcome := child.poll()) is None:
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    return outcome, child


# script, outcome, whether it is worth another try, kind in failure.json (None: none is written), words of the reason
ENDS = {
    "finishes": (FINISHES, FINISHED, False, None, ""),
    "finishes, then fails": (f"{FINISHES}; exit 1", FINISHED, False, None, ""),
    "finishes, then is killed": (f"{FINISHES}; kill -9 $$", FINISHED, False, None, ""),
    "raises": (RAISES, FAILED, False, "raised", "ValueError: no"),
    "raises, then is killed": (f"{RAISES.partition(';')[0]}; kill -9 $$", FAILED, True, "crashed", "SIGKILL"),
    "another has it": ("exit 73", BUSY, False, None, ""),
    "disk full": ("exit 75", DISK_FULL, False, None, "the disk is full"),
    "does nothing": ("exit 0", FAILED, True, "crashed", "ended with code 0 and without a result"),
    "fails without a reason": ("echo no such plan; exit 1", FAILED, True, "crashed", "ended with code 1"),
    "killed": ("kill -9 $$", FAILED, True, "crashed", "SIGKILL; perhaps by the system, for lack of memory"),
    "crashes": ("kill -11 $$", FAILED, True, "crashed", "ended by SIGSEGV"),
    "writes half": ("head -c 50 prepared.json > result.json", FAILED, True, "crashed", "without a result"),
    "of another run": ("sed s/other/x/ prepared.json > result.json", FAILED, True, "crashed", "without a result"),
}


@pytest.mark.parametrize("how", ENDS)
def test_judged_by_the_files_it_leaves(scripts: Callable[..., list[Job]], how: str) -> None:
    script, expected, again, kind, reason = ENDS[how]
    (job,) = scripts(other=script)
    outcome, child = judged(job)
    assert (outcome, child.again) == (expected, again)
    assert reason in child.reason and bool(child.reason) == bool(reason)
    failure = read_failure(job.run_dir)
    assert (failure and failure["kind"]) == kind
    assert failure is None or failure["reason"] == child.reason


def test_an_old_failure_is_not_taken_for_a_new_one(scripts: Callable[..., list[Job]]) -> None:
    (job,) = scripts(one="exit 1")
    (job.run_dir / "failure.json").write_text('{"kind": "raised", "reason": "of yesterday"}')
    outcome, child = judged(job)
    assert (outcome, child.again) == (FAILED, True) and "code 1" in child.reason


def test_the_last_lines_of_a_crashed_job_are_kept(scripts: Callable[..., list[Job]]) -> None:
    (job,) = scripts(one="seq 5000; echo last words >&2; kill -11 $$")
    judged(job)
    failure = read_failure(job.run_dir)
    assert failure is not None and failure["log"][-3:] == ["4999", "5000", "last words"]
    assert len(failure["log"]) == watch.LOG_LINES


def test_a_hanging_job_is_ended_with_all_that_it_started(
    scripts: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ignores SIGTERM as well."""
    (job,) = scripts(one="trap '' TERM; sleep 600 & echo $! > other.txt; wait; sleep 600")
    monkeypatch.setattr(watch, "GRACE", 0.3)
    began = time.monotonic()
    outcome, child = judged(job, hang_seconds=0.5)
    assert (outcome, child.again) == (FAILED, True) and time.monotonic() - began >= 0.5
    failure = read_failure(job.run_dir)
    assert failure is not None and (failure["kind"], failure["reason"]) == ("hung", "hung: no sign of life for 0.5 s")
    other = Path("/proc") / (job.run_dir / "other.txt").read_text().strip() / "stat"
    while other.exists() and other.read_text().split()[2] != "Z":
        assert time.monotonic() - began < 60
        time.sleep(0.01)


def test_a_job_with_signs_of_life_does_not_hang(scripts: Callable[..., list[Job]]) -> None:
    """It takes four times as long as a job may be silent."""
    (job,) = scripts(one=f"for i in $(seq 40); do touch {NAME}; sleep 0.1; done; {FINISHES}")
    assert judged(job, hang_seconds=1.0)[0] == FINISHED


def test_an_old_sign_of_life_counts_for_nothing(scripts: Callable[..., list[Job]]) -> None:
    (job,) = scripts(one=f"sleep 0.3; {FINISHES}")
    (job.run_dir / NAME).touch()
    os.utime(job.run_dir / NAME, (1, 1))
    assert judged(job, hang_seconds=60)[0] == FINISHED


# The pool


def test_crashed_jobs_are_tried_again_and_others_are_not(scripts: Callable[..., list[Job]], tmp_path: Path) -> None:
    unlucky = f"test $(wc -l < starts.txt) = 1 && kill -9 $$; {FINISHES}"
    jobs = scripts(fine=FINISHES, raises=RAISES, killed="kill -9 $$", hangs="sleep 600", unlucky=unlucky, well=FINISHES)
    status = Status(6, 0, tmp_path / "status.json")
    expected = {"fine": 1, "raises": 1, "killed": 2, "hangs": 2, "unlucky": 2, "well": 1}
    launch(jobs, status, NOWHERE, [{}, {}], options(hang_minutes=0.5 / 60))
    assert {job.name: started(job) for job in jobs} == expected
    assert (status.done, status.left, status.running) == (3, 0, {})
    reasons = {name: why.partition(":")[0] for name, why in status.failed.items()}
    assert reasons == {"raises": "ValueError", "killed": "crashed", "hangs": "hung"}
    written = json.loads((tmp_path / "status.json").read_text())
    assert (written["done"], written["failed"], written["left"]) == (3, status.failed, 0)


def test_retries_are_as_many_as_asked_for(scripts: Callable[..., list[Job]]) -> None:
    for retries in (0, 3):
        (job,) = scripts(**{f"job{retries}": "kill -9 $$"})
        launch([job], Status(1, 0, None), NOWHERE, [{}], options(retries=retries))
        assert started(job) == retries + 1


def test_a_full_disk_starts_no_further_job(scripts: Callable[..., list[Job]], caplog: Any) -> None:
    """What runs goes on to its end."""
    jobs = scripts(long=f"sleep 0.5; {FINISHES}", full="exit 75", never=FINISHES)
    status = Status(3, 0, None)
    with caplog.at_level(logging.INFO):
        launch(jobs, status, NOWHERE, [{}, {}], options())
    assert [started(job) for job in jobs] == [1, 1, 0]
    assert (status.disk_full, status.done, status.left, status.failed) == (True, 1, 1, {"full": "the disk is full"})
    assert "full: the disk is full: no further job is started" in caplog.text


def test_a_job_that_another_command_has_is_waited_for(
    scripts: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started for it; the others run meanwhile."""
    monkeypatch.setattr(pool, "PAUSE", 0.05)
    first, second = scripts(first="exit 99", second=f"cp ../first/prepared.json ../first/result.json; {FINISHES}")
    status = Status(2, 0, None)
    with exclusive(first.run_dir / ".lock", "runs first"):
        launch([first, second], status, NOWHERE, [{}], options())
    assert (started(first), started(second), status.done, status.failed) == (0, 1, 2, {})


def test_being_busy_is_no_try(scripts: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pool, "PAUSE", 0.05)
    (job,) = scripts(one="case $(wc -l < starts.txt) in 1|2) exit 73;; 3) kill -9 $$;; esac; " + FINISHES)
    status = Status(1, 0, None)
    launch([job], status, NOWHERE, [{}], options())
    assert (started(job), status.done, status.failed) == (4, 1, {})
    assert caplog.text.count("one: another command has it, it is waited for") == 1


def test_jobs_have_the_environment_of_their_slot(scripts: Callable[..., list[Job]]) -> None:
    """And no two that run at once have the same."""
    script = f'echo "$CUDA_VISIBLE_DEVICES $(date +%s%N)" > told.txt; sleep 0.2; date +%s%N >> told.txt; {FINISHES}'
    jobs = scripts(**{f"job{i}": script for i in range(5)})
    launch(jobs, Status(5, 0, None), NOWHERE, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "73"], options())
    told = [(job.run_dir / "told.txt").read_text().split() for job in jobs]
    assert {words[0] for words in told[:2]} == {"7", "3"}
    for gpu in "73":
        times = sorted((int(begin), int(end)) for name, begin, end in told if name == gpu)
        assert times and all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_an_interruption_ends_what_runs(scripts: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, sleep = scripts(one="sleep 600", two="sleep 600", never=FINISHES), time.sleep

    def interrupt(seconds: float) -> None:
        if all(started(job) for job in jobs[:2]):
            monkeypatch.setattr(time, "sleep", sleep)
            raise SystemExit(143)

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(SystemExit):
        launch(jobs, Status(3, 0, None), NOWHERE, [{}, {}], options())
    assert [started(job) for job in jobs] == [1, 1, 0]
    assert not any((Path("/proc") / (job.run_dir / "starts.txt").read_text().strip()).exists() for job in jobs[:2])
    assert not any((job.run_dir / "failure.json").exists() for job in jobs)


# Slots


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_to(number: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)), raising=False)

    return set_to


@pytest.mark.parametrize(
    ("number", "given", "expected"),
    [
        (8, {}, ["8"]),
        (8, {"cores_per_job": 2}, ["2"] * 4),
        (8, {"cores_per_job": 3}, ["3"] * 2),
        (8, {"at_once": 3}, ["2"] * 3),
        (8, {"at_once": 3, "cores_per_job": 1}, ["1"] * 3),
        (2, {"cores_per_job": 16}, ["16"]),
        (2, {"at_once": 5}, ["1"] * 5),
    ],
)
def test_slots_share_the_cores(cores: Any, number: int, given: dict[str, int], expected: list[str]) -> None:
    cores(number)
    slots = make_slots(options(**given), "cpu")
    assert slots == [{"OMP_NUM_THREADS": n, "POLARS_MAX_THREADS": n} for n in expected]


@pytest.mark.parametrize(
    ("visible", "given", "expected"),
    [
        ("0,1,2", {}, [("0", "3"), ("1", "3"), ("2", "3")]),
        ("GPU-b, GPU-a,5", {}, [("GPU-b", "3"), ("GPU-a", "3"), ("5", "3")]),
        ("2,0,1", {"at_once": 2}, [("2", "5"), ("0", "5")]),
        ("0,1,2", {"cores_per_job": 1}, [("0", "1"), ("1", "1"), ("2", "1")]),
        ("", {}, [(None, "10")]),
        ("-1", {}, [(None, "10")]),
        ("1,-1,0", {}, [("1", "10")]),
    ],
)
def test_slots_are_one_for_each_gpu(
    cores: Any, monkeypatch: pytest.MonkeyPatch, visible: str, given: dict[str, int], expected: list[Any]
) -> None:
    cores(10)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = make_slots(options(**given), "auto")
    assert [(slot.get("CUDA_VISIBLE_DEVICES"), slot["OMP_NUM_THREADS"]) for slot in slots] == expected
    assert all("CUDA_VISIBLE_DEVICES" not in slot for slot in make_slots(options(), "cpu"))


def test_more_jobs_at_once_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ValueError, match=r"launch\.at_once=4: there are 3 GPUs: expected at most as many"):
        make_slots(options(at_once=4), "auto")
