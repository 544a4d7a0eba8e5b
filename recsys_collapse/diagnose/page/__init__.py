"""One HTML page of a diagnosis: a single file that needs no network, and no JavaScript for its text and tables.

The frame is page.html, with page.css, charts.js and page.js; the sections are in `sections`, `table` and `compared`.
A name in a checkpoint may be anything, markup too. So text is escaped here, the JSON has no character that HTML knows,
the scripts only set text, and a policy in the page lets the browser run nothing but these scripts and load nothing.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from recsys_collapse.diagnose.page.compared import checkpoints, truncation
from recsys_collapse.diagnose.page.drawing import Html, element, join
from recsys_collapse.diagnose.page.sections import advice, header, limits, overview, spectra
from recsys_collapse.diagnose.page.table import field_table
from recsys_collapse.runs.durable import write_text

HERE = Path(__file__).parent
DIGITS = 6  # significant ones of every number in the page: the JSON file has all
ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_page(diagnosis: dict[str, Any], path: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        diagnosis: what `python -m recsys_collapse.diagnose` writes as JSON.
        path: the file, replaced if it is there.

    Raises:
        ValueError: a number in the diagnosis is NaN or infinite.
        OSError: the file cannot be written.
    """
    write_text(path, page(diagnosis))


def page(diagnosis: dict[str, Any]) -> str:
    """The page as text.

    Raises:
        ValueError: a number in the diagnosis is NaN or infinite.
    """
    data = embedded(diagnosis)  # first: it is what refuses a number that is none
    style, script = read("page.css"), read("charts.js") + read("page.js")
    checkpoint, sections = diagnosis.get("checkpoint") or {}, shown(diagnosis)
    return Template(read("page.html")).substitute(
        policy=policy(style, script),
        title=join(f"Collapse: {checkpoint.get('label') or 'a checkpoint'}"),
        style=style,
        header=join(header(diagnosis), contents(sections)),
        sections=join(*sections.values()),
        data=data,
        script=script,
    )


def shown(diagnosis: Mapping[str, Any]) -> dict[str, Html]:
    """The sections that this diagnosis has, in their order, by the words that lead to them."""
    fields = diagnosis["fields"]
    index = {field["field"]: position for position, field in enumerate(fields)}
    found = {"Overview": overview(fields, index), "Spectra": spectra(), "Fields": field_table(fields)}
    if diagnosis.get("against"):
        found["Checkpoints"] = checkpoints(diagnosis, index)
    if diagnosis.get("truncation"):
        found["Truncation"] = truncation(diagnosis["truncation"], index)
    if diagnosis.get("advice"):
        found["Advice"] = advice(diagnosis["advice"], index)
    return found | {"Limits": limits(diagnosis)}


def contents(words: Iterable[str]) -> Html:
    """Links to the sections."""
    return element("nav", *(element("a", word, href=f"#{word.lower()}") for word in words), aria_label="sections")


def read(name: str) -> str:
    """A part of the page."""
    return (HERE / name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """What a browser may do with the page: this style and this script, and nothing else, from nowhere else."""
    allowed = f"style-src {fingerprint(style)}; script-src {fingerprint(script)}"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def fingerprint(text: str) -> str:
    """The word by which a content security policy allows one inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(diagnosis: Mapping[str, Any]) -> str:
    """The diagnosis as JSON in ASCII, without a character that could end the element it stands in."""
    text = json.dumps(rounded(diagnosis), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPED)


def rounded(value: Any) -> Any:
    """The same with fewer digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value
