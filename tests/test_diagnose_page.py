"""The page of a diagnosis: whole without a network, safe with any name, and complete with every part or none."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.diagnose.page import page, read, rounded, write_page
from recsys_collapse.diagnose.page.drawing import (
    Html,
    bar,
    bar_scale,
    element,
    megabytes,
    number,
    percent,
    size,
    sparkline,
    verdict_bar,
)
from recsys_collapse.diagnose.page.sections import FIRST_BARS
from recsys_collapse.diagnose.page.table import COLUMNS

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "</script ",
    "<!--<script>",
    "\"quoted' & &amp; <b>",
    "__proto__",
    "constructor",
    "x" * 5000,
    "מזהה \u202eabc",
    "用户 🦜",
    "a\u2028b\u2029c\x00\n\t",
    "${title} $data",
    "]]>",
    "",
)
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


def spread(name: str, relative: float | None = 0.25, *, num_sets: int = 1, columns: int = 4) -> dict[str, Any]:
    """A field as `diagnose` describes it."""
    sigma = [1 / (1 + k) for k in range(columns)]
    numbers = {"information_abundance": 1.5, "random": 3.0, "relative": relative}
    sets = [{"embedding_set": m, **numbers, "spectrum": sigma[: columns // num_sets]} for m in range(num_sets)]
    shape = {
        "rows": 12_345,
        "columns": columns,
        "num_sets": num_sets,
        "dtype": "float32",
        "bytes": 12_345 * columns * 4,
    }
    shares = {"effective_rank": 2.0, "numerical_rank": 4, "k99": 3, "first_share": 0.4, "first_energy": 0.625}
    spectra = {"spectrum": sigma, "random_spectrum": [0.6] * columns, "per_set": sets if num_sets > 1 else []}
    words = {"field": name, "verdict": "collapsed", "reason": f"{name} uses few directions."}
    return words | shape | numbers | shares | {"centred": numbers} | spectra


def made(*fields: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A diagnosis of these fields."""
    checkpoint = {"path": "/x/model.pt", "label": "epoch 3", "bytes": 5_000_000, "format": "torch", "layout": "FuxiCTR"}
    counts = {"collapsed": len(fields)}
    summary = {
        "text": "One sentence.",
        "fields": len(fields),
        "verdicts": counts,
        "mean_relative": 0.25,
        "table_bytes": 9,
    }
    empty: dict[str, Any] = {"left_out": [], "against": [], "truncation": None, "advice": [], "limits": ["A limit."]}
    return {"schema": 1, "checkpoint": checkpoint, "summary": summary, "fields": [*fields], **empty, **parts}


def everything(name: str) -> dict[str, Any]:
    """A diagnosis with every part, in which this text stands wherever text of a checkpoint can stand."""
    points = [
        {"rank": r, "auc": 0.7 + r / 100, "change": r / 100 - 0.04, "low": -0.1, "high": 0.1} for r in (0, 1, 2, 4)
    ]
    words = (("all fields", None), ("each set", None), ("field", name), ("field", "another"))
    curves = [{"curve": curve, "field": field, "points": points, "needed": 2, "certain": 4} for curve, field in words]
    model = {"label": name, "split": "test", "rows": 1000, "auc": 0.74, "tolerance": 0.001, "curves": curves}
    other = {"label": name, "path": name, "fields": {name: {"relative": 0.75}, "another": {"relative": None}}}
    whole = made(
        spread(name, num_sets=2),
        spread("another", 1.5),
        left_out=[{"name": name, "shape": [3, 1000], "why": name}],
        against=[other],
        truncation=[model, {**model, "label": "second"}],
        advice=[{"title": name, "text": name, "evidence": name, "fields": [name, "gone"], "saved_bytes": 2_500_000}],
        made_by={"command": name},
    )
    whole["checkpoint"] |= {"label": name or "none", "path": name, "layout": name or "none"}
    whole["summary"]["text"] = name
    return whole


