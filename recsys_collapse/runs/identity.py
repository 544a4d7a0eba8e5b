"""What makes a run that run: every config field that can change a number, and the data's fingerprint. Nothing else."""

import hashlib
import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig

from recsys_collapse.config import Config, plain

NUMERICS_VERSION = 1  # raise when the same config and data give other numbers than before


def identity(config: DictConfig, data_fingerprint: str) -> dict[str, Any]:
    """The part of a resolved config that can change a number, as JSON values in one spelling."""
    found = {"numerics_version": NUMERICS_VERSION, "data": data_fingerprint, **_marked(plain(config), Config)}
    found["callback"] = {k: v for k, v in found["callback"].items() if not (v or {}).get("measures_only")}
    for section in ("optimizer", "regularizer"):
        found[section] = {k: v for k, v in found[section].items() if k not in _labels(found[section])}
    return _canonical(found)


def run_id(config: DictConfig, data_fingerprint: str) -> str:
    """16 hex digits; the spelling and order of values do not matter."""
    described = identity(config, data_fingerprint)
    for key, value in flatten(described).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: expected a finite number")
    canonical = json.dumps(described, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def embed_name(config: DictConfig) -> str:
    """`se` for every run with one embedding set: SE and ME at scale 1 are the same model."""
    return "se" if config.embed.num_sets == 1 else str(config.embed.name)


def run_name(config: DictConfig, run_id: str) -> str:
    """`<model>-<embed>-<scale>x-<dataset>-s<seed>-<hash8>`."""
    names = (
        config.model.name,
        embed_name(config),
        f"{config.scale}x",
        config.dataset.name,
        f"s{config.seed}",
        run_id[:8],
    )
    return "-".join(names)


def _labels(node: dict[str, Any]) -> tuple[str, ...]:
    """Keys that say something and change nothing; a user's own class may take `name` as an option."""
    own = str(node.get("_target_", "torch.")).startswith(("torch.", "recsys_collapse."))
    return ("name", "bytes_per_weight") if own else ("bytes_per_weight",)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _marked(values: dict[str, Any], schema: type) -> dict[str, Any]:
    """Fields marked `identity`, also inside sections that are dataclasses themselves."""
    found = {}
    for field in fields(schema):
        section = field.default_factory if is_dataclass(field.default_factory) else None
        if field.metadata["identity"]:
            found[field.name] = values[field.name]
        elif isinstance(section, type):
            found[field.name] = _marked(values[field.name], section)
    return found


def _canonical(value: Any) -> Any:
    """One spelling for equal values: 1.0 is 1."""
    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
