"""What is in a prepared store: the statistics of the paper's Table 2, every field, and a plot of cardinalities."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from recsys_collapse.dataset.source import PARTS
from recsys_collapse.runs.durable import write

MOST_NAMES = 120  # of fields below a plot
MORE_UNSEEN = 0.05  # above the rate of the run's data, and more than twice that: new rows are of another kind
MANY_UNSEEN = 0.2  # rate of rare or unseen values on validation or test rows that is worth a word


def statistics(manifest: dict[str, Any]) -> dict[str, int]:
    """rows, fields, and sum, max and min of the cardinalities: the paper's Table 2."""
    sizes = manifest["cardinalities"]
    counts = {"rows": manifest["rows"], "fields": len(sizes), "sum": sum(sizes), "max": max(sizes), "min": min(sizes)}
    return {name: int(count) for name, count in counts.items()}


def differences(manifest: dict[str, Any], published: dict[str, str]) -> list[str]:
    """What differs from published statistics as they are rounded ("1.08M"), in words; empty if nothing does."""
    by = published.get("by", "others")
    return [
        f"{name}: {count:,} here, {published[name]} in {by}"
        for name, count in statistics(manifest).items()
        if name in published and _rounded(count, published[name]) != published[name]
    ]


def _rounded(count: int, like: str) -> str:
    """A count in millions with as many digits as `like` has, if that is in millions."""
    if not like.endswith("M"):
        return str(count)
    return f"{count / 1e6:.{len(like.partition('.')[2]) - 1 if '.' in like else 0}f}M"


def warnings(manifest: dict[str, Any]) -> list[str]:
    """What a person should look at before training on this."""
    found = []
    seen = manifest["counted_rows"]
    for name, distinct in manifest["distinct_values"].items():
        if distinct == seen and seen > 1:
            found.append(f"{name}: every row has a value of its own, as an index has: \"dataset.ignore=['{name}']\"?")
    unseen = {name: max(rates[part] for part in PARTS[1:]) for name, rates in manifest["id_0_rate"].items()}
    many = [f"{name} {rate:.0%}" for name, rate in unseen.items() if rate > MANY_UNSEEN]
    if many:
        found.append(
            f"rare or unseen values in more than {MANY_UNSEEN:.0%} of the validation or test rows: {', '.join(many)}; "
            "lower dataset.min_count, or leave the field out"
        )
    if manifest["bad_lines"]:
        found.append(f"{manifest['bad_lines']} lines could not be used and were left out: bad_lines.jsonl in the store")
    return found


def remarks(manifest: dict[str, Any], published: dict[str, str]) -> list[str]:
    """Whether it is as published, and what to look at, a line each."""
    differs = differences(manifest, published)
    same = [f"as in      {published.get('by')}"] if published and not differs else []
    return [*same, *(f"differs    {line}" for line in differs), *(f"look at    {line}" for line in warnings(manifest))]


def summary(manifest: dict[str, Any], title: str) -> Table:
    """The data set as one row, as in the paper's Table 2, with the sizes of the parts and the positive rate."""
    table = Table(title=Text(title))
    titles = {"rows": "rows", "fields": "fields", "sum": "sum of D_i", "max": "max D_i", "min": "min D_i"}
    cells = {titles[name]: f"{count:,}" for name, count in statistics(manifest).items()}
    for part in PARTS:
        rows, positives = manifest["parts"][part], manifest["positives"][part]
        cells[f"{part}\npositive"] = f"{rows:,}\n{positives / rows:.2%}"
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def field_table(manifest: dict[str, Any]) -> Table:
    """Every field: ids, distinct values, and the share of rare or unseen values on each part."""
    table = Table(caption="id 0: rows with a value that is rare or unseen where values were counted")
    planted = manifest.get("answer", {}).get("planted_rank")
    known = [] if planted is None else ["planted\nrank"]
    for name in ("field", "D_i", "distinct", *(f"id 0\n{part}" for part in PARTS), *known):
        table.add_column(name, justify="left" if name == "field" else "right", no_wrap=True)
    for name, cardinality in zip(manifest["fields"], manifest["cardinalities"], strict=True):
        rates = manifest["id_0_rate"][name]
        shares = (f"{rates[part]:.2%}" for part in PARTS)
        ranks = [] if planted is None else [str(planted[name])]
        table.add_row(Text(name or '""'), f"{cardinality:,}", f"{manifest['distinct_values'][name]:,}", *shares, *ranks)
    return table


def unseen_table(rates: dict[str, float], manifest: dict[str, Any]) -> Table:
    """Every field: the share of rare or unseen values in new rows, beside that in the rows of the store."""
    table = Table(caption="id 0: rows with a value that is rare or unseen where values were counted")
    for name in ("field", "id 0\nhere", *(f"id 0\n{part}" for part in PARTS)):
        table.add_column(name, justify="left" if name == "field" else "right", no_wrap=True)
    for name, rate in rates.items():
        usual = manifest["id_0_rate"][name]
        table.add_row(Text(name or '""'), f"{rate:.2%}", *(f"{usual[part]:.2%}" for part in PARTS))
    return table


def drifted(rates: dict[str, float], manifest: dict[str, Any]) -> list[str]:
    """Fields whose share of rare or unseen values is much higher in new rows than in any part of the store."""
    usual = {name: max(found.values()) for name, found in manifest["id_0_rate"].items()}
    return [
        f"{name} {rate:.1%} (at most {usual[name]:.1%} in the run's data)"
        for name, rate in rates.items()
        if rate > 2 * usual[name] and rate - usual[name] > MORE_UNSEEN
    ]


def draw_cardinalities(manifest: dict[str, Any], title: str, path: Path) -> None:
    """A bar for each field, smallest first, on a logarithmic scale; PNG."""
    from matplotlib.figure import Figure

    sizes = sorted(zip(manifest["cardinalities"], manifest["fields"], strict=True))
    figure = Figure(figsize=(min(max(4.0, 1.5 + 0.24 * len(sizes)), 30.0), 3.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(sizes)), [size for size, _ in sizes], color="#0072B2")
    axes.set_xticks(range(len(sizes)), [name for _, name in sizes])
    for text in (axes.title, *axes.get_xticklabels()):
        text.set_parse_math(False)  # a name may have a $
    axes.set(yscale="log", ylabel="cardinality $D_i$", title=title, ylim=(1, None))
    axes.tick_params(axis="x", rotation=90, labelsize="small", labelbottom=len(sizes) <= MOST_NAMES)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    write(path, lambda file: figure.savefig(file, format="png", dpi=160))
