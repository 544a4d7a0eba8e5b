"""One job in a process of its own, watched: whatever happens to it, the watcher learns how it ended and why.

A job is judged by the files it leaves, not by its exit code alone: finished is what has a valid result.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from recsys_collapse.launch.frozen import Frozen, command
from recsys_collapse.launch.job import BUSY, DISK_FULL, EXIT, FAILED, FINISHED
from recsys_collapse.launch.plan import Job
from recsys_collapse.runs.durable import APPENDING
from recsys_collapse.runs.heartbeat import last_beat
from recsys_collapse.runs.records import read_failure, read_result, write_reason

GRACE = 10.0  # seconds, between SIGTERM and SIGKILL
LOG_LINES = 15  # of a job that left no reason


class Child:
    """A job's process. Its output goes to `log.txt` of the run.

    Args:
        frozen: plan and code.
        job: which one of the plan.
        environment: on top of this process's: which GPU, how many threads.
        hang_seconds: without a sign of life, after which the job counts as hanging; None: never.

    Raises:
        OSError: no process or no log can be had.
    """

    def __init__(self, frozen: Frozen, job: Job, environment: Mapping[str, str], hang_seconds: float | None) -> None:
        self.job, self.hang_seconds = job, hang_seconds
        self._beat, self._heard = last_beat(job.run_dir), time.monotonic()
        self._hung, self._kill_at = False, float("inf")
        self.reason = ""
        """Why it did not finish."""
        self.again = False
        """Whether trying again could help: it crashed or hung."""
        job.run_dir.mkdir(parents=True, exist_ok=True)
        self._failure_before = _age(job.run_dir / "failure.json")
        with os.fdopen(os.open(job.run_dir / "log.txt", APPENDING, 0o666), "ab") as log_file:
            self._process = subprocess.Popen(
                command(frozen, job.name),
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that all it starts ends with it, and Ctrl-C reaches the watcher only
            )

    def poll(self) -> str | None:
        """How it ended; None while it runs. Ends it when it hangs."""
        if self._process.poll() is None:
            if not self._hung and self.hang_seconds is not None and self._silence() > self.hang_seconds:
                self._hung, self._kill_at = True, time.monotonic() + GRACE
                self.ask_to_stop()
            if time.monotonic() > self._kill_at:
                self._signal(signal.SIGKILL)
            return None
        self._signal(signal.SIGKILL)  # what it may have started
        return self._judge()

    def ask_to_stop(self) -> None:
        """SIGTERM, which lets it end in order."""
        self._signal(signal.SIGTERM)

    def stop(self, grace: float = GRACE) -> None:
        """End it: SIGTERM, and after `grace` seconds SIGKILL."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
            return
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _silence(self) -> float:
        """Seconds since its sign of life last changed, by our clock: the machine that keeps the files has another."""
        if (beat := last_beat(self.job.run_dir)) != self._beat:
            self._beat, self._heard = beat, time.monotonic()
        return time.monotonic() - self._heard

    def _judge(self) -> str:
        code, run_dir = self._process.returncode, self.job.run_dir
        if read_result(run_dir, self.job.run_id) is not None:
            return FINISHED
        if code == EXIT[BUSY]:
            return BUSY
        if code == EXIT[DISK_FULL]:
            self.reason = "the disk is full"
            return DISK_FULL
        failure = read_failure(run_dir)
        if code == EXIT[FAILED] and failure is not None and _age(run_dir / "failure.json") != self._failure_before:
            self.reason = failure["reason"]
            return FAILED
        kind, self.again = ("hung" if self._hung else "crashed"), True
        self.reason = f"hung: no sign of life for {self.hang_seconds:g} s" if self._hung else _how_it_died(code)
        write_reason(run_dir, kind, self.reason, log=_last_lines(run_dir / "log.txt"))
        return FAILED


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"crashed: its process ended with code {code} and without a result"
    name = signal.Signals(-code).name
    memory = "; perhaps by the system, for lack of memory" if -code == signal.SIGKILL else ""
    return f"crashed: its process was ended by {name}{memory}"


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 10_000))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []
