"""Ctrl-C and SIGTERM: once, to end in order and with the code that says so; twice, to end now."""

import signal
from types import FrameType


class Interrupted(SystemExit):
    """A signal arrived; `code` is 128 + its number, as a shell has it. Nothing that handles errors catches it."""


def end_on_signals() -> None:
    """From now on the first SIGINT or SIGTERM raises `Interrupted`, and the second ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise Interrupted(128 + number)
