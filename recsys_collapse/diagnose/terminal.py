"""A diagnosis in the terminal: the ranked table of fields, and what to try."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
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
NARROW = 100  # characters of a line; below, what the page has as well is left out
LONGEST_NAME = 60


def shown(diagnosis: Mapping[str, Any], width: int) -> RenderableType:
    """All that is printed of a diagnosis, on lines of so many characters."""
    parts: list[RenderableType] = [field_table(diagnosis, width), Text(diagnosis["summary"]["text"])]
    by_reason: dict[str, list[str]] = {}
    for one in diagnosis["left_out"]:
        by_reason.setdefault(one["why"], []).append(plain(f"{one['name'][:200]} {tuple(one['shape'])}"))
    for why, names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        parts.append(Text(f"left out ({why}): {', '.join(names[:3])}{more}", style="dim"))
    if diagnosis["against"]:
        parts.append(change_table(diagnosis))
    if diagnosis["truncation"]:
        parts += [truncation_table(model, width) for model in diagnosis["truncation"]]
    for one in diagnosis["advice"]:
        title, text, evidence = (plain(one[key]) for key in ("title", "text", "evidence"))
        parts.append(Text.assemble("\n", (title, "bold"), f"\n{text}\n", (evidence, "dim")))
    return Group(*parts)


def field_table(diagnosis: Mapping[str, Any], width: int) -> Table:
    """A row per field, the most collapsed first."""
    checkpoint, fields = diagnosis["checkpoint"], diagnosis["fields"]
    title = f"{checkpoint['label']} ({checkpoint['layout']}, {checkpoint['bytes'] / 1e6:,.1f} MB)"
    wide = width >= NARROW
    means = ["without\nmean"] if wide else []
    table = _table(title, ["D", "K", "IA", "IA /\nrandom", *means, "effective\nrank", "first σ,\nenergy"])
    table.add_column("verdict", no_wrap=True)
    for one in fields[:MOST_FIELDS]:
        size = str(one["columns"]) if one["num_sets"] == 1 else f"{one['num_sets']}x{one['columns'] // one['num_sets']}"
        table.add_row(
            _name(one["field"]),
            f"{one['rows']:,}" if one["seen_rows"] is None else f"{one['seen_rows']:,} of {one['rows']:,}",
            size,
            _number(one["information_abundance"], ".2f"),
            _number(one["relative"], ".3f"),
            *([_number(one["centred"]["relative"], ".3f")] if wide else []),
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
    labels = [plain(one["label"]) for one in [*others, diagnosis["checkpoint"]]]
    table = _table("IA / random beside other checkpoints", labels)
    for field in diagnosis["fields"][:MOST_FIELDS]:
        values = [one["fields"].get(field["field"], {}).get("relative") for one in others]
        table.add_row(_name(field["field"]), *(_number(value, ".3f") for value in [*values, field["relative"]]))
    return table


def truncation_table(model: Mapping[str, Any], width: int) -> Table:
    """AUC of a model after truncation to rank r, a row per curve; every second rank where there is no place for all."""
    ranks = sorted({point["rank"] for curve in model["curves"] for point in curve["points"]})
    while len(ranks) > max(2, (width - 34) // 7):
        ranks = ranks[::-2][::-1]
    where = f" {model['split']}" if model["split"] else ""
    title = f"{model['label']}: AUC after truncation, on {model['rows']:,}{where} rows"
    table = _table(title, [*(f"r={rank}" for rank in ranks), "needed", "certain"], first="truncated")
    table.caption = f"needed: from this rank on the AUC loses at most {model['tolerance']:g}; certain: by its interval"
    if together := model["together"]:
        table.caption += f"; all fields at once at these ranks: {together['change']:+.5f}"
    for curve in model["curves"][:MOST_FIELDS]:
        by_rank = {point["rank"]: point["auc"] for point in curve["points"]}
        values = [_number(by_rank.get(rank), ".4f") for rank in ranks]
        table.add_row(_name(curve["field"] or curve["curve"]), *values, str(curve["needed"]), str(curve["certain"]))
    return table


def _table(title: str, numbers: Sequence[str], first: str = "field") -> Table:
    """A column of names, which are broken and never cut, and columns of numbers."""
    table = Table(title=Text(plain(title)), title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table


def plain(text: str) -> str:
    """Words in which names may stand that anybody has chosen, without what moves a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _name(text: str) -> Text:
    """As it is: in a string, rich would look for its own markup and for emoji."""
    return Text(plain(text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
