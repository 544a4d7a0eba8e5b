"""The test AUC in bf16-mixed minus that in float32, over seeds: `python -m experiments.precision outputs`.

Reads what `python -m recsys_collapse.run -m experiment=precision` left; pairs are runs that differ in nothing else.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from recsys_collapse.runs.canonical import digest
from recsys_collapse.runs.identity import flatten
from recsys_collapse.runs.table import scan
from recsys_collapse.stats import Interval, paired

BASE, OTHER = "32-true", "bf16-mixed"


def by_precision(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """What runs have in common but for precision and seed -> precision -> seed -> test AUC."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for result in results:
        own = flatten(result["identity"])
        precision, seed = own.pop("trainer.precision"), own.pop("seed")
        name = f"{result['model']} {result['embed']} {result['scale']}x {result['dataset']} {digest(own)[:6]}"
        if result["test_auc"] is not None:  # test rows of one class
            found.setdefault(name, {}).setdefault(precision, {})[seed] = result["test_auc"]
    return found


def difference(runs: dict[str, dict[int, float]]) -> Interval | None:
    """Of the seeds that both have; None where there are fewer than two."""
    base, other = runs.get(BASE, {}), runs.get(OTHER, {})
    common = base.keys() & other.keys()
    return paired({s: other[s] for s in common}, {s: base[s] for s in common}) if len(common) > 1 else None


def words(interval: Interval) -> str:
    """`+1.2e-04 (95%: -3.0e-04 to +5.4e-04, 8 seeds; not significant)`."""
    assert interval.low is not None and interval.high is not None  # of two seeds or more
    doubt = "; not significant" if interval.low <= 0 <= interval.high else ""
    seeds = f"{interval.df + 1:.0f} seeds"
    return f"{interval.estimate:+.1e} (95%: {interval.low:+.1e} to {interval.high:+.1e}, {seeds}{doubt})"


def main(arguments: list[str] | None = None) -> int:
    """Print a line for every model; 1 if no two runs can be compared, else 0."""
    parser = argparse.ArgumentParser(prog="experiments.precision", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("outputs"), help="of the runs (outputs)")
    options = parser.parse_args(arguments)
    lines = 0
    for name, runs in sorted(by_precision(scan(options.output_dir)).items()):
        interval = difference(runs)
        if interval is not None:
            lines += 1
            print(f"{name}: test AUC {OTHER} - {BASE}: {words(interval)}")
    if not lines:
        print(
            f"{options.output_dir}/runs: no two seeds were trained in both {BASE} and {OTHER}: run "
            "python -m recsys_collapse.run -m experiment=precision",
            file=sys.stderr,
        )
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main())
