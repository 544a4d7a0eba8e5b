"""What the page is put together from: elements whose text is escaped, numbers with sensible digits, small drawings.

Names of fields come out of somebody else's file. Only `Html` goes into the page as it is, and only `element` and `join`
make it; every other string is escaped on the way.
"""

import html
from collections.abc import Mapping, Sequence

NOTHING = "–"  # where there is no value
VERDICTS = {  # words of a verdict, from worst to best and then those without an answer -> its class in page.css
    "strongly collapsed": "strongly",
    "collapsed": "collapsed",
    "partly collapsed": "partly",
    "spread out": "spread",
    "shared mean": "shared",
    "few rows": "few",
    "constant": "zero",
    "all zero": "zero",
    "not finite": "broken",
}
SPARK_WIDTH, SPARK_HEIGHT, SPARK_POINTS = 72, 18, 24
LARGEST_BAR = 2.0  # times random; a longer bar is cut off, its number still tells


class Html(str):
    """Markup that is safe to put into a page as it is."""


def join(*content: str) -> Html:
    """One after the other; what is not `Html` is escaped. Half a surrogate pair, becomes "?"."""
    parts = (part if isinstance(part, Html) else html.escape(part) for part in content)
    return Html("".join(parts).encode("utf-8", "replace").decode())


def element(name: str, *content: str, **attributes: str | int | None) -> Html:
    """`<name ...>content</name>`; `class_` is class, `data_v` is data-v, and None leaves an attribute out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = "".join(f' {key}="{join(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{head}>{join(*content)}</{name}>")


def name_of(field: str) -> Html:
    """A field's name, which may be of any script and length, or blank."""
    return element(
        "bdi", field if field.strip() else "(blank)", class_="name", title=field if len(field) > 24 else None
    )


def number(value: float | None, decimals: int = 2) -> str:
    """1234.5 -> "1,234.50"; a small value keeps two digits that say something: 0.00123 -> "0.0012"."""
    if value is None:
        return NOTHING
    small = value != 0 and abs(value) < 10**-decimals
    return f"{value:.2g}" if small else f"{value:,.{decimals}f}"


def count(value: int | None) -> str:
    """1234 -> "1,234"."""
    return NOTHING if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """0.123 -> "12.3 %"; the space does not break."""
    return NOTHING if value is None else f"{100 * value:.1f}\u00a0%"


def size(value: int | None) -> str:
    """Bytes in kB, MB or GB (powers of 1000)."""
    if value is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:,.3g} {unit}" if abs(value) < 999.5 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value} bytes"


def megabytes(value: float | None) -> str:
    """Bytes as MB without the unit."""
    return number(None if value is None else value / 1e6)


def verdict_class(verdict: str | None) -> str:
    """The class in page.css that colours a verdict."""
    return "v-" + VERDICTS.get(verdict or "", "other")


def verdict_mark(verdict: str | None) -> Html:
    """A coloured square and the words."""
    swatch = element("span", class_=f"swatch {verdict_class(verdict)}", aria_hidden="true")
    return element("span", swatch, verdict or NOTHING, class_="verdict")


def verdict_bar(counts: Mapping[str, int]) -> Html:
    """How many fields have which verdict: one bar in parts, and below it every part in words."""
    order = [word for word in VERDICTS if counts.get(word)] + [
        word for word in counts if word not in VERDICTS and counts[word]
    ]
    total, done, parts = sum(counts[word] for word in order), 0, []
    for word in order:
        x, width = (f"{100 * value / total:.3f}%" for value in (done, counts[word]))
        parts.append(element("rect", x=x, width=width, height="100%", class_=verdict_class(word)))
        done += counts[word]
    words = [
        element("li", element("strong", count(counts[word])), " ", verdict_mark(word), class_="nowrap")
        for word in order
    ]
    bar = element("svg", *parts, class_="verdict-bar", aria_hidden="true")
    return join(bar, element("ul", *words, class_="legend large"))


def bar_scale(values: Sequence[float | None]) -> float:
    """Where the bars end, in times random: a bit above 1, or above the largest value."""
    return min(max([1.1, *(1.02 * value for value in values if value is not None)]), LARGEST_BAR)


def bar(value: float | None, scale: float, verdict: str | None) -> Html:
    """One bar from 0 and the line at 1, which is where a random table of this shape stands."""
    width = f"{100 * min(value or 0.0, scale) / scale:.2f}%"
    rect = element("rect", width=width, y="3", height="12", class_=verdict_class(verdict))
    one = f"{100 / scale:.2f}%"
    return element("svg", rect, element("line", x1=one, x2=one, y1="0", y2="100%"), class_="bar", aria_hidden="true")


def bar_axis(scale: float) -> Html:
    """The numbers above the bars."""
    ends = [element("text", "0", x="0", y="14"), element("text", "1", x=f"{100 / scale:.2f}%", y="14", class_="middle")]
    if scale >= 1.5:
        ends.append(element("text", f"{scale:.2g}", x="100%", y="14", class_="end"))
    return element("svg", *ends, class_="bar", aria_hidden="true")


def sparkline(spectrum: Sequence[float]) -> Html:
    """Singular values over their index, the first at the top; an area, whose size is information abundance."""
    if not spectrum or not spectrum[0] > 0:
        return Html("")
    last = len(spectrum) - 1
    chosen = sorted({round(step * last / (SPARK_POINTS - 1)) for step in range(SPARK_POINTS)})
    heights = [1 + (SPARK_HEIGHT - 2) * (1 - min(spectrum[k] / spectrum[0], 1)) for k in chosen]
    points = [f"{SPARK_WIDTH * k / max(last, 1):.0f},{height:.1f}" for k, height in zip(chosen, heights, strict=True)]
    if last == 0:
        points.append(f"{SPARK_WIDTH},{heights[0]:.1f}")
    path = f"M0,{SPARK_HEIGHT} L{' L'.join(points)} V{SPARK_HEIGHT}Z"
    box = f"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}"
    return element("svg", element("path", d=path), viewBox=box, class_="spark", aria_hidden="true")
