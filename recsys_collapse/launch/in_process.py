"""The jobs one after the other in this process: nothing is loaded twice, and a progress bar shows each.

A job that raises, diverges or runs out of memory takes no other with it; one that crashes or hangs does:
`launch=subprocess` protects from that too. The same command goes on where a crash ended it.
"""

import time
from collections import deque

from recsys_collapse.launch.job import BUSY, DISK_FULL, FAILED, FINISHED, run_job, standing
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.status import Status
from recsys_collapse.runs.records import read_failure

LONGEST_PAUSE = 5.0  # seconds, between looks at a job that another process has


def launch(jobs: list[Job], status: Status) -> None:
    """Run the jobs; those that another process has come last, and are waited for."""
    left, busy_in_a_row = deque(jobs), 0
    while left and not status.disk_full:
        job = left.popleft()
        outcome = standing(job)
        if outcome is None:
            status.started(job)
            outcome = run_job(job)
            failure = read_failure(job.run_dir) if outcome in (FAILED, DISK_FULL) else None
            status.ended(job, outcome, failure["reason"] if failure else "")
        elif outcome == FINISHED:  # by another command meanwhile
            status.found(job)
        busy_in_a_row = busy_in_a_row + 1 if outcome == BUSY else 0
        if outcome == BUSY:  # asked again without a word: it may take days
            left.append(job)
            status.busy(job)
            if busy_in_a_row >= len(left):
                time.sleep(min(0.2 * busy_in_a_row, LONGEST_PAUSE))
