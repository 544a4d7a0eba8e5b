"""Which code made a number."""

import hashlib
import subprocess
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from recsys_collapse import __version__

PACKAGE = Path(__file__).resolve().parents[1]
FROZEN = "code_version.txt"
"""Beside a copy of the package: the version of which it is a copy."""


SMALL = 1 << 20
"""Bytes of a file of a package that may belong to its code, such as a table of words."""


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


def source_hash(package: Path) -> str:
    """8 hex digits of the files of a package or module: their names and content."""
    digest = hashlib.sha256()
    for path in source_files(package):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def source_files(package: Path) -> list[Path]:
    """Python files, and small ones beside them, of a package (folder) or module (file); no results, no caches."""
    if package.is_file():
        return [package]
    found, folders = [], [package]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.name.startswith(".") or path.name == "__pycache__":
                continue
            if path.is_dir():
                folders += (
                    [] if path.is_symlink() or ((path / "runs").is_dir() and (path / "sweeps").is_dir()) else [path]
                )
            elif path.suffix == ".py" or path.stat().st_size <= SMALL:
                found.append(path)
    return sorted(found)


@cache  # as it is when a command begins
def own_package(name: str) -> tuple[Path, str] | None:
    """The user's own package or module, which may be edited, and a hash of its sources; None for what is installed."""
    spec = find_spec(name)
    if spec is None or name == PACKAGE.name:
        return None
    found = Path(spec.submodule_search_locations[0]) if spec.submodule_search_locations else Path(spec.origin or "")
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    inside = any(folder in found.resolve().parents for folder in installed)
    return None if inside or not found.exists() else (found, source_hash(found))
