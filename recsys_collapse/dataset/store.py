"""The prepared store: an immutable directory of ids, made once from a source and mapped into memory by every run.

`<store_dir>/<name>-<fingerprint>/`: `ids.bin` (rows x fields, int32, row-major), `labels.bin` (rows, uint8),
`vocabulary.parquet` (field, value, count, id), `manifest.json` (written last, before the directory gets its name).
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys_collapse.dataset.encode import as_text, build_vocabulary, encode
from recsys_collapse.dataset.source import PARTS, Rows, Source
from recsys_collapse.dataset.split import split_rows
from recsys_collapse.runs.durable import sync, umask


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
    """Row numbers in file order of `train`, `valid` and `test`."""


def prepare(source: Source, store_dir: Path, split_seed: int) -> Store:
    """The store of this source, built if it is not there yet.

    Raises:
        ValueError: the source cannot be read, a split is empty, or training or validation rows have one class only.
    """
    path = store_dir / f"{source.name}-{source.fingerprint(split_seed)}"
    if not (path / "manifest.json").is_file():
        _build(source, path, split_seed)
    return open_store(path, split_seed)


def open_store(path: Path, split_seed: int) -> Store:
    """Map an existing store into memory.

    Raises:
        ValueError: a file does not have the size that the manifest gives.
    """
    manifest = json.loads((path / "manifest.json").read_text())
    rows, fields = manifest["rows"], manifest["fields"]
    shapes = {"ids.bin": (4, rows * len(fields)), "labels.bin": (1, rows)}
    for name, (width, count) in shapes.items():
        if (found := (path / name).stat().st_size) != width * count:
            raise ValueError(
                f"{path / name}: {found} bytes, expected {width * count}: the store is damaged, remove {path}"
            )
    ids = torch.from_file(str(path / "ids.bin"), size=rows * len(fields), dtype=torch.int32)
    labels = torch.from_file(str(path / "labels.bin"), size=rows, dtype=torch.uint8)
    return Store(
        path=path,
        fingerprint=path.name.rpartition("-")[2],
        fields=fields,
        cardinalities=manifest["cardinalities"],
        ids=ids.view(rows, len(fields)),
        labels=labels,
        splits=split_rows(rows, split_seed, manifest["parts"]),
    )


def _build(source: Source, path: Path, split_seed: int) -> None:
    """Write beside the final place, then rename: a store is there whole or not at all."""
    rows = source.read()
    splits = split_rows(len(rows.labels), split_seed, rows.parts)
    for part in ("train", "valid"):
        _check_classes(part, rows.labels[splits[part].numpy()])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(source, rows, splits["train"], unfinished)
        for file in unfinished.iterdir():
            sync(file)
        unfinished.chmod(0o777 & ~umask())  # mkdtemp makes it private
        unfinished.rename(path)
    except OSError:
        if not (path / "manifest.json").is_file():  # else another process was first, with the same bytes
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_classes(part: str, labels: np.ndarray) -> None:
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise ValueError(
            f"dataset: all {len(labels)} {part} rows have label {int(positives > 0)}, so there is no AUC: expected "
            "both classes; give more rows, another split_seed or other files"
        )


def _write(source: Source, rows: Rows, train_rows: Tensor, folder: Path) -> None:
    features = as_text(rows.features)
    counted = features if source.vocabulary == "all" else features[train_rows.numpy()]
    ids = np.empty((features.height, features.width), dtype=np.int32)
    vocabularies = []
    for i, name in enumerate(features.columns):
        vocabulary = build_vocabulary(counted[name], source.min_count)
        ids[:, i] = encode(features[name], vocabulary)
        vocabularies.append(vocabulary.select(pl.lit(name).alias("field"), pl.all()))
    ids.tofile(folder / "ids.bin")
    rows.labels.tofile(folder / "labels.bin")
    pl.concat(vocabularies).write_parquet(folder / "vocabulary.parquet")
    manifest = {
        "recipe": source.recipe(),
        "rows": features.height,
        "fields": features.columns,
        "cardinalities": [vocabulary.height + 1 for vocabulary in vocabularies],
        "positives": int(rows.labels.sum()),
        "parts": None if rows.parts is None else {part: rows.parts[part] for part in PARTS},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
