"""Secrets of the environment stay there: what is written, logged or sent has `${oc.env:NAME}` in their place.

A config that is written so means the same when it is read: OmegaConf puts the value back from the environment.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

LOOKS_SECRET = re.compile("key|token|secret|passw(or)?d|credential|auth(?!or(?!i))", re.IGNORECASE)  # of a name
SHORTEST = 6  # characters of a value; shorter ones stand in every second line
HIDDEN = "<redacted>"


def secrets() -> dict[str, str]:
    """Values of the environment that must not be shown, and what is shown instead; the longest first.

    A variable counts by its name. Not taken are values that tell nobody anything and would be replaced all over a file:
    numbers, files that exist (`SSH_AUTH_SOCK`), and pieces of what is shown instead (`API_KEY=API_KEY`).
    """
    named = {_reference(name): value for name, value in sorted(os.environ.items()) if LOOKS_SECRET.search(name)}
    shown = " ".join([HIDDEN, *named])
    found: dict[str, str] = {}
    for reference, value in named.items():
        is_file = os.path.isabs(value) and os.path.exists(value)  # noqa: PTH110, PTH117 (any text, without an error)
        if len(value) >= SHORTEST and not (_is_number(value) or is_file or value in shown):
            found.setdefault(value, reference)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def scrub(text: str) -> str:
    """The text with a reference in place of every secret of the environment; the same text if it has none.

    Backslashes in front of a reference are doubled, as OmegaConf reads them. Where the result would put another secret
    together, `<redacted>` is all that is returned.
    """
    return _scrubber()(text)


def scrub_tree(value: Any) -> Any:
    """A copy of nested mappings, sequences and sets as dictionaries and lists, with every string in it scrubbed.

    To be called before they become JSON or YAML, whose escapes could hide a secret. A key is scrubbed as well, and
    stays so: OmegaConf has no references in keys. What is no string, path or container is passed on as it is.
    """
    return _tree(value, _scrubber())


class Scrubbing(logging.Filter):
    """Scrubs message, arguments and traceback of every record. For handlers: a logger's filter is not asked by others.

    The record leaves as text: without arguments and exception, whose text stands in `exc_text`, which formatters print.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Scrub; every record passes."""
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: logging is never worth an error
            message = f"{record.msg} {record.args}"
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.msg, record.args, record.exc_info = scrub(message), None, None
        record.exc_text = scrub(record.exc_text) if record.exc_text else None
        record.stack_info = scrub(record.stack_info) if record.stack_info else None
        return True


def _reference(name: str) -> str:
    """How OmegaConf reads a variable; names that it cannot read are not shown."""
    return f"${{oc.env:{name}}}" if re.fullmatch(r"[\w./:-]+", name) else HIDDEN


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _scrubber() -> Callable[[str], str]:
    found = secrets()
    pattern = re.compile(rf"(\\*)({'|'.join(map(re.escape, found))})")

    def scrubbed(text: str) -> str:
        if not any(value in text for value in found):
            return text
        shown = pattern.sub(lambda match: match[1] * 2 + found[match[2]], text)
        return HIDDEN if any(value in shown for value in found) else shown

    return scrubbed


def _tree(value: Any, scrubbed: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, PurePath):
        return value if (text := scrubbed(str(value))) == str(value) else text
    if isinstance(value, Mapping):
        return {_tree(key, scrubbed) if isinstance(key, str) else key: _tree(v, scrubbed) for key, v in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray | memoryview | range):
        return [_tree(item, scrubbed) for item in value]
    return value
