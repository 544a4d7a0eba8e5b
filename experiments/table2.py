"""Table 2: the statistics of data sets, with what is published about them beside.

    python -m experiments.table2 dataset=criteo dataset.path=train.txt [key=value ...]

Prepares the data and needs no runs, so there is no conf/experiment/table2.yaml. `dataset=mini,tiny` makes one table for
each. Files: `<output_dir>/paper/<dataset>/table2.csv` and `.json`.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig
from rich.table import Table

from experiments.output import Output
from experiments.words import Words, parse, said
from recsys_collapse.config import plain, validate
from recsys_collapse.data import load_data
from recsys_collapse.dataset.report import differences, statistics
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.run import guarded

COLUMNS = {"rows": "#Instances", "fields": "#Fields", "sum": "sum of D_i", "max": "max D_i", "min": "min D_i"}
MILLION = 1e6


def data_sets(words: Words) -> list[DictConfig]:
    """The config of every data set that the words name, each once.

    Raises:
        ValueError: a word is wrong.
    """
    configs = compose_jobs(["-m", *(f"{key}={value}" for key, value in words.items())]) or []
    for config in configs:
        validate(config)
    return list({json.dumps([plain(c.dataset), c.split_seed, c.store_dir]): c for c in configs}.values())


def table2(config: DictConfig, words: Words) -> Output:
    """Prepare one data set, and write its row and the published one.

    Raises:
        ValueError: the data cannot be used.
        OSError: something cannot be written.
    """
    source, store = load_data(config)
    manifest, published = store.manifest(), source.published()
    shown = {"here": {name: f"{count:,}" for name, count in statistics(manifest).items()}}
    counts: dict[str, dict[str, Any]] = {"here": statistics(manifest)}
    if published:
        by = published.get("by", "others")
        shown[by] = published
        counts[by] = {name: number(published[name]) for name in COLUMNS if name in published}
    table = Table("data set", "source", title=f"Table 2: {source.name}")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for who, cells in shown.items():
        table.add_row(source.name, who, *(cells.get(name, "–") for name in COLUMNS))
    rows = [{"dataset": source.name, "source": who, **dict.fromkeys(COLUMNS), **own} for who, own in counts.items()]
    output = Output(Path(config.output_dir) / "paper" / source.name, "table2")
    output.table(table, pl.DataFrame(rows))
    if published:
        output.notes = differences(manifest, published) or [f"{source.name}: as in {published.get('by', 'others')}"]
    about = {"dataset": source.name, "data_fingerprint": store.fingerprint, "statistics": counts}
    output.write(command=said("table2", words), **about, seeds=[], runs=[], run_versions=[])
    return output


def number(text: str) -> int:
    """`1.08M` as 1,080,000: as exact as it is published."""
    return round(float(text[:-1]) * MILLION) if text.endswith("M") else int(text)


def main() -> int:
    """The command; its exit code."""
    argv = sys.argv[1:]
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def work() -> int:
        words = parse(argv)
        for config in data_sets(words):
            table2(config, words)
        return 0

    return guarded("experiments.table2", work)


if __name__ == "__main__":
    sys.exit(main())
