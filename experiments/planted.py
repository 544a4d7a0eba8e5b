"""What synthetic data shows: whether it is as asked for, and SE against ME where the answer is known.

    python -m experiments.planted [--output-dir outputs] [--dataset mini] [--data-seeds 5]

First, over several data seeds: base rate and best possible AUC that came out, against those asked for, and planted
ranks as recovered from the latents. Then, of all finished runs on the data set in the output directory (such as
those of `experiment=planted`): validation AUC, regret and IA relative to random, with 95% intervals over training
seeds, and ME minus SE at the same scale, paired by seed: what another seed may give on these rows, not on others.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys_collapse.build import build
from recsys_collapse.dataset.planted import BLOCK, Planted
from recsys_collapse.dataset.synthetic import Synthetic
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.runs.cells import Cell, cells
from recsys_collapse.runs.table import relative_abundance, scan
from recsys_collapse.score import score
from recsys_collapse.stats import student
from recsys_collapse.truth import expected_auc

console = Console(width=150)


def calibration(name: str, seeds: range, rows: int) -> Table:
    """One row per data seed, on this many test rows, and the mean with its interval."""
    import torch

    table = Table(
        title=f"{name}: as asked for? {rows:,} test rows; last row: mean with its 95% interval over data seeds"
    )
    for header in ("data seed", "base rate", "AUC of the true logit", "expected AUC", "fields of full planted rank"):
        table.add_column(header, justify="right")
    found: list[tuple[float, float, float]] = []
    words = [f"dataset={name}", f"dataset.test_rows={rows}", f"dataset.data_seed={','.join(map(str, seeds))}"]
    configs = compose_jobs(["-m", *words]) or []
    asked = configs[0].dataset
    for seed, config in zip(seeds, configs, strict=True):
        source: Synthetic = build(config.dataset, "dataset")
        sizes = [min(BLOCK, rows - start) for start in range(0, rows, BLOCK)]
        blocks = [source.block("test", number, size) for number, size in enumerate(sizes)]
        label_n = torch.from_numpy(np.concatenate([block.labels for block in blocks]))
        truths = [block.truth["logit"].to_numpy() for block in blocks if block.truth is not None]
        logit_n = torch.from_numpy(np.concatenate(truths))
        auc = score(logit_n, label_n).auc
        assert auc is not None
        found.append((label_n.double().mean().item(), auc, expected_auc(logit_n, logit_n)))
        table.add_row(str(seed), *(f"{value:.5f}" for value in found[-1]), full_rank(source.planted))
    table.add_section()
    means = [student(column) for column in zip(*found, strict=True)]
    table.add_row("mean", *(mean.text(5) for mean in means), "")
    table.add_row("asked for", f"{asked.base_rate}", f"{asked.bayes_auc}", f"{asked.bayes_auc}", "")
    return table


def full_rank(planted: Planted) -> str:
    """How many fields have the rank that theory says: min(D - 1, r times the number of their patterns)."""
    options, ranks = planted.options, planted.field_ranks()
    patterns = [sum(i in pattern.fields_S for pattern in planted.patterns) for i in range(len(ranks))]
    right = [
        found == min(size - 1, options.rank * number)
        for found, size, number in zip(ranks, planted.cardinalities, patterns, strict=True)
    ]
    return f"{sum(right)} of {len(right)}"


Found = dict[Cell, dict[int, dict[str, Any]]]


def finished(output_dir: Path, dataset: str) -> Found:
    """Finished runs of a data set by cell (runs that differ in their seed only) and seed."""
    known = [result for result in scan(output_dir) if result["dataset"] == dataset and "truth" in result]
    found = {cell: {run["seed"]: run for run in runs} for cell, runs in cells(known).items()} if known else {}
    return dict(sorted(found.items(), key=lambda item: -int(about(*item)[0])))  # data with most patterns first


def about(cell: Cell, runs: dict[int, dict[str, Any]]) -> tuple[str, str]:
    """How many patterns are planted, and what else tells the cell apart (the data's hash does not tell a person)."""
    learned = next(iter(runs.values()))["truth"]["test"]["learned"]
    others = [f"{key}={value}" for key, value in cell.other if key != "data"]
    scale = [] if cell.label == "base" else [f"{cell.scale}x"]
    return str(sum(name.startswith("pattern") for name in learned)), " ".join([cell.label, *scale, *others])


MEASURES = {
    "validation AUC": (lambda run: run["val_auc"], 5),
    "test AUC below best": (lambda run: run["truth"]["test"]["auc_regret"], 5),
    "test regret": (lambda run: run["truth"]["test"]["regret"], 5),
    "IA/random, whole": (lambda run: relative_abundance(run)["ia_relative"], 3),
    "IA/random, per set": (lambda run: relative_abundance(run)["ia_relative_per_set"], 3),
}


def comparison(found: Found) -> Table:
    """Every cell, and under each ME what it adds to SE of the same scale, paired by seed."""
    table = Table(
        title="mean with its 95% interval over training seeds",
        caption="*: 0 is outside the interval of a difference, each on its own: of 20 that are 0, one has a *",
    )
    for header in ("patterns", "model", "", "n", *MEASURES):
        table.add_column(header, justify="left" if header in ("model", "") else "right")
    for cell, runs in found.items():
        patterns, label = about(cell, runs)
        values = [(student([measure(run) for run in runs.values()]), digits) for measure, digits in MEASURES.values()]
        table.add_row(patterns, cell.model, label, str(len(runs)), *(one.text(digits) for one, digits in values))
        single = found.get(cell._replace(embed="se"), {})
        if cell.embed == "me" and (seeds := sorted({*runs} & {*single})):
            differences = [
                (student([measure(runs[seed]) - measure(single[seed]) for seed in seeds]), digits)
                for measure, digits in MEASURES.values()
            ]
            texts = [one.text(digits) + (" *" if one.is_significant else "") for one, digits in differences]
            table.add_row(patterns, cell.model, f"ME - SE {cell.scale}x", str(len(seeds)), *texts)
            table.add_section()
    return table


def learned(found: Found) -> Table:
    """R^2 of every component of the true logit in the model's, on the test rows."""
    table = Table(title="R2 of every component in the model's logit, mean over training seeds; 1: as in the true logit")
    tests = {cell: [run["truth"]["test"]["learned"] for run in runs.values()] for cell, runs in found.items()}
    names = list(dict.fromkeys(name for own in tests.values() for name in own[0]))
    for header in ("patterns", "model", "", *names):
        table.add_column(header, justify="left" if header in ("model", "") else "right")
    for cell, own in tests.items():
        means = [statistics.fmean([test[name]["r2"] for test in own]) if name in own[0] else None for name in names]
        texts = ["" if mean is None else f"{mean:.3f}" for mean in means]
        patterns, label = about(cell, found[cell])
        table.add_row(patterns, cell.model, label, *texts)
    return table


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.planted", description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where the runs are (outputs)")
    parser.add_argument("--dataset", default="mini", help="a preset of conf/dataset (mini)")
    parser.add_argument("--data-seeds", type=int, default=5, help="how many, for the calibration (5)")
    parser.add_argument("--rows", type=int, default=200_000, help="test rows for the calibration (200000)")
    options = parser.parse_args()
    console.print(calibration(options.dataset, range(options.data_seeds), options.rows))
    found = finished(options.output_dir, options.dataset)
    if not found:
        console.print(f"no finished runs on {options.dataset} in {options.output_dir}: run -m experiment=planted first")
        return
    console.print(comparison(found))
    console.print(learned(found))


if __name__ == "__main__":
    main()
