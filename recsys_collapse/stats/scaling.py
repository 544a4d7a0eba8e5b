"""What grows with the size: AUC per doubling, as a contrast of runs, and the law that the loss follows.

Shapes: C cells (a scale of SE or ME), P points of a curve.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import stdtrit


def slope_weights(cells: Sequence[tuple[int, bool]]) -> dict[str, NDArray[np.float64]]:
    """Weights over cells whose sum with the cells' AUCs is the least-squares slope per doubling of the scale.

    The model is AUC = a + b log2(scale) + c log2(scale) [ME]: both families start at the same scale 1, where SE and
    ME are one run. The weights do not depend on the AUCs, so a slope is a contrast as any other: `auc_contrast`.

    Args:
        cells: (scale, is ME), each once; at scale 1 it does not matter which of the two is said.

    Returns:
        `se` (b) and `me` (b + c), if there are cells of that family above scale 1, and `difference` (c) if there are
        both; each (C,), sum 0.

    Raises:
        ValueError: a scale below 1, a cell twice, or too few cells for the slopes.
    """
    known = [(scale, is_me and scale > 1) for scale, is_me in cells]
    if any(scale < 1 for scale, _ in known) or len(set(known)) < len(known):
        raise ValueError(f"expected different cells (scale 1 or more, is ME), with one base at scale 1: found {known}")
    doublings_C = np.log2([float(scale) for scale, _ in known])
    is_me_C = np.array([is_me for _, is_me in known], dtype=bool)
    columns = {"se": doublings_C * ~is_me_C, "me": doublings_C * is_me_C}
    columns = {name: column_C for name, column_C in columns.items() if column_C.any()}
    design = np.stack([np.ones(len(known)), *columns.values()], axis=1)
    if not columns or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"slopes of {', '.join(columns) or 'anything'} need two scales, and a base: found {known}")
    weights = dict(zip(columns, np.linalg.pinv(design)[1:], strict=True))
    return weights | ({"difference": weights["me"] - weights["se"]} if len(weights) == 2 else {})


ALPHAS = np.geomspace(1e-3, 10, 401)  # below, a power law of any real sizes is a straight line in log(size)
ROUNDING = 1e-12  # relative to the loss: a smaller residual says nothing


class Candidate(NamedTuple):
    """One law, fitted by least squares."""

    parameters: dict[str, float]
    squares: float  # sum of squared residuals
    aicc: float | None  # None where there are too few points for so many parameters


class ScalingFit(NamedTuple):
    """All laws; `best` has the smallest AICc. A difference below 2 decides nothing (Burnham and Anderson, 2002)."""

    best: str
    candidates: dict[str, Candidate]  # "flat", "log-linear", "power law"
    alpha_interval: tuple[float, float] | None  # 95%
    reason: str | None  # why there is no interval


def fit_scaling(size: ArrayLike, loss: ArrayLike, floor: float | None = None) -> ScalingFit:
    """Flat (level), log-linear (level + slope log2 N) or power law (limit + factor N^-alpha, with factor >= 0)?

    Chosen by AICc (Hurvich and Tsai, 1989), which counts the variance as a parameter. The interval of alpha is by
    profile likelihood, with the F quantile for so few points (Bates and Watts, 1988). Five points rarely identify
    limit, factor and alpha together: without an interval, alpha means nothing. Give the floor where it is known.

    Args:
        size: N (P,), above 0, such as parameters or FLOPs; 4 points or more, 3 sizes or more.
        loss: (P,), finite.
        floor: the limit of the power law where it is known, such as the log-loss of the true logits.

    Raises:
        ValueError: sizes or losses are not such.
    """
    size_P, loss_P = np.asarray(size, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if size_P.ndim != 1 or size_P.shape != loss_P.shape or not (np.isfinite(loss_P).all() and (size_P > 0).all()):
        raise ValueError(f"expected sizes above 0 and finite losses, both (P,): found {size_P} and {loss_P}")
    if len(size_P) < 4 or len(np.unique(size_P)) < 3 or not np.isfinite(size_P).all():
        raise ValueError(f"a law needs 4 points and 3 sizes at least: found sizes {size_P}")
    power = _Power(size_P, loss_P, floor)
    alpha, free = power.best_alpha(), 2 if floor is not None else 3
    slope, level = np.polyfit(np.log2(size_P), loss_P, 1)
    mean = loss_P.mean()
    squares = {
        "flat": ((loss_P - mean) ** 2).sum(),
        "log-linear": ((loss_P - level - slope * np.log2(size_P)) ** 2).sum(),
        "power law": power.squares(alpha),
    }
    parameters = {
        "flat": {"level": float(mean)},
        "log-linear": {"level": float(level), "slope": float(slope)},
        "power law": power.parameters(alpha),
    }
    number = {"flat": 1, "log-linear": 2, "power law": free}
    candidates = {
        name: Candidate(parameters[name], float(squares[name]), _aicc(squares[name], number[name], loss_P))
        for name in number
    }
    best = min(number, key=lambda name: math.inf if (aicc := candidates[name].aicc) is None else aicc)
    return ScalingFit(best, candidates, *_alpha_interval(power, alpha, free))


def _aicc(squares: float, parameters: int, loss_P: NDArray[np.float64]) -> float | None:
    points, k = len(loss_P), parameters + 1
    if points - k - 1 <= 0:
        return None
    likelihood = points * math.log(max(squares, _least(loss_P)) / points)
    return float(likelihood + 2 * k + 2 * k * (k + 1) / (points - k - 1))


def _least(loss_P: NDArray[np.float64]) -> float:
    """The sum of squares that rounding alone may leave."""
    return max(len(loss_P) * (ROUNDING * float(np.abs(loss_P).max())) ** 2, 1e-300)


class _Power:
    """The power law for any alpha: limit and factor are then linear, and found exactly."""

    def __init__(self, size_P: NDArray[np.float64], loss_P: NDArray[np.float64], floor: float | None) -> None:
        self.unit = float(np.exp(np.log(size_P).mean()))  # sizes around 1: no power of a large number
        self.size_P, self.loss_P, self.floor = size_P / self.unit, loss_P, floor

    def linear(self, alpha: float) -> tuple[float, float]:
        """Limit and factor; a loss that rises has the factor 0."""
        power_P = self.size_P**-alpha
        if self.floor is not None:
            return self.floor, max(0.0, float(power_P @ (self.loss_P - self.floor) / (power_P @ power_P)))
        centred_P = power_P - power_P.mean()
        factor = max(0.0, float(centred_P @ self.loss_P / (centred_P @ centred_P)))
        return float(self.loss_P.mean() - factor * power_P.mean()), factor

    def squares(self, alpha: float) -> float:
        """Sum of squared residuals."""
        limit, factor = self.linear(alpha)
        return float(((self.loss_P - limit - factor * self.size_P**-alpha) ** 2).sum())

    def best_alpha(self) -> float:
        """By a grid, then between the neighbours of its best point: the squares may have several minima."""
        place = int(np.argmin([self.squares(alpha) for alpha in ALPHAS]))
        around = ALPHAS[max(place - 1, 0)], ALPHAS[min(place + 1, len(ALPHAS) - 1)]
        found = minimize_scalar(self.squares, bounds=around, method="bounded", options={"xatol": 1e-12})
        return float(min(found.x, ALPHAS[place], key=self.squares))

    def parameters(self, alpha: float) -> dict[str, float]:
        """In the unit of the sizes that were given."""
        limit, factor = self.linear(alpha)
        return {"limit": limit, "factor": factor * self.unit**alpha, "alpha": alpha}


def _alpha_interval(power: _Power, alpha: float, free: int) -> tuple[tuple[float, float] | None, str | None]:
    """All alpha whose squares the data do not exclude, or the reason why that is no interval."""
    if power.linear(alpha)[1] == 0:
        return None, "the loss does not fall with the size"
    spare = len(power.loss_P) - free  # 1 or more: 4 points, 3 parameters
    limit = max(power.squares(alpha), _least(power.loss_P)) * (1 + float(stdtrit(spare, 0.975)) ** 2 / spare)
    tried = np.sort(np.append(ALPHAS, alpha))
    (inside,) = np.nonzero([power.squares(one) <= limit for one in tried])
    first, last = int(inside[0]), int(inside[-1])
    if first == 0 or last == len(tried) - 1:
        end = "small" if first == 0 else "large"
        return None, f"the data exclude no {end} alpha: not identified between {ALPHAS[0]:g} and {ALPHAS[-1]:g}"

    def excess(one: float) -> float:
        return power.squares(one) - limit

    low, high = brentq(excess, tried[first - 1], tried[first]), brentq(excess, tried[last], tried[last + 1])
    return (float(low), float(high)), None
