"""Two sections of the page that not every diagnosis has: other checkpoints, and the AUC of truncated tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from recsys_collapse.diagnose.page.drawing import Html, count, element, number
from recsys_collapse.diagnose.page.sections import chart, field_link, scrolled, section


def changes(diagnosis: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Field, IA / random in the first of the other checkpoints, and in this one; the largest drop first."""
    first = diagnosis["against"][0].get("fields") or {}
    found = []
    for field in diagnosis["fields"]:
        before, after = (first.get(field["field"]) or {}).get("relative"), field.get("relative")
        if before is not None and after is not None:
            found.append((field["field"], before, after))
    return sorted(found, key=lambda change: change[2] - change[1])


def checkpoints(diagnosis: Mapping[str, Any], index: Mapping[str, int]) -> Html:
    """IA / random over checkpoints: a chart, and what changed most."""
    labels = [other.get("label") or "?" for other in diagnosis["against"]]
    label = (diagnosis.get("checkpoint") or {}).get("label") or "this checkpoint"
    found = changes(diagnosis)
    head = [element("th", text, scope="col") for text in ("field", labels[0], label, "change")]
    rows = [
        element(
            "tr",
            element("th", field_link(field, index), scope="row"),
            element("td", number(before)),
            element("td", number(after)),
            element("td", f"{after - before:+.2f}".replace("-", "−")),
        )
        for field, before, after in found
    ]
    missing = len(diagnosis["fields"]) - len(found)
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    return section(
        "checkpoints",
        "Beside other checkpoints",
        element(
            "p",
            "IA / random of every field, in the order in which the checkpoints were given, this one last. Where they "
            "are epochs of one training, falling means that it collapses.",
        ),
        chart("checkpoints-chart"),
        element("h3", "Changes, the largest drop first"),
        scrolled(table, "changes", low=True)
        if rows
        else element("p", f"No field has a value in both {labels[0]} and {label}."),
        element("p", f"Fields without a value in one of the two: {count(missing)}.", class_="note")
        if missing and rows
        else "",
    )


def truncation(models: Sequence[Mapping[str, Any]], index: Mapping[str, int]) -> Html:
    """AUC of the model whose tables keep only their first r singular values, without training it again."""
    whole = [
        element(
            "li",
            element("bdi", model.get("label") or "?"),
            f": AUC {number(model.get('auc'), 5)} on {count(model.get('rows'))} ",
            f"{model['split']} rows" if model.get("split") else "rows",
            together_text(model.get("together")),
        )
        for model in models
    ]
    tolerance = next((model["tolerance"] for model in models if model.get("tolerance") is not None), None)
    allowed = (
        ""
        if tolerance is None
        else (
            f" (a ring: the lowest rank that loses at most {tolerance:g} AUC by the estimate; certain, in brackets "
            "below: by the interval)"
        )
    )
    return section(
        "truncation",
        "Did the lost dimensions matter?",
        element(
            "p",
            "Each table is cut down to rank r, its r largest singular values, and the model is scored again without "
            f"training{allowed}. Flat down to a low rank: the dimensions beyond it did not matter to this model. "
            "A curve that falls at once: small singular values still carry something. The bands are 95% intervals of "
            "the change.",
        ),
        element("ul", *whole),
        element("div", class_="controls", id="truncation-controls"),
        chart("truncation-chart"),
        element("h3", "One field at a time"),
        chart("truncation-field-chart"),
        needed_table(models, index),
    )


def together_text(together: Mapping[str, Any] | None) -> str:
    """What all fields at the ranks that they need alone lose together."""
    if together is None:
        return ""
    interval = "" if together["low"] is None else f" [{together['low']:+.4f}, {together['high']:+.4f}]"
    return f"; every field at the rank that it needs alone, all at once: {together['change']:+.4f}{interval}"


def needed_table(models: Sequence[Mapping[str, Any]], index: Mapping[str, int]) -> Html:
    """The rank that each field needs, and in brackets the one that is enough for certain, a column per model."""
    per_model = [
        {curve["field"]: curve for curve in model.get("curves") or [] if curve.get("field") is not None}
        for model in models
    ]
    names = sorted({name for curves in per_model for name in curves}, key=lambda name: index.get(name, len(index)))
    if not names:
        return element("p", "No field was truncated by itself.", class_="note")
    head = [element("th", "rank that is needed (certain)", scope="col")]
    head += [element("th", model.get("label") or "?", scope="col") for model in models]
    rows = [
        element(
            "tr",
            element("th", field_link(name, index), scope="row"),
            *(element("td", _ranks(curves.get(name))) for curves in per_model),
        )
        for name in names
    ]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    return scrolled(table, "rank that each field needs", low=True)


def _ranks(curve: Mapping[str, Any] | None) -> str:
    if curve is None or curve.get("needed") is None:
        return count(None)
    return f"{count(curve['needed'])} ({count(curve.get('certain'))})"
