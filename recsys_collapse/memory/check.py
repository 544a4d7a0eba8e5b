"""Stop before something is allocated that cannot be trained, and say what to change."""

from collections.abc import Sequence

from recsys_collapse.memory.need import Memory
from recsys_collapse.model.backbone import Backbone

REMEDIES = {
    "table": "the table and what is kept of it: raise dataset.min_count, set dataset.hashed_cardinality, leave fields "
    "out with dataset.ignore, use a smaller scale, or optimizer=rowwise_adagrad",
    "dense": "parameters outside the table: use a smaller scale",
    "data": "data: dataset.device_resident=false",
    "activations": "a step: lower trainer.batch_size",
    "evaluation": "an evaluation: lower trainer.eval_batch_size",
}
SMALL = 0.05  # of the whole: where a smaller part is changed, not much is won


def check_memory(backbone: Backbone, fields: Sequence[str], memory: Memory, free: int | None) -> None:
    """Refuse what does not fit. The process is there already: of it, nothing more is asked for.

    Args:
        backbone: the model; its outline will do.
        fields: names of the fields.
        memory: what training takes.
        free: bytes that can be had; None: not known, so nothing is checked.

    Raises:
        ValueError: names the parts and the largest fields, and what to change for each part that matters.
    """
    wanted = memory.peak - memory.process
    if free is None or wanted <= free:
        return
    columns = sum(table.weight.shape[1] for table in backbone.tables())
    sizes = backbone.embedding.cardinalities
    each = (memory.table + memory.optimizer + (memory.gradient if memory.gradient == memory.table else 0)) // sum(sizes)
    largest = sorted(zip(sizes, fields, strict=True), reverse=True)[:3]
    shown = ", ".join(
        f"{name}: {size:,} ids x {columns} columns x {each // columns} B = {size * each / 1e9:.1f} GB"
        for size, name in largest
    )
    raise ValueError(
        f"training takes {wanted / 1e9:.1f} GB beside its process, {free / 1e9:.1f} GB are free. {memory.words()}. "
        f"Largest fields: {shown}. What to change: {'; '.join(_remedies(memory))}"
    )


def _remedies(memory: Memory) -> list[str]:
    """Largest part first."""
    parts = {
        "table": memory.table + memory.optimizer + max(memory.gradient, memory.copy),
        "dense": memory.dense,
        "data": memory.data,
        "activations": memory.activations,
        "evaluation": memory.evaluation,
    }
    large = [name for name in sorted(parts, key=parts.__getitem__, reverse=True) if parts[name] >= SMALL * memory.peak]
    return [REMEDIES[name] for name in large]
