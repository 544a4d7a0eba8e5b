"""RESULTS.md: the paper's claims, one by one, on every data set that `experiments.paper` was run on.

    python -m experiments.results outputs/paper/amazon_access outputs/paper/mini outputs/paper/toy --to experiments

Made from the files that artefacts leave (`<name>.json`, CSV, PNG), which are copied beside it: `results/<dataset>/`. No
sentence about a result is written by hand.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from experiments.found import NAMES
from experiments.table1 import best
from recsys_collapse.runs.durable import write_bytes, write_text

HEAD = """# What the paper claims, and what these runs say

Made by

    {command}

Nothing here is written by hand. Every artefact has the command that makes its runs, its figure and its lines; the data
behind each is in `{folder}` (CSV files of 200 kB and more are not kept there).

"holds" and "does not hold": the number is significantly on one side, p < .05, adjusted by Holm over the lines of a
claim in a data set (two-sided; "at most": one-sided against the margin, "within": an equivalence test).
"not decidable": these runs cannot tell; "detectable" is the smallest difference from 0 that they would have shown with
a power of 80%. ± is half a 95% interval over seeds or, where it says so, over seeds and test rows; the error bars of
figures are over seeds.
"""
KNOWN = {
    "amazon_access": "Amazon.com Employee Access Challenge (Kaggle, 2013; public; not part of this repository)",
    "mini": "built-in synthetic data with four planted interaction patterns (docs/synthetic.md)",
    "tiny": "built-in synthetic data for smoke tests: its numbers mean nothing",
    "toy": "the toy experiment of Figure 4: three fields, no data set",
}
ORDER = ("table2", "table1", *(f"fig{n}" for n in ("1", "2", "3", "4", "5", "6", "8a", "8b", "8c", "8d")), "scaling")
LARGE = 200_000  # bytes of a CSV
AUCS = ("ours", "paper", "paper_sd", "difference", "detectable")
VERDICTS = {"holds": "**holds**", "does not hold": "does **not** hold", "not decidable": "not decidable"}


def artefacts_of(folder: Path) -> list[dict[str, Any]]:
    """The contents of `<name>.json`, in the paper's order.

    Raises:
        ValueError: there are none.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise ValueError(f"{folder}: no artefacts there; expected a folder that experiments.paper or fig4 wrote")
    if len(prints := sorted({one["data_fingerprint"] for one in found})) > 1:
        raise ValueError(
            f"{folder}: artefacts of different data, {', '.join(prints)}: remove the .json of the older ones"
        )
    return sorted(found, key=lambda one: ORDER.index(one["artefact"]) if one["artefact"] in ORDER else len(ORDER))


def write_results(folders: Sequence[Path], to: Path, command: str) -> Path:
    """RESULTS.md in `to`; figures and data are copied to `to`/results unless they lie in `to` itself. Its path.

    Raises:
        ValueError: a folder has no artefacts.
    """
    contents = {folder: artefacts_of(folder) for folder in folders}
    own = [folder for folder in folders if folder.resolve() == to.resolve()]
    parts = [HEAD.format(command=command, folder="." if own else "results/"), summary(contents)]
    for folder, artefacts in contents.items():
        link = "." if folder in own else copied(folder, to)
        parts.append(section(folder, artefacts, link))
    path = to / "RESULTS.md"
    write_text(path, "\n".join(parts))
    return path


def copied(folder: Path, to: Path) -> str:
    """Copy what RESULTS.md shows and what it was made from, but no PDF, SVG or large CSV; the relative path."""
    target = to / "results" / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".png") or (path.suffix == ".csv" and path.stat().st_size < LARGE):
            write_bytes(target / path.name, path.read_bytes())
    return f"results/{folder.name}"


