"""What the predict command can be asked for: types of conf/predict.yaml, and checks before torch is loaded."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig

from recsys_collapse.config import WORDS
from recsys_collapse.dataset.files import COMPRESSED
from recsys_collapse.launch.subprocess import visible_gpus

OUTPUT_ENDINGS = (".parquet", ".pq")
EXPORTS = ("safetensors", "torch_export", "onnx")


@dataclass
class PredictConfig:
    """How scores are made; see conf/predict.yaml."""

    export: str | None = None
    store_dir: str | None = None
    batch_size: int | None = None
    accelerator: str = "auto"
    threads: int | None = None
    progress_bar: bool | None = None
    overwrite: bool = False


@dataclass
class InputConfig:
    """How the input is written, as the options of `Table`; null: as the run's own."""

    label: str | None = None
    label_map: Any = None
    columns: Any = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str | None = None
    max_line_bytes: int | None = None
    dir: str | None = None
    block_mib: int | None = None


@dataclass
class Root:
    """The root of conf/predict.yaml."""

    run: str = MISSING
    input: Any = None
    output: str | None = None
    allow: list[str] = field(default_factory=list)
    predict: PredictConfig = field(default_factory=PredictConfig)
    dataset: InputConfig = field(default_factory=InputConfig)


def named(config: DictConfig) -> tuple[Any, Path | None]:
    """What `input` names, and the folder where relative names start."""
    named = config.input if isinstance(config.input, str) else list(config.input)
    return named, None if config.dataset.dir is None else Path(config.dataset.dir).expanduser()


def check_options(config: DictConfig) -> None:
    """Check ranges and words.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    options = config.predict
    if config.input is None and options.export is None:
        raise ValueError("input is not set: add input=FILE (or a pattern, or a list) to the command")
    if options.export is not None and options.export not in EXPORTS:
        raise ValueError(f"predict.export={options.export}: expected one of {', '.join(EXPORTS)}")
    if config.input is not None and options.export is not None:
        raise ValueError(f"input={config.input}, predict.export={options.export}: expected one of them; run it twice")
    names = [config.input] if not isinstance(config.input, ListConfig) else list(config.input)
    if config.input is not None and not all(isinstance(name, str) for name in names):
        raise ValueError(f"input={config.input}: expected a file, a pattern such as 'day-*.parquet', or a list of them")
    for key in ("batch_size", "threads"):
        if options[key] is not None and options[key] < 1:
            raise ValueError(f"predict.{key}={options[key]}: expected an integer of 1 or more, or null")
    if options.accelerator not in (words := WORDS["trainer.accelerator"]):
        raise ValueError(f"predict.accelerator={options.accelerator}: expected one of {', '.join(words)}")
    if options.accelerator in ("cuda", "gpu") and not visible_gpus():
        raise ValueError(f"predict.accelerator={options.accelerator}: no GPU is visible here; use auto or cpu")
    label_map, columns = config.dataset.label_map, config.dataset.columns
    if not isinstance(label_map, DictConfig | None):
        raise ValueError(
            f"dataset.label_map={label_map}: expected words and what they stand for, e.g. {{no: 0, yes: 1}}"
        )
    if not isinstance(columns, ListConfig | None) and columns != "header":
        raise ValueError(f"dataset.columns={columns}: expected a list of names, header, or null")


def check_output(config: DictConfig, files: list[Path]) -> Path:
    """Where the scores go.

    Raises:
        ValueError: something is there, or it is no place for a Parquet file.
    """
    stem = files[0].stem if files[0].suffix.lower() not in COMPRESSED else Path(files[0].stem).stem
    output = Path(config.output or f"{stem}-scores.parquet").expanduser()
    if output.suffix.lower() not in OUTPUT_ENDINGS:
        raise ValueError(f"output={output}: the scores are written as Parquet: expected a name that ends in .parquet")
    if any(output.resolve() == file.resolve() for file in files):
        raise ValueError(f"output={output}: it is an input; choose another name")
    if output.is_dir():
        raise ValueError(f"output={output}: it is a folder; expected the name of a file")
    _check_place(output, config.predict.overwrite)
    return output


def check_export(config: DictConfig, run_name: str) -> Path:
    """The folder that an export becomes.

    Raises:
        ValueError: something is there, or it is no place for a folder.
    """
    folder = Path(config.output or f"{run_name}-{config.predict.export}").expanduser()
    _check_place(folder, config.predict.overwrite)
    return folder


def _check_place(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise ValueError(f"output={output}: it exists; choose another name, or add predict.overwrite=true")
    nearest = next(folder for folder in output.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"output={output}: {nearest} is not a folder one can write to; choose another output")
