"""What differs from the paper in a run: said when it starts and kept in its result.

The paper's values stand once, in the options that are chosen by default: conf/trainer/default, conf/optimizer/adam,
conf/regularizer/none and conf/model/<name>. Of the data only the seed of the split is looked at: `prepare`
says what else differs there.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import Config, config_dir, plain
from recsys_collapse.runs.identity import flatten

PAPER_MODELS = ("dcnv2", "dnn", "ffm", "finalmlp", "fm", "ipnn", "nfwfm", "xdeepfm")
DEFAULTS = {"trainer": "default", "optimizer": "adam", "regularizer": "none"}
RUNTIME = (
    *("name", "accelerator", "threads", "progress_bar", "eval_batch_size", "bytes_per_weight", "fused"),
    "sparse_gradients",  # how they are handed over; which rows move is up to the optimizer
)
"""Keys that do not make a protocol another one."""


def differences(config: DictConfig) -> list[str]:
    """What is not as in the paper, one `key: value here instead of value there` each; empty if nothing is."""
    paper: dict[str, Any] = {"init": Config().init.name, "match": Config().match.name, "split_seed": 0}
    here: dict[str, Any] = {"init": config.init.name, "match": config.match.name, "split_seed": config.split_seed}
    folded, base = config.embed.name == "me", config.model.base_size
    paper |= {
        "embed.num_sets": config.scale if folded else 1,
        "embed.embed_size": base * (1 if folded else config.scale),
    }
    here |= {"embed.num_sets": config.embed.num_sets, "embed.embed_size": config.embed.embed_size}
    for group, name in DEFAULTS.items():
        _compare(config, group, name, paper, here)
    if config.model.name in PAPER_MODELS:
        _compare(config, "model", config.model.name, paper, here)
    else:
        paper["model"], here["model"] = "one of the paper", config.model.name
    changing = [name for name, node in config.callback.items() if not node.get("measures_only")]
    here |= {f"callback.{name}": "present" for name in changing}
    keys = sorted(key for key in paper.keys() | here.keys() if paper.get(key) != here.get(key))
    return [f"{key}: {_shown(here.get(key))} instead of {_shown(paper.get(key))}" for key in keys]


def _compare(config: DictConfig, group: str, name: str, paper: dict[str, Any], here: dict[str, Any]) -> None:
    """Add a group's settings; if it is not the paper's at all, its name and what was changed in its own file."""
    folder, node = config_dir() / group, config[group]
    papers = OmegaConf.load(folder / f"{name}.yaml")
    assert isinstance(papers, DictConfig)
    if papers.get("_target_") != node.get("_target_"):
        paper[group], here[group] = name, node.get("name") or node["_target_"]
        own = folder / f"{here[group]}.yaml"
        papers = OmegaConf.load(own) if own.is_file() else node
    paper |= _settings(papers, group)
    here |= _settings(node, group)


def _settings(node: Any, group: str) -> dict[str, Any]:
    found = flatten(plain(node))
    return {f"{group}.{key}": value for key, value in found.items() if key.rpartition(".")[2] not in RUNTIME}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