def summary(contents: dict[Path, list[dict[str, Any]]]) -> str:
    """Claims by data set, each with its verdicts."""
    texts: dict[tuple[str, str], dict[str, list[str]]] = {}
    for folder, artefacts in contents.items():
        for one in artefacts:
            for claim in one["claims"]:
                own = texts.setdefault((one["artefact"], claim["text"]), {})
                own.setdefault(folder.name, []).append(f"{claim['about']}: {VERDICTS[claim['verdict']]}")
    names = [folder.name for folder in contents]
    lines = [f"| | claim | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for (artefact, text), found in texts.items():
        cells = ["; ".join(found.get(name, ["–"])) for name in names]
        lines.append(f"| {artefact} | {escaped(text)} | {' | '.join(map(escaped, cells))} |")
    return "\n".join(["## In short", "", *lines, ""])


def section(folder: Path, artefacts: Sequence[dict[str, Any]], link: str) -> str:
    """One data set."""
    lines = [f"## {folder.name}", "", f"{KNOWN.get(folder.name, 'your data')}.", ""]
    for one in artefacts:
        seeds = f"{len(one['seeds'])} seeds, " if one["seeds"] else ""
        runs = f"{len(one['runs'])} runs, " if one["runs"] else ""
        lines += [f"### {one['artefact']}", "", f"`{one['command']}` ({seeds}{runs}code {one['code_version']})", ""]
        for name in [name for name in one["tables"] if name != "table1"]:  # Tables 3 and 4 have its means too
            lines += [table_of(folder / f"{name}.csv", name), ""]
        lines += [f"![{name}]({link}/{name}.png)" for name in one["figures"]]
        lines += [""] if one["figures"] else []
        lines += [claims_of(one["claims"]), ""] if one["claims"] else []
        lines += [f"- {note}" for note in one["notes"]] + ([""] if one["notes"] else [])
    return "\n".join(lines)


def claims_of(claims: Sequence[dict[str, Any]]) -> str:
    """Of one artefact."""
    names = ("claim", "of", "measured", "found", "detectable", "p", "verdict")
    lines = [f"| {' | '.join(names)} |", "|---|---|---|---:|---:|---:|---|"]
    before = None
    for claim in claims:
        text = claim["text"] if claim["text"] != before else ""
        before = claim["text"]
        half = None if claim["low"] is None else (claim["high"] - claim["low"]) / 2
        found, detectable = number(claim["estimate"], half), claim["detectable"]
        small = "–" if detectable is None else number(detectable, half).partition(" ")[0]
        p = "–" if claim["p_value"] is None else f"{claim['p_value']:.2g}"
        cells = (text, claim["about"], f"{claim['quantity']} ({claim['sources']})", found, small, p)
        lines.append(f"| {' | '.join(map(escaped, cells))} | {VERDICTS[claim['verdict']]} |")
    return "\n".join(lines)


def number(value: float, half: float | None = None) -> str:
    """Two significant digits of the half width, or three of the number; integers as they are."""
    if half is None and float(value).is_integer():
        return f"{value:,.0f}"
    size = half if half else abs(value) / 10
    digits = min(6, max(0, 1 - int(f"{size:e}".partition("e")[2]))) if size else 2
    return f"{value:.{digits}f}" + ("" if half is None else f" ±{half:.{digits}f}")


def table_of(path: Path, name: str) -> str:
    """A table's CSV as Markdown; those of AUCs as the paper has them."""
    frame = pl.read_csv(path)
    is_auc = name.startswith("table") and "test_auc" in frame.columns
    return auc_table(frame) if is_auc else plain(frame)


def plain(frame: pl.DataFrame) -> str:
    """Every column, numbers rounded, AUCs to five digits; `x_half` is half the 95% interval of `x`."""
    names = [name for name in frame.columns if not name.endswith("_half")]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in frame.iter_rows(named=True):
        texts = [value_text(row[name], row.get(f"{name}_half"), 5 if name in AUCS else None) for name in names]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def value_text(value: Any, half: float | None, digits: int | None = None) -> str:
    """Of any type; numbers with so many digits, or with as many as they are worth."""
    if value is None or isinstance(value, str):
        return escaped(value or "")
    if digits is None:
        return number(value, half or None)
    return f"{value:.{digits}f}" + ("" if half is None else f" ±{half:.{digits}f}")


def auc_table(frame: pl.DataFrame) -> str:
    """Mean test AUC and sample sd over seeds by model, SE and ME, and size; the best as `table1.best` has it."""
    scales = sorted(frame["scale"].unique())
    sizes = " | ".join("base" if scale == 1 else f"{scale}x" for scale in scales)
    lines = [f"| model | | {sizes} |", "|---|---" + "|---:" * len(scales) + "|"]
    for model in frame["model"].unique(maintain_order=True):
        for embed, mark in (("se", "_"), ("me", "**")):
            own = frame.filter((pl.col("model") == model) & ((pl.col("embed") == embed) | (pl.col("scale") == 1)))
            found = best(own)
            texts = []
            for scale in scales:
                row = own.filter(scale=scale)
                shown = len(row) and (scale > 1 or embed == "se")
                text = f"{row['test_auc'].item():.5f}{sd_text(row['sd'].item())}" if shown else ""
                texts.append(f"{mark}{text}{mark}" if shown and scale in found else text)
            lines.append(
                f"| {NAMES.get(model, model) if embed == 'se' else ''} | {embed.upper()} | {' | '.join(texts)} |"
            )
    return "\n".join([*lines, "", "Mean ± sample sd over seeds. Best of SE in italics, of ME bold (no test)."])


def sd_text(sd: float | None) -> str:
    """With its sign; nothing for one seed."""
    return "" if sd is None else f" ±{sd:.5f}"


def escaped(text: str) -> str:
    """For a cell of a Markdown table."""
    return text.replace("|", "\\|")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m experiments.results", description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="<output_dir>/paper/<dataset>, one or more")
    parser.add_argument("--to", type=Path, default=Path("experiments"), help="the folder of RESULTS.md (experiments)")
    options = parser.parse_args()
    try:
        command = shlex.join(["python", "-m", "experiments.results", *sys.argv[1:]])
        print(write_results(options.folders, options.to, command))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
