"""What makes a run that run: every config field that can change a number, and the data's fingerprint. Nothing else."""

from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig

from recsys_collapse.build import LABELS
from recsys_collapse.config import Config, plain
from recsys_collapse.runs.canonical import canonical, digest

NUMERICS_VERSION = 3  # raise when the same config and data give other numbers than before


def identity(config: DictConfig, data_fingerprint: str) -> dict[str, Any]:
    """The part of a resolved config that can change a number, as JSON values in one spelling.

    Raises:
        ValueError: a number is not finite; names its key.
    """
    found = {"numerics_version": NUMERICS_VERSION, "data": data_fingerprint, **_marked(plain(config), Config)}
    # Numbered, for they may act on each other in this order; what they are called in the config changes nothing.
    acting = [node for node in found["callback"].values() if not (node or {}).get("measures_only")]
    found["callback"] = {str(i): _without_labels(node) for i, node in enumerate(acting)}
    sparse = found["optimizer"].get("sparse_gradients")
    for section, key in ((found, "optimizer"), (found, "regularizer"), (found["model"], "backbone")):
        section[key] = _without_labels(section[key])
    if sparse:  # the one label that says how the tables are trained; false is the default
        found["optimizer"]["sparse_gradients"] = sparse
    return canonical(found)


def run_id(config: DictConfig, data_fingerprint: str) -> str:
    """16 hex digits; the spelling and order of values do not matter.

    Raises:
        ValueError: as `identity`.
    """
    return digest(identity(config, data_fingerprint))


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


def _without_labels(node: Any) -> Any:
    """A node without the keys that `build` does not pass on, in nodes within it too.

    A user's own class may take `name` as an option; none of ours does (a test holds them to it), and none of torch's.
    """
    if not isinstance(node, dict):
        return node
    own = str(node.get("_target_", "torch.")).startswith(("torch.", "recsys_collapse."))
    labels = (*LABELS, "name") if own else LABELS
    kept = {key: value for key, value in node.items() if key not in labels}
    return {k: _without_labels(v) if isinstance(v, dict) and "_target_" in v else v for k, v in kept.items()}


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
