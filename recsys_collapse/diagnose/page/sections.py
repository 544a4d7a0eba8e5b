"""The sections that every page has, but for the table of fields (`table`): what each shows of a diagnosis.

Text and tables are made here and are there without JavaScript. The charts are empty boxes that page.js fills.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from recsys_collapse.diagnose.page.drawing import (
    NOTHING,
    Html,
    bar,
    bar_axis,
    bar_scale,
    count,
    element,
    join,
    name_of,
    number,
    size,
    verdict_bar,
)

Field = Mapping[str, Any]
FIRST_BARS = 30  # the others are behind "show all"
FIRST_NAMES = 12  # of the fields that a piece of advice concerns


def section(name: str, title: str, *content: str) -> Html:
    """A section with its heading."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def chart(name: str) -> Html:
    """The box of a chart."""
    return element("div", class_="chart", id=name)


def scrolled(table: Html, label: str, *, low: bool = False) -> Html:
    """A table that may be wider than the page, in a box of its own that can be scrolled by keyboard."""
    kind = "scroll low" if low else "scroll"
    return element("div", table, class_=kind, tabindex="0", role="region", aria_label=label)


def field_link(field: str, index: Mapping[str, int]) -> Html:
    """A name that selects its field in the charts; plain where the table has no such field."""
    if field not in index:
        return name_of(field)
    return element("a", name_of(field), href="#spectra", data_field=index[field])


def header(diagnosis: Mapping[str, Any]) -> Html:
    """Whose diagnosis this is, the answer in a sentence and how many fields have which verdict."""
    checkpoint, summary = diagnosis.get("checkpoint") or {}, diagnosis.get("summary") or {}
    fields = summary.get("fields")
    facts = [
        checkpoint.get("layout"),
        f"{checkpoint['format']} file" if checkpoint.get("format") else None,
        size(checkpoint["bytes"]) if checkpoint.get("bytes") is not None else None,
        f"{count(fields)} {'field' if fields == 1 else 'fields'}" if fields is not None else None,
        f"tables {size(summary['table_bytes'])}" if summary.get("table_bytes") is not None else None,
        f"mean IA {number(summary['mean_relative'])} of random" if summary.get("mean_relative") is not None else None,
    ]
    return element(
        "header",
        element("p", "Embedding collapse: diagnosis of", class_="over"),
        element("h1", name_of(checkpoint.get("label") or "a checkpoint")),
        element("p", summary.get("text") or "", class_="answer"),
        verdict_bar(summary.get("verdicts") or {}),
        element("p", " · ".join(str(fact) for fact in facts if fact), class_="note"),
        element("p", element("bdi", checkpoint.get("path") or ""), class_="note path"),
    )


def overview(fields: Sequence[Field], index: Mapping[str, int]) -> Html:
    """IA relative to random, a bar per field; the first ones, and the others on demand."""
    scale = bar_scale([field.get("relative") for field in fields])
    bars = [
        element(
            "li",
            field_link(field["field"], index),
            bar(field.get("relative"), scale, field.get("verdict")),
            element("span", number(field.get("relative")), class_="value"),
        )
        for field in fields
    ]
    axis = element("li", element("span", ""), bar_axis(scale), element("span", ""), aria_hidden="true")
    shown, others = bars[:FIRST_BARS], bars[FIRST_BARS:]
    rest = element("summary", f"Show all {count(len(fields))} fields")
    return section(
        "overview",
        "How far each field's spectrum has collapsed",
        element(
            "p",
            "Information abundance (IA) of each field, divided by the IA of a random table of the same shape. "
            "The line at 1 means: as spread out as at initialisation. A short bar: few directions carry the table.",
        ),
        element("ol", axis, *shown, class_="bars"),
        element("details", rest, element("ol", *others, class_="bars")) if others else Html(""),
    )


def spectra() -> Html:
    """The singular spectra; all of it is drawn by page.js."""
    return section(
        "spectra",
        "Singular spectra",
        element(
            "p",
            "Singular values, each divided by the first one: a curve that drops at once belongs to a collapsed field. "
            "The area under a curve is its information abundance divided by the number of singular values. Dashed: a "
            "random table of the same shape.",
        ),
        element("div", class_="controls", id="spectra-controls"),
        chart("spectra-chart"),
    )


def advice(pieces: Sequence[Mapping[str, Any]], index: Mapping[str, int]) -> Html:
    """What to try, each with the evidence it rests on."""
    return section("advice", "What to try", element("div", *(card(piece, index) for piece in pieces), class_="cards"))


def card(piece: Mapping[str, Any], index: Mapping[str, int]) -> Html:
    """One piece of advice."""
    names = [element("li", field_link(field, index)) for field in piece.get("fields") or []]
    shown: Html = element("ul", *names[:FIRST_NAMES], class_="names")
    if len(names) > FIRST_NAMES:
        others = element("ul", *names[FIRST_NAMES:], class_="names")
        shown = join(shown, element("details", element("summary", f"All {count(len(names))} fields"), others))
    saved = piece.get("saved_bytes")
    return element(
        "article",
        element("h3", piece.get("title") or ""),
        element("p", piece.get("text") or ""),
        element("p", "Saves ", element("strong", size(saved)), ".") if saved else "",
        shown if names else "",
        element("p", "Evidence: ", piece["evidence"], class_="note") if piece.get("evidence") else "",
    )


def limits(diagnosis: Mapping[str, Any]) -> Html:
    """What the numbers do not mean, the tensors that were not measured, and who made this."""
    sentences = element("ul", *(element("li", text) for text in diagnosis.get("limits") or []))
    left_out = diagnosis.get("left_out") or []
    rows = [
        element(
            "tr",
            element("th", name_of(tensor.get("name") or NOTHING), scope="row"),
            element("td", " × ".join(count(side) for side in tensor.get("shape") or [])),
            element("td", tensor.get("why") or NOTHING, class_="words"),
        )
        for tensor in left_out
    ]
    head = element("thead", element("tr", *(element("th", text, scope="col") for text in ("tensor", "shape", "why"))))
    table = scrolled(element("table", head, element("tbody", *rows)), "tensors left out", low=True)
    summary = element("summary", f"Tensors that are not in the table ({count(len(left_out))})")
    made_by = diagnosis.get("made_by")
    if isinstance(made_by, Mapping):
        made_by = " · ".join(f"{key}: {value}" for key, value in made_by.items() if value is not None)
    return section(
        "limits",
        "What the numbers do not mean",
        sentences,
        element("details", summary, table) if left_out else "",
        element("p", str(made_by), class_="note path") if made_by else "",
    )
