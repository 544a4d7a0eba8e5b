"""Why a command line does not compose, in the words of the person who typed it."""

import re
from difflib import get_close_matches
from itertools import product
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}
"""Launchers of Hydra's plugins, and what of this package installs them."""


def explain(overrides: list[str], loader: Any, config_name: str, error: Exception) -> str:
    """What is wrong with the first override that cannot be applied, with the nearest valid choices."""
    available = loader.get_group_options("hydra/launcher")
    asked = re.search(rf"hydra/launcher[/=]({'|'.join(EXTRAS)})\b", f"{error} {' '.join(overrides)}")
    if asked and asked[1] not in available:
        return (
            f"hydra/launcher={asked[1]}: its plugin is not installed: pip install 'recsys_collapse[{EXTRAS[asked[1]]}]'"
        )
    if of_another := re.match(r"Could not override '([^'@]+)'\. No match in the defaults list", str(error)):
        root = loader.load_configuration(config_name, [], run_mode=RunMode.RUN)
        known = ", ".join(str(key) for key in root if key != "hydra")
        return f"{of_another[1]}=...: there is no such choice in this command; known here: {known}"
    try:
        return _first_wrong(overrides, loader, config_name) or str(error)
    except (
        HydraException,
        OmegaConfBaseException,
        ValueError,
    ):  # the rest does not compose either: Hydra's words, then
        return str(error)


def _first_wrong(overrides: list[str], loader: Any, config_name: str) -> str | None:
    parser, parsed = OverridesParser.create(config_loader=loader), []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            reason = " ".join(str(error).splitlines()[:-1]) or str(error)  # the last line is a link to the grammar
            return f"{word}: cannot be read as key=value: {reason}; put quotes around special characters"
    groups = [o for o in parsed if loader.get_group_options(o.key_or_group)]
    for override in groups:
        if wrong := _wrong_option(override, loader):
            return wrong
    for options in product(*([f"{o.key_or_group}={value}" for value in _values(o)] for o in groups)):
        base = loader.load_configuration(config_name, list(options), run_mode=RunMode.RUN)
        for override in parsed:
            if override not in groups and (wrong := _wrong_value(override, base, loader)):
                return wrong
    return None


def _values(override: Override) -> list[str]:
    if override.is_sweep_override() and override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def _wrong_option(override: Override, loader: Any) -> str | None:
    group = override.key_or_group
    options = loader.get_group_options(group, ObjectType.CONFIG)
    for value in _values(override):
        for name in value.strip("[]").split(","):
            if name and name.removesuffix(".yaml") not in options:
                near = get_close_matches(name, options, n=1)
                hint = f"; did you mean {group}={near[0]}?" if near else ";"
                return f"{group}={name}: no such option{hint} {group} has {', '.join(options)}"
    return None


def _wrong_value(override: Override, base: DictConfig, loader: Any) -> str | None:
    """A key that does not exist, or a value of the wrong type."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or override.is_delete():
        return None
    if not _exists(base, key):
        parent, _, _ = key.rpartition(".")
        level = OmegaConf.select(base, parent) if parent and _exists(base, parent) else base
        siblings = [str(k) for k in level] if isinstance(level, DictConfig) else []
        siblings = [f"{parent}.{k}" if parent and level is not base else k for k in siblings if k != "hydra"]
        near = get_close_matches(key, [*siblings, *_all_keys(base)], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ";"
        return f"{override.input_line}: no such key{hint} known here: {', '.join(siblings)}"
    for value in _values(override):
        trial = base.copy()
        try:
            OmegaConf.update(trial, key, OmegaConf.create(f"value: {value}").value)
        except OmegaConfBaseException as wrong:
            return f"{key}={value}: {str(wrong).splitlines()[0]}"
    return None


def _exists(config: DictConfig, key: str) -> bool:
    node: Any = config
    for word in key.split("."):
        if not isinstance(node, DictConfig) or word not in node._content:  # type: ignore[operator]
            return False
        node = node._get_node(word)
    return True


def _all_keys(config: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in config:
        if key != "hydra" or prefix:
            node = config._get_node(key)
            found.append(f"{prefix}{key}")
            if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
                found += _all_keys(node, f"{prefix}{key}.")
    return found
