"""What preparing data costs: `.venv/bin/python -m benchmarks.prepare`.

Speed: a file in Criteo's format with the recipe `criteo`, against a plain two-pass loop with dictionaries, as the
official code reads it; target: at least 6 times its rows per second. Memory: the peak of a process that prepares
5 times as many rows against one that prepares the file; target: at most 1.3 times, and 100 bytes for each further id.
"""

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from benchmarks.criteo_file import write_criteo
from benchmarks.interleave import interleave
from recsys_collapse.build import build
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset import files
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.store import Store, prepare

FASTER, MORE_MEMORY, BYTES_PER_ID = 6.0, 1.3, 100
FIELDS, INTEGERS, MIN_COUNT = 39, 13, 10


@cache
def source(path: Path) -> Source:
    """The file under the recipe `criteo`."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return build(compose("config", ["dataset=criteo", f"dataset.path={path}"]).dataset, "dataset")


def ours(path: Path, folder: Path) -> Store:
    """Prepare the file with the recipe `criteo` into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    files._hashes.clear()  # the file is hashed each time, as in a process of its own
    return prepare(source(path), folder, split_seed=0)


def plain_loop(path: Path) -> array:
    """Ids of all rows from two passes over the lines: count, then look up."""

    def value(i: int, text: str) -> str:
        if i >= INTEGERS or not text:
            return text
        number = int(text)
        return str(int(math.log(number) ** 2)) if number > 2 else str(number - 2)

    counts: list[Counter[str]] = [Counter() for _ in range(FIELDS)]
    with path.open() as file:
        for line in file:
            for i, text in enumerate(line.rstrip("\n").split("\t")[1:]):
                counts[i][value(i, text)] += 1
    known = []
    for count in counts:
        frequent = sorted((-n, text) for text, n in count.items() if n >= MIN_COUNT)
        known.append({text: number + 1 for number, (_, text) in enumerate(frequent)})
    ids = array("i")
    with path.open() as file:
        for line in file:
            ids.extend(known[i].get(value(i, text), 0) for i, text in enumerate(line.rstrip("\n").split("\t")[1:]))
    return ids


def peak_memory(path: Path, folder: Path) -> tuple[int, int]:
    """Peak bytes of a process that prepares the file, without mapped files, and the number of ids it found."""
    code = "import sys; from benchmarks.prepare import measure_memory; measure_memory(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(path), str(folder)]
    peak, ids = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return peak, ids


def measure_memory(path: str, folder: str) -> None:
    """The inside of `peak_memory`: prepares, and prints peak memory and the number of ids."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak.append(max(peak.pop(), *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    manifest = ours(Path(path), Path(folder)).manifest()
    stop.set()
    watcher.join()
    print(peak[0] * 1024, sum(manifest["cardinalities"]))


def main() -> int:
    """1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.prepare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the file that is prepared for speed")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of ours and the loop")
    parser.add_argument("--times", type=int, default=5, help="how many times the rows of the file for memory")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write_criteo(folder / "small.tsv", options.rows)
        ids = torch.frombuffer(plain_loop(small), dtype=torch.int32).view(-1, FIELDS)
        if not torch.equal(ids, ours(small, folder / "store").ids):
            raise AssertionError("the loop and the store differ")
        found = interleave(lambda: plain_loop(small), lambda: ours(small, folder / "store"), options.repeats, warm_up=0)
        console.print(
            f"prepare, {options.rows:,} rows of Criteo's format: ours {options.rows / found.b_seconds:,.0f} rows/s, "
            f"loop {options.rows / found.a_seconds:,.0f} rows/s; {found.ratio:.1f} times as fast "
            f"({found.ratio_low:.1f} to {found.ratio_high:.1f}, {found.repeats} pairs; target at least {FASTER:.0f})"
        )
        large = write_criteo(folder / "large.tsv", options.times * options.rows)
        started = time.perf_counter()
        store = ours(large, folder / "store")
        seconds = time.perf_counter() - started
        console.print(f"prepare, {len(store.labels):,} rows: {len(store.labels) / seconds:,.0f} rows/s, once")
        small_peak, small_ids = peak_memory(small, folder / "memory")
        peak, ids = peak_memory(large, folder / "memory")
        allowed = MORE_MEMORY * small_peak + BYTES_PER_ID * (ids - small_ids)
        console.print(
            f"memory, {options.rows:,} rows: {small_peak / 1e6:,.0f} MB, {small_ids:,} ids; "
            f"{len(store.labels):,} rows: {peak / 1e6:,.0f} MB, {ids:,} ids: {peak / small_peak:.2f} times "
            f"(target at most {allowed / 1e6:,.0f} MB: {MORE_MEMORY} times, {BYTES_PER_ID} bytes for each further id)"
        )
    return 0 if found.ratio >= FASTER and peak <= allowed else 1


if __name__ == "__main__":
    sys.exit(main())
