"""Mirrors of the local records, one file each, and what every mirror owes: no secret leaves, and training never waits.

`conf/logger/<name>.yaml` says whether and where a mirror is kept.
"""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
SECRET = re.compile("key|token|secret|password", re.IGNORECASE)


def redact(node: Any) -> Any:
    """A copy of a config in which values under keys that look like secrets are `<redacted>`; None stays."""
    if isinstance(node, Mapping):
        hide = {key for key, value in node.items() if value is not None and SECRET.search(str(key))}
        return {key: "<redacted>" if key in hide else redact(value) for key, value in node.items()}
    return [redact(value) for value in node] if isinstance(node, (list, tuple)) else node


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, made in a thread that is left behind after `seconds`.

    Raises:
        TimeoutError: it took longer. What the call itself raises comes through.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
