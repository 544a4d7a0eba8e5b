"""A folder that appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_collapse.export.formats import FILES
from recsys_collapse.runs.durable import rename, sync, umask

KNOWN = {*FILES.values(), "model.onnx.data", "vocabulary.parquet", "card.json", "README.md"}


def check_place(folder: Path, overwrite: bool) -> None:
    """Before any work is done: may the folder be written?

    Raises:
        ValueError: it is there and may not be replaced.
    """
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise ValueError(f"{folder}: is there already: choose another output=..., or say predict.overwrite=true")
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder}: is no folder, which is all that overwriting replaces: choose another output=...")
    found = {path.name for path in folder.iterdir()}
    if found and (strange := sorted(found - KNOWN) or "card.json" not in found):  # output=~ must not empty a home
        what = "has no card.json" if strange is True else f"has {strange[0]}"
        raise ValueError(
            f"{folder}: {what}, so it is no export, which is all that is replaced: choose another output=..."
        )


@contextmanager
def whole(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside the final place that gets its name at the end of the block; on an error nothing is left."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (resolve would follow a link in its place)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = beside / "new", beside / "old"
    try:
        new.mkdir()
        yield new
        for path in new.iterdir():
            path.chmod(0o666 & ~umask())  # safetensors makes it private
            sync(path)
        sync(new)
        try:
            if overwrite and folder.exists():
                rename(folder, old)
            rename(new, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                rename(old, folder)
            raise
        sync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
