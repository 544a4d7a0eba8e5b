"""Which rows of a table training has seen: a checkpoint does not say, a file of counts does.

Rows of values that were never seen stay where the optimizer leaves them, at zero or at their initialisation, and say
nothing of what was learned.

Shapes: D rows of a field.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

WANTED = "columns field, id and, if you like, count (rows of ids that are not in it, or have 0, were not seen)"


def read_seen(path: Path, rows: Mapping[str, int], frequency: bool = False) -> dict[str, Tensor]:
    """Weights of the rows, (D,) for every field: bool, whether they were seen, or float64, how often.

    Args:
        path: CSV or Parquet with the columns `field`, `id` (0 to D - 1) and perhaps `count`.
        rows: D of every field of the checkpoint.
        frequency: rows count as often as they were seen.

    Raises:
        ValueError: it cannot be read, has other columns, lacks a field, or names an id that a field does not have.
    """
    frame = _read(path)
    if frequency and "count" not in frame.columns:
        raise ValueError(f"--frequency: {path} has no column count; found {', '.join(frame.columns)}")
    if "count" in frame.columns:
        frame = frame.filter(pl.col("count") > 0)
    by_field = {str(key[0]): part for key, part in frame.partition_by("field", as_dict=True).items()}
    if lacking := [field for field in rows if field not in by_field]:
        have = ", ".join([*by_field][:8]) or "none"
        raise ValueError(
            f"--counts {path}: no seen id of {', '.join(lacking[:8])}; expected some of every field of the checkpoint: "
            f"it has {have}"
        )
    found = {}
    for field, size in rows.items():
        id_n = by_field[field]["id"]
        bounds = [id_n.min(), id_n.max()]
        if not all(isinstance(bound, int) and 0 <= bound < size for bound in bounds):
            raise ValueError(
                f"--counts {path}: field {field} has ids {bounds[0]!r} to {bounds[1]!r}; expected 0 to {size - 1}"
            )
        if frequency:
            count_n = by_field[field]["count"].to_torch().double()
            found[field] = torch.zeros(size, dtype=torch.float64).index_add_(0, id_n.to_torch(), count_n)
        else:
            found[field] = torch.zeros(size, dtype=torch.bool).index_fill_(0, id_n.to_torch(), True)
    return found


def _read(path: Path) -> pl.DataFrame:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        frame = pl.read_parquet(path, glob=False) if is_parquet else pl.read_csv(path, glob=False)
        lacking = {"field", "id"} - {*frame.columns}
        if lacking:
            raise ValueError(f"no column {' and '.join(sorted(lacking))}: found {', '.join(frame.columns)}")
        numbers = [name for name in ("id", "count") if name in frame.columns]
        if frame["field"].null_count():
            raise ValueError("column field: expected a name in every row")
        for name in numbers:
            if not frame.schema[name].is_integer() or frame[name].null_count():
                raise ValueError(f"column {name}: expected whole numbers, and one in every row")
        return frame.select(pl.col("field").cast(pl.String), *(pl.col(name).cast(pl.Int64) for name in numbers))
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"--counts {path}: expected {WANTED}: {type(error).__name__}: {error}") from error
