"""Mirrors of the local records, one file each, and what every mirror owes: no secret leaves, and training never waits.

`conf/logger/<name>.yaml` says whether and where a mirror is kept.
"""

import re
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

from recsys_collapse.runs.secrets import HIDDEN, LOOKS_SECRET, scrub_tree

T = TypeVar("T")
USER_INFO = re.compile(r"(?<=://)([^\s/@]*:\S*|[^\s/]*)@")  # of a URL; a password may have any characters


def redact(node: Any) -> Any:
    """A copy of a config for others to read, as dictionaries and lists.

    Secrets of the environment are references, values under keys that look like secrets and the user of a URL are
    `<redacted>`; None stays.
    """
    return _hide(scrub_tree(node))


def _hide(node: Any) -> Any:
    if isinstance(node, str):
        return USER_INFO.sub(f"{HIDDEN}@", node)
    if isinstance(node, dict):
        hide = {key for key, value in node.items() if value is not None and LOOKS_SECRET.search(str(key))}
        return {_hide(key): HIDDEN if key in hide else _hide(value) for key, value in node.items()}
    return [_hide(value) for value in node] if isinstance(node, list) else node


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
