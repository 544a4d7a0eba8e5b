"""The tables and figures of measured steps: `.venv/bin/python -m benchmarks.report`.

Reads every `benchmarks/results/step-*.json` that `benchmarks.table` wrote, and the peers' times in `peers.json` if
that is there, and writes into `benchmarks/RESULTS.md`, between two marks: what stands outside of them is kept. The
figure of `step-cpu.json` is `step-cpu.png`: time against scale, one panel for each backbone, the floor dashed.

`peers.json` is what `benchmarks.peers --json` writes: per backbone, scale and way to train the peer, the ratio of our
time to that of the peer (`library`) on single-embedding. The last column shows how many times as fast ours is.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from experiments.drawing import panels
from recsys_collapse.runs.figure import COLOURS

HERE = Path(__file__).parent
BEGIN = "<!-- begin: written by python -m benchmarks.report -->"
END = "<!-- end: written by python -m benchmarks.report -->"
PHASES = ("forward", "backward", "optimizer")
COLUMNS = (
    *("case", "step ms", "quartiles", "floor ms", "floor / step", *PHASES),
    *("times the loop", "quartiles", "loop ms", "peak GB", "loop GB"),
)
LEGEND = (
    "A phase is its median in ms and, in brackets, how much of it is the floor. Times the loop: the loop's time "
    "divided by ours, median and quartiles of the pairs. A case is `<backbone>:<se or me>:<scale>`."
)
Record = dict[str, Any]


def name_of(record: Record) -> str:
    """`dcnv2:me:4`."""
    return f"{record['backbone']}:{record['embed']}:{record['scale']}"


def row(record: Record) -> list[str]:
    """The cells under `COLUMNS`."""
    step, loop = record["step"], record.get("loop")
    cells = [name_of(record), f"{step['ms']:.1f}", f"{step['low']:.1f} to {step['high']:.1f}"]
    cells += [f"{step['floor_ms']:.1f}", f"{step['fraction']:.0%}"]
    cells += [f"{record[phase]['ms']:.1f} ({record[phase]['fraction']:.0%})" for phase in PHASES]
    if loop is None:
        return [*cells, "", "", "", f"{record['peak_gb']:.2f}", ""]
    cells += [f"{loop['speedup']:.2f}", f"{loop['low']:.2f} to {loop['high']:.2f}", f"{loop['ms']:.1f}"]
    return [*cells, f"{record['peak_gb']:.2f}", f"{loop['peak_gb']:.2f}"]


def against_peers(record: Record, peers: Sequence[Record]) -> str:
    """How many times as fast ours is as a peer, by the way in which that is trained; a peer has one set."""
    place = record["backbone"], record["scale"], record["num_sets"]
    own = [peer for peer in peers if (peer["backbone"], peer["scale"], 1) == place]
    return ", ".join(f"{peer['library']} ({peer['trained']}) {1 / peer['ratio']:.2f}" for peer in own)


def markdown(report: Record, peers: Sequence[Record], figure: str) -> str:
    """The section of one file."""
    machine, cases = report["machine"], report["cases"]
    device = "" if report["device"] == "cpu" else f", {machine['device']}"
    lines = [
        f"## {report['device']}, {report['precision']}{', the loop with the fused Adam too' * report['same_adam']}",
        "",
        f"{report['date'][:10]}, {machine['processor']}{device}, {machine['threads']} threads, torch "
        f"{machine['torch']}, recsys_collapse {report['code_version']}. Batch {report['batch']}, "
        f"{report['repeats']} steps a case.",
        *rates_of(cases),
        "",
    ]
    columns = [*COLUMNS, *(["times a peer"] if peers else [])]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for record in cases:
        cells = [*row(record), *([against_peers(record, peers)] if peers else [])]
        lines.append("| " + " | ".join(cells) + " |")
    speedups = [record["loop"]["speedup"] for record in cases if "loop" in record]
    if speedups:
        lines += ["", f"Against the loop, {geometric_mean(speedups):.2f} times as fast in the geometric mean."]
    return "\n".join([*lines, "", f"![ms per step against scale]({figure})"])


def rates_of(cases: Sequence[Record]) -> list[str]:
    """Lowest and highest rate of the processes."""
    found: dict[str, list[float]] = {}
    for record in cases:
        rates = record["rates"]
        for precision, rate in rates["matmul"].items():
            found.setdefault(f"GFLOP/s ({precision})", []).append(rate)
        small, large = rates["bandwidth"][2], rates["bandwidth"][-1]
        for size, rate in (small, large):
            found.setdefault(f"GB/s in {size >> 20} MB", []).append(rate)
    shown = (f"{min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} {unit}" for unit, rates in found.items())
    return ["Rates of the processes: " + ", ".join(shown) + "."]


def draw(report: Record, path: Path) -> None:
    """Time, logarithmic, against scale."""
    backbones = list(dict.fromkeys(record["backbone"] for record in report["cases"]))
    with panels(-(-len(backbones) // 3), min(3, len(backbones))) as (figure, axes):
        for axis in axes.flat[len(backbones) :]:
            axis.set_visible(False)
        for backbone, axis in zip(backbones, axes.flat, strict=False):
            for embed, colour in (("se", COLOURS[0]), ("me", COLOURS[1])):
                record_S = curve(report["cases"], backbone, embed)
                scale_S = [record["scale"] for record in record_S]
                for key, style, label in (("ms", "o-", embed.upper()), ("floor_ms", "--", f"{embed.upper()}, floor")):
                    values = [record["step"][key] for record in record_S]
                    axis.plot(scale_S, values, style, color=colour, label=label)
            axis.set(title=backbone, xlabel="scale", ylabel="ms per step", yscale="log")
            axis.set_xticks(sorted({record["scale"] for record in report["cases"]}))
        axes.flat[0].legend()
        figure.savefig(path, dpi=150)


def curve(cases: Sequence[Record], backbone: str, embed: str) -> list[Record]:
    """The records of one line, small scales first; scale 1 belongs to both lines."""
    own = [record for record in cases if record["backbone"] == backbone]
    return sorted((r for r in own if r["embed"] == embed or r["scale"] == 1), key=lambda record: record["scale"])


def insert(text: str, section: str) -> str:
    """`text` with `section` between the marks; without marks, they are added at the end.

    Raises:
        ValueError: one mark only, or several.
    """
    if BEGIN not in text and END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"RESULTS.md: expected one line {BEGIN!r} and, below it, one line {END!r}, or neither")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str] | None = None) -> int:
    """1 if there is nothing to report, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE, help="of results/ and RESULTS.md (benchmarks)")
    folder = parser.parse_args(arguments).folder
    files = sorted((folder / "results").glob("step-*.json"))
    if not files:
        print(
            f"{folder / 'results'}: no step-*.json: run python -m benchmarks.table --json FILE first", file=sys.stderr
        )
        return 1
    peers_file, sections = folder / "results" / "peers.json", [LEGEND]
    peers = json.loads(peers_file.read_text())["cases"] if peers_file.exists() else []
    for file in files:
        report, figure = json.loads(file.read_text()), file.with_suffix(".png")
        draw(report, figure)
        same = report["device"] == "cpu" and report["precision"] == "32-true"  # as the peers were measured
        sections.append(markdown(report, peers if same else [], f"results/{figure.name}"))
    results = folder / "RESULTS.md"
    text = results.read_text() if results.exists() else "# Speed of a training step\n"
    results.write_text(insert(text, "\n\n".join(sections)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
