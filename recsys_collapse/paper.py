"""The AUCs that the paper reports, and whether runs reach them.

`paper_auc.csv`: arXiv 2310.04400, Tables 3 (Criteo) and 4 (Avazu), "Here we present detailed experimental results with
estimated standard deviation": test AUC, mean and standard deviation of 3 runs that differ in their initialisation, on
one split. At scale 1, SE and ME are the same model, the paper's "base".
"""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from recsys_collapse.stats import Interval, student

RUNS = 3  # behind each of the paper's means
LEVEL = 0.001  # of AUC: what the paper, with its field, calls significant
REACHED, WITHIN, NOT_REACHED, OPEN = "reached", "within 0.001", "not reached", "not decidable"


class PaperAUC(NamedTuple):
    """A cell of the paper's tables: mean and standard deviation of the test AUC, in (0, 1), over `n` runs."""

    mean: float
    sd: float
    n: int = RUNS


@cache
def paper_auc() -> pl.DataFrame:
    """All 106 cells: `dataset`, `model`, `embed` (base, se, me), `scale`, `test_auc`, `std`."""
    return pl.read_csv(Path(__file__).with_name("paper_auc.csv"), comment_prefix="#")


def paper_cell(dataset: str, model: str, embed: str, scale: int) -> PaperAUC | None:
    """What the paper has for `criteo` or `avazu`; None if it has nothing. At scale 1, `embed` does not matter."""
    wanted = {"dataset": dataset, "model": model, "embed": "base" if scale == 1 else embed, "scale": scale}
    found = paper_auc().filter(**wanted)
    return None if found.is_empty() else PaperAUC(found["test_auc"].item(), found["std"].item())


def reached(values_by_seed: Mapping[int, float], cell: PaperAUC) -> tuple[Interval, str]:
    """Whether runs are as good as the paper's: ours - the paper's with Welch's 95% interval, and the verdict.

    - `reached`: our mean is not below the paper's.
    - `not reached`: our mean is significantly below the paper's, by however little: the paper's own effects are smaller
      than 0.001.
    - `within 0.001`: below, not significantly, and the interval rules out that we are worse by 0.001 or more.
    - `not decidable`: all else, and a single seed.

    The interval is about other initialisations on these rows. It assumes the paper's split, which `dataset=criteo` and
    `avazu` draw; over other test rows of the same number, an AUC alone is uncertain by ±0.0005 (Avazu: ±0.0007).

    Args:
        values_by_seed: test AUC of each seed.
        cell: the paper's.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    difference = _welch(values_by_seed, cell)
    if difference.low is None or difference.high is None:
        return difference, OPEN
    if difference.estimate >= 0:
        return difference, REACHED
    if difference.high < 0:
        return difference, NOT_REACHED
    return difference, WITHIN if difference.low > -LEVEL else OPEN


def _welch(values_by_seed: Mapping[int, float], cell: PaperAUC) -> Interval:
    """Ours - the paper's: Welch's standard error, and the degrees of freedom of Welch and Satterthwaite."""
    ours = student(list(values_by_seed.values()))
    estimate = ours.estimate - cell.mean
    if ours.standard_error is None:
        return Interval(estimate, None)
    own, other = ours.standard_error**2, cell.sd**2 / cell.n
    total, spread = own + other, own**2 / ours.df + other**2 / (cell.n - 1)
    return Interval(estimate, math.sqrt(total), total**2 / spread if spread else math.inf)
