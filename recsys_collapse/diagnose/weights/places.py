"""Where in the content of a checkpoint the weights are: programs put them under keys, beside an optimizer and more."""

from pathlib import Path
from typing import Any

from torch import Tensor

from recsys_collapse.diagnose.weights.archive import SHOWN, CheckpointError, listed

KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Under which programs keep the weights; the first that has tensors is taken."""
DEEPEST = 100  # levels of mappings in each other that are looked at


class AsDict(type):
    """The class of placeholders: equal to `dict` for torch's reader, which sets items of nothing else."""

    def __eq__(cls, other: object) -> bool:
        return other is dict or cls is other

    __hash__ = type.__hash__


class Skipped(metaclass=AsDict):
    """Stands for an object that was not made: takes all that makes one and does nothing with it."""

    content: dict[Any, Any]

    def __new__(cls, *args: Any, **options: Any) -> "Skipped":
        """Of any arguments."""
        self = super().__new__(cls)
        self.content = {}
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.content[key] = value

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # of the instance, and of its slots
            if isinstance(part, dict):
                self.content.update(part)


HOLDERS = (Tensor, dict, list, tuple, Skipped)


def children_of(value: Any) -> dict[str, Any]:
    """What lies in a mapping, a list or a skipped object, by name; what has no name (other keys) is left out."""
    if isinstance(value, Skipped):
        value = value.content
        if _is_module(value):
            parts = (value.get(key) for key in ("_parameters", "_buffers", "_modules"))
            return {name: child for part in parts for name, child in children_of(part).items()}
    if isinstance(value, list | tuple):
        return {str(index): child for index, child in enumerate(value)}
    if isinstance(value, dict):
        return {str(key): child for key, child in value.items() if isinstance(key, str | int)}
    return {}


def _is_module(value: Any) -> bool:
    """Whether these are the attributes of an `nn.Module`."""
    return isinstance(value, dict) and "_parameters" in value and "_modules" in value


def _tensors(path: Path, value: Any) -> dict[str, Tensor]:
    """All tensors below a value by their names with dots. What is there twice, or in itself, is named once."""
    found, seen, todo = {}, set(), [("", value, 0)]
    while todo:
        name, item, depth = todo.pop()
        if isinstance(item, Tensor):
            found[name or "tensor"] = Tensor.detach(item)
            continue
        if id(item) in seen or not (children := children_of(item)):
            continue
        seen.add(id(item))
        if depth > DEEPEST:
            raise CheckpointError(
                f"{path}: {listed({name})} is nested deeper than {DEEPEST} levels, expected a state dict: choose one "
                "with --state KEY"
            )
        for key, child in reversed(children.items()):
            if isinstance(child, HOLDERS):
                todo.append((f"{name}.{key}" if name else key, child, depth + 1))
    return found


def choose(path: Path, content: Any, state: str | None) -> tuple[str, dict[str, Tensor]]:
    """The key of the mapping with the weights, and its tensors."""
    if state:
        return state, _at(path, content, state)
    if isinstance(content, Tensor) or (isinstance(content, Skipped) and _is_module(content.content)):
        return "", _tensors(path, content)
    children = children_of(content)
    weights = {key: child for key, child in children.items() if isinstance(child, Tensor) or key[:5] != "optim"}
    places = {key: found for key, child in weights.items() if (found := _tensors(path, child))}
    if not places:
        raise CheckpointError(f"{path}: holds no tensor of a model, expected its weights. It holds {_inside(children)}")
    if state == "" or any(isinstance(child, Tensor) and child.ndim for child in children.values()):
        return "", _tensors(path, weights)
    nested = {key: found for key, found in places.items() if not isinstance(children[key], Tensor)}
    for key in (*KEYS, *(nested if len(nested) == 1 else ())):
        if key in nested:
            return key, nested[key]
    counts = ", ".join(f"{listed({key})} ({len(found)} tensors)" for key, found in [*places.items()][:SHOWN])
    raise CheckpointError(f"{path}: tensors are in several places: {counts}. Choose one with --state KEY")


def _at(path: Path, content: Any, state: str) -> dict[str, Tensor]:
    """The tensors under a key, with dots for keys in keys."""
    left, value = state, content
    while left:
        children = children_of(value)
        words = left.split(".")
        heads = [".".join(words[:count]) for count in range(len(words), 0, -1)]  # a key may have dots of its own
        if (key := next((head for head in heads if head in children), None)) is None:
            where = state[: len(state) - len(left)].rstrip(".") or "the top level"
            raise CheckpointError(
                f"{path}: has no {state!r}: {where} holds {_inside(children)}. Choose one with --state"
            )
        left, value = left[len(key) + 1 :], children[key]
    if not (found := _tensors(path, value)):
        raise CheckpointError(
            f"{path}: {state!r} holds no tensor, expected weights. It holds {_inside(children_of(value))}"
        )
    return found


def _inside(children: dict[str, Any]) -> str:
    return listed(set(children)) or "nothing with a name"
