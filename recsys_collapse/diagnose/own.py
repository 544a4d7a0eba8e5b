"""Checkpoints of this project: their fields, cardinalities and embedding sets stand in the files beside them.

A run directory has `config.yaml` and `collapse.parquet`, an export has `card.json`. Nothing in them is executed, and no
class is built from them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from recsys_collapse.runs.checkpoint import folder

CARD = "card.json"
TABLE = "backbone.embedding.weight"


@dataclass(frozen=True)
class Origin:
    """What the files beside a checkpoint say of its one table, which holds all fields and all sets."""

    layout: str
    tensor: str
    """The name of the table in the checkpoint."""
    cardinalities: dict[str, int] | None
    num_sets: int
    entries: str = "uniform"


def checkpoint_of(path: Path) -> Path:
    """The file to read: of a run directory, its best weights; else the path itself.

    Raises:
        ValueError: a directory that is no run with weights.
    """
    if not path.is_dir():
        return path
    best = folder(path) / "best.ckpt"
    if not best.is_file():
        raise ValueError(
            f"{path}: a folder without {best.relative_to(path)}; expected a checkpoint file or the directory of a run "
            "of this project. A folder of torch.distributed.checkpoint becomes a file by: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt"
        )
    return best


def origin(path: Path, tensors: Mapping[str, Tensor]) -> Origin | None:
    """What is known of a checkpoint file from the files beside it; None if it is none of this project's.

    Raises:
        ValueError: such a file is damaged.
    """
    path = path.resolve()  # files lie beside what a link leads to
    run_dir = path.parent.parent
    if TABLE in tensors and (run_dir / "config.yaml").is_file():
        return _of_run(run_dir)
    if "embedding.weight" in tensors and path.with_name(CARD).is_file():
        return _of_export(path.with_name(CARD))
    return None


def _of_run(run_dir: Path) -> Origin | None:
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise TypeError("no mapping")
        if not isinstance(config.get("embed"), DictConfig) or "init" not in config:  # such as that of LightningCLI
            return None
        num_sets, init = config.embed.num_sets, config.init
    except Exception as error:  # it may be damaged or no YAML at all
        raise ValueError(
            f"{path}: expected the config of a run: {type(error).__name__}: {error}; --tables does without it"
        ) from error
    if isinstance(num_sets, bool) or not isinstance(num_sets, int) or num_sets < 1:
        raise ValueError(f"{path}: embed.num_sets={num_sets!r}: expected an integer of 1 or more")
    entries = "normal" if init == "normal" else "uniform"
    return Origin("recsys_collapse, a run", TABLE, _measured_cardinalities(run_dir), num_sets, entries)


def _measured_cardinalities(run_dir: Path) -> dict[str, int] | None:
    """Rows of every field, in order, as the run has measured them; None: it has not."""
    path = run_dir / "collapse.parquet"
    if not path.is_file():
        return None
    try:
        frame = pl.read_parquet(path, columns=["epoch", "field", "embedding_set", "metric", "cardinality"], glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    plain = frame.filter(pl.col("embedding_set").is_null(), ~pl.col("metric").str.contains("@", literal=True))
    first = plain.filter(pl.col("epoch") == pl.col("epoch").min()).unique("field", maintain_order=True)
    return dict(zip(first["field"], first["cardinality"], strict=True)) or None


def _of_export(path: Path) -> Origin | None:
    try:
        card = json.loads(path.read_bytes())
        if not isinstance(card, dict) or not {"architecture", "fields"} <= {*card}:  # of another program
            return None
        sizes = {str(field["name"]): int(field["cardinality"]) for field in card["fields"]}
        num_sets = int(card["architecture"]["num_sets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the card of an export: {type(error).__name__}: {error}; --tables does without it"
        ) from error
    return Origin("recsys_collapse, an export", "embedding.weight", sizes, max(num_sets, 1))
