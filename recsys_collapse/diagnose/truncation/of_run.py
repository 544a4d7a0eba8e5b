"""Functional collapse of a run of this project: its model on rows of its own data, with what it looks up projected.

Shapes: B batch, M embedding sets, N fields, K columns of a set, C = M*K, n scored rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_collapse.diagnose.truncation.curves import Truncation
from recsys_collapse.diagnose.truncation.truncate import TOLERANCE, Directions, Projections, placed, truncate
from recsys_collapse.scoring import Scorer, choose_device
from recsys_collapse.spectrum.gram import field_moments
from recsys_collapse.stats import Placements

if TYPE_CHECKING:
    from recsys_collapse.dataset.store import Store
    from recsys_collapse.load import LoadedRun

ROWS = 20_000  # of a run, scored for every point
SPLITS = ("valid", "test")
CPU_BATCH = 1024  # at most: what passes between layers stays in the cache, up to twice as fast with embedding sets


def truncate_run(
    run: "LoadedRun",
    label: str,
    *,
    split: str = "valid",
    rows: int = ROWS,
    ranks: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
    alone: Sequence[str] | None = None,
    accelerator: str = "auto",
) -> Truncation:
    """Curves of a run. Its table is not copied: what is looked up is projected, in float64, and then rounded.

    Only `backbone.embedding` is truncated; first-order weights stay.

    Args:
        run: its backbone is moved to the device that is used.
        label: of the run.
        split: `valid`, or `test`.
        rows: this many of the split at most, evenly over it and always the same ones.
        ranks: None: 0, 1, 2, 4, 8, ... and all.
        tolerance: AUC that may be lost for a rank to suffice.
        alone: fields with a curve of their own; None: every one.
        accelerator: `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: an option is out of range, the rows have one class only, or a table or a score is not finite.
    """
    id_nN, label_n = sampled(run.store, split, rows)
    scorer = Scorer(run.backbone, choose_device(accelerator), run.config.trainer.precision)
    embedding, size = run.backbone.embedding, run.config.trainer.eval_batch_size
    size = min(size, CPU_BATCH) if scorer.device.type == "cpu" else size
    gram_NCC = field_moments(embedding.weight.detach(), embedding.field_slices).gram_NCC
    shapes = zip(run.store.fields, gram_NCC, embedding.cardinalities, strict=True)
    fields = [Directions(name, gram_CC, D, embedding.num_sets) for name, gram_CC, D in shapes]
    number = {name: i for i, name in enumerate(run.store.fields)}

    def model(projections: Projections) -> Placements:
        by_number = {number[name]: p_CC.to(scorer.device) for name, p_CC in projections.items()}
        with projected(embedding, by_number):
            logits = [scorer.logits(id_BN) for id_BN in np.split(id_nN, range(size, len(id_nN), size))]
        return placed(torch.cat(logits), label_n, f"{run.run_dir}: rows of split {split}")

    return truncate(fields, model, label=label, split=split, ranks=ranks, tolerance=tolerance, alone=alone)


def sampled(store: "Store", split: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n, N) int32 and labels (n,) uint8 of at most so many rows of a split, evenly over it, in split order.

    Raises:
        ValueError: no such split, or `rows` is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split}: expected {' or '.join(SPLITS)}; the training rows say nothing of new ones")
    if rows < 1:
        raise ValueError(f"rows {rows}: expected how many rows of the split to score, 1 or more, such as {ROWS}")
    row_n = store.splits[split]
    if rows < len(row_n):
        row_n = row_n[torch.arange(rows) * len(row_n) // rows]
    return store.ids.index_select(0, row_n).numpy(), store.labels.index_select(0, row_n).numpy()


@contextmanager
def projected(embedding: nn.Module, projections: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, what `embedding` looks up (B, M, N, K) is that of tables times P (C, C), for the numbered fields."""

    def project(_module: nn.Module, _ids: Any, e_BMNK: Tensor) -> None:
        for i, p_CC in projections.items():  # in place: the lookup has just made it
            e_BMK = e_BMNK[:, :, i]
            e_BMK.copy_((e_BMK.flatten(1).double() @ p_CC).view(e_BMK.shape))

    hook = embedding.register_forward_hook(project)
    try:
        yield
    finally:
        hook.remove()
