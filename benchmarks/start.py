"""How long commands take before they do what they are for: `python -m benchmarks.start [--starts 5]`.

`--help`; a sweep of 10 cells whose runs are all finished; the first training step of a run whose data is prepared, at
scale 1 and 10: from the start of the process until the first batch is about to be trained on (`first_step.py`). Medians
of several starts with the fastest and slowest one, against targets; and what the heaviest imports take.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [sys.executable, "-m", "recsys_collapse.run"]
SWEEP = ["-m", "model=dcnv2", "scale=1,2,3,4,10", "embed=se,me", "dataset=tiny", "trainer.max_epochs=1", "logger=local"]
MARKER = [
    "+callback.first_step._target_=benchmarks.first_step.FirstStep",
    "+callback.first_step.path={path}",
    "+callback.first_step.measures_only=true",
]
IMPORTS = ("hydra", "numpy", "polars", "rich.table", "matplotlib.figure", "torch", "pytorch_lightning", "wandb")


def seconds(command: list[str]) -> float:
    """Wall time of a command that succeeds.

    Raises:
        CalledProcessError: it fails.
    """
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def until_first_step(scale: int, folder: Path) -> float:
    """Seconds from the start of the process until the first batch; what the run left is not gone on with."""
    told = folder / "first_step.txt"
    told.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        options = ["dataset=mini", "model=dcnv2", f"scale={scale}", "logger=local", f"output_dir={fresh}"]
        marker = [word.format(path=told) for word in MARKER]
        started = time.time()
        seconds([*RUN, *options, f"store_dir={folder / 'stores'}", *marker])
    return float(told.read_text()) - started


def report(name: str, values: list[float], target: float | None) -> None:
    """One line: median, fastest and slowest start, and whether the target is reached."""
    median = statistics.median(values)
    said = "" if target is None else f"  target {target:g} s: {'reached' if median <= target else 'missed'}"
    print(f"{name:34s} {median:6.2f} s  ({min(values):.2f} to {max(values):.2f}, n={len(values)}){said}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=5, help="of each command")
    starts = range(parser.parse_args().starts)
    print(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("--help", [seconds([*RUN, "--help"]) for _ in starts], 1.0)
        sweep = [*RUN, *SWEEP, f"output_dir={folder}"]
        seconds(sweep)  # trains
        report("sweep of 10 cells, skipped", [seconds(sweep) for _ in starts], 1.0)
        until_first_step(1, folder)  # prepares the data
        for scale in (1, 10):
            report(f"first step, dcnv2 {scale}x on mini", [until_first_step(scale, folder) for _ in starts], 8.0)
    alone = statistics.median(seconds([sys.executable, "-c", "pass"]) for _ in starts)
    for module in IMPORTS:
        report(f"import {module}", [seconds([sys.executable, "-c", f"import {module}"]) - alone for _ in starts], None)


if __name__ == "__main__":
    main()
