"""A sign of life of a running job: the time of `.heartbeat` in its directory, for whoever watches it from outside.

Given by what makes progress (a batch, a stage of the preparation), never by a thread of its own: that would go on
while the job hangs.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = ".heartbeat"
EVERY = 1.0  # seconds, at most
_place: list[Path] = []
_last = [0.0]


@contextmanager
def beating(run_dir: Path) -> Iterator[None]:
    """Within it, `beat` is a sign of this run."""
    _place.append(run_dir / NAME)
    _last[0] = 0.0
    beat()
    try:
        yield
    finally:
        with suppress(OSError):
            _place.pop().unlink(missing_ok=True)


def beat() -> None:
    """Called as often as you like; costs a look at the clock."""
    now = time.monotonic()
    if _place and now - _last[0] >= EVERY:
        _last[0] = now
        with suppress(OSError):  # a full disk is for those to report who lose something
            os.close(os.open(_place[-1], os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
            os.utime(_place[-1])


def last_beat(run_dir: Path) -> int:
    """The time of a run's last sign of life, in ns on the clock of whoever keeps the files; 0 if there was none."""
    try:
        return (run_dir / NAME).stat().st_mtime_ns
    except OSError:
        return 0
