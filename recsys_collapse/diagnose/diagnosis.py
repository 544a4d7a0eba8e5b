"""A checkpoint -> everything that is said of it, as plain values for JSON, the page and the terminal.

    diagnosis = diagnose(read(Path("model.pt")))
    diagnosis["fields"][0]["relative"]          # the most collapsed field

What is in it: docs/diagnose.md.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys_collapse.dataset.build import Progress, silent
from recsys_collapse.diagnose.advice import EVERY_ROW, LIMITS, NOT_RETRAINED, SEEN_OFTEN, SEEN_ROWS, advise
from recsys_collapse.diagnose.fields import FieldTable, cut
from recsys_collapse.diagnose.layouts import Found, LeftOut, Member, recognise
from recsys_collapse.diagnose.measured import FieldRecord, measure_fields
from recsys_collapse.diagnose.own import checkpoint_of, origin
from recsys_collapse.diagnose.verdict import COLLAPSED, PARTLY, WORDS
from recsys_collapse.diagnose.weights import read_weights
from recsys_collapse.runs.checkpoint import folder

SCHEMA = 1


@dataclass(frozen=True)
class Options:
    """How tables are found in a checkpoint."""

    tables: str | None = None
    """A regular expression for their names."""
    cardinalities: Mapping[str, int] | None = None
    """See `cut`."""
    num_sets: int | None = None
    """M, where one tensor has all sets side by side; None: 1, or what this project's own files say."""
    state: str | None = None
    """The key of the file that holds the tensors."""
    skip_objects: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with its fields found, nothing measured yet."""

    path: Path
    label: str
    format: str
    layout: str
    tables: list[FieldTable]
    tensors: Mapping[str, Tensor]
    left_out: list[LeftOut]


def read(path: Path, options: Options = Options()) -> Checkpoint:
    """Open a checkpoint and find its fields.

    Args:
        path: a file, or the directory of a run of this project.
        options: where names do not tell.

    Raises:
        ValueError: it cannot be read, or has no table, or it is not clear where fields begin.
    """
    file = checkpoint_of(path)
    weights = read_weights(file, options.state, options.skip_objects)
    own = origin(file, weights.tensors) if options.tables is None else None
    sizes, sets = options.cardinalities, options.num_sets
    if own is not None:
        found = Found(own.layout, [Member(own.tensor, own.tensor, None, None, own.entries)], [])
        sizes, sets = own.cardinalities if sizes is None else sizes, sets or own.num_sets
    else:
        found = recognise(weights.tensors, options.tables)
    tables = cut(weights.tensors, found.members, sizes, sets or 1)
    label = _label(path, weights.values)
    return Checkpoint(file.resolve(), label, weights.format, found.layout, tables, weights.tensors, found.left_out)


def _label(path: Path, values: Mapping[str, Any]) -> str:
    """What it is called, short: the file, or the run."""
    path = path.absolute()
    if path.is_dir():
        path = path.resolve()
    elif path.parent == folder(path.parent.parent):  # of a run, or as Lightning lays them: all have the same names
        path = path.relative_to(path.parent.parent.parent)
    epoch = values.get("epoch")
    name = str(path) if not path.is_absolute() else path.name
    return f"{name}, epoch {epoch}" if isinstance(epoch, int) else name


def check_fields(checkpoint: Checkpoint, against: Sequence[Checkpoint], wanted: Sequence[str] = ()) -> None:
    """Checkpoints that are compared must have fields in common, which are matched by name.

    Raises:
        ValueError: one has none, or there is no field of a `wanted` name.
    """
    names = [table.name for table in checkpoint.tables]
    if unknown := sorted({*wanted} - {*names}):
        raise ValueError(f"{checkpoint.path}: no field {', '.join(unknown)}; expected some of {', '.join(names[:20])}")
    for one in against:
        theirs = [table.name for table in one.tables]
        if not {*names} & {*theirs}:
            raise ValueError(
                f"{one.path}: has no field of {checkpoint.path}: {', '.join(theirs[:8])}; expected some of "
                f"{', '.join(names[:8])}: the groups (?P<field>...) of --tables name fields"
            )


def diagnose(
    checkpoint: Checkpoint,
    against: Sequence[Checkpoint] = (),
    truncation: Sequence[Mapping[str, Any]] | None = None,
    progress: Progress = silent,
    seen: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Measure and judge a checkpoint.

    Args:
        checkpoint: from `read`.
        against: others, such as earlier epochs, in their order; fields are matched by name.
        truncation: of this model, then of others, as `dataclasses.asdict` makes it.
        progress: told after every field which share of all rows has been read.
        seen: weights of the rows (D,) for every field of all checkpoints, see `read_seen`; None: all count once.

    Returns:
        Plain values; the keys are described in docs/diagnose.md.
    """
    total = sum(len(table.rows(one.tensors)) for one in [checkpoint, *against] for table in one.tables)
    read = 0

    def done(rows: int) -> None:
        nonlocal read
        read += rows
        progress("reading tables", read / total)

    records = measure_fields(checkpoint.tables, checkpoint.tensors, seen, done)
    others = [(one, measure_fields(one.tables, one.tensors, seen, done)) for one in against]
    counted = next(iter(seen.values())).dtype if seen else None
    rows = {None: EVERY_ROW, torch.bool: SEEN_ROWS}.get(counted, SEEN_OFTEN)
    limits = [rows, *LIMITS, *([NOT_RETRAINED] if truncation else [])]
    return {
        "schema": SCHEMA,
        "checkpoint": {
            "path": str(checkpoint.path),
            "label": checkpoint.label,
            "bytes": checkpoint.path.stat().st_size,
            "format": checkpoint.format,
            "layout": checkpoint.layout,
        },
        "summary": summary(records),
        "fields": [asdict(record) for record in records],
        "left_out": [one._asdict() for one in checkpoint.left_out],
        "against": [
            {
                "label": one.label,
                "path": str(one.path),
                "fields": {
                    record.field: {
                        "information_abundance": record.information_abundance,
                        "random": record.random,
                        "relative": record.relative,
                        "effective_rank": record.effective_rank,
                    }
                    for record in found
                },
            }
            for one, found in others
        ],
        "truncation": list(truncation) if truncation else None,
        "advice": [one._asdict() for one in advise(records, truncation[0] if truncation else None)],
        "limits": limits,
    }


def summary(records: Sequence[FieldRecord]) -> dict[str, Any]:
    """All fields in a sentence and a few numbers."""
    counts = {word: sum(one.verdict == word for one in records) for word in WORDS}
    known = [one.relative for one in records if one.relative is not None]
    collapsed = sum(counts[word] for word in COLLAPSED)
    strongly = sum(one.verdict in COLLAPSED and (one.relative or 0) < PARTLY for one in records)
    total = len(records)
    text = f"{collapsed} of {total} field{'s' * (total != 1)} collapsed"
    text += f", {strongly} of them to less than half." if collapsed else "."
    if total == 1:
        text = f"One table, {records[0].verdict}: if fields lie below each other in it, --cardinalities cuts it."
    if known and total > 1:
        text += f" The median field keeps {statistics.median(known):.0%} of the information abundance of a random table"
        text += " of its shape."
    return {
        "text": text,
        "fields": total,
        "verdicts": {word: count for word, count in counts.items() if count},
        "mean_relative": statistics.fmean(known) if known else None,
        "table_bytes": sum(one.bytes for one in records),
    }
