"""What to try, each with the evidence it rests on, and what the numbers do not mean.

No advice is given that this checkpoint's own numbers do not call for, and none is a promise: the evidence says where
it was seen, and how sure it is.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recsys_collapse.diagnose.measured import FieldRecord
from recsys_collapse.diagnose.page.drawing import size
from recsys_collapse.diagnose.verdict import COLLAPSED
from recsys_collapse.paper import paper_auc

WORTH_SAYING = 0.01  # of the bytes of all tables
FEWEST_COLUMNS = 8  # that can be folded into sets


class Advice(NamedTuple):
    """Something to try."""

    title: str
    text: str
    evidence: str
    fields: list[str]
    saved_bytes: int | None = None


LIMITS = (
    "The numbers describe a table, not what it is good for: a spectrum may end early because the data need no more. "
    "Whether lost dimensions matter is what truncation (--run, --score) measures.",
    "Information abundance is at most the smaller side of a table. It is read relative to random tables of the same "
    "shape with independent entries (uniform or normal: 4% apart at 10 x 10, less above). Tables that began otherwise, "
    "such as pretrained ones, have no such reference.",
    "The lines between the verdicts are conventions of this tool.",
)
EVERY_ROW = (
    "Every row counts once, also rows of values that were rarely or never seen in training: a checkpoint does not say "
    "how often they were, --counts does. Weight decay drives such rows to zero; sparse optimizers leave them at their "
    "initialisation, which lifts the small singular values and hides a collapse."
)
SEEN_ROWS = "Only rows that training has seen count, each once, however often it was seen."
SEEN_OFTEN = "Rows count as often as training has seen them, as lookups do: frequent values decide."
ENERGY_ONLY = (
    "99% of the energy is kept, the squares of the entries of all rows that count. That says nothing of the AUC: "
    "dimensions of little energy may matter. Measure it with --run or --score before you cut."
)
NOT_RETRAINED = (
    "Truncation is measured without retraining, on the rows that are named: a smaller table that is trained may lose "
    "less. Its directions are those of all rows of a table, each counted once. A rank that is needed is that of the "
    "estimates; where their intervals are wider than the tolerance, other rows or another seed give another rank."
)


def advise(records: Sequence[FieldRecord], truncation: Mapping[str, Any] | None = None) -> list[Advice]:
    """What to try, the most promising first.

    Args:
        records: of all fields.
        truncation: of the same model, as it stands in the JSON; None: not measured.
    """
    found = [
        _multi_embedding(records),
        _fewer_dimensions(records, truncation),
        _shared_mean(records),
        _alike_sets(records),
        _nothing_learned(records),
    ]
    return [one for one in found if one is not None] or [_nothing_to_do(records)]


def _multi_embedding(records: Sequence[FieldRecord]) -> Advice | None:
    fields = [
        one.field
        for one in records
        if one.verdict in COLLAPSED and one.num_sets == 1 and FEWEST_COLUMNS <= one.columns < one.rows
    ]
    if not fields:
        return None
    return Advice(
        "Try multi-embedding at equal size",
        "Fold the same columns into several embedding sets (10 sets of 10 instead of one of 100), each with an "
        "interaction of its own, and average what comes out: as many embedding parameters as now. It is for models "
        "with an interaction and a head above it, not for plain dot products. Compare both on your data, with "
        "several seeds: python -m recsys_collapse.run -m "
        "model=dcnv2 scale=10 embed=se,me seed=0,1,2 dataset=table dataset.path=... dataset.label=...",
        f"{paper_evidence()} On the small data that this project could run, no difference in AUC at ten times the size "
        "was significant, and on built-in data DCNv2 gained significantly less from scale with it "
        "(experiments/RESULTS.md): it is a thing to test, not a promise.",
        fields,
    )


def paper_evidence() -> str:
    """What the paper's tables say of multi- against single-embedding, counted from them."""
    frame = paper_auc()
    se, me = (frame.filter(embed=word) for word in ("se", "me"))
    both = se.join(me, on=["dataset", "model", "scale"], suffix="_me").filter(scale=10)
    gain = (both["test_auc_me"] - both["test_auc"]).to_list()
    return (
        f"In the paper (Tables 3 and 4, Criteo and Avazu, three seeds) multi-embedding at ten times the size has a "
        f"higher test AUC than single-embedding in {sum(one > 0 for one in gain)} of {len(gain)} cases, by "
        f"{sum(gain) / len(gain):.5f} on average."
    )


