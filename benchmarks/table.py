"""What a training step takes, and how near it is to the least it could: `.venv/bin/python -m benchmarks.table`.

Every backbone, single- and multi-embedding at 1, 4 and 10 times the size, as `benchmarks.step` says, each case in a
process of its own. All of it takes about 25 minutes on 2 idle cores, and 20 GB for nfwfm with 10 sets. `--json` is
written after every case; `benchmarks.report` makes a table and a figure of it.

    --case dcnv2:me:4        one case; may be given again
    --device cuda            with CUDA's clock and memory; no targets. Nobody has run it on a GPU yet
    --precision bf16-mixed   of ours; the loop stays in float32
    --same-adam              the loop gets the fused Adam too; no targets

Targets, of the cases measured: against the loop, twice as fast in the geometric mean (3.5 times with bf16-mixed), no
case under 1.1 times, no case with a higher peak of memory; the floor at least 60% of every step; dcnv2 with 10 sets
takes at most a third of the time of one set of 10 times the size.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import COLUMNS, row
from benchmarks.step import BACKBONES, BATCH, Case, add_options, parse_case
from recsys_collapse.runs.environment import environment
from recsys_collapse.runs.version import code_version

Record = dict[str, Any]
CASES = [
    Case(backbone, embed, scale)
    for backbone in BACKBONES
    for embed, scale in (("se", 1), ("se", 4), ("se", 10), ("me", 4), ("me", 10))  # se:1 is me:1 too
]
SPEEDUP = {"32-true": 2.0, "bf16-mixed": 3.5}
LEAST_SPEEDUP, LEAST_FRACTION, ME_OF_SE = 1.1, 0.6, 1 / 3


def run(case: Case, options: argparse.Namespace, *words: str) -> Any:
    """What a process of `benchmarks.step` prints."""
    command = [sys.executable, "-m", "benchmarks.step", str(case), "--device", str(options.device), *words]
    command += ["--repeats", str(options.repeats), "--precision", options.precision]
    command += ["--same-adam"] * options.same_adam
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(case: Case, options: argparse.Namespace) -> Record:
    """The record of one case, with the peak of memory of its loop."""
    record = run(case, options)
    if "loop" in record:
        record["loop"]["peak_gb"] = run(case, options, "--loop-peak")
    return record


def missed(records: Sequence[Record], precision: str) -> list[str]:
    """Targets that these numbers do not reach."""
    found, speedups, steps = [], [], dict[Case, float]()
    for record in records:
        case = Case(record["backbone"], record["embed"], record["scale"])
        steps[case] = record["step"]["ms"]
        if record["step"]["fraction"] < LEAST_FRACTION:
            found.append(
                f"{case}: the floor is {record['step']['fraction']:.0%} of the step, {LEAST_FRACTION:.0%} is wanted"
            )
        if loop := record.get("loop"):
            speedups.append(loop["speedup"])
            if loop["speedup"] < LEAST_SPEEDUP:
                found.append(f"{case} is {loop['speedup']:.2f} times as fast as the loop, {LEAST_SPEEDUP} is wanted")
            if record["peak_gb"] > loop["peak_gb"]:
                found.append(f"{case} peaks at {record['peak_gb']:.2f} GB, the loop at {loop['peak_gb']:.2f} GB")
    if speedups and (mean := geometric_mean(speedups)) < SPEEDUP[precision]:
        found.append(f"{mean:.2f} times the loop's speed in the geometric mean, {SPEEDUP[precision]} is wanted")
    me, se = (steps.get(Case("dcnv2", embed, 10)) for embed in ("me", "se"))
    if me and se and me / se > ME_OF_SE:
        found.append(f"dcnv2:me:10 takes {me / se:.2f} of the time of dcnv2:se:10, at most {ME_OF_SE:.2f} is wanted")
    return found


def show(records: Sequence[Record]) -> None:
    """The table on the terminal."""
    table = Table(*COLUMNS)
    for record in records:
        table.add_row(*row(record))
    Console(width=160).print(table)


def report_of(records: Sequence[Record], options: argparse.Namespace) -> Record:
    """What `--json` says."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(options),
        "code_version": code_version(),
        "batch": BATCH,
        "repeats": options.repeats,
        "device": str(options.device),
        "precision": options.precision,
        "same_adam": options.same_adam,
        "cases": list(records),
    }


def machine(options: argparse.Namespace) -> Record:
    """Versions, threads, and the names of processor and device."""
    found = environment(options.device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found | {"processor": names[0] if names else "unknown"}


def main(arguments: list[str] | None = None) -> int:
    """1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=parse_case, action="append", help="e.g. dcnv2:me:4; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    add_options(parser)
    options = parser.parse_args(arguments)
    records = []
    for case in options.case or CASES:
        records.append(measure(case, options))
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report_of(records, options), indent=2) + "\n")
    show(records)
    if options.same_adam or options.device.type != "cpu":
        return 0
    not_met = missed(records, options.precision)
    for line in not_met:
        print(f"missed: {line}")
    return 1 if not_met else 0


if __name__ == "__main__":
    sys.exit(main())
