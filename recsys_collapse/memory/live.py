"""The peak of live tensors while code runs. On torch's meta device nothing is allocated, so any size can be asked for.

A storage counts from the operation that made it until its last tensor is gone, tensors that autograd keeps included.
What a kernel takes for itself while it works is not seen.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts while it is entered: `now` and `peak`, in bytes, of tensors that operations have made since then.

    A sparse tensor counts with its values and indices. Views add nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(storage) for tensor in tree_leaves((args, kwargs)) for storage in _storages(tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            for storage in _storages(tensor):
                if id(storage) not in given:  # else it was there before, such as a weight
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def forget(_: Any) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, forget)  # torch keeps one object for a storage as long as it lives
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(value: Any) -> list[torch.UntypedStorage]:
    if not isinstance(value, Tensor):
        return []
    parts = [value._values(), value._indices()] if value.is_sparse else [value]
    return [part.untyped_storage() for part in parts]
