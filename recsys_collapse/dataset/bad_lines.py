"""Lines of a user's file that cannot be used: the first one is an error, or they are set aside, counted and capped."""

from dataclasses import dataclass, field

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
    lines: list[dict[str, str | int]] = field(default_factory=list)
    """file, line, reason and text of every line set aside."""

    def add(self, path: str, line: int, reason: str, text: str) -> None:
        """Take note of one bad line.

        Raises:
            ValueError: under `error` always, under `quarantine` beyond the cap; names file and line.
        """
        if self.policy == "error":
            raise ValueError(f"{path}:{line}: {reason}")
        name = path.rpartition("/")[2]  # not the folder: a store does not depend on where its files lay
        self.lines.append({"file": name, "line": line, "reason": reason, "text": text[:MAX_TEXT]})
        if len(self.lines) > self.cap:
            raise ValueError(
                f"{path}:{line}: {reason}; this is bad line number {len(self.lines)}, more than "
                f"dataset.max_bad_lines={self.cap}: look at the file, or raise the cap"
            )
