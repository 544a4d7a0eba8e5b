"""The process of one job: reads it from a frozen plan, runs it, and says by its exit code how it ended."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

from recsys_collapse.config import register
from recsys_collapse.launch.frozen import load_job
from recsys_collapse.launch.job import EXIT, FAILED, run_job
from recsys_collapse.launch.signals import end_on_signals
from recsys_collapse.launch.watch import GRACE
from recsys_collapse.runs.secrets import scrub


def main() -> int:
    """`sys.argv`: folder of the code, plan, name of the job, then prefixes of classes that the plan may name."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    end_on_signals()
    Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger().setLevel(logging.INFO)  # to the run's log.txt, where this process's output goes too
    register()
    _, _, plan, name, *allow = sys.argv
    try:
        job = load_job(Path(plan), name, allow)
    except (ValueError, OSError) as error:
        print(scrub(f"{name}: cannot start: {error}"), flush=True)
        return EXIT[FAILED]
    return EXIT[run_job(job)]


def _end_with_parent() -> None:
    """The other end of standard input is held by who watches this process: at its end, however it came, we end too."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held at this process's own end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)  # the job, or what it waits for, did not let itself be interrupted
