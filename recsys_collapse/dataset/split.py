"""The split 8:1:1, exactly the official one, so that a run here and a run there test on the same rows."""

import re
from contextlib import suppress
from datetime import datetime, timezone

import numpy as np
import polars as pl
import torch

from recsys_collapse.dataset.source import PARTS

ISO = r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))? ?(Z|[+-]\d\d:?\d\d)?)?"


def split_rows(num_rows: int, split_seed: int) -> dict[str, np.ndarray]:
    """Row numbers (int64) of train, valid and test, at random.

    A permutation of the rows in file order, generator seeded with `split_seed`; the first int(.8 n), the next
    int(.1 n), the rest.

    Raises:
        ValueError: a part has no rows.
    """
    order_n = torch.randperm(num_rows, generator=torch.Generator().manual_seed(split_seed)).numpy()
    return cut(order_n, split_sizes(num_rows))


def consecutive(parts: dict[str, int]) -> dict[str, range]:
    """Row numbers of given parts of these sizes, which follow each other.

    Raises:
        ValueError: a part has no rows.
    """
    sizes = [parts[part] for part in PARTS]
    _check_sizes(sizes)
    ends = np.cumsum(sizes).tolist()
    return {part: range(end - size, end) for part, size, end in zip(PARTS, sizes, ends, strict=True)}


def split_sizes(num_rows: int) -> list[int]:
    """Sizes of an 8:1:1 split, rounded as the official code does."""
    sizes = [int(0.8 * num_rows), int(0.1 * num_rows)]
    return [*sizes, num_rows - sum(sizes)]


def cut(order_n: np.ndarray, sizes: list[int]) -> dict[str, np.ndarray]:
    """Rows in this order as train, valid and test of these sizes.

    Raises:
        ValueError: a part has no rows.
    """
    _check_sizes(sizes)
    return dict(zip(PARTS, np.split(order_n, np.cumsum(sizes)[:-1]), strict=True))


def _check_sizes(sizes: list[int]) -> None:
    if 0 in sizes:
        found = ", ".join(f"{part} {size}" for part, size in zip(PARTS, sizes, strict=True))
        raise ValueError(
            f"dataset: {sum(sizes)} rows split into {found}: expected at least one row in each; "
            "a split 8:1:1 needs 10 rows or more, a given part at least one that can be used"
        )


def split_by_time(rank_n: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers (int64) of the earliest int(.8 n), the next int(.1 n) and the latest rows; ties in file order."""
    return cut(np.argsort(rank_n, kind="stable"), split_sizes(len(rank_n)))


def time_ranks(values: pl.Series) -> np.ndarray:
    """Place of each distinct time (V,) in order, of numbers or of text such as 2014-10-21 or 2014-10-21 13:05:00.

    Raises:
        ValueError: a time is missing, is neither, or only some are numbers.
    """
    if (values == "").any():
        raise ValueError("dataset.time: the time of some rows is missing: expected one in every row")
    numbers = values.cast(pl.Float64, strict=False)
    numbers = numbers.zip_with(numbers.is_finite(), pl.Series([None], dtype=pl.Float64).new_from_index(0, len(values)))
    if 0 < numbers.null_count() < len(values):
        example = values.filter(numbers.is_null())[0], values.filter(numbers.is_not_null())[0]
        raise ValueError(f"dataset.time: {example[0]!r} is no number, {example[1]!r} is one: expected all of a kind")
    if numbers.null_count() == 0:
        whole = values.cast(pl.Int64, strict=False)  # a float does not tell 19 digits apart
        return (numbers if whole.null_count() else whole).rank("dense").to_numpy()
    times = [_nanoseconds(value) for value in values]
    if len({has_zone for has_zone, _ in times}) > 1:
        raise ValueError("dataset.time: some times have a zone and others do not: expected all of a kind")
    return pl.Series([moment for _, moment in times], dtype=pl.Int128).rank("dense").to_numpy()


def _nanoseconds(value: str) -> tuple[bool, int]:
    """Whether a time has a zone (such times and others do not compare), and nanoseconds since 1970, in UTC if so."""
    found, moment = re.fullmatch(ISO, value), None
    if found is not None:
        date, clock, fraction, zone = found.groups()
        with suppress(ValueError):  # the 30th of February
            moment = datetime.fromisoformat(f"{date}T{clock or '00:00'}").replace(tzinfo=timezone.utc)
    if found is None or moment is None:
        raise ValueError(
            f"dataset.time: {value!r} is no time: expected numbers, or text such as 2014-10-21 13:05:00; "
            "write the times so, or order the file by time and give parts of it as dataset.train, valid and test"
        )
    offset = 0
    if zone and zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        offset = (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
    seconds = int(moment.timestamp()) - offset
    return zone is not None, seconds * 10**9 + int((fraction or "").ljust(9, "0")[:9] or 0)
