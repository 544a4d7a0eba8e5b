"""The table after a sweep on data whose answer is known: how far from the best possible, and what was learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from recsys_collapse.runs.cells import cells, name_of
from recsys_collapse.runs.table import show, spread

CAPTION = (
    "AUC below best, regret: expected AUC and log-loss (nats) short of the true logit's on the test rows, free of the "
    "noise of labels; R2: share of what the other components leave of the model's logit that this one explains "
    "(1: as in the true logit); mean and sample sd over n seeds"
)


def truth_table(results: Sequence[dict[str, Any]], title: str) -> Table:
    """One row per cell, for results of one data set that have a `truth`; a dash for components that a cell lacks."""
    components = dict.fromkeys(name for result in results for name in result["truth"]["test"]["learned"])
    table = Table(title=title, caption=CAPTION)
    table.add_column("", no_wrap=True)
    for name in ("n", "AUC\nbelow best", "regret", *(f"R2\n{name.replace('_', ' ')}" for name in components)):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, runs in cells(results).items():
        tests = [run["truth"]["test"] for run in runs]
        r2 = (spread([test["learned"].get(name, {}).get("r2") for test in tests], 3) for name in components)
        below, regret = (spread([test[key] for test in tests], 5) for key in ("auc_regret", "regret"))
        table.add_row(name_of(cell), str(len(runs)), below, regret, *r2)
    return table


def show_truth(results: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write and print a table for every data set whose answer is known; the paths."""
    known: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result.get("truth"):
            known.setdefault(result["dataset"], []).append(result)
    paths = []
    for dataset, own in known.items():
        tests = [run["truth"]["test"] for run in own]
        best = f"best possible AUC {spread([tests[0]['bayes_auc']], 5)}, log-loss {tests[0]['bayes_logloss']:.5f}"
        same = len({test["bayes_logloss"] for test in tests}) == 1  # else not all are tested on the same rows
        title = f"{dataset} against the truth{f': {best}' if same else ''}"
        paths.append(folder / ("truth.txt" if len(known) == 1 else f"truth_{dataset}.txt"))
        show(truth_table(own, title), paths[-1])
    return paths