def _fewer_dimensions(records: Sequence[FieldRecord], truncation: Mapping[str, Any] | None) -> Advice | None:
    """Fields that are enough in a rank r at which the factors (D, r) and (r, C) are smaller than the table."""
    curves = {curve["field"]: curve for curve in (truncation or {}).get("curves", ()) if curve["curve"] == "field"}
    saved: dict[str, tuple[int, str]] = {}
    for one in records:
        rank = curves[one.field]["needed"] if one.field in curves else one.k99
        if rank is None or one.verdict in ("all zero", "few rows"):
            continue
        rank = int(rank)
        fewer = one.bytes - rank * (one.rows + one.columns) * (one.bytes // (one.rows * one.columns))
        if fewer > 0 and rank < one.columns:
            saved[one.field] = fewer, f"{one.field} {one.columns} to {rank}"
    total, bytes_now = sum(fewer for fewer, _ in saved.values()), sum(one.bytes for one in records)
    if total <= WORTH_SAYING * bytes_now:
        return None
    largest = sorted(saved, key=lambda field: -saved[field][0])
    some = ", ".join(saved[field][1] for field in largest[:5]) + " ..." * (len(largest) > 5)
    useless = any(curves[field]["needed"] == 0 for field in largest if field in curves)
    return Advice(
        "Fewer dimensions where the spectrum ends early",
        f"A table (D, C) of rank r is a product of (D, r) and (r, C)"
        f"{', and a table of rank 0 is not needed' * useless}: {some}. Together that is {size(total)} of "
        f"{size(bytes_now)}. Cut a few fields, train again, and compare.",
        _evidence_of(truncation, curves, largest) if truncation and {*curves} & {*largest} else ENERGY_ONLY,
        largest,
        total,
    )


def _evidence_of(truncation: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]], fields: Sequence[str]) -> str:
    """How sure it is that these fields need no more."""
    measured = [field for field in fields if field in curves]
    points = [
        point
        for field in measured
        for point in curves[field]["points"]
        if point["rank"] == curves[field]["needed"] and point["low"] is not None
    ]
    width = statistics.median((point["high"] - point["low"]) / 2 for point in points) if points else None
    found = (
        f"Measured for {len(measured)} of {len(fields)} fields on {truncation['rows']:,} rows, each alone and without "
        f"retraining: at that rank the AUC loses at most {truncation['tolerance']:g}"
        + ("" if width is None else f", known to about ±{width:.4f}")
        + ("." if len(measured) == len(fields) else "; of the others, 99% of the energy is kept.")
    )
    if together := truncation.get("together"):
        interval = "" if together["low"] is None else f" [{together['low']:+.4f}, {together['high']:+.4f}]"
        found += f" All fields at once, each at the rank that it needs alone: {together['change']:+.4f}{interval}."
    return found


def _shared_mean(records: Sequence[FieldRecord]) -> Advice | None:
    fields = [one.field for one in records if one.verdict == "shared mean"]
    if not fields:
        return None
    return Advice(
        "Read these fields without their mean",
        "All rows share a mean vector, which is the first singular direction. The differences between the rows, which "
        "are what a field tells, are spread out. The mean acts like a bias; larger sizes are not wasted by it.",
        "Measured here: information abundance with and without the mean row, in the columns of the table.",
        fields,
    )


def _alike_sets(records: Sequence[FieldRecord]) -> Advice | None:
    fields = [one.field for one in records if one.sets_alike]
    if not fields:
        return None
    return Advice(
        "The embedding sets share directions",
        "Each set is spread out, but side by side they span less than random sets would: what is strong in one is "
        "strong in others, above all the first direction. In runs of this project, "
        "callback=[spectrum,set_similarity] follows how alike they become.",
        "Measured here: information abundance of each set and of all sets side by side, each relative to random. The "
        "paper says that multi-embedding scales because its sets differ (Figure 8d); where this project could run it, "
        "that was not decidable (experiments/RESULTS.md).",
        fields,
    )


def _nothing_learned(records: Sequence[FieldRecord]) -> Advice | None:
    fields = [one.field for one in records if one.verdict in ("all zero", "constant", "not finite")]
    if not fields:
        return None
    return Advice(
        "Look at these fields first",
        "Their tables are all zero or have one row for all values, or an entry that is infinite or not a number: a "
        "field that is never used, weight decay on rows that are never seen, or a training that has diverged.",
        "Measured here: all entries.",
        fields,
    )


def _nothing_to_do(records: Sequence[FieldRecord]) -> Advice:
    return Advice(
        "Nothing to mend here",
        "No field is collapsed by these numbers. If a larger size does not help, the reason is another one.",
        "Measured here: information abundance of every field that has enough rows.",
        [],
    )
