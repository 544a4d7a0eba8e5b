"""Which code made a number."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from recsys_collapse import __version__

PACKAGE = Path(__file__).resolve().parents[1]
FROZEN = "code_version.txt"
"""Beside a copy of the package: the version of which it is a copy."""


@cache  # what this process has loaded, also if the files change later
def code_version() -> str:
    """The package's version and, in a clone, its commit, with + and a hash of the sources when files were changed."""
    root = PACKAGE.parent
    if (root / FROZEN).is_file():
        return (root / FROZEN).read_text().strip()
    if not (root / ".git").exists():
        return __version__
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    if found.returncode != 0:
        return __version__
    commit = found.stdout.strip()
    return f"{__version__}-{commit}{source_hash(PACKAGE) if commit.endswith('+') else ''}"


def source_hash(folder: Path, pattern: str = "*.py") -> str:
    """8 hex digits of the files below a folder, or of a single one: their names and content."""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]
