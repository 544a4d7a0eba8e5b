"""Tables made from finished runs: one row per run for machines, one per model x embed x scale for people.

Everything here is derived from the runs' `result.json` and can be rebuilt at any time.
"""

import csv
import io
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from recsys_collapse.runs.cells import cells
from recsys_collapse.runs.durable import exclusive, write_parquet, write_text
from recsys_collapse.runs.records import damage, read_result

log = logging.getLogger(__name__)
SCALARS = (
    "run_id", "run_name", "sweep", "model", "embed", "scale", "num_sets", "embed_size", "dataset", "data_fingerprint",
    "seed", "split_seed", "optimizer", "regularizer", "protocol", "init", "match", "val_auc", "test_auc",
    "val_logloss", "test_logloss", "best_epoch", "num_epochs", "evaluations_per_epoch", "flops_per_sample",
    "wall_seconds", "samples_per_second", "code_version",
)  # fmt: skip
TRUTH = ("test_bayes_auc", "test_bayes_logloss", "test_regret", "test_auc_regret")
CAPTION = (
    "mean and sample sd over n seeds; IA/random: mean over fields of information abundance relative to random\n"
    "matrices of the same shape, whole: all sets side by side (D x MK), seen rows: of ids that training samples have,\n"
    "per set: each set on its own (D x K)"
)
WIDE_ONLY = (
    "IA/random\nseen rows", "test logloss", "val AUC", "embedding\nparameters", "dense\nparameters", "best\nepoch",
)  # fmt: skip


def scan(output_dir: Path) -> list[dict[str, Any]]:
    """Results of all finished runs, by name; a result that cannot be trusted is left out, and named."""
    found = []
    for path in sorted((output_dir / "runs").glob("*/result.json")):
        if (result := read_result(path.parent)) is not None:
            found.append(result)
        elif wrong := damage(path.parent):
            log.warning(f"left out of the results: {wrong}")
    return found


def rebuild(output_dir: Path, file_locks: bool = True) -> bool:
    """Write `results.parquet` and `results.csv` anew from the finished runs; whether no result had to be left out."""
    import polars as pl

    if not (output_dir / "runs").is_dir():
        return True
    with exclusive(output_dir / ".results.lock", "writes the results", enabled=file_locks):  # the last one scans last
        rows = [row for result in scan(output_dir) if (row := _row_of(result)) is not None]
        complete = len(rows) == len(list((output_dir / "runs").glob("*/result.json")))
        if not rows:
            return complete
        known = dict.fromkeys(TRUTH, pl.Float64)  # also where no run knows it
        write_parquet(
            output_dir / "results.parquet", pl.DataFrame(rows, schema_overrides=known, infer_schema_length=None)
        )
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
        write_text(output_dir / "results.csv", text.getvalue())
    return complete


def _row_of(result: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return _row(result)
    except (TypeError, KeyError, AttributeError, ValueError, ZeroDivisionError) as error:  # not written by us
        log.warning(f"left out of the results: {result['run_name']}: {type(error).__name__}: {error}")
        return None


def _harmless(value: Any) -> Any:
    """Results may come from somebody else: a text that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _row(result: dict[str, Any]) -> dict[str, Any]:
    parameters = {f"{part}_parameters": count for part, count in result["parameters"].items()}
    truth = result.get("truth", {}).get("test", {})  # null where the answer is not known
    known = {name: truth.get(name.removeprefix("test_")) for name in TRUTH}
    return {name: result.get(name) for name in SCALARS} | parameters | relative_abundance(result) | known


def relative_abundance(result: dict[str, Any]) -> dict[str, float | None]:
    """Mean over fields of IA / random IA: `ia_relative` of the whole (D x MK), `ia_relative_per_set` (D x K).

    `ia_relative_seen`: of the whole, rows of ids that training samples have only.
    """
    fields = result["information_abundance"].values()
    whole = [f["whole"] / f["random"] for f in fields if f["whole"] is not None]
    rows = [f["seen"] for f in fields if "seen" in f]
    seen = [f["whole"] / f["random"] for f in rows if f["whole"] is not None and f["random"] is not None]
    per_set = [ia / f["random_per_set"] for f in fields for ia in f["per_set"] if ia is not None]
    return {
        "ia_relative": statistics.fmean(whole) if whole else None,
        "ia_relative_seen": statistics.fmean(seen) if seen else None,
        "ia_relative_per_set": statistics.fmean(per_set) if per_set else None,
    }


def _headers(keys: Sequence[str]) -> list[str]:
    """The last words of dotted keys, as many as tell them apart."""
    found = []
    for key in keys:
        words = key.split(".")
        length = next(n for n in range(1, len(words) + 1) if _alone(words[-n:], key, keys))
        found.append(".".join(words[-length:]))
    return found


def _alone(ending: list[str], key: str, keys: Sequence[str]) -> bool:
    return not any(other != key and other.split(".")[-len(ending) :] == ending for other in keys)


def sweep_table(results: Sequence[dict[str, Any]], title: str) -> Table:
    """The comparison of single- and multi-embedding at each scale; mean and sd over n seeds."""
    grouped = cells(results)
    many = len({cell.dataset for cell in grouped}) > 1
    other = _headers([key for key, _ in next(iter(grouped)).other])
    table = Table(title=title, caption=CAPTION)
    texts = [*(["dataset"] if many else []), "model", "scale", "embed", *other]
    numbers = ("n", "test AUC", "test logloss", "val AUC",
               "IA/random\nwhole", "IA/random\nseen rows", "IA/random\nper set",
               "embedding\nparameters", "dense\nparameters", "best\nepoch", "seconds")  # fmt: skip
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for cell, runs in grouped.items():
        if previous not in (None, cell[:2]):
            table.add_section()
        previous = cell[:2]
        names = [
            *([cell.dataset] if many else []),
            cell.model,
            f"{cell.scale}x",
            cell.label,
            *(v for _, v in cell.other),
        ]
        table.add_row(*names, *_numbers(runs))
    return table


def _numbers(runs: Sequence[dict[str, Any]]) -> list[str]:
    relative = [relative_abundance(run) for run in runs]
    return [
        str(len(runs)),
        spread([run["test_auc"] for run in runs], 5),
        spread([run["test_logloss"] for run in runs], 5),
        spread([run["val_auc"] for run in runs], 5),
        spread([r["ia_relative"] for r in relative], 3),
        spread([r["ia_relative_seen"] for r in relative], 3),
        spread([r["ia_relative_per_set"] for r in relative], 3),
        f"{runs[0]['parameters']['embedding']:,}",
        f"{runs[0]['parameters']['dense']:,}",
        ",".join(str(run["best_epoch"]) for run in runs),
        spread([run["wall_seconds"] for run in runs], 1),
    ]


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean, and with several values the sample standard deviation; a dash where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ±{statistics.stdev(known):.{digits}f}"


def show(table: Table, path: Path, aloud: bool = True) -> None:
    """Print the table (`aloud`), and keep it as text at `path`."""
    unlimited = Console(width=10_000, file=io.StringIO())
    width = Measurement.get(unlimited, unlimited.options, table).maximum
    wide = Console(width=width, record=True, file=io.StringIO())
    wide.print(table)
    write_text(path, wide.export_text())
    if not aloud:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=width)  # a log file has no width; do not cut numbers
    elif width > console.width:
        table.columns = [column for column in table.columns if column.header not in WIDE_ONLY]
        table.caption = f"all columns: {path}"
    console.print(table)
