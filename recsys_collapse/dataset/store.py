"""The prepared store: an immutable directory of ids, made once from a source and mapped into memory by every run.

`<store_dir>/<name>-v<version>-<fingerprint>/`: `ids.bin` (rows x fields, int32, row-major), `labels.bin` (rows, uint8),
`splits.bin` (rows, int32: row numbers of train, then valid, then test), `vocabulary.parquet` (field, value, count, id),
`bad_lines.jsonl` (lines that were set aside, if any), `manifest.json` (sizes, checksums and statistics; written last,
before the directory gets its name), and if the answer is known, `truth.bin` (rows x columns, float32, row-major; the
columns stand in the manifest). The version is that of the recipe, whose every option is in the fingerprint.
"""

import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys_collapse.dataset.build import Progress, build, silent
from recsys_collapse.dataset.source import MEMO, PARTS, STORE_FORMAT, Source
from recsys_collapse.runs.durable import exclusive, sync, umask

log = logging.getLogger(__name__)
_verified: set[Path] = set()


@dataclass(frozen=True)
class Store:
    """A prepared table. `ids` is (rows, N) int32 with 0 <= id < cardinality of its field, `labels` (rows,) uint8."""

    path: Path
    fingerprint: str
    fields: list[str]
    cardinalities: list[int]
    ids: Tensor
    labels: Tensor
    splits: dict[str, Tensor]
    """Row numbers in file order of `train`, `valid` and `test`, int32."""
    truth: Tensor | None = None
    """(rows, T) float32, where the answer is known: the true logit and its components; columns in the manifest."""

    def manifest(self) -> dict[str, Any]:
        """What is known of the store: recipe, sizes, checksums and statistics."""
        return read_manifest(self.path)


def prepare(
    source: Source,
    store_dir: Path,
    split_seed: int,
    *,
    lock: bool = True,
    progress: Progress = silent,
    note: Callable[[str], None] = log.info,
) -> Store:
    """The store of this source, built if it is not there yet or damaged; of several processes one builds.

    Args:
        source: where the rows come from.
        store_dir: the folder of all stores.
        split_seed: of the random split 8:1:1.
        lock: False where the file system has no file locks; then two processes may both build.
        progress: told stage and share done.
        note: told, in a sentence, of what takes time or was not expected.

    Raises:
        ValueError: the source cannot be read, a split is empty, or training or validation rows have one class only.
        TimeoutError: another process prepares the same data and does not come to an end.
        OSError: the disk is full, or nothing may be written.
    """

    def hashing(done: int, total: int) -> None:
        progress("hashing the files", done / max(total, 1))

    fingerprint = source.fingerprint(split_seed, store_dir / MEMO, hashing)
    path = store_dir / f"{source.name}-v{source.version}-{fingerprint}"
    if path.exists():
        with suppress(DamagedStoreError):  # needs no lock, so that a store can be used where nothing can be written
            return open_store(path)
    with exclusive(store_dir / ".locks" / path.name, "prepares the same data", enabled=lock):
        if path.exists():
            try:
                return open_store(path)
            except DamagedStoreError as damage:
                aside = Path(tempfile.mkdtemp(prefix=f"{path.name}.damaged-", dir=store_dir))
                with suppress(FileNotFoundError):  # without locks, another process may have done it
                    path.rename(aside / path.name)
                note(f"{damage}; it is set aside in {aside} and prepared again")
        else:
            note(f"{source.name}: preparing {path}{_why(source, path)}")
        _build(source, path, split_seed, progress, alone=lock)
    return open_store(path)


