"""The table of fields: a row per field with its numbers. Sorting, filter and details are added by page.js."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from recsys_collapse.diagnose.page.drawing import (
    NOTHING,
    Html,
    count,
    element,
    megabytes,
    name_of,
    number,
    percent,
    sparkline,
    verdict_mark,
)
from recsys_collapse.diagnose.page.sections import scrolled, section

Field = Mapping[str, Any]


class Column(NamedTuple):
    """A column of the table of fields."""

    heading: str
    meaning: str
    value: Callable[[Field], float | None]  # what the column is sorted by
    text: Callable[[float | None], str] = number


def shape_of(field: Field) -> str:
    """K, and with M > 1 sets "M x K": 10 sets of 10 dimensions are "10 × 10"."""
    columns, sets = field.get("columns"), field.get("num_sets") or 1
    if columns is None:
        return NOTHING
    return f"{sets} × {columns // sets}" if sets > 1 else count(columns)


def whole(value: float | None) -> str:
    """A number of things."""
    return count(None if value is None else int(value))


def centred_relative(field: Field) -> float | None:
    """IA / random with the mean row taken off."""
    return (field.get("centred") or {}).get("relative")


COLUMNS = (
    Column("D (rows)", "cardinality: rows of the table", lambda f: f.get("rows"), whole),
    Column("K (columns)", "embedding size; sets × size of a set", lambda f: f.get("columns"), whole),
    Column(
        "IA",
        "information abundance: sum of the singular values / largest one",
        lambda f: f.get("information_abundance"),
    ),
    Column("IA / random", "1: as spread out as a random table of this shape", lambda f: f.get("relative")),
    Column("effective rank", "exp(entropy) of the singular values' shares", lambda f: f.get("effective_rank")),
    Column("first σ", "share of the energy: first σ² / sum of σ²", lambda f: f.get("first_energy"), percent),
    Column("IA / random, centred", "with the mean row taken off", centred_relative),
    Column("k99", "fewest singular values with 99 % of the energy", lambda f: f.get("k99"), whole),
    Column("size (MB)", "bytes of the table / 1,000,000", lambda f: f.get("bytes"), megabytes),
)


def field_row(number_of_row: int, field: Field) -> Html:
    """A row of the table of fields."""
    button = element("button", name_of(field["field"]), type="button", aria_expanded="false")
    values = [(column, column.value(field)) for column in COLUMNS]
    cells = [
        element(
            "td",
            shape_of(field) if column.heading.startswith("K") else column.text(value),
            data_v=None if value is None else f"{value:.8g}",
        )
        for column, value in values
    ]
    verdict = element("td", verdict_mark(field.get("verdict")), class_="words")
    spark = element("td", sparkline(field.get("spectrum") or []))
    name = element("th", button, scope="row")
    return element("tr", name, verdict, *cells, spark, data_field=number_of_row)


def field_table(fields: Sequence[Field]) -> Html:
    """Every field with its numbers; page.js makes it sortable and adds the filter and the details."""
    words = (("field", "name of the field"), ("verdict", "in words; open a field for the reason"))
    head = [element("th", text, class_="words", scope="col", title=why, data_sort="") for text, why in words]
    head += [element("th", each.heading, scope="col", title=each.meaning, data_sort="") for each in COLUMNS]
    head.append(element("th", "spectrum", scope="col", title="singular values over their index"))
    rows = [field_row(position, field) for position, field in enumerate(fields)]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), id="field-table")
    return section(
        "fields",
        "Fields",
        element("p", "Most collapsed first. A click on a name opens the reason, and selects the field in the charts."),
        element("div", class_="controls", id="table-controls"),
        scrolled(table, "table of fields"),
    )
