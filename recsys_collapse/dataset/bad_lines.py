"""Lines of a user's file that cannot be used: the first one is an error, or they are set aside, counted and capped."""

from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 500  # characters of a line that are kept


@dataclass
class BadLines:
    """What happens to a bad line.

    Args:
        policy: `error` (stop at the first) or `quarantine` (leave the row out and keep the line in `bad_lines.jsonl`).
        cap: how many lines may be set aside before that is an error, too.
    """

    policy: str = "error"
    cap: int = 1000
    _files: list[str] = field(default_factory=list)
    _found: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """File, line, reason and text of every line set aside, in order, once each."""
        return [self._found[place] for place in sorted(self._found)]

    def add(self, path: str, line: int, reason: str, text: str) -> None:
        """Take note of one bad line.

        Raises:
            ValueError: under `error` always, under `quarantine` beyond the cap; names file and line.
        """
        if self.policy == "error":
            raise ValueError(f"{path}:{line}: {reason}")
        if path not in self._files:
            self._files.append(path)
        name = path.rpartition("/")[2]  # not the folder: a store does not depend on where its files lay
        bad = {"file": name, "line": line, "reason": reason, "text": text[:MAX_TEXT]}
        self._found.setdefault((self._files.index(path), line), bad)  # a row may be wrong in several columns
        if len(self._found) > self.cap:
            raise ValueError(
                f"{path}:{line}: {reason}; this is bad line number {len(self._found)}, more than "
                f"dataset.max_bad_lines={self.cap}: look at the file, or raise the cap"
            )
