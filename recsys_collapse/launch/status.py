"""How a sweep stands: jobs done, running, failed and left, and the time left; on the terminal and in `status.json`."""

import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from recsys_collapse.launch.job import BUSY, DISK_FULL, FAILED, FINISHED
from recsys_collapse.launch.plan import Job
from recsys_collapse.runs.durable import write_json
from recsys_collapse.runs.heartbeat import NAME
from recsys_collapse.runs.records import read_failure, read_result

log = logging.getLogger(__name__)
FOLLOW = 2.0  # seconds between looks at jobs that somebody else starts


class Status:
    """Of one sweep.

    Args:
        total: jobs of the sweep.
        before: those that were finished before it began.
        path: of `status.json`; None: it is not written.
    """

    def __init__(self, total: int, before: int, path: Path | None) -> None:
        self.total, self.done, self.path = total, before, path
        self.running: dict[str, tuple[float, Path]] = {}
        """Since when, and where."""
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []
        """Of the jobs that finished here."""
        self.disk_full = False
        self._finished: set[str] = set()
        self._waited_for: set[str] = set()
        self._most_at_once = 1

    def started(self, job: Job) -> None:
        """A job begins, or is tried again."""
        self.running[job.name] = (time.monotonic(), job.run_dir)
        self._most_at_once = max(self._most_at_once, len(self.running))
        self._write()

    def ended(self, job: Job, outcome: str, reason: str = "") -> None:
        """How a job ended; one line about the sweep."""
        seconds = time.monotonic() - self.running.pop(job.name)[0]
        if outcome == BUSY:
            self._write()
            return
        if outcome == FINISHED:
            self.done += 1
            self._finished.add(job.name)
            self.failed.pop(job.name, None)
            self.seconds.append(seconds)
        elif outcome in (FAILED, DISK_FULL):
            self.failed[job.name] = reason or outcome
            self.disk_full = self.disk_full or outcome == DISK_FULL
        self._write()
        if self.total > 1:
            log.info(str(self))

    def busy(self, job: Job) -> None:
        """Another command has a job: said once."""
        if job.name not in self._waited_for:
            self._waited_for.add(job.name)
            log.info(f"{job.name}: another command has it, it is waited for")

    def found(self, job: Job) -> None:
        """A job was finished by another command meanwhile."""
        self.done += 1
        self._finished.add(job.name)
        self._write()
        log.info(f"{job.name}: finished by another command; {self}")

    @property
    def left(self) -> int:
        """Jobs that have not begun."""
        return self.total - self.done - len(self.failed) - len(self.running)

    @property
    def seconds_left(self) -> float | None:
        """From the jobs that finished here; None before the first one did."""
        if not self.seconds:
            return None
        each = statistics.fmean(self.seconds)
        begun = sum(min(each, time.monotonic() - start) for start, _ in self.running.values())
        return max(0.0, (each * (self.left + len(self.running)) - begun) / self._most_at_once)

    def __str__(self) -> str:
        parts = f"{self.done} of {self.total} done, {len(self.running)} running, {len(self.failed)} failed, "
        parts += f"{self.left} left"
        return parts if self.seconds_left is None else f"{parts}, about {span(self.seconds_left)}"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within it, the sweep and the running jobs stand at the end of the terminal, if there is one."""
        if not sys.stdout.isatty() or self.path is None:
            yield
            return
        from rich.live import Live

        with Live(get_renderable=self._lines, refresh_per_second=1, transient=True):
            yield

    def _lines(self) -> Any:
        from rich.text import Text

        lines = [str(self)]
        for name, (started, run_dir) in sorted(self.running.items()):
            lines.append(f"  {name}  {span(time.monotonic() - started)}  {last_epoch(run_dir)}")
        return Text("\n".join(lines))

    @contextmanager
    def followed(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Within it, the files of the jobs tell how they stand: somebody else starts them, perhaps elsewhere."""
        over, began = Event(), time.time()

        def follow() -> None:
            while not over.wait(FOLLOW):
                self._look(jobs, began)

        thread = Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._look(jobs, began)

    def _look(self, jobs: Sequence[Job], began: float) -> None:
        for job in jobs:
            if job.name in self._finished:
                continue
            beat, failed = written(job.run_dir / NAME), written(job.run_dir / "failure.json")
            if (result := read_result(job.run_dir, job.run_id)) is not None:
                self.running.setdefault(job.name, (time.monotonic() - result["wall_seconds"], job.run_dir))
                self.ended(job, FINISHED)
            elif failed >= max(began, beat):  # a job that is killed leaves its sign of life
                if job.name not in self.failed:
                    self.running.setdefault(job.name, (time.monotonic(), job.run_dir))
                    failure = read_failure(job.run_dir) or {}
                    outcome = DISK_FULL if failure.get("kind") == "disk_full" else FAILED
                    self.ended(job, outcome, failure.get("reason", "failed"))
            elif beat >= began and job.name not in self.running:
                self.failed.pop(job.name, None)  # it is tried again
                self.started(job)

    def _write(self) -> None:
        if self.path is None:
            return
        content: dict[str, Any] = {
            "total": self.total,
            "done": self.done,
            "running": sorted(self.running),
            "failed": dict(sorted(self.failed.items())),
            "left": self.left,
            "seconds_left": self.seconds_left,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            write_json(self.path, content)
        except OSError as error:  # it is for looking at: what counts is in the runs
            log.warning(f"{self.path} is not written ({error})")


def written(path: Path) -> float:
    """When a file was last written; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_epoch(run_dir: Path) -> str:
    """What a running job has reached: `epoch 7  val_auc 0.80123`; empty before its first epoch is finished."""
    try:
        record = json.loads((run_dir / "epochs.jsonl").read_text().splitlines()[-1])
        return f"epoch {record['epoch']}  val_auc {record['val_auc']:.5f}" if record["epoch"] >= 0 else ""
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return ""


def span(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
