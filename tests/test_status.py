"""How a sweep stands: counts that always add up, a time that is left, and a file that says the same."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recsys_collapse.launch import status as status_module
from recsys_collapse.launch.job import BUSY, DISK_FULL, FAILED, FINISHED
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.status import Status
from recsys_collapse.runs.durable import seal
from recsys_collapse.runs.heartbeat import NAME
from recsys_collapse.runs.records import REQUIRED, SCHEMA


def make_job(folder: Path, name: str) -> Job:
    return Job(OmegaConf.create({}), name, folder / name)


@given(
    before=st.integers(0, 3),
    events=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([FINISHED, FAILED, BUSY, DISK_FULL, "found"]))),
)
def test_counts_add_up_whatever_happens(before: int, events: list[tuple[int, str]]) -> None:
    """Five jobs are started and end, or are found finished, in any order; the counts are those of a plain model."""
    with tempfile.TemporaryDirectory() as folder:
        jobs, where = [make_job(Path(folder), f"job{i}") for i in range(5)], ["left"] * 5
        status = Status(5 + before, before, Path(folder) / "status.json")
        for i, event in events:
            if where[i] == "left" and event == "found":
                status.found(jobs[i])
                where[i] = FINISHED
            elif where[i] == "left":
                status.started(jobs[i])
                where[i] = "running"
            elif where[i] == "running" and event != "found":
                status.ended(jobs[i], event, "why")
                where[i] = {BUSY: "left", DISK_FULL: FAILED}.get(event, event)
            else:
                continue
            expected = {
                "total": 5 + before,
                "done": before + where.count(FINISHED),
                "running": [f"job{k}" for k in range(5) if where[k] == "running"],
                "failed": {f"job{k}": "why" for k in range(5) if where[k] == FAILED},
                "left": where.count("left"),
            }
            written = json.loads((Path(folder) / "status.json").read_text())
            assert {key: written[key] for key in expected} == expected
            assert status.left >= 0 and (written["seconds_left"] is None or written["seconds_left"] >= 0)
            assert (written["seconds_left"] is None) == (len(status.seconds) == 0)
            assert f"{expected['done']} of {5 + before} done, {len(expected['running'])} running" in str(status)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_time_left_is_that_of_the_jobs_that_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(status_module, "time", clock)
    jobs, status = [make_job(tmp_path, f"job{i}") for i in range(6)], Status(6, 0, None)
    status.started(jobs[0])
    status.started(jobs[1])
    assert status.seconds_left is None and "about" not in str(status)
    clock.now += 100
    status.ended(jobs[0], FINISHED)
    status.ended(jobs[1], FAILED, "why")  # says nothing of how long a job takes
    assert status.seconds_left == pytest.approx(4 * 100 / 2)  # two at once
    assert str(status) == "1 of 6 done, 0 running, 1 failed, 4 left, about 3 min"
    status.started(jobs[2])
    status.started(jobs[3])
    clock.now += 40
    assert status.seconds_left == pytest.approx((4 * 100 - 2 * 40) / 2)
    clock.now += 1000  # longer than those before: not less than nothing is left of them
    assert status.seconds_left == pytest.approx(2 * 100 / 2)
    for job in jobs[2:4]:
        status.ended(job, FINISHED)
    assert status.seconds_left == pytest.approx(2 * (100 + 1040 * 2) / 3 / 2)
    assert str(status).endswith("about 12 min")


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").touch()
    status, job = Status(1, 0, tmp_path / "file" / "status.json"), make_job(tmp_path, "job")
    status.started(job)
    status.ended(job, FINISHED)
    assert status.done == 1 and "status.json is not written" in caplog.text


# Jobs that somebody else starts


@pytest.fixture
def job(tmp_path: Path) -> Job:
    found = make_job(tmp_path, "job")
    found.run_dir.mkdir()
    return found


def stands(status: Status) -> tuple[int, list[str], dict[str, str]]:
    return status.done, sorted(status.running), status.failed


def finish(job: Job) -> None:
    result = {key: 0 for key in REQUIRED if key != "checksum"} | {
        "schema": SCHEMA,
        "run_id": job.run_id,
        "run_name": job.name,
    }
    (job.run_dir / "result.json").write_text(json.dumps(seal(result | {"wall_seconds": 12.0})))


def fail(job: Job, reason: str) -> None:
    (job.run_dir / "failure.json").write_text(json.dumps({"reason": reason}))


def touch(job: Job, ago: float = 0.0) -> None:
    path = job.run_dir / NAME
    path.touch()
    os.utime(path, (time.time() - ago, time.time() - ago))


def test_followed_from_its_start_to_its_end(job: Job) -> None:
    status, began = Status(1, 0, None), time.time() - 100
    status._look([job], began)
    assert stands(status) == (0, [], {})
    touch(job)
    status._look([job], began)
    assert stands(status) == (0, ["job"], {})
    finish(job)
    for _ in range(2):  # counted once
        status._look([job], began)
        assert stands(status) == (1, [], {})
    assert status.seconds[0] >= 0


def test_followed_when_it_is_killed_and_tried_again(job: Job) -> None:
    """It leaves its sign of life, which is older than what its watcher writes."""
    status, began = Status(1, 0, None), time.time() - 100
    touch(job, ago=1)
    status._look([job], began)
    fail(job, "crashed")
    for _ in range(2):
        status._look([job], began)
        assert stands(status) == (0, [], {"job": "crashed"})
    (job.run_dir / "failure.json").unlink()
    touch(job)
    status._look([job], began)
    assert stands(status) == (0, ["job"], {})
    finish(job)
    status._look([job], began)
    assert stands(status) == (1, [], {})


def test_what_an_earlier_sweep_left_says_nothing(job: Job) -> None:
    fail(job, "of yesterday")
    touch(job, ago=3600)
    os.utime(job.run_dir / "failure.json", (1, 1))
    status = Status(1, 0, None)
    status._look([job], time.time() - 100)
    assert stands(status) == (0, [], {}) and status.left == 1


@pytest.mark.parametrize(("kind", "full"), [("disk_full", True), ("raised", False)])
def test_followed_when_the_disk_is_full(job: Job, kind: str, full: bool) -> None:
    status = Status(1, 0, None)
    (job.run_dir / "failure.json").write_text(json.dumps({"reason": "why", "kind": kind}))
    status._look([job], time.time() - 100)
    assert (status.disk_full, status.failed) == (full, {"job": "why"})


def test_followed_by_a_thread(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "FOLLOW", 0.01)
    status = Status(1, 0, None)
    with status.followed([job]):
        touch(job, ago=-1)
        began = time.monotonic()
        while not status.running:
            assert time.monotonic() - began < 60
            time.sleep(0.01)
        finish(job)  # and at once over: looked at once more
    assert stands(status) == (1, [], {})
