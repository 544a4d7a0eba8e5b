"""The table of fields after a sweep: information abundance of every field at each run's best epoch, cell by cell.

Derived from the runs' `collapse.parquet` (schema: `measure.COLLAPSE`), so it can be made again at any time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from recsys_collapse.runs.cells import cells, name_of
from recsys_collapse.runs.durable import write_parquet
from recsys_collapse.runs.table import show, spread

METRIC = "information_abundance"
SHOWN_CELLS = 8  # more stand in the files only


def field_frame(results: Sequence[dict[str, Any]], output_dir: Path) -> pl.DataFrame:
    """Every metric of every field at each run's best epoch: cell (`model SE 10x`), seed, the file's columns, relative.

    Empty if no run measured spectra.
    """
    frames = [pl.DataFrame()]
    for cell, runs in cells(results).items():
        for run in runs:
            path = output_dir / "runs" / run["run_name"] / "collapse.parquet"
            if path.is_file():
                found = pl.read_parquet(path).filter(pl.col("epoch") == run["best_epoch"])
                own = {"dataset": run["dataset"], "cell": name_of(cell), "seed": run["seed"]}
                frames.append(found.select(*(pl.lit(value).alias(key) for key, value in own.items()), pl.all()))
    frame = pl.concat(frames, how="diagonal")  # an older file may lack a column
    return frame.with_columns(relative=pl.col("value") / pl.col("random_value")) if len(frame) else frame


def field_table(frame: pl.DataFrame, variant: str = "") -> Table:
    """One row per field, IA / random IA per cell: of all sets side by side, and the mean of single sets.

    `variant`: after the `@` of the metric; empty for all rows as they are.
    """
    metric = f"{METRIC}@{variant}" if variant else METRIC
    own = frame.filter(pl.col("metric") == metric)
    datasets = ", ".join(own["dataset"].unique(maintain_order=True))
    title = f"IA/random by field of {datasets}, {variant or 'all rows'}, best epoch"
    caption = (
        "per set: mean over the embedding sets; mean and sample sd over seeds; n: runs, where not all measured this"
    )
    table = Table(title=title, caption=caption)
    table.add_column("field")
    table.add_column("rows", justify="right")
    columns = [
        (cell, per_set)
        for cell in frame["cell"].unique(maintain_order=True)
        for per_set in (False, True)
        if not per_set or own.filter(pl.col("cell") == cell)["embedding_set"].is_not_null().any()
    ]
    for cell, per_set in columns:
        measured, runs = (part.filter(pl.col("cell") == cell)["seed"].n_unique() for part in (own, frame))
        few = f", n={measured}" if measured < runs else ""
        table.add_column(f"{cell}\n{'per set' if per_set else 'whole'}{few}", justify="right")
    for (field,), group in own.group_by("field", maintain_order=True):
        rows = group["cardinality"].to_list()[0]
        values = [_relative(group.filter(pl.col("cell") == cell), per_set) for cell, per_set in columns]
        table.add_row(str(field), f"{rows:,}", *(spread(value, 3) for value in values))
    means = [_relative(own.filter(pl.col("cell") == cell), per_set) for cell, per_set in columns]
    table.add_section()
    table.add_row("mean", "", *(spread(value, 3) for value in means))
    return table


def _relative(group: pl.DataFrame, per_set: bool) -> list[float]:
    """IA / random IA per seed, averaged over what else the group holds; values that are null are left out."""
    chosen = pl.col("embedding_set").is_not_null() if per_set else pl.col("embedding_set").is_null()
    by_seed = group.filter(chosen).drop_nulls("relative").group_by("seed", maintain_order=True)
    return by_seed.agg(pl.col("relative").mean())["relative"].to_list()


def show_fields(results: Sequence[dict[str, Any]], output_dir: Path, folder: Path) -> list[Path]:
    """Write `fields.parquet` and a table per variant into the sweep's folder, and print that of all rows as they are.

    Returns the paths; empty if no run measured spectra.
    """
    frame = field_frame(results, output_dir)
    if not len(frame):
        return []
    write_parquet(folder / "fields.parquet", frame)
    paths = [folder / "fields.parquet"]
    for (dataset,), own in frame.group_by("dataset", maintain_order=True):
        for metric in sorted(own["metric"].unique()):
            name, _, variant = metric.partition("@")
            if name == METRIC:
                words = ["fields", *([str(dataset)] if frame["dataset"].n_unique() > 1 else []), *variant.split("+")]
                paths.append(folder / f"{'_'.join(filter(None, words)).replace(':', '')}.txt")
                few = own["cell"].n_unique() <= SHOWN_CELLS
                show(field_table(own, variant), paths[-1], aloud=few and not variant)
    return paths
