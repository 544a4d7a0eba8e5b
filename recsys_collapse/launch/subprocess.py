"""Every job in a process of its own, several at once: one for each GPU, or for every n cores.

What happens to one job happens to no other. A job that crashed or hung is tried again `launch.retries` times, from its
last checkpoint on; one that raised an error would raise it again and is not.
"""

import logging
import os
import signal
import time
from collections import Counter, deque
from itertools import takewhile
from typing import Any

from recsys_collapse.launch.frozen import Frozen
from recsys_collapse.launch.job import BUSY, DISK_FULL, EXIT, FAILED, standing
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.signals import Interrupted
from recsys_collapse.launch.status import Status
from recsys_collapse.launch.watch import Child
from recsys_collapse.runs.records import kind_of, write_reason

log = logging.getLogger(__name__)
LOOK = 0.1  # seconds between looks
NOBODY = 3  # times that a job may say that another process has it when none has
PAUSE = 5.0  # seconds between tries of a job that another process has


def launch(
    jobs: list[Job],
    status: Status,
    frozen: Frozen,
    slots: list[dict[str, str]],
    options: Any,
    with_parent: bool = False,
) -> None:
    """Run the jobs; `slots` are the environments of those that run at once, `options` is the node `launch`.

    `with_parent`: they end when the process ends that started this one, as a plugin's worker has it.
    """
    log.info(f"{len(slots)} at once, each in a process of its own; their output is in log.txt of each run")
    with status.shown():
        _Pool(jobs, status, frozen, slots, options).run(with_parent)


class _Pool:
    """The jobs that wait, each with the time before which it is not tried, and those that run in a slot."""

    def __init__(
        self, jobs: list[Job], status: Status, frozen: Frozen, slots: list[dict[str, str]], options: Any
    ) -> None:
        self.parent = os.getppid()
        self.waiting, self.free = deque((0.0, job) for job in jobs), deque(slots)
        self.running: dict[str, tuple[Child, dict[str, str]]] = {}
        self.status, self.frozen, self.retries = status, frozen, options.retries
        self.hang_seconds = options.hang_minutes and 60 * options.hang_minutes
        self.retried: Counter[str] = Counter()
        self.nobody: Counter[str] = Counter()

    def run(self, with_parent: bool) -> None:
        """Until nothing waits or runs; with a full disk, until nothing runs."""
        try:
            while self.running or (self.waiting and not self.status.disk_full):
                self._start()
                for name, (child, slot) in list(self.running.items()):
                    if (outcome := child.poll()) is not None:
                        del self.running[name]
                        self.free.append(slot)
                        self._ended(child, outcome)
                if with_parent and os.getppid() != self.parent:
                    raise Interrupted(128 + signal.SIGTERM)
                time.sleep(LOOK)
        finally:
            for child, _ in self.running.values():  # interrupted: all at once, then wait for each
                child.ask_to_stop()
            for child, _ in self.running.values():
                child.stop()

    def _start(self) -> None:
        """A job in every free slot; one that another command has, perhaps on another machine, is tried again later."""
        for _ in range(len(self.waiting)):
            if not self.free or self.status.disk_full:
                return
            not_before, job = self.waiting.popleft()
            if not_before > time.monotonic():
                self.waiting.append((not_before, job))
            elif (outcome := standing(job)) is None:
                self._start_one(job)
            elif outcome == BUSY:
                self._later(job)
            else:
                self.status.found(job)

    def _start_one(self, job: Job) -> None:
        slot = self.free[0]
        self.status.started(job)
        try:
            self.running[job.name] = (Child(self.frozen, job, slot, self.hang_seconds), slot)
        except OSError as error:  # a file where its folder should be, no more processes, a full disk
            log.error(f"{job.name}: cannot start: {error}")
            self.status.ended(job, DISK_FULL if kind_of(error) == "disk_full" else FAILED, f"cannot start: {error}")
        else:
            self.free.popleft()

    def _ended(self, child: Child, outcome: str) -> None:
        job = child.job
        if outcome == FAILED and child.again and self.retried[job.name] < self.retries:
            self.retried[job.name] += 1
            log.warning(f"{job.name}: {child.reason}; it is tried again")
            self.status.ended(job, BUSY)
            self.waiting.append((0.0, job))
            return
        if outcome == BUSY and standing(job) is None:  # it has ended since; or the job only says so
            self.nobody[job.name] += 1
            if self.nobody[job.name] > NOBODY:
                outcome, child.reason = FAILED, f"crashed: it ends with code {EXIT[BUSY]}, and nobody else has it"
                write_reason(job.run_dir, "crashed", child.reason)
        self.status.ended(job, outcome, child.reason)
        if outcome == BUSY:
            self._later(job)
        elif outcome == DISK_FULL:
            log.error(f"{job.name}: {child.reason}: no further job is started")
        elif outcome == FAILED:
            log.error(f"{job.name}: {child.reason}")

    def _later(self, job: Job) -> None:
        self.status.busy(job)
        self.waiting.append((time.monotonic() + PAUSE, job))


def make_slots(options: Any, accelerator: str) -> list[dict[str, str]]:
    """The environments of the jobs that run at once.

    Raises:
        ValueError: more jobs at once than GPUs, or fewer than one.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if gpus:
        if options.at_once is not None and options.at_once > len(gpus):
            raise ValueError(f"launch.at_once={options.at_once}: there are {len(gpus)} GPUs: expected at most as many")
        threads = options.cores_per_job or max(1, cores // (options.at_once or len(gpus)))
        return [_slot(threads, CUDA_VISIBLE_DEVICES=gpu) for gpu in gpus[: options.at_once]]
    at_once = options.at_once or max(1, cores // (options.cores_per_job or cores))
    return [_slot(options.cores_per_job or max(1, cores // at_once)) for _ in range(at_once)]


def _slot(threads: int, **more: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads), **more}


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES. CUDA itself is not started in this process."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        words = [word.strip() for word in given.split(",")]
        return list(takewhile(lambda word: word not in ("", "-1"), words))  # CUDA sees none behind such a word either
    import torch  # counts by the driver's management library

    return [str(number) for number in range(torch.cuda.device_count())]
