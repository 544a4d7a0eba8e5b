"""The least time of a training step: counted work divided by measured rates (`benchmarks.rates`).

The work is counted from the shapes of the model, on the meta device, and not from what our implementation moves. Every
piece takes the longer of its operations and its memory:

    seconds = max(operations / rate of matrix products, bytes / bandwidth + row bytes / rate of a gather)

The pieces run one after the other, so a phase takes their sum. With x what enters a layer, w its parameters, y what
leaves it:

- Layer, forward: reads x and w, writes y. Backward: reads dy, x and w, writes dx and dw, twice the operations.
  A layer is every module with parameters of its own or with matrix products of its own. All other modules (ReLU,
  Dropout, Flatten, the product with x_0 in a cross layer, concatenation, the mean over the sets) count nothing: they
  can be done while a neighbour's result is still in the registers.
- Lookup, forward: each different row of the batch is gathered once, and e is written. Backward: reads de, writes the
  gradient of the different rows: there need be no gradient of the whole table.
- Optimizer: Adam with coupled decay changes every weight in every step. Of a table it reads and writes the weight and
  two moments, 24 bytes a weight, and reads the gradient of the batch's rows; of all other parameters, 24 bytes and 4
  of gradient. An optimizer that leaves rows for later may be faster than this floor.

Which bandwidth: that of a working set as large as the different bytes of the piece. What a layer takes can have stayed
in a cache since the layer before; the optimizer comes back to a byte only after it has seen all others. So nothing is
charged at the speed of DRAM that fits a cache, and the floor is not above what can be reached.

Operations are those of the matrix products that torch counts in our forward pass; the rest is far cheaper. For ipnn
they are the whole Gram matrix, twice what its pairs need.

Under `bf16-mixed`, activations have 2 bytes and matrix products their own rate; parameters and moments stay float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rates import Rates
from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.model.backbone import Backbone

PARAMETER = 4
"""Bytes of a parameter, of its gradient, and of each moment."""
ACTIVATION = {"32-true": 4, "bf16-mixed": 2}
"""Bytes, by the word of `trainer.precision`."""


class Work(NamedTuple):
    """One piece of a step."""

    name: str
    operations: int
    moved: int
    """Bytes read and written."""
    held: int
    """Different bytes among them: the working set."""
    row_bytes: int = 0
    """Bytes read and written of rows at random places, on top of `moved`."""

    def seconds(self, rates: Rates, precision: str) -> float:
        """The least time."""
        memory = self.moved / rates.bytes_per_second(self.held) + self.row_bytes / rates.gather
        return max(self.operations / rates.matmul[precision], memory)


class Floor(NamedTuple):
    """The pieces of a step, phase by phase."""

    forward: list[Work]
    backward: list[Work]
    optimizer: list[Work]

    def seconds(self, rates: Rates, precision: str) -> dict[str, float]:
        """The least time of each phase."""
        return {
            phase: sum(work.seconds(rates, precision) for work in pieces) for phase, pieces in self._asdict().items()
        }


def count(backbone: Backbone, x_BN: Tensor, precision: str = "32-true") -> Floor:
    """The work of one training step.

    Args:
        backbone: as shapes only, from `recsys_collapse.cost.outline`: with numbers it would be computed.
        x_BN: the ids of the batch, with numbers: how many of them are different counts.
        precision: the word of `trainer.precision`, `32-true` or `bf16-mixed`.

    Raises:
        ValueError: another precision.
    """
    if precision not in ACTIVATION:
        raise ValueError(f"precision={precision}: expected one of {', '.join(ACTIVATION)}")
    each = ACTIVATION[precision]
    different = sum(len(x_B.unique()) for x_B in x_BN.cpu().unbind(dim=1))
    pieces = [*_lookups(backbone, x_BN.numel(), different, each), *_layers(backbone, x_BN, each)]
    forward, backward = (list(side) for side in zip(*pieces, strict=True))
    return Floor(forward, backward, [_optimizer(backbone, different)])


def _lookups(backbone: Backbone, ids: int, different: int, each: int) -> list[tuple[Work, Work]]:
    """Forward and backward of every table."""
    found = []
    for table in backbone.tables():
        columns = table.weight.shape[1]
        gathered, repeated = different * columns * (PARAMETER + each), (ids - different) * columns * each
        e, gradient = ids * columns * each, different * columns * PARAMETER
        found.append(
            (Work("lookup", 0, repeated, e, row_bytes=gathered), Work("lookup", 0, e + gradient, e + gradient))
        )
    return found


def _layers(backbone: Backbone, x_BN: Tensor, each: int) -> list[tuple[Work, Work]]:
    """Forward and backward of every layer, in the order in which they run."""
    found: list[tuple[Work, Work]] = []
    counter = FlopCounterMode(display=False)
    at_entry: list[int] = []
    of_parts = [0]  # operations of the modules inside, for every module that is running
    tables = {id(module) for table in backbone.tables() for module in table.modules()}

    def enter(module: nn.Module, args: Any) -> None:
        at_entry.append(counter.get_total_flops())
        of_parts.append(0)

    def leave(module: nn.Module, args: Sequence[Any], y: Any) -> None:
        operations = counter.get_total_flops() - at_entry.pop()
        own = operations - of_parts.pop()
        of_parts[-1] += operations
        w = PARAMETER * sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if id(module) not in tables and (own or w):
            x, out = each * _size(args), each * _size([y])
            forward = Work(type(module).__name__, own, x + w + out, x + w + out)
            bytes_back = out + x + w + x + w
            found.append((forward, Work(forward.name, 2 * own, bytes_back, bytes_back)))

    hooks = [module.register_forward_pre_hook(enter) for module in backbone.modules()]
    hooks += [module.register_forward_hook(leave) for module in backbone.modules()]
    try:
        with counter, torch.no_grad():
            backbone.eval()(torch.zeros(x_BN.shape, dtype=torch.int32, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _size(values: Sequence[Any]) -> int:
    return sum(value.numel() for value in values if isinstance(value, Tensor))


def _optimizer(backbone: Backbone, different: int) -> Work:
    """One pass over all parameters."""
    tables: list[FieldEmbedding] = backbone.tables()
    own = {id(table.weight) for table in tables}
    weights = sum(table.weight.numel() for table in tables)
    rows = sum(different * table.weight.shape[1] for table in tables)
    dense = sum(parameter.numel() for parameter in backbone.parameters() if id(parameter) not in own)
    gradients = PARAMETER * (rows + dense)
    states = 3 * PARAMETER * (weights + dense)
    return Work("Adam", 0, 2 * states + gradients, states + gradients)
