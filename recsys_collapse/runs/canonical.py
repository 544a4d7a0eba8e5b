"""One spelling for equal values, so that the digest of a description follows what it says and not how it is written."""

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any


def digest(described: Mapping[str, Any]) -> str:
    """16 hex digits that name what is described.

    Raises:
        ValueError: as `canonical`.
    """
    text = json.dumps(canonical(described), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical(value: Any, key: str = "") -> Any:
    """As JSON values: 1.0 is 1, -0.0 is 0 and a tuple is a list; true is not 1, and neither is the word "1".

    Args:
        value: numbers, words, truth values, nulls, and lists and mappings of them.
        key: where it stands, for the error message.

    Raises:
        ValueError: a number is not finite, or a value is of another kind; names its key.
    """
    if isinstance(value, Mapping):
        return {_word(k): canonical(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value}: expected a finite number")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"{key}={value!r}: expected a number, a word, true, false or null, found {type(value).__name__}")


def _word(key: Any) -> str:
    """A key of JSON; the number 1 is no "1", for a class may tell them apart."""
    if isinstance(key, str) and not key.startswith("!"):
        return key
    key = canonical(key)
    return f"!{type(key).__name__} {key}"
