"""A sign of life of a running job: the time of `.heartbeat` in its directory, for whoever watches it from outside.

Given by what makes progress (a batch, a stage of the preparation), never by a thread of its own: that would go on
while the job hangs.
"""

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
            _place[-1].touch()


def silence(run_dir: Path) -> float | None:
    """Seconds since the last sign of life of a run; None if there was none."""
    try:
        return max(0.0, time.time() - (run_dir / NAME).stat().st_mtime)
    except OSError:
        return None
