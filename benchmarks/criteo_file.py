"""A file in the format of Criteo's train.txt, with its cardinalities and skew, made from a seed: for benchmarks.

Only the shape is Criteo's: the values mean nothing, so there is nothing to learn from it.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

# Distinct values of C1 to C26 in the real file, in its order, and the columns where some are missing.
CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
MISSING = (2, 3, 11, 15, 18, 19, 20, 21, 24, 25)
CHUNK = 100_000
DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def write_criteo(path: Path, rows: int, seed: int = 0) -> Path:
    """Write `rows` lines: label, 13 integers, 26 hexadecimal words of 8 digits, separated by tabs."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            file.write(_chunk(rng, min(CHUNK, rows - start)).write_csv(separator="\t", include_header=False).encode())
    return path


def _chunk(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    columns = {"label": pl.Series((rng.random(rows) < 0.256).astype(np.int8))}
    for i in range(13):
        values = pl.Series(rng.lognormal(2, 2, rows).astype(np.int64) - (3 if i == 1 else 0))
        columns[f"I{i + 1}"] = _some_missing(rng, values, 0.2)
    for i, cardinality in enumerate(CARDINALITIES):
        value = (cardinality * rng.random(rows) ** 6).astype(np.uint64)
        word = (value * np.uint64(2654435761) + np.uint64(i * 97)) & np.uint64(0xFFFFFFFF)
        shifts = np.arange(28, -1, -4, dtype=np.uint64)
        digits = DIGITS[((word[:, None] >> shifts) & np.uint64(15)).astype(np.uint8)]
        words = pl.Series(digits.view("S8").ravel(), dtype=pl.Binary).cast(pl.String)
        columns[f"C{i + 1}"] = _some_missing(rng, words, 0.1) if i in MISSING else words
    return pl.DataFrame(columns)


def _some_missing(rng: np.random.Generator, values: pl.Series, share: float) -> pl.Series:
    return values.to_frame("v").select(pl.when(pl.Series(rng.random(len(values)) >= share)).then("v"))["v"]


if __name__ == "__main__":
    write_criteo(Path(sys.argv[2]), int(sys.argv[1]))
