"""What a command showed at its end, kept: the same command shows it again without making it anew.

Only if nothing that it is made from has changed since: the results of all runs, what the runs of the sweep measured,
the code, the terminal; and if every file that was made is still what was written. All of it is compared by content, so
that nothing old is shown. Making it takes seconds (matplotlib, polars); comparing takes milliseconds.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, cast

from recsys_collapse.runs.canonical import digest
from recsys_collapse.runs.durable import DamagedError, read_sealed, seal, write_json
from recsys_collapse.runs.version import PACKAGE, source_hash

KEPT = "shown.json"
MADE_WITH = ("matplotlib", "numpy", "polars", "rich")
MEASURED = ("spectra.parquet", "collapse.parquet")
"""Files of a run that tables and figure are made from, beside its result."""
TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables by which rich decides how it prints."""


def sources(names: Sequence[str], output_dir: Path) -> str:
    """A digest of all that is shown of the runs `names`, which are finished, and of how it is shown.

    The table of all results is part of it: the result of every run counts.

    Raises:
        OSError: a file cannot be read.
    """
    runs = output_dir / "runs"
    read = [*sorted(runs.glob("*/result.json")), *(runs / name / file for name in names for file in MEASURED)]
    return digest(
        {
            "code": source_hash(PACKAGE),
            "made_with": {name: version(name) for name in MADE_WITH},
            "terminal": [
                *(sys.stdout.encoding.lower(), sys.stdout.isatty() and list(shutil.get_terminal_size())),
                *map(os.environ.get, TERMINAL),
            ],
            "output_dir": str(output_dir),
            "names": list(names),
            "content": {str(path.relative_to(runs)): _hash(path) for path in read},
        }
    )


class Said:
    """Standard output that also keeps what is printed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text = stream, ""

    def write(self, text: str) -> int:
        """Print, and keep."""
        self.text += text
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def listening() -> Iterator[Said]:
    """Keep what is printed within."""
    said = Said(sys.stdout)
    with redirect_stdout(cast(TextIO, said)):
        yield said


def keep(path: Path, sources: str, text: str, made: Iterable[Path], output_dir: Path) -> None:
    """Write down what was shown, and the content of the files that were made for it, all below `output_dir`.

    Raises:
        OSError: the disk is full, for example.
    """
    files = {str(file.relative_to(output_dir)): _hash(file) for file in sorted({*made})}
    write_json(path, seal({"sources": sources, "text": text, "files": files}))


def show_again(path: Path, sources: str, output_dir: Path) -> bool:
    """Print what was shown the last time, if all is as it was then; whether it is."""
    try:
        kept = read_sealed(path)
        text, files = str(kept["text"]), dict(kept["files"])
        same = kept["sources"] == sources and all(_hash(_inside(output_dir, file)) == files[file] for file in files)
    except (OSError, DamagedError, KeyError, ValueError, TypeError):  # it is made anew
        return False
    if not same or not _harmless(text):
        return False
    print(text, end="", flush=True)
    return True


def _inside(folder: Path, name: str) -> Path:
    """A results folder may come from somebody else: what it names outside is not looked at."""
    path = folder / name
    if ".." in path.parts or Path(name).is_absolute():
        raise ValueError(f"{name}: is not in {folder}")
    return path


def _harmless(text: str) -> bool:
    """Whether a text from a file does nothing to a terminal but print, in colours."""
    return all(line.isprintable() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n"))


def _hash(path: Path) -> str | None:
    """Of the content; None: there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
