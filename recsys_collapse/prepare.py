"""The command: `python -m recsys_collapse.prepare dataset=... key=value ...`.

Prepares the data of a command line as `recsys_collapse.run` would, and shows what is in it: the statistics of the
paper's Table 2, every field, what differs from published numbers, and a plot of the cardinalities.
"""

import json
import logging
import math
import sys
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from rich.console import Console

from recsys_collapse.config import config_dir, plain, register, validate
from recsys_collapse.launch.plan import compose_jobs

if TYPE_CHECKING:
    from recsys_collapse.dataset.store import Store

register()
MOST_ROWS = 1_000_000  # that a best AUC is computed on: sorting takes memory


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def main() -> int:
    """Prepare; 0 if all data is ready, 2 if the command or some data is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        configs = compose_jobs(sys.argv[1:])
        if configs is None:
            answer()
            return 0
        wanted = {json.dumps([plain(c.dataset), c.split_seed, c.store_dir]): c for c in configs}  # once each
        return max([_try(config) for config in wanted.values()])
    except ValueError as error:
        print(f"recsys_collapse.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; nothing is left of what was not finished.", file=sys.stderr)
        return 130


def _try(config: DictConfig) -> int:
    """Prepare the data of one job of several; what is wrong with it does not stop the others."""
    try:
        validate(config)
        prepare_and_show(config)
    except (ValueError, OSError) as error:
        print(f"recsys_collapse.prepare: {error}", file=sys.stderr)
        return 2
    return 0


def prepare_and_show(config: DictConfig) -> None:
    """Prepare the data of one config and print its report; the report also lies beside the store.

    Raises:
        ValueError: the data cannot be used.
        OSError: something cannot be written.
    """
    from recsys_collapse.data import load_data  # torch takes a second: after what a person may have mistyped
    from recsys_collapse.dataset import report

    source, store = load_data(config)
    manifest, figure = store.manifest(), store.path.with_name(f"{store.path.name}.png")
    console = Console(markup=False) if sys.stdout.isatty() else Console(width=120, markup=False)
    for table in (report.field_table(manifest), report.summary(manifest, source.name)):
        console.print(table)
    for line in report.remarks(manifest, source.published()):
        console.print(line, highlight=False, soft_wrap=True)
    if store.truth is not None:
        for line in truth_lines(store):
            console.print(line, highlight=False, soft_wrap=True)
    console.print(f"store      {store.path}", highlight=False, soft_wrap=True)
    try:
        report.draw_cardinalities(manifest, source.name, figure)
    except OSError as error:  # a finished store may lie where nothing can be written
        console.print(f"no plot    {figure}: {error.strerror}", highlight=False, soft_wrap=True)
    else:
        console.print(f"plot       {figure}", highlight=False, soft_wrap=True)


def truth_lines(store: "Store") -> list[str]:
    """What was planted, and whether base rate and best possible AUC came out as asked for, with 95% intervals."""
    from recsys_collapse.score import score
    from recsys_collapse.stats import hanley_mcneil

    assert store.truth is not None
    answer = store.manifest()["answer"]
    row_n = store.splits["test"][:MOST_ROWS]
    label_n = store.labels.index_select(0, row_n)
    found = score(store.truth.index_select(0, row_n)[:, 0], label_n)
    rate, rows = label_n.double().mean().item(), len(row_n)
    error = 1.96 * math.sqrt(rate * (1 - rate) / rows)
    lines = [f"pattern {p + 1}  {' '.join(fields)}" for p, fields in enumerate(answer.get("pattern_fields", []))]
    lines += [f"no effect  {' '.join(names)}"] if (names := answer.get("spurious")) else []
    asked = {key: f"; asked for {answer[key]}" if key in answer else "" for key in ("base_rate", "bayes_auc")}
    lines += [f"base rate  {rate:.4f} +-{error:.4f} on {rows:,} test rows{asked['base_rate']}"]
    if found.auc is not None:
        error = 1.96 * hanley_mcneil(found.auc, int(label_n.sum()), rows)
        lines += [f"best AUC   {found.auc:.4f} +-{error:.4f}{asked['bayes_auc']}; log-loss {found.logloss:.4f}"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
