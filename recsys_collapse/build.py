"""From a config node to an object: `_target_` is called with the node's other keys, after they have been checked."""

import inspect
import types
import typing
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import plain

# Keys of a node that are about it and not for its target.
LABELS = ("measures_only", "sparse_gradients", "bytes_per_weight")


def build(node: DictConfig, key: str, **given: Any) -> Any:
    """Instantiate `node`, which stands at `key` of the config, with `given` beside its own keys.

    Raises:
        ValueError: as `check`.
    """
    options = check(node, key, *given)
    try:
        return instantiate(options, **given, _convert_="all")
    except InstantiationException as error:  # the target's own words
        reason = str(error.__cause__ or error)
        raise ValueError(reason if reason.startswith(key) else f"{key}: {reason}") from error


def check(node: DictConfig, key: str, *given: str) -> dict[str, Any]:
    """The options that `build` would pass on, given the names of what comes beside them.

    `name` is passed on only to a target that takes it.

    Raises:
        ValueError: an option is unknown, missing or of another type; names the key and the nearest one.
    """
    if not isinstance(node, DictConfig):
        raise ValueError(f"{key}={node}: expected a section with a _target_")
    options = plain(node)
    if "_target_" not in options:
        raise ValueError(f"{key}: no _target_; expected the class to build, e.g. _target_: my_package.MyClass")
    try:
        target = get_object(options["_target_"])
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ValueError(f"{key}._target_={options['_target_']}: cannot be imported: {error}") from error
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}._target_={options['_target_']}: expected a class or function: {error}") from error
    for label in (*LABELS, *({"name"} - set(parameters))):
        options.pop(label, None)
    _check_options({k: v for k, v in options.items() if not k.startswith("_")}, parameters, given, key, target)
    for name, part in options.items():
        if isinstance(part, dict) and "_target_" in part:
            options[name] = check(OmegaConf.create(part), f"{key}.{name}")
    return options


def _check_options(
    options: dict[str, Any],
    parameters: typing.Mapping[str, inspect.Parameter],
    given: tuple[str, ...],
    key: str,
    target: Any,
) -> None:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # a type that is only imported for type checkers
        hints = {}
    for name, value in options.items():
        if name not in parameters and not takes_any:
            near = get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {key}.{near[0]}?" if near else ";"
            raise ValueError(f"{key}.{name}={value}: unknown option{hint} {key} takes {', '.join(parameters)}")
        if name in hints and not _fits(value, hints[name]):
            raise ValueError(f"{key}.{name}={value}: expected {_described(hints[name])}, found {type(value).__name__}")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        if required and name not in options and name not in given:
            raise ValueError(f"{key}.{name} is not set: expected {_described(hints.get(name, Any))}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML fits a simple annotation; annotations that are not simple fit anything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if origin is not None and inspect.isclass(origin):
        inner = typing.get_args(hint)
        if isinstance(value, list) and len(inner) == 1:
            return all(_fits(item, inner[0]) for item in value)
        return not isinstance(value, str | int | float)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    return hint is Any or not (inspect.isclass(hint) and isinstance(value, str) and not issubclass(hint, Enum | Path))


def _described(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
