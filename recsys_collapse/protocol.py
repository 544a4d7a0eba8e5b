"""What differs from the paper in a run: said when it starts and kept in its result.

The paper's values stand once, in the options that are chosen by default: conf/trainer/default, conf/optimizer/adam,
conf/regularizer/none and conf/model/<name>. Data is not looked at: `prepare` says what differs there.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import Config, config_dir, plain
from recsys_collapse.runs.identity import flatten

PAPER_MODELS = ("dcnv2", "dnn", "ffm", "finalmlp", "fm", "ipnn", "nfwfm", "xdeepfm")
DEFAULTS = {"trainer": "default", "optimizer": "adam", "regularizer": "none"}
RUNTIME = ("name", "accelerator", "threads", "progress_bar", "eval_batch_size", "bytes_per_weight", "fused")
"""Keys that do not make a protocol another one."""


def differences(config: DictConfig) -> list[str]:
    """What is not as in the paper, one `key: value here instead of value there` each; empty if nothing is."""
    paper: dict[str, Any] = {"init": Config().init.name, "match": Config().match.name}
    here: dict[str, Any] = {"init": config.init.name, "match": config.match.name}
    options = {group: f"{group}/{name}.yaml" for group, name in DEFAULTS.items()}
    if config.model.name in PAPER_MODELS:
        options["model"] = f"model/{config.model.name}.yaml"
    else:
        paper["model"], here["model"] = None, config.model.name
    for group, path in options.items():
        papers = OmegaConf.load(config_dir() / path)
        assert isinstance(papers, DictConfig)
        if papers.get("_target_") == config[group].get("_target_"):
            paper |= _settings(papers, group)
            here |= _settings(config[group], group)
        else:  # another thing altogether: its options do not compare
            paper[group], here[group] = papers.name, config[group].get("name") or config[group]["_target_"]
    keys = sorted(key for key in paper.keys() | here.keys() if paper.get(key) != here.get(key))
    return [f"{key}: {_shown(here.get(key))} instead of {_shown(paper.get(key))}" for key in keys]


def _settings(node: Any, group: str) -> dict[str, Any]:
    found = flatten(plain(node))
    return {f"{group}.{key}": value for key, value in found.items() if key.rpartition(".")[2] not in RUNTIME}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
