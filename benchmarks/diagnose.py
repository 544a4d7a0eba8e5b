"""Memory and time of a diagnosis: `.venv/bin/python -m benchmarks.diagnose [--gigabytes 20]`.

A checkpoint of 26 fields x 100 columns is made (random blocks, whose columns shrink), once as safetensors and once by
`torch.save`; then `python -m recsys_collapse.diagnose` reads it in a process of its own. Beside it what one would
write by hand, up to 4 GB: load it, and `torch.linalg.svdvals` of every table. Memory is what the process holds itself
(RssAnon, the largest of samples every 50 ms): pages of the mapped file are the system's, which takes them back when
it needs them. Needs as much disk as twice the file. Target: memory that does not grow with the file.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

FIELDS, COLUMNS, LARGEST_BY_HAND = 26, 100, 4
BY_HAND = """
import sys, torch
from safetensors.torch import load_file
path = sys.argv[1]
state = load_file(path) if path.endswith("safetensors") else torch.load(path, weights_only=True)
for name, table in state.items():
    sigma = torch.linalg.svdvals(table)
    print(name, sigma.sum() / sigma[0])
"""


def write_safetensors(path: Path, gigabytes: float) -> None:
    """26 tables of 10^0 to 10^4 shares of the rows, block by block."""
    shares = torch.logspace(0, 4, FIELDS)
    rows = (gigabytes * 1e9 / (4 * COLUMNS) * shares / shares.sum()).long().clamp(min=10).tolist()
    header, start = {}, 0
    for number, count in enumerate(rows):
        end = start + count * COLUMNS * 4
        name = f"embedding_dict.C{number}.weight"
        header[name] = {"dtype": "F32", "shape": [count, COLUMNS], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    block = torch.randn(100_000, COLUMNS, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, COLUMNS)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for count in rows:
            for first in range(0, count, len(block)):
                file.write(block[: min(len(block), count - first)].numpy().tobytes())


def write_torch(path: Path, source: Path) -> None:
    """The same by `torch.save`, from the mapped file."""
    from safetensors import safe_open

    with safe_open(source, framework="pt") as file:
        torch.save({name: file.get_tensor(name) for name in file.offset_keys()}, path)


def anonymous(pid: int) -> int:
    """Bytes that a process holds and that are no file's; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def watched(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and the largest memory in GB of a command."""
    start, largest = time.perf_counter(), 0
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            largest = max(largest, anonymous(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{(folder / 'output.txt').read_text()}")
    return time.perf_counter() - start, largest / 1e9


def main() -> None:
    """Measure, and print a row per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4])
    sizes = parser.parse_args().gigabytes
    table = Table("file", "GB", "seconds", "memory, GB", "by hand: seconds", "memory, GB", title="diagnose")
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=".") as name:
            folder = Path(name).absolute()
            first, second = folder / "a.safetensors", folder / "b.pt"
            write_safetensors(first, size)
            write_torch(second, first)
            for path in (first, second):
                seconds, memory = watched([sys.executable, "-m", "recsys_collapse.diagnose", str(path)], folder)
                row = [path.suffix, f"{path.stat().st_size / 1e9:.1f}", f"{seconds:.1f}", f"{memory:.2f}"]
                if size <= LARGEST_BY_HAND:
                    seconds, memory = watched([sys.executable, "-c", BY_HAND, str(path)], folder)
                    row += [f"{seconds:.1f}", f"{memory:.2f}"]
                table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
