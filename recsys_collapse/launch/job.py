"""One job in this process: nobody else works on it, whatever it fails for is recorded, finished ones are skipped."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.signals import Interrupted
from recsys_collapse.runs.durable import APPENDING, exclusive, quarantine
from recsys_collapse.runs.heartbeat import beating
from recsys_collapse.runs.records import damage, kind_of, read_result, tidy, write_failure
from recsys_collapse.runs.secrets import Scrubbing

log = logging.getLogger(__name__)
SCRUBBING = Scrubbing()
FINISHED, FAILED, BUSY, DISK_FULL = "finished", "failed", "busy", "disk full"
"""How a job can end. Busy: another process works on it. Disk full: jobs after it would fail for the same reason."""
EXIT = {FINISHED: 0, FAILED: 1, BUSY: 73, DISK_FULL: 75}
"""Exit codes; the last one is that of a failure which may pass."""


def run_job(job: Job) -> str:
    """Run a job unless it is finished, or another process has it; says how it ended and never raises for it."""
    try:
        with exclusive(job.run_dir / ".lock", f"runs {job.name}", enabled=job.config.file_locks, longest_wait=0.0):
            return _alone(job)
    except TimeoutError as busy:
        log.info(str(busy).partition(" and has not")[0])
        return BUSY
    except (ValueError, OSError) as error:
        log.error(f"{job.name}: cannot start: {error}")
        return DISK_FULL if kind_of(error) == "disk_full" else FAILED


def standing(job: Job) -> str | None:
    """`FINISHED`, or `BUSY` if a process has the job now; None: it is to be run. For whoever starts processes."""
    if read_result(job.run_dir, job.run_id):
        return FINISHED
    try:
        with exclusive(job.run_dir / ".lock", f"runs {job.name}", enabled=job.config.file_locks, longest_wait=0.0):
            return None
    except TimeoutError:
        return BUSY
    except (ValueError, OSError):  # the job itself will say it
        return None


def _alone(job: Job) -> str:
    if read_result(job.run_dir, job.run_id):
        log.info(f"{job.name}: finished before, skipped")
        tidy(job.run_dir)
        return FINISHED
    with logged_to(job.run_dir / "log.txt") as log_file, beating(job.run_dir):
        if wrong := damage(job.run_dir, job.run_id):
            quarantine(job.run_dir / "result.json", wrong)
        log.info(f"{job.name}: starts")
        try:
            from recsys_collapse.train import train  # torch and Lightning take seconds: only when something is trained

            result = train(job)
        except Interrupted:
            raise
        except (Exception, SystemExit) as error:  # whatever a job fails for is none of the other jobs' business
            log.error(f"{job.name}: failed: {type(error).__name__}: {error}")
            lines = "".join(traceback.format_exception(error))
            log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, lines, (), None))  # not on the terminal
            write_failure(job.run_dir, error)
            return DISK_FULL if kind_of(error) == "disk_full" else FAILED
        test_auc = "none" if result["test_auc"] is None else f"{result['test_auc']:.5f}"
        log.info(f"{job.name}: finished, test AUC {test_auc}, {result['wall_seconds']:.1f} s")
        return FINISHED


@contextmanager
def logged_to(path: Path) -> Iterator[logging.Handler]:
    """What is logged also goes to the end of a file. A disk that is full ends no training here."""
    handler = _Quiet(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    for every in logging.getLogger().handlers:  # a logger's own filter is not asked about records of others
        every.addFilter(SCRUBBING)
    try:
        yield handler
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class _Quiet(logging.FileHandler):
    def _open(self) -> Any:
        return os.fdopen(os.open(self.baseFilename, APPENDING, 0o666), "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # from opening the file
            self.handleError(record)
