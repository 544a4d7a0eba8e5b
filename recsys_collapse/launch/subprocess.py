"""Every job in a process of its own, several at once: one for each GPU, or for every n cores.

What happens to one job happens to no other. A job that crashed or hung is tried again `launch.retries` times, from its
last checkpoint on; one that raised an error would raise it again and is not.
"""

import logging
import os
import time
from collections import deque
from typing import Any

from recsys_collapse.launch.frozen import Frozen
from recsys_collapse.launch.job import BUSY, DISK_FULL, FAILED
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.status import Status
from recsys_collapse.launch.watch import Child

log = logging.getLogger(__name__)
LOOK = 0.1  # seconds between looks
PAUSE = 5.0  # seconds between tries of a job that another process has


def launch(jobs: list[Job], status: Status, frozen: Frozen, slots: list[dict[str, str]], options: Any) -> None:
    """Run the jobs; `slots` are the environments of those that run at once, `options` is the node `launch`."""
    left, free = deque((0.0, job) for job in jobs), deque(slots)
    running: dict[str, tuple[Child, dict[str, str]]] = {}
    tries: dict[str, int] = {}
    hang = options.hang_minutes and 60 * options.hang_minutes
    log.info(f"{len(slots)} at once, each in a process of its own; their output is in log.txt of each run")
    try:
        while (left and not status.disk_full) or running:
            while free and left and not status.disk_full and left[0][0] <= time.monotonic():
                _, job = left.popleft()
                running[job.name] = (Child(frozen, job, slot := free.popleft(), hang), slot)
                status.started(job)
            for name, (child, slot) in list(running.items()):
                if (outcome := child.poll()) is None:
                    continue
                del running[name]
                free.append(slot)
                tries[name] = tries.get(name, 0) + 1
                if outcome == FAILED and child.again and tries[name] <= options.retries:
                    log.warning(f"{name}: {child.reason}; it is tried again")
                    status.ended(child.job, BUSY)
                    left.append((0.0, child.job))
                    continue
                status.ended(child.job, outcome, child.reason)
                if outcome == BUSY:
                    left.append((time.monotonic() + PAUSE, child.job))
                elif outcome == DISK_FULL:
                    log.error(f"{name}: {child.reason}: no further job is started")
            time.sleep(LOOK)
    finally:
        for child, _ in running.values():  # interrupted: all at once, then wait for each
            child.ask_to_stop()
        for child, _ in running.values():
            child.stop()


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
        return [word for word in given.split(",") if word]
    import torch  # counts by the driver's management library

    return [str(number) for number in range(torch.cuda.device_count())]