def _why(source: Source, path: Path) -> str:
    """What differs from a store of the same name, for whoever wonders why there has to be another."""
    recipe = json.loads(json.dumps(source.recipe()))
    reasons = []
    for other in sorted(path.parent.glob(f"{source.name}-v*-*/manifest.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            theirs = json.loads(other.read_text())["recipe"]
            keys = sorted(key for key in recipe | theirs if recipe.get(key) != theirs.get(key))
            differs = ", ".join(f"{key} {recipe.get(key)}, there {theirs.get(key)}" for key in keys)
            reasons.append(f"\n  {other.parent.name} is of another {differs or 'content or split_seed'}")
    return "".join(reasons[:3])


class DamagedStoreError(ValueError):
    """A file of a store is not what was written."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store at `path`.

    Raises:
        ValueError: it was written by another version of the format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest.pop("crc32") != _crc32(manifest):
            raise ValueError("the content has changed")
        if manifest["format"] != STORE_FORMAT:
            raise _OtherFormatError(manifest["format"])
    except _OtherFormatError as error:
        raise ValueError(
            f"{path}: store of format {error}, need {STORE_FORMAT}: run the prepare command again"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedStoreError(f"{path / 'manifest.json'}: cannot be read: {error}: the store is damaged") from error
    return manifest


class _OtherFormatError(Exception):
    pass


def _crc32(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def open_store(path: Path) -> Store:
    """Map an existing store into memory; once in a process, its content is checked.

    Raises:
        DamagedStoreError: a file has another size or checksum than when it was written.
        ValueError: the store has another format.
    """
    manifest = read_manifest(path)
    for name, written in manifest["files"].items():
        found = f"{(path / name).stat().st_size} bytes" if (path / name).is_file() else "missing"
        if found != f"{written['bytes']} bytes":
            raise DamagedStoreError(
                f"{path / name}: {found}, expected {written['bytes']} bytes: the store is damaged, remove {path}"
            )
    if path not in _verified:
        for name, written in manifest["files"].items():
            if checksum(path / name) != written["crc32"]:
                raise DamagedStoreError(f"{path / name}: the content has changed: the store is damaged, remove {path}")
        _verified.add(path)
    rows, fields = manifest["rows"], manifest["fields"]
    for name, size in sizes(manifest).items():
        if manifest["files"][name]["bytes"] != size:
            raise DamagedStoreError(f"{path / name}: expected {size} bytes: the store is damaged, remove {path}")
    ids = torch.from_file(str(path / "ids.bin"), size=rows * len(fields), dtype=torch.int32)
    order = torch.from_file(str(path / "splits.bin"), size=rows, dtype=torch.int32)
    return Store(
        path=path,
        fingerprint=path.name.rpartition("-")[2],
        fields=fields,
        cardinalities=manifest["cardinalities"],
        ids=ids.view(rows, len(fields)),
        labels=torch.from_file(str(path / "labels.bin"), size=rows, dtype=torch.uint8),
        splits=dict(zip(PARTS, order.split([manifest["parts"][part] for part in PARTS]), strict=True)),
        truth=_truth(path, manifest),
    )


def _truth(path: Path, manifest: dict[str, Any]) -> Tensor | None:
    if "truth" not in manifest:
        return None
    rows, columns = manifest["rows"], len(manifest["truth"])
    return torch.from_file(str(path / "truth.bin"), size=rows * columns, dtype=torch.float32).view(rows, columns)


def sizes(manifest: dict[str, Any]) -> dict[str, int]:
    """Bytes of the files that are mapped."""
    rows = manifest["rows"]
    found = {"ids.bin": 4 * rows * len(manifest["fields"]), "labels.bin": rows, "splits.bin": 4 * rows}
    return found | ({"truth.bin": 4 * rows * len(manifest["truth"])} if "truth" in manifest else {})


def checksum(path: Path) -> list[int]:
    """CRC-32 of every 16 MiB of a file: finds damage at several GB/s, and brings the file into the page cache."""
    step = 1 << 24

    def piece(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(step))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(piece, range(0, path.stat().st_size, step)))


def _build(source: Source, path: Path, split_seed: int, progress: Progress, alone: bool) -> None:
    """Write beside the final place, then rename: a store is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for orphan in path.parent.glob(f".{path.name}-*") if alone else ():  # of a build that was killed
        shutil.rmtree(orphan, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        manifest = build(source, unfinished, split_seed, progress)
        if not path.name.endswith(source.fingerprint(split_seed, path.parent / MEMO)):
            raise ValueError(f"{source.name}: its files changed while they were read: run the command again")
        files = sorted(unfinished.iterdir())
        for name, size in sizes(manifest).items():
            if (unfinished / name).stat().st_size != size:
                raise OSError(f"{unfinished / name}: not written in full: expected {size} bytes; is the disk full?")
        manifest["files"] = {f.name: {"bytes": f.stat().st_size, "crc32": checksum(f)} for f in files}
        manifest["crc32"] = _crc32(manifest)
        (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=2, allow_nan=False))
        for file in (*files, unfinished / "manifest.json", unfinished):
            sync(file)
        unfinished.chmod(0o777 & ~umask())  # mkdtemp makes it private
        unfinished.rename(path)
        sync(path.parent)
        _verified.add(path)
    except OSError:
        if not (path / "manifest.json").is_file():  # else another process was first, with the same bytes
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
