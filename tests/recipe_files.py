"""Small files in the formats of the recipes, and an independent count of what the recipes make of them."""

import csv
import math
import random
from collections import Counter
from datetime import datetime
from pathlib import Path

AVAZU = [
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
]  # fmt: skip
CRITEO = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
Column = list[str]


def criteo_rows(count: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        numbers = ["" if rng.random() < 0.2 else str(int(rng.lognormvariate(2, 2)) - 2) for _ in range(13)]
        words = [
            "" if rng.random() < 0.1 else f"{int(40 * rng.random() ** 3) * 2654435761 % 2**32:08x}" for _ in range(26)
        ]
        rows.append([str(len(rows) % 3 // 2), *numbers, *words])
    return rows


def avazu_rows(count: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        hour = f"1410{21 + rng.randrange(10)}{rng.randrange(24):02d}"
        rest = [f"{int(30 * rng.random() ** 2):x}" for _ in AVAZU[3:]]
        rows.append([str(10**18 + i), str(i % 4 // 3), hour, *rest])
    return rows


def write_table(path: Path, rows: list[list[str]], header: list[str] | None, delimiter: str) -> Path:
    lines = [delimiter.join(row) for row in ([header] if header else []) + rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_table(path: Path, header: list[str] | None, delimiter: str) -> dict[str, Column]:
    """Columns of a file by name."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    names = header or rows.pop(0)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def criteo_fields(columns: dict[str, Column]) -> dict[str, Column]:
    """What the recipe counts: the paper's official code."""

    def number(text: str) -> str:
        if text == "":
            return ""
        value = int(text)
        return str(int(math.log(value) ** 2)) if value > 2 else str(value - 2)

    return {n: [number(v) for v in c] if n[0] == "I" else c for n, c in columns.items() if n != "label"}


def criteo_x4_fields(columns: dict[str, Column]) -> dict[str, Column]:
    """FuxiCTR's buckets: a missing number is 0."""

    def number(text: str) -> str:
        value = int(text or 0)
        return str(math.floor(math.log(value) ** 2)) if value > 2 else str(value)

    return {n: [number(v) for v in c] if n[0] == "I" else c for n, c in columns.items() if n != "Label"}


def avazu_fields(columns: dict[str, Column]) -> dict[str, Column]:
    return {name: column for name, column in columns.items() if name not in ("id", "click")}


def avazu_x4_fields(columns: dict[str, Column]) -> dict[str, Column]:
    days = [datetime.strptime(value, "%y%m%d%H").weekday() for value in columns["hour"]]
    fields = avazu_fields(columns)
    fields["hour"] = [value[6:] for value in columns["hour"]]
    return fields | {"weekday": [str(day) for day in days], "weekend": [str(int(day > 4)) for day in days]}


def ids(column: Column, counted: Column, min_count: int) -> list[int]:
    """Ids by (-count, value) from 1, and 0 for what the counted rows have less than `min_count` times."""
    counts = Counter(counted)
    ranked = sorted((-n, value.encode()) for value, n in counts.items() if n >= min_count)
    known = {value.decode(): i + 1 for i, (_, value) in enumerate(ranked)}
    return [known.get(value, 0) for value in column]
