"""A finished run as it can be used again: its config, its best weights, and the store with its vocabularies.

For predict, export and diagnose. A run directory may come from somebody else: its files build nothing but classes of
this package and what `allow` lets in, and nothing in them is executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.build import build
from recsys_collapse.config import WORDS
from recsys_collapse.dataset.store import Store, open_store
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.runs.checkpoint import misfit, read_best
from recsys_collapse.runs.records import finished_result
from recsys_collapse.trust import check_trusted

PREFIX = "backbone."  # of the weights in a checkpoint, which are those of the whole LightningModule


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run left."""

    run_dir: Path
    config: DictConfig
    """As it was resolved; only `model` and `dataset` are checked for what they build."""
    result: dict[str, Any]
    store: Store
    """The prepared data, with `vocabulary.parquet` and the manifest."""
    backbone: Backbone
    """With the best weights, on the CPU, in evaluation mode, in the precision of the checkpoint."""


def load_run(run_dir: Path, allow: Sequence[str] = (), store_dir: Path | None = None) -> LoadedRun:
    """Load a finished run.

    Args:
        run_dir: `<output_dir>/runs/<run_name>`.
        allow: dotted names that its config may build from as well; only ever from the command line (`trust.py`).
        store_dir: the folder of stores; None: that of the config, then `<output_dir>/stores` beside the run.

    Raises:
        ValueError: it is no finished run, is damaged, names a class that is not allowed, or its data is not there.
    """
    result = finished_result(run_dir)
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # it may be gone, damaged or no YAML at all
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, DictConfig) or not {"model", "embed", "dataset", "trainer"} <= {*config}:
        raise ValueError(f"{path}: expected the config of a run, with model, embed, dataset and trainer")
    for section in ("model", "dataset"):  # all that is built from it; a callback of the user's own is not needed here
        check_trusted(config[section], allow, f"{path}: {section}")
    check_trainer(config.trainer, path)
    beside = run_dir.resolve().parents[1] / "stores"
    store = find_store(result, [store_dir] if store_dir else [Path(str(config.store_dir)), beside])
    return LoadedRun(run_dir, config, result, store, load_backbone(run_dir, config, result, store.cardinalities))


def check_trainer(trainer: DictConfig, path: Path) -> None:
    """Check what is used of `trainer` in a config that was read from a file.

    Raises:
        ValueError: names the file, the key, the value and what was expected.
    """
    for key, may_be_null in {"threads": True, "eval_batch_size": False}.items():
        value = trainer.get(key)
        is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_whole and not (may_be_null and value is None):
            raise ValueError(f"{path}: trainer.{key}={value}: expected an integer of 1 or more")
    words = WORDS["trainer.precision"]
    if trainer.get("precision") not in words:
        raise ValueError(f"{path}: trainer.precision={trainer.get('precision')}: expected one of {', '.join(words)}")


def load_backbone(run_dir: Path, config: DictConfig, result: dict[str, Any], cardinalities: list[int]) -> Backbone:
    """The backbone of a config with the best weights of its run.

    Raises:
        ValueError: the weights are damaged, or are not those of the model.
    """
    try:
        content = read_best(run_dir, result["run_id"])
    except OSError as error:
        raise ValueError(f"{run_dir}: its best weights cannot be read: {error}") from error
    state = {key.removeprefix(PREFIX): value for key, value in content["state_dict"].items() if key.startswith(PREFIX)}
    sizes = {"num_sets": config.embed.num_sets, "embed_size": config.embed.embed_size}
    backbone: Backbone = build(config.model.backbone, "model.backbone", cardinalities=cardinalities, **sizes)
    if why := misfit({"state_dict": state}, backbone):
        raise ValueError(f"{run_dir}: its best weights are not those of the model: {why}")
    backbone.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    backbone.load_state_dict(state)
    return backbone.eval()


def find_store(result: dict[str, Any], folders: Sequence[Path]) -> Store:
    """The store that a run was trained on, in the first of these folders that has it, or is it.

    Raises:
        ValueError: none has it, or it is damaged.
    """
    name = f"*-v*-{result['data_fingerprint']}"
    for folder in folders:
        for path in [folder] if folder.match(name) else sorted(folder.glob(name)):
            return open_store(path)
    looked = " or ".join(str(folder.absolute()) for folder in folders)
    raise ValueError(
        f"the prepared data of {result['run_name']} (a folder {name}), which has its vocabularies, is not in {looked}: "
        "predict.store_dir= (diagnose: --store-dir) says where it lies, or prepare it again with the run's dataset "
        "options: python -m recsys_collapse.prepare dataset=..."
    )
