"""The typed root schema: what can be configured, and which of it is part of a run's identity.

Every field is marked: `identity` fields can change a number and are hashed into the run's name; `runtime` fields
cannot. Options of a `_target_` (dataset, optimizer, backbone, callback): `build.py` checks them against its signature.
"""

import math
import os
import re
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


def identity(default: Any = MISSING, **kwargs: Any) -> Any:
    """A config field that can change a number."""
    return field(metadata={"identity": True}, **(kwargs or {"default": default}))


def runtime(default: Any = MISSING, **kwargs: Any) -> Any:
    """A config field that cannot change a number (or is covered by another that is hashed)."""
    return field(metadata={"identity": False}, **(kwargs or {"default": default}))


MODES = ("auto", "online", "offline", "disabled")  # of the W&B mirror
WORDS = {
    "logger.mode": MODES,
    "trainer.accelerator": ("auto", "cpu", "cuda", "gpu"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"),
}


class Init(Enum):
    """How embedding tables start."""

    xavier_table = "xavier_table"
    """Xavier over the (D, K) table of all fields of a set: the official code."""
    xavier_field = "xavier_field"
    """Xavier over the (D_i, K) table of each field: small fields start larger."""
    normal = "normal"
    """N(0, 1e-4^2): BARS."""


class Match(Enum):
    """What SE and ME at the same scale have in common."""

    embedding = "embedding"
    """The size of the embedding table, M*K columns: the paper."""


@dataclass
class ModelConfig:
    """A backbone: `conf/model/<name>.yaml`."""

    name: str = runtime()
    base_size: int = runtime()  # K0; embed_size below carries it
    backbone: Any = identity()


@dataclass
class EmbedConfig:
    """How the table's width folds into M sets of K columns: `conf/embed/<name>.yaml`."""

    name: str = runtime()
    num_sets: int = identity()
    embed_size: int = identity()


@dataclass
class TrainerConfig:
    """How a model is trained: `conf/trainer/<name>.yaml`."""

    name: str = runtime()
    batch_size: int = identity()
    max_epochs: int = identity()
    patience: int = identity()
    precision: str = identity()
    eval_batch_size: int = identity()
    gradient_clip: float | None = identity()
    lr_plateau: float | None = identity()
    evaluations_per_epoch: int = identity()
    # These two change rounding, as another CPU does; a run that went on elsewhere would else be another one. Both are
    # recorded in the result's environment.
    accelerator: str = runtime()
    threads: int | None = runtime()
    progress_bar: bool | None = runtime()


@dataclass
class LoggerConfig:
    """The mirror of the local records: `conf/logger/<name>.yaml`."""

    name: str = runtime()
    mode: str = runtime()
    project: str = runtime()
    entity: str | None = runtime()
    tags: list[str] = runtime(default_factory=list)


@dataclass
class LaunchConfig:
    """How the jobs of a sweep are started and watched: `conf/launch/<name>.yaml`."""

    name: str = runtime()
    at_once: int | None = runtime()
    cores_per_job: int | None = runtime()
    hang_minutes: float | None = runtime()
    retries: int = runtime()


@dataclass
class Config:
    """The root."""

    model: ModelConfig = runtime(default_factory=ModelConfig)
    embed: EmbedConfig = runtime(default_factory=EmbedConfig)
    dataset: Any = runtime()  # its fingerprint is hashed instead: recipe, split and content of the files
    optimizer: Any = identity()
    regularizer: Any = identity()
    callback: dict[str, Any] = identity(default_factory=dict)  # those that only measure say `measures_only: true`
    trainer: TrainerConfig = runtime(default_factory=TrainerConfig)
    logger: LoggerConfig = runtime(default_factory=LoggerConfig)
    launch: LaunchConfig = runtime(default_factory=LaunchConfig)
    scale: int = runtime(1)  # embed.num_sets and embed.embed_size carry it
    seed: int = identity(0)
    split_seed: int = identity(0)
    protocol: str = runtime("paper")  # what it sets is hashed where it is set
    init: Init = identity(Init.xavier_table)
    match: Match = runtime(Match.embedding)  # embed.num_sets and embed.embed_size carry it
    save_scores: bool = runtime(True)
    file_locks: bool = runtime(True)
    allow: list[str] = runtime(default_factory=list)  # of this command; that of a file is not asked (trust.py)
    group: str | None = runtime(None)
    sweep: str = runtime("")
    output_dir: str = runtime("outputs")
    store_dir: str = runtime("${output_dir}/stores")


def config_dir() -> Path:
    """The folder `conf`: inside the installed package, or at the root of the clone."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def register() -> None:
    """Make the schema and the resolvers known to Hydra. Safe to call again."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("mul", lambda a, b: int(a) * int(b), replace=True)
    OmegaConf.register_new_resolver("stem", _stem, replace=True)


def plain(node: Any) -> dict[str, Any]:
    """A config node as resolved dictionaries of JSON values."""
    found = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    return {str(key): value for key, value in cast(dict[Any, Any], found).items()}


def _stem(*paths: Any) -> str:
    """Name of the first file given, without endings and with nothing that does not belong in a file name."""
    given = next((path for path in paths if path), "table")
    name = Path(given if isinstance(given, str) else given[0]).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).strip("_-") or "table"


