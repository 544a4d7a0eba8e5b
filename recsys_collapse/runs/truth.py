"""The table after a sweep on data whose answer is known: how far from the best possible, and what was learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from recsys_collapse.runs.table import cells, name_of, show, spread

CAPTION = (
    "AUC below best, regret: expected AUC and log-loss (nats) short of the true logit's on the test rows, free of the\n"
    "noise of labels; R2: share of what the other components leave of the model's logit that this one explains\n"
    "(1: as in the true logit); mean and sample sd over n seeds"
)


def truth_table(results: Sequence[dict[str, Any]], title: str) -> Table:
    """One row per cell, for results of one data set that have a `truth`."""
    components = list(results[0]["truth"]["test"]["learned"])
    table = Table(title=title, caption=CAPTION)
    table.add_column("", no_wrap=True)
    for name in ("n", "AUC\nbelow best", "regret", *(f"R2\n{name.replace('_', ' ')}" for name in components)):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, runs in cells(results).items():
        tests = [run["truth"]["test"] for run in runs]
        r2 = (spread([test["learned"][name]["r2"] for test in tests], 3) for name in components)
        below, regret = (spread([test[key] for test in tests], 5) for key in ("auc_regret", "regret"))
        table.add_row(name_of(cell), str(len(runs)), below, regret, *r2)
    return table


def show_truth(results: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write and print a table for every data set whose answer is known; the paths."""
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        if truth := result.get("truth"):
            known.setdefault((result["dataset"], str([*truth["test"]["learned"]])), []).append(result)
    paths = []
    for number, ((dataset, _), own) in enumerate(known.items()):
        test = own[0]["truth"]["test"]
        same = len({run["data_fingerprint"] for run in own}) == 1
        best = f": best possible AUC {spread([test['bayes_auc']], 5)}, log-loss {test['bayes_logloss']:.5f}"
        paths.append(folder / ("truth.txt" if len(known) == 1 else f"truth_{number + 1}.txt"))
        show(truth_table(own, f"{dataset} against the truth{best if same else ''}"), paths[-1])
    return paths
