"""What training takes, from the outline of a model: nothing is allocated.

Shapes: B batch, N fields, C columns of a table (M sets of K), n rows of a split.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_collapse.build import build
from recsys_collapse.cost import parameter_counts, training_bytes
from recsys_collapse.memory.live import Live
from recsys_collapse.model.backbone import Backbone, Stages

PROCESS = 540_000_000
"""Bytes of Python with torch and Lightning that has trained something small on a CPU; measured by benchmarks.memory."""
HOLES = 0.6
"""Of what a step takes and gives back: what lies idle between the blocks of the heap; measured by benchmarks.memory."""
ORDER = 8  # bytes of a training row: the order of a pass, and the rows in that order
COUNT = 8  # bytes of an id: how often it occurs
SCORE, SCORED = 8, 100  # bytes of an evaluated row: its logit and label; while the AUC is computed
INDEX = 8  # bytes of a row number in a sparse gradient
ITEM = {"64-true": 8, "bf16-true": 2, "16-true": 2}  # bytes of a number; all others train in float32

Regularizer = Callable[[Backbone, Stages], Tensor]


class Memory(NamedTuple):
    """Bytes, by what takes them."""

    process: int
    """Python and its libraries."""
    table: int
    """Weights of the embedding tables."""
    optimizer: int
    """What the optimizer keeps of the tables."""
    dense: int
    """All other parameters: weights, gradients and what the optimizer keeps."""
    data: int
    """What belongs to the rows: their order, counts, and on a GPU the rows themselves if they stay there."""
    gradient: int
    """Of the tables: as large as they are, or the rows of a batch, twice while those of the same id are added up."""
    activations: int
    """The most that a training step has beside all that: forward, backward, the batch, and holes in the heap."""
    evaluation: int
    """The most that an evaluation has: a forward pass of a larger batch, or the scores of all rows."""
    copy: int
    """The best weights, when they are read for the test; as much when an interrupted run goes on."""
    left_out: str = ""
    """What could not be counted, as it does not run without numbers."""

    @property
    def resident(self) -> int:
        """What is there all the time."""
        return self.process + self.table + self.optimizer + self.dense + self.data

    @property
    def step(self) -> int:
        """The peak of a training step."""
        return self.resident + self.gradient + self.activations

    @property
    def peak(self) -> int:
        """The peak of a run: steps, evaluations and the copy of the weights come one after the other."""
        return self.resident + max(
            self.gradient + self.activations, self.gradient + self.evaluation, self.copy + self.evaluation
        )

    def words(self) -> str:
        """In a line, gigabytes; parts of less than 10 MB are left out."""
        parts = {name: value for name, value in self._asdict().items() if name != "left_out" and value >= 10**7}
        listed = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items())
        left_out = f"; not counted, as it does not run without numbers: {self.left_out}" if self.left_out else ""
        return f"memory: up to {self.peak / 1e9:.2f} GB ({listed}; the last three of them in turn{left_out})"


def needed(
    config: DictConfig, backbone: Backbone, rows: Mapping[str, int], resident: int = 0, process: int = PROCESS
) -> Memory:
    """As `memory_of`, for a run's config.

    Raises:
        ValueError: the regularizer cannot be built.
    """
    regularizer = None
    if "_target_" in config.regularizer:
        with torch.device("meta"):
            regularizer = build(config.regularizer, "regularizer", backbone=backbone)
    return memory_of(backbone, config.optimizer, config.trainer, rows, regularizer, resident, process)


def memory_of(
    backbone: Backbone,
    optimizer: Mapping[Any, Any],
    trainer: Mapping[Any, Any],
    rows: Mapping[str, int],
    regularizer: Regularizer | None = None,
    resident: int = 0,
    process: int = PROCESS,
) -> Memory:
    """What training takes.

    In mixed precision, activations count as in float32.

    Args:
        backbone: the model; its outline will do.
        optimizer: its config; `sparse_gradients` and `bytes_per_weight` count.
        trainer: its config; `batch_size`, `eval_batch_size` and `precision` count.
        rows: of `train`, `valid` and `test`.
        regularizer: backbone and stages -> what is added to the loss.
        resident: bytes of the data, if they stay on the GPU. On a CPU they are mapped files: the system takes their
            memory back when it needs it, so they do not count.
        process: bytes of the process.
    """
    item, sparse = ITEM.get(trainer.get("precision", "32-true"), 4), bool(optimizer.get("sparse_gradients", False))
    counts, taken = parameter_counts(backbone), training_bytes(backbone, optimizer)
    table = counts["embedding"] * item
    outlined = copy.deepcopy(backbone).to("meta", _dtype(item)).train()
    batch_size = min(trainer["batch_size"], max(rows["train"], 2))
    gradient = _rows_gradient(outlined, batch_size, item) if sparse else table
    left_out = ""
    try:
        step = step_bytes(outlined, batch_size, sparse, regularizer)
    except Exception:  # whatever a user's regularizer raises
        if regularizer is None:
            raise
        step, left_out = step_bytes(outlined, batch_size, sparse), "the regularizer"
    passing = step - (0 if sparse else gradient) + taken["dense"] // 4  # the gradient of a whole table has its place
    evaluated = max(rows["valid"], rows["test"])
    forward = forward_bytes(outlined, min(trainer["eval_batch_size"], max(evaluated, 1)))
    return Memory(
        process=process,
        table=table,
        optimizer=taken["embedding"] * item // 4 - table - (0 if sparse else table),
        dense=taken["dense"] * item // 4,
        data=ORDER * rows["train"] + COUNT * sum(backbone.embedding.cardinalities) + resident,
        gradient=gradient,
        activations=max(0, step - gradient) + int(HOLES * passing),
        evaluation=max(forward + SCORE * evaluated, SCORED * evaluated),
        copy=sum(counts.values()) * item,
        left_out=left_out,
    )


def _dtype(item: int) -> torch.dtype:
    return {8: torch.float64, 4: torch.float32, 2: torch.bfloat16}[item]


def _rows_gradient(backbone: Backbone, batch_size: int, item: int) -> int:
    """Rows as they come, B*N of them, and once more with those of the same id added up."""
    sizes = backbone.embedding.cardinalities
    distinct = sum(min(size, batch_size) for size in sizes)
    columns = [table.weight.shape[1] for table in backbone.tables()]
    return sum((batch_size * len(sizes) + distinct) * (C * item + INDEX) for C in columns)


def step_bytes(backbone: Backbone, batch_size: int, sparse: bool, regularizer: Regularizer | None = None) -> int:
    """The most that a training step has, the tables' gradient included, beside parameters and dense gradients.

    `backbone` is an outline in training mode. As Lightning does it: the gradients of the step before are there until
    the forward pass is done.
    """
    for table in backbone.tables():
        table.sparse = sparse
    x_BN, held = _ids(backbone, batch_size), list[Tensor]()
    with Live() as live:
        for _ in range(2):  # the first step leaves the gradients that the second one finds
            before, live.peak = live.now - sum(tensor.nbytes for tensor in held), live.now
            stages = backbone.stages(x_BN + 0)  # the batch counts, too
            loss = binary_cross_entropy_with_logits(stages.logit_B, torch.zeros_like(stages.logit_B))
            if regularizer is not None:
                loss = loss + regularizer(backbone, stages).to(loss.dtype)
            del stages
            held.clear()
            backbone.zero_grad()
            loss.backward()
            del loss
            if sparse:  # on the meta device, a sparse gradient has no rows
                shapes = [(x_BN.numel(), table.weight.shape[1]) for table in backbone.tables()]
                held += [torch.empty(shape, dtype=backbone.embedding.weight.dtype, device="meta") for shape in shapes]
    tables = [] if sparse else [table.weight.nbytes for table in backbone.tables()]
    return live.peak - before + sum(tables)


@torch.no_grad()
def forward_bytes(backbone: Backbone, batch_size: int) -> int:
    """The most that a forward pass has in an evaluation, beside the parameters."""
    x_BN, outlined = _ids(backbone, batch_size), copy.deepcopy(backbone).eval()
    with Live() as live:
        outlined(x_BN + 0)
    return live.peak


def _ids(backbone: Backbone, batch_size: int) -> Tensor:
    return torch.zeros(batch_size, len(backbone.embedding.cardinalities), dtype=torch.int32, device="meta")