def validate(config: Any) -> None:
    """Check ranges and the words that end up in file names.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    for field_ in fields(Config):
        if field_.name not in config:
            raise ValueError(f"{field_.name} is not set: the key is needed; give it a value instead of removing it")
    sections = {"model": ModelConfig, "embed": EmbedConfig, "trainer": TrainerConfig, "logger": LoggerConfig}
    for section, schema in {**sections, "launch": LaunchConfig}.items():
        known = {field_.name for field_ in fields(schema)}
        for key in config[section]:
            if key not in known:
                raise ValueError(f"{section}.{key}: no such key; {section} has {', '.join(sorted(known))}")
    lowest = {
        "scale": 1,
        "embed.num_sets": 1,
        "embed.embed_size": 1,
        "trainer.batch_size": 2,
        "trainer.eval_batch_size": 1,
        "trainer.max_epochs": 1,
        "trainer.patience": 1,
        "trainer.evaluations_per_epoch": 1,
        "split_seed": 0,
    }
    for key, least in lowest.items():
        if (value := OmegaConf.select(config, key)) < least:
            raise ValueError(f"{key}={value}: expected an integer of {least} or more")
    if config.split_seed >= 2**63:
        raise ValueError(f"split_seed={config.split_seed}: expected an integer below 2**63")
    for key, words in WORDS.items():
        if (value := OmegaConf.select(config, key)) not in words:
            raise ValueError(f"{key}={value}: expected one of {', '.join(words)}")
    for key in ("launch.at_once", "launch.cores_per_job", "launch.hang_minutes"):
        if (value := OmegaConf.select(config, key)) is not None and not 0 < value < math.inf:
            raise ValueError(f"{key}={value}: expected a number above 0, or null")
    if config.launch.retries < 0:
        raise ValueError(f"launch.retries={config.launch.retries}: expected 0 or more")
    if config.trainer.threads is not None and config.trainer.threads < 1:
        raise ValueError(f"trainer.threads={config.trainer.threads}: expected 1 or more, or null")
    above_zero = {"trainer.gradient_clip": math.inf, "trainer.lr_plateau": 1}
    for key, limit in above_zero.items():
        value = OmegaConf.select(config, key)
        if value is not None and not 0 < value < limit:
            below = "" if math.isinf(limit) else f" and below {limit}"
            raise ValueError(f"{key}={value}: expected a number above 0{below}, or null")
    if config.trainer.precision == "16-mixed" and config.init == Init.normal:
        raise ValueError(
            "init=normal with trainer.precision=16-mixed: products of embeddings of 1e-4 are below what float16 can "
            "hold: use trainer.precision=bf16-mixed"
        )
    if not isinstance(sparse := OmegaConf.select(config, "optimizer.sparse_gradients", default=False), bool):
        raise ValueError(f"optimizer.sparse_gradients={sparse}: expected true or false")
    size = OmegaConf.select(config, "optimizer.bytes_per_weight", default=1)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"optimizer.bytes_per_weight={size}: expected an integer of 1 or more")
    if config.trainer.precision == "16-mixed" and config.trainer.gradient_clip and config.optimizer.get("fused"):
        raise ValueError(
            f"trainer.gradient_clip={config.trainer.gradient_clip} with trainer.precision=16-mixed: a fused optimizer "
            "takes scaled gradients, which cannot be clipped: use trainer.precision=bf16-mixed or optimizer.fused=false"
        )
    for name, callback in config.callback.items():
        if not isinstance(callback, DictConfig | None):
            raise ValueError(f"callback.{name}={callback}: expected a section with a _target_")
        if callback is not None and not isinstance(only := callback.get("measures_only", False), bool):
            raise ValueError(f"callback.{name}.measures_only={only}: expected true or false")
    if "_target_" not in config.regularizer and (stray := sorted({*config.regularizer} - {"name"})):
        raise ValueError(
            f"regularizer.{stray[0]}={config.regularizer[stray[0]]}: this regularizer has no _target_, so nothing is "
            "added to the loss: choose one with regularizer=..."
        )
    own = str(config.regularizer.get("_target_")).startswith("recsys_collapse.")
    weight = config.regularizer.get("weight", 0) if own else 0
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(f"regularizer.weight={weight}: expected a number of 0 or more")
    for key in ("output_dir", "store_dir"):
        path = Path(OmegaConf.select(config, key))
        nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"{key}={path}: {nearest} is not a folder one can write to; choose another {key}")
    if wrong := [name for name in config.allow or [] if not all(map(str.isidentifier, str(name).split(".")))]:
        raise ValueError(f"allow={wrong[0]}: expected dotted names of modules or classes, such as allow=[my_package]")
    for key in ("model.name", "embed.name", "dataset.name", "group"):
        value = OmegaConf.select(config, key)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", str(value)):
            raise ValueError(f"{key}={value}: it names files, so expected letters, digits and . _ + - only")
