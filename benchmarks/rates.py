"""How fast this machine is in this process: operations of matrix products, bytes through memory, rows at random places.

`benchmarks.floor` divides counted work by these rates, so each is the best of several kinds and of several tries: a
floor must not be above what can be reached. `python -m benchmarks.rates [--device cuda]` prints them.

- Matrix products: square ones, ones as tall as a batch, and batched ones; operations per second, a multiply-add is two.
- Bandwidth: updates in place, `a *= s` and `a += b`, which read and write as an optimizer does. It depends on how much
  memory is gone over again and again, as that decides which cache holds it. So it is measured for several such working
  sets. The largest is far above every cache, and every page has been written before: pages that were never written
  all lie on one page of zeros, which the cache holds.
- Gather: whole rows of a table at random places, bytes read and written.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch

MEGA = 2**20
WORKING_SETS = tuple(size * MEGA for size in (2, 8, 32, 64, 128, 256, 512))
LARGEST_TABLE = 512 * MEGA
ROWS = 79_872  # of a gather: 39 fields of a batch of 2048
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
PRODUCTS = (  # (sets, rows, inputs, outputs)
    (1, 2048, 2048, 2048),
    (1, 2048, 390, 400),
    (1, 2048, 3900, 3900),
    (10, 2048, 390, 390),
)
TRIES = 5


class Rates(NamedTuple):
    """What the machine reaches."""

    matmul: dict[str, float]
    """Operations per second of matrix products, by the word of `trainer.precision`."""
    bandwidth: list[tuple[int, float]]
    """(working set in bytes, bytes per second), small sets first."""
    gather: float
    """Bytes per second, read and written, of rows at random places."""

    def bytes_per_second(self, working_set: float) -> float:
        """The rate at which so many bytes can be gone over again and again.

        That of the largest working set measured that is no larger, or of the smallest: never too low. If a larger one
        was faster, as happens when the neighbours were busy, its rate.
        """
        below = [size for size, _ in self.bandwidth if size <= working_set]
        start = max(below, default=self.bandwidth[0][0])
        return max(rate for size, rate in self.bandwidth if size >= start)

    def best(self, other: "Rates") -> "Rates":
        """The higher of each rate: both were reached."""
        bandwidth = [(size, max(a, b)) for (size, a), (_, b) in zip(self.bandwidth, other.bandwidth, strict=True)]
        matmul = {key: max(rate, other.matmul[key]) for key, rate in self.matmul.items()}
        return Rates(matmul, bandwidth, max(self.gather, other.gather))


def laps(parts: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of each of these calls, which run one after the other.

    On CUDA by events on the current stream: a call ends when the device has done its work, but the host goes on at
    once, as it does in training.
    """
    if device.type == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 1)]
        torch.cuda.synchronize(device)
        marks[0].record()
        for part, mark in zip(parts, marks[1:], strict=True):
            part()
            mark.record()
        torch.cuda.synchronize(device)
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]
    times = [time.perf_counter()]
    for part in parts:
        part()
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


def fastest(action: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call: the best of some tries of so many calls each, after one try that does not count."""

    def several() -> None:
        for _ in range(calls):
            action()

    return min(sum(laps([several], device)) for _ in range(TRIES + 1)) / calls


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of the fastest of `PRODUCTS`."""
    found = []
    for sets, rows, inputs, outputs in PRODUCTS:
        a = torch.randn(sets, rows, inputs, device=device).to(dtype)
        b = torch.randn(sets, inputs, outputs, device=device).to(dtype)
        action = partial(torch.mm, a[0], b[0]) if sets == 1 else partial(torch.bmm, a, b)
        found.append(2 * sets * rows * inputs * outputs / fastest(action, device))
    return max(found)


def bandwidth(working_set: int, device: torch.device) -> float:
    """Bytes per second, read and written, of the faster of two updates in place of `working_set` bytes in all."""
    calls = max(1, 64 * MEGA // working_set)  # long enough for the clock
    whole = torch.ones(working_set // 4, device=device)
    a, b = whole.chunk(2)
    scaled = 2 * working_set / fastest(lambda: whole.mul_(1.0), device, calls)
    added = 1.5 * working_set / fastest(lambda: a.add_(b), device, calls)
    return max(scaled, added)


def gather_rate(table_rows: int, columns: int, device: torch.device) -> float:
    """Bytes per second of a gather from a table of this shape, or of as many of its rows as 512 MB hold."""
    table_rows = min(table_rows, LARGEST_TABLE // (4 * columns))
    table = torch.ones(table_rows, columns, device=device)
    row_n = torch.randint(table_rows, (ROWS,), device=device)
    return 2 * ROWS * columns * 4 / fastest(lambda: table.index_select(0, row_n), device)


def measure(
    table_rows: int, columns: int, device: torch.device, precisions: Sequence[str] = tuple(PRECISIONS)
) -> Rates:
    """All rates; takes some seconds and half a GB.

    Args:
        table_rows: of the table that rows are gathered from.
        columns: of that table.
        device: where.
        precisions: words of `trainer.precision` whose matrix products are measured.
    """
    with torch.no_grad():
        return Rates(
            {name: matmul_rate(PRECISIONS[name], device) for name in precisions},
            [(size, bandwidth(size, device)) for size in WORKING_SETS],
            gather_rate(table_rows, columns, device),
        )


def main() -> None:
    """Print the rates for a table of 1.08 million rows and 10 columns."""
    parser = argparse.ArgumentParser(prog="benchmarks.rates", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    found = measure(1_080_000, 10, parser.parse_args().device)
    for name, rate in found.matmul.items():
        print(f"matrix products, {name}: {rate / 1e9:,.0f} GFLOP/s")
    for size, rate in found.bandwidth:
        print(f"bandwidth, {size // MEGA} MB gone over again and again: {rate / 1e9:,.0f} GB/s")
    print(f"gather of rows of 40 bytes: {found.gather / 1e9:,.1f} GB/s")


if __name__ == "__main__":
    main()
