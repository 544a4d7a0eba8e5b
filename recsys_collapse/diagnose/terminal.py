"""A diagnosis in the terminal: the ranked table of fields, and what to try."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

STYLES = {
    "strongly collapsed": "bold red",
    "collapsed": "red",
    "partly collapsed": "yellow",
    "shared mean": "cyan",
    "spread out": "green",
}
MOST_FIELDS = 60  # in the terminal; the page and the JSON have all
MOST_POINTS = 12  # ranks beside each other


def shown(diagnosis: Mapping[str, Any]) -> RenderableType:
    """All that is printed of a diagnosis."""
    parts: list[RenderableType] = [field_table(diagnosis), Text(diagnosis["summary"]["text"])]
    for one in diagnosis["left_out"]:
        parts.append(Text(f"left out: {one['name']} {tuple(one['shape'])}: {one['why']}", style="dim"))
    if diagnosis["against"]:
        parts.append(change_table(diagnosis))
    if diagnosis["truncation"]:
        parts.append(truncation_table(diagnosis["truncation"]))
    for one in diagnosis["advice"]:
        parts.append(Text.assemble("\n", (one["title"], "bold"), f"\n{one['text']}\n", (one["evidence"], "dim")))
    return Group(*parts)


def field_table(diagnosis: Mapping[str, Any]) -> Table:
    """A row per field, the most collapsed first."""
    checkpoint, fields = diagnosis["checkpoint"], diagnosis["fields"]
    title = escape(f"{checkpoint['label']} ({checkpoint['layout']}, {checkpoint['bytes'] / 1e6:,.1f} MB)")
    names = ("field", "D", "K", "IA", "IA /\nrandom", "without\nmean", "effective\nrank", "first σ,\nenergy", "verdict")
    table = Table(*names, title=title, title_justify="left")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for one in fields[:MOST_FIELDS]:
        size = str(one["columns"]) if one["num_sets"] == 1 else f"{one['num_sets']}x{one['columns'] // one['num_sets']}"
        table.add_row(
            escape(one["field"]),
            f"{one['rows']:,}" if one["seen_rows"] is None else f"{one['seen_rows']:,} of {one['rows']:,}",
            size,
            _number(one["information_abundance"], ".2f"),
            _number(one["relative"], ".3f"),
            _number(one["centred"]["relative"], ".3f"),
            _number(one["effective_rank"], ".1f"),
            _number(one["first_energy"], ".1%"),
            Text(one["verdict"], style=STYLES.get(one["verdict"], "")),
        )
    if len(fields) > MOST_FIELDS:
        table.caption = f"the first {MOST_FIELDS} of {len(fields)} fields; the others are on the page"
    return table


def change_table(diagnosis: Mapping[str, Any]) -> Table:
    """IA / random of the fields over checkpoints, the last one being that of the diagnosis."""
    others = diagnosis["against"]
    table = Table("field", *(escape(one["label"]) for one in others), escape(diagnosis["checkpoint"]["label"]))
    table.title, table.title_justify = "IA / random over checkpoints", "left"
    for column in table.columns[1:]:
        column.justify = "right"
    for field in diagnosis["fields"][:MOST_FIELDS]:
        values = [one["fields"].get(field["field"], {}).get("relative") for one in others]
        table.add_row(escape(field["field"]), *(_number(value, ".3f") for value in [*values, field["relative"]]))
    return table


def truncation_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """AUC after truncation to rank r: a row per curve of all fields, and the ranks that single fields need."""
    ranks = sorted({point["rank"] for model in models for curve in model["curves"] for point in curve["points"]})
    table = Table("model", "truncated", *(f"r={rank}" for rank in ranks[:MOST_POINTS]), "needed")
    table.title = f"AUC after truncation, on {models[0]['rows']:,} rows, without retraining"
    table.title_justify = "left"
    table.caption = f"needed: the rank from which on the AUC loses at most {models[0]['tolerance']}"
    for model in models:
        for curve in model["curves"]:
            by_rank = {point["rank"]: point["auc"] for point in curve["points"]}
            name = curve["field"] or curve["curve"]
            values = [_number(by_rank.get(rank), ".5f") for rank in ranks[:MOST_POINTS]]
            table.add_row(escape(model["label"]), escape(name), *values, _number(curve["needed"], "d"))
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
