"""Ctrl-C and SIGTERM: once, to end in order and with the code that says so; twice, to end now."""

import os
import signal
from types import FrameType

_received: list[int] = []


class Interrupted(SystemExit):
    """A signal arrived; `code` is 128 + its number, as a shell has it. Nothing that handles errors catches it."""


def end_on_signals() -> None:
    """From now on the first SIGINT or SIGTERM raises `Interrupted`, and the second ends the process at once."""
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    if _received:  # Lightning puts this handler back when it has been interrupted
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _received.append(number)
    raise Interrupted(128 + number)