class Parsed(HTMLParser):
    """Elements with their attributes, the text in each kind of element, and the scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.elements[-1][0] if self.elements else "", data))

    def inside(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag and text.strip()]

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    def skeleton(self) -> list[tuple[str, list[str]]]:
        """Everything but texts and values; a long name has a title."""
        return [(tag, sorted(set(attributes) - {"title"})) for tag, attributes in self.elements]

    def data(self) -> Any:
        return json.loads(self.inside("script")[0])


PLAIN = Parsed(page(everything("plain"))).skeleton()


@given(name=st.text())
@settings(max_examples=30, deadline=None)
def test_any_name_is_text_and_only_text(name: str) -> None:
    if name in ("another", "gone"):
        return
    whole = everything(name)
    parsed = Parsed(page(whole))
    assert parsed.data() == rounded(whole)
    if name.strip():
        assert parsed.skeleton() == PLAIN


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_hostile_names_are_shown_as_they_are(name: str) -> None:
    whole = everything(name)
    parsed = Parsed(page(whole))
    assert parsed.skeleton() == PLAIN and parsed.data() == rounded(whole)
    data = parsed.inside("script")[0]
    assert data.isascii() and not set(data) & set("<>&")
    assert parsed.inside("bdi").count(name) >= 6


def test_blank_names_and_halves_of_a_character_are_shown() -> None:
    parsed = Parsed(page(made(spread(" "), spread("half \ud800"))))
    assert {"(blank)", "half ?"} <= set(parsed.inside("bdi"))
    assert [field["field"] for field in parsed.data()["fields"]] == [" ", "half \ud800"]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    parsed = Parsed(page(everything("plain")))
    (policy,) = [at["content"] for _, at in parsed.elements if at.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    (style,), (_, script) = parsed.inside("style"), parsed.inside("script")
    hashed = {
        kind: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in (("style-src", style), ("script-src", script))
    }
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **hashed}


def test_the_page_refers_to_nothing_outside() -> None:
    text = page(everything("plain"))
    assert set(re.findall(r"[a-z]+://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG
    for tag, attributes in Parsed(text).elements:
        assert tag not in {"link", "img", "iframe", "base", "object", "embed", "form"}
        assert not {"src", "srcset", "style", "action"} & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|@font-face", read("page.css"))


@pytest.mark.parametrize("name", ["charts.js", "page.js"])
def test_the_scripts_only_set_text(name: str) -> None:
    makes_markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser"
    runs_or_loads = r"\beval\b|\bFunction\(|import\(|fetch\(|XMLHttp|sendBeacon"
    assert not re.search(f"{makes_markup}|{runs_or_loads}", read(name))


@pytest.mark.parametrize("part", ["against", "truncation", "advice", "left_out"])
def test_parts_are_there_or_not(part: str) -> None:
    whole = everything("plain")
    section = {"against": "checkpoints", "left_out": "limits"}.get(part, part)
    with_part = Parsed(page(whole))
    without = Parsed(page({**whole, part: None}))
    assert {section, "overview", "spectra", "fields", "limits"} <= with_part.ids()
    if part == "left_out":
        assert "3 × 1,000" in with_part.inside("td") and "3 × 1,000" not in without.inside("td")
    else:
        assert with_part.ids() - without.ids() >= {section, f"{section}-title"}
        assert f"#{section}" not in {attributes.get("href") for _, attributes in without.elements}


def test_a_null_is_a_dash_wherever_it_stands() -> None:
    field = dict.fromkeys(spread("nulls")) | {"field": "nulls"}
    whole = made(field, limits=None, advice=[dict.fromkeys(("title", "text", "evidence", "fields", "saved_bytes"))])
    whole["truncation"] = [dict.fromkeys(("label", "split", "rows", "auc", "tolerance", "curves"))]
    whole["against"] = [{"label": None, "path": None, "fields": None}]
    for part in ("checkpoint", "summary"):
        whole[part] = dict.fromkeys(whole[part])
    text = page(whole)
    cells = Parsed(text).inside("td")
    assert cells == ["–"] * len(COLUMNS) and "None" not in re.sub(r"<script.*", "", text, flags=re.DOTALL)
    assert "fields" in Parsed(page(made())).ids()  # no field at all


def test_the_table_has_every_number_without_scripts() -> None:
    parsed = Parsed(page(made(spread("item", num_sets=2))))
    assert parsed.inside("td") == ["12,345", "2 × 2", "1.50", "0.25", "2.00", "62.5\u00a0%", "0.25", "3", "0.20"]
    raw = [float(attributes["data-v"] or "") for _, attributes in parsed.elements if "data-v" in attributes]
    assert raw == [12345, 4, 1.5, 0.25, 2, 0.625, 0.25, 3, 197520]


def test_the_first_bars_are_shown_and_the_others_on_demand() -> None:
    few, many = (page(made(*(spread(f"f{k}") for k in range(total)))) for total in (FIRST_BARS, FIRST_BARS + 1))
    assert "Show all" not in few and f"Show all {FIRST_BARS + 1} fields" in many
    assert many.index(f">f{FIRST_BARS - 1}<") < many.index("Show all") < many.index(f">f{FIRST_BARS}<")


def test_changes_start_with_the_largest_drop() -> None:
    before = {"down": 0.9, "up": 0.1, "deep": 1.1, "alone": None}
    other = {"label": "epoch 0", "path": "", "fields": {name: {"relative": value} for name, value in before.items()}}
    fields = [spread(name, 0.5) for name in ("up", "down", "new", "deep", "alone")]
    text = page(made(*fields, against=[other]))
    table = text[text.index("Changes, the largest") :]
    names = re.findall(r'<th scope="row"><a[^>]*><bdi[^>]*>(\w+)<', table)
    assert names == ["deep", "down", "up"] and re.findall(r">([+−][\d.]+)<", table) == ["−0.60", "−0.40", "+0.40"]
    assert "Fields without a value in one of the two: 2." in table


def test_ranks_that_are_needed_stand_side_by_side() -> None:
    parsed = Parsed(page(everything("plain")))
    assert parsed.inside("td")[-6:-2] == [
        "2 (4)",
        "2 (4)",
        "2 (4)",
        "2 (4)",
    ]  # two fields, two models; then the tensor left out


def test_thousands_of_fields_fit(tmp_path: Path) -> None:
    sigma = [0.123456789012345 / (k + 1) for k in range(64)]
    one = {**spread("", columns=64), "spectrum": sigma, "random_spectrum": sigma}
    whole = made(*({**one, "field": f"field_{k}"} for k in range(2000)))
    write_page(whole, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 8_000_000


def test_a_number_that_is_not_json_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(made(spread("item")), path)
    old = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_page(made({**spread("item"), "k99": float("nan")}), path)
    assert path.read_bytes() == old and [*tmp_path.iterdir()] == [path]


def test_numbers_have_sensible_digits() -> None:
    assert [number(value) for value in (None, 0.0, 0.00123, 1.0, 1234.567)] == [
        "–",
        "0.00",
        "0.0012",
        "1.00",
        "1,234.57",
    ]
    assert [size(value) for value in (None, 0, 999, 1500, 12_345_678, 999_600_000, 2_500_000_000_000)] == [
        *("–", "0 bytes", "999 bytes", "1.5 kB", "12.3 MB", "1,000 MB", "2,500 GB"),
    ]
    assert (percent(0.5), percent(None), megabytes(1_234_567_890)) == ("50.0\u00a0%", "–", "1,234.57")


def test_drawings_bear_what_is_not_there() -> None:
    assert sparkline([]) == sparkline([0.0, 0.0]) == ""
    assert 'd="M0,18 L0,1.0 L72,1.0 V18Z"' in sparkline([2.5])
    assert len(re.findall(",", sparkline([1.0] * 500))) == 25  # thinned out
    assert (bar_scale([]), bar_scale([None, 0.3]), bar_scale([50.0])) == (1.1, 1.1, 2.0)
    assert 'width="100.00%"' in bar(50.0, 2.0, "spread out") and 'width="0.00%"' in bar(None, 2.0, None)
    assert verdict_bar({}).count("<rect") == 0
    parts = re.findall(
        r'x="([\d.]+)%" width="([\d.]+)%".*?class="v-(\w+)"', verdict_bar({"new": 1, "few rows": 0, "collapsed": 3})
    )
    assert parts == [("0.000", "75.000", "collapsed"), ("75.000", "25.000", "other")]


def test_only_markup_made_here_is_markup() -> None:
    inner = element("b", "1 < 2")
    assert element("p", inner, "<i>", title='"') == '<p title="&quot;"><b>1 &lt; 2</b>&lt;i&gt;</p>'
    assert isinstance(inner, Html) and element("p", hidden=None) == "<p></p>"


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs chromium")
@pytest.mark.parametrize("names", [HOSTILE, ("only",)])
def test_a_browser_draws_every_chart_without_a_complaint(tmp_path: Path, names: tuple[str, ...]) -> None:
    whole = everything(names[0])
    whole["fields"] += [spread(name, num_sets=2) for name in names[1:]]
    write_page(whole, tmp_path / "page.html")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    drawn = Parsed(done.stdout)
    charts = [at for tag, at in drawn.elements if tag == "svg" and (at.get("viewbox") or "").endswith((" 340", " 280"))]
    assert len(charts) == 4 and "img" not in {tag for tag, _ in drawn.elements}
    assert len(drawn.inside("option")) == len(names) + 1
