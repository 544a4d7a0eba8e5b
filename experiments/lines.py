"""Lines over the embedding size: the panels that Figures 1a, 5, 6, 7 and 8d have in common."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.drawing import line_look, scale_axis
from recsys_collapse.stats import student

AUC_LABEL = "test AUC (95% over seeds)"
"""Of an axis: the bars do not cover other test rows, which all points share; the intervals of claims do."""
Line = Mapping[int, Mapping[int, dict[str, Any]]]
"""Results by scale and seed, `Runs.line`."""


def draw_lines(
    axes: Any, lines: Mapping[str, Line], measure: Callable[[dict[str, Any]], float], start: int = 0
) -> None:
    """A line for each, with the 95% interval over seeds; `start` is the number of the first one's colour and marker."""
    scales = sorted({scale for line in lines.values() for scale in line})
    for number, (label, line) in enumerate(lines.items(), start=start):
        own = {scale: student([measure(run) for run in runs.values()]) for scale, runs in line.items()}
        half = [interval.half or 0.0 for interval in own.values()]
        shift = 1 + 0.012 * (number - start)  # error bars beside each other
        axes.errorbar(
            [scale * shift for scale in own], [i.estimate for i in own.values()], half, label=label, **line_look(number)
        )
    scale_axis(axes, scales)
    axes.legend()


def test_auc(run: dict[str, Any]) -> float:
    """Of a run that has one.

    Raises:
        ValueError: it has none.
    """
    if run["test_auc"] is None:
        raise ValueError(f"{run['run_name']}: no test AUC: the test rows have one class only")
    return float(run["test_auc"])
