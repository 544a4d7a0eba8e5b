"""The card of an export: `card.json` for programs, and the same for people as `README.md`.

Nothing of the machine is in it: no paths, and secrets of the environment are replaced.
"""

import inspect
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

from omegaconf import OmegaConf

from recsys_collapse.dataset import buckets
from recsys_collapse.export.formats import Servable
from recsys_collapse.load import LoadedRun
from recsys_collapse.runs.environment import PACKAGES
from recsys_collapse.runs.secrets import scrub_tree
from recsys_collapse.runs.version import code_version

SCHEMA = 1
"""Raise when a key of the card changes its meaning."""
COPIED = ("run_name", "run_id", "model", "embed", "scale", "num_sets", "embed_size", "parameters", "data_fingerprint")
METRICS = ("val_auc", "test_auc", "val_logloss", "test_logloss", "null_reasons", "truth")
CONFIG = ("model", "embed", "trainer", "optimizer")
EQUATION = (
    "logit = F( mean over the M embedding sets of I^(m)(e^(m)) ), plus first_order if there is one. The parts are "
    "embedding (E), interaction (I, all M sets at once) and head (F). e is (B, M, N, K): row id_i + offset_i of "
    "embedding.weight for field i, whose columns m*K to (m+1)*K are set m. No dropout; batch norm with its running "
    "statistics."
)
VALUES = (
    "Every value is text; a missing one is the empty string. From a text file it is what is written there. From "
    "Parquet, a whole number is written without a point (25, not 25.0), other numbers without zeros at the end (2.5, "
    "not 2.50), truth values as true and false, and a time with a zone as that of UTC without one. If the field has a "
    "bucket, the value becomes its bucket first. The id is that of (field, value) in vocabulary.parquet; what is not "
    "there, rare or never seen in training, has id 0."
)
OUTSIDE = "An id below 0, or not below the cardinality of its field, is read as 0, as a value that was never seen."


def make_card(
    run: LoadedRun, kind: str, model: Servable, built: dict[str, Any], written: dict[str, Any]
) -> dict[str, Any]:
    """The card but for its example and its files, with no secret and no path of this machine in it.

    Args:
        run: the run.
        kind: the format.
        model: what was exported.
        built: its `architecture`.
        written: what is to be said of the format.
    """
    manifest = run.store.manifest()
    recipe = manifest["recipe"]
    # Not resolved: a reference to a secret of the environment stays one.
    sections = {
        name: OmegaConf.to_container(run.config[name], resolve=False, enum_to_str=True)
        for name in CONFIG
        if name in run.config
    }
    return scrub_tree(
        {
            "schema": SCHEMA,
            "kind": kind,
            **{key: run.result.get(key) for key in COPIED},
            "format": written,
            "fields": fields(run, manifest),
            "values": VALUES,
            "buckets": inspect.getdoc(buckets) if recipe.get("buckets") else None,
            "outside": OUTSIDE,
            "label": recipe.get("label"),
            "metrics": {key: run.result[key] for key in METRICS if key in run.result},
            "data": {
                "name": run.result.get("dataset"),
                **{key: manifest.get(key) for key in ("rows", "parts", "positives")},
            },
            "architecture": built,
            "precision": precision(run, model),
            "config": without_paths({**sections, "dataset": recipe}),
            "code_version": run.result.get("code_version"),
            "versions": versions(run),
        }
    )


def fields(run: LoadedRun, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every field in the order of the columns of `ids`, with its rows in the table and what its values become first."""
    recipe, offsets = manifest["recipe"], run.backbone.embedding.offset_N.tolist()
    return [
        {
            "name": name,
            "column": (recipe.get("derive") or {}).get(name, name),
            "cardinality": cardinality,
            "offset": offset,
            "bucket": (recipe.get("buckets") or {}).get(name),
            "edges": manifest.get("edges", {}).get(name),
        }
        for name, cardinality, offset in zip(run.store.fields, run.store.cardinalities, offsets, strict=True)
    ]


def architecture(run: LoadedRun) -> dict[str, Any]:
    """All that is needed to build the model again, with this package or by hand."""
    words = {
        type(module).__name__: (inspect.getdoc(type(module)) or "").partition("\n\nArgs:")[0]
        for module in run.backbone.modules()
        if not type(module).__module__.startswith("torch.")
    }
    return {
        "backbone": OmegaConf.to_container(run.config.model.backbone, resolve=False, enum_to_str=True),
        "cardinalities": run.store.cardinalities,
        "num_sets": run.config.embed.num_sets,
        "embed_size": run.config.embed.embed_size,  # as the class takes it: FFM's table has N-1 times as many columns
        "equation": EQUATION,
        "modules": {
            name: f"{type(module).__name__}({module.extra_repr()})"
            for name, module in run.backbone.named_modules()
            if name
        },
        "words": words,
    }


def precision(run: LoadedRun, model: Servable) -> dict[str, Any]:
    """In which precision it was trained and is exported, and whether its logits are those that the run recorded."""
    trained, dtype = (
        str(run.config.trainer.precision),
        str(model.backbone.embedding.weight.dtype).removeprefix("torch."),
    )
    words = f"Weights and arithmetic are {dtype}, as in training."
    if "mixed" in trained:
        words = (
            f"Weights and arithmetic are {dtype}. The run trained and scored itself under autocast ({trained}), so its "
            "metrics and recorded logits have the rounding of that; the logits of this model differ from them by it."
        )
    elif trained == "bf16-true":
        words = (
            f"The run trained and scored itself in {trained}; the weights are exported as {dtype}, which holds each of "
            "them exactly. Arithmetic is float32, so logits differ from the recorded ones by the rounding of the other."
        )
    elif dtype == "float64":
        words = "Weights and arithmetic are float64, as in training; the logit is rounded to float32 at the end."
    return {"trained": trained, "weights": dtype, "words": words}


def versions(run: LoadedRun) -> dict[str, Any]:
    """Of what trained the model and of what exported it."""
    names = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "polars")
    trained = run.result.get("environment") or {}
    return {
        "training": {name: trained.get(name) for name in ("python", *PACKAGES)},
        "export": {
            "python": platform.python_version(),
            "recsys_collapse": code_version(),
            **{name: _version(name) for name in names},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def without_paths(value: Any) -> Any:
    """A copy with the last part only of every absolute path, which is of this machine."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return PurePath(value).name if isinstance(value, str | PurePath) and PurePath(value).is_absolute() else value
