"""Targets that were read from a file: what a config of a run directory, a checkpoint or a plan may build.

A config that the user gives on the command line may name any class. A file may come from somebody else, and importing a
module is running it: so a file names classes of this package, optimizers of torch, and what `allow=` lets in.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Where configs build from, and what everything that is built there is a subclass of: other classes, such as those that
# open files, are none of a config's business.
KINDS = {
    "recsys_collapse.model": "torch.nn.modules.module.Module",
    "recsys_collapse.regularizer": "torch.nn.modules.module.Module",
    "recsys_collapse.dataset": "recsys_collapse.dataset.source.Source",
    "recsys_collapse.callback": "pytorch_lightning.callbacks.callback.Callback",
    "recsys_collapse.optimizer": "torch.optim.optimizer.Optimizer",
    "torch.optim": "torch.optim.optimizer.Optimizer",
}
# What may stand beside a target for Hydra. `_args_` would pass by the checks of options in `build.py`.
SPECIAL = {"_partial_": bool, "_recursive_": bool, "_convert_": str}


def check_trusted(config: Any, allow: Sequence[str], source: str) -> None:
    """Check every target of a config that was read from a file, before anything of it is imported or built.

    Args:
        config: nested dictionaries and lists, or an OmegaConf node; checked as it will be when it is resolved.
        allow: dotted names of modules, packages or classes that it may build from as well. Only ever from the command
            line: never `config.allow`, which whoever wrote the file chose.
        source: the file, for messages.

    Raises:
        ValueError: a target is not allowed, or is no class; names the file, the key, the target and what lets it in.
    """
    for key, node in _nodes(_resolved(config, source), source):
        _check_target(node["_target_"], allow, f"{source}: {key}_target_={node['_target_']}")
        for special, value in node.items():
            is_special = special != "_target_" and re.fullmatch("_.+_", str(special))
            if is_special and not isinstance(value, SPECIAL.get(special, ())):
                raise ValueError(
                    f"{source}: {key}{special}={value}: expected beside a _target_ only _partial_ and _recursive_ "
                    "(true or false) and _convert_ (a word); remove it from the file"
                )


def foreign(config: Any) -> list[str]:
    """What `allow` must hold for a config that the user gave: the full names of its targets from elsewhere.

    For a launcher, which passes them on by the command line of the process that reads the config from a file.

    Raises:
        ValueError: a target cannot be imported.
    """
    names: set[str] = set()
    for key, node in _nodes(_resolved(config, "config"), "config"):
        target = str(node["_target_"])
        if not any(_is_within(target, package) for package in KINDS):
            names |= {target, _full_name(_import(target, f"{key}_target_={target}"))}
    return sorted(names)


def _resolved(config: Any, source: str) -> Any:
    try:
        node = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        return OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ValueError(f"{source}: a value cannot be resolved: {error}") from error


def _nodes(value: Any, source: str, key: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dictionary with a target, at any depth, and the prefix of its keys."""
    if isinstance(value, str) and "${" in value:  # resolved once more when it is built, into anything
        raise ValueError(f"{source}: {key.removesuffix('.')}={value}: ${{ is left after resolving; remove it")
    if isinstance(value, dict):
        if "_target_" in value:
            yield key, value
        for name, item in value.items():
            yield from _nodes(item, source, f"{key}{name}.")
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _nodes(item, source, f"{key.removesuffix('.')}[{i}].")


def _check_target(target: Any, allow: Sequence[str], where: str) -> None:
    home = target.rpartition(".")[0] if isinstance(target, str) else ""
    if not home or not all(part.isidentifier() for part in target.split(".")):
        raise ValueError(f"{where}: expected the dotted name of a class, such as my_package.my_module.MyClass")
    package = next((package for package in KINDS if _is_within(target, package)), "")
    hint = f"; if you trust it, add 'allow=[{home}]' to the command line"
    allowed = _is_allowed(target, allow)
    if not (package or allowed):  # and nothing is imported
        raise ValueError(
            f"{where}: a file may only name classes that recsys_collapse has for configs, and optimizers of torch.optim"
            + hint
        )
    found = _import(target, where)
    if not (inspect.isclass(found) or (allowed and inspect.isroutine(found) and target in allow)):
        raise ValueError(f"{where}: expected a class; a function is built only if allow= has its full name")
    full_name = _full_name(found)
    if allowed and not _is_allowed(full_name, allow):
        raise ValueError(f"{where}: it is {full_name}; if you trust that too, add it to allow=[...]")
    bases = {_full_name(base) for base in found.__mro__} if inspect.isclass(found) else set()
    if not allowed and not (_is_within(full_name, package) and KINDS[package] in bases):
        raise ValueError(
            f"{where}: it is {full_name}; expected a subclass of {KINDS[package]} that is defined in {package}{hint}"
        )


def _import(target: str, where: str) -> Any:
    """What the name stands for: attributes of the longest part of it that is a module."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if length > 1 and ".".join(parts[:length]).startswith(str(error.name)):  # then it is an attribute
                continue
            raise ValueError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
        except Exception as error:  # whatever a module raises while it is imported
            raise ValueError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
        try:
            for name in parts[length:]:
                found = getattr(found, name)
        except AttributeError as error:
            raise ValueError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
        return found
    raise ValueError(f"{where}: cannot be imported: there is no module {parts[0]}")


def _is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _is_allowed(name: str, allow: Sequence[str]) -> bool:
    return any(_is_within(name, prefix) for prefix in allow)


def _full_name(found: Any) -> str:
    """Where it is really defined, whatever name it was found under."""
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
