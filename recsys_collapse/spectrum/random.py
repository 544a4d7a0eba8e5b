"""What every metric is for a random matrix of the same shape: what "not collapsed" means there.

All metrics are at most min(D, C), and random square matrices are far from flat: a value says nothing without this one.

Shapes: D rows, C columns, n = min(D, C), S draws, G groups of rows of about the same weight.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_collapse.spectrum.metrics import spectrum_metrics
from recsys_collapse.spectrum.singular import singular_spectrum

ENTRIES = ("uniform", "normal")
DRAWN_ROWS = 1000  # up to here whole matrices are drawn: for small ones the distribution of the entries matters
DRAWN_VALUES = 4000  # singular values over all draws; fewer for matrices far from square, whose spectra vary less
WEIGHT_STEP = 1.1  # weights that differ by less are taken for equal


class Reference(NamedTuple):
    """The random matrices a spectrum is compared with.

    Args:
        rows: how many rows count.
        columns: C.
        entries: how the table is initialised, `uniform` or `normal`: 4% in information abundance at 10 x 10.
        centred: the mean row is taken off: the singular values are then those of one row less.
        weights: pairs (row weight, number of rows), see `grouped_weights`; empty: every row counts once.
        eps: relative precision of the table's entries, below which there is no rank (float32: 2^-23).
    """

    rows: int
    columns: int
    entries: str = "uniform"
    centred: bool = False
    weights: tuple[tuple[float, int], ...] = ()
    eps: float = 2**-23


def random_information_abundance(rows: int, columns: int, entries: str = "uniform") -> float:
    """Mean information abundance of random (rows, columns) matrices; NaN without a row."""
    return random_metrics(Reference(rows, columns, entries))["information_abundance"]


def random_metrics(reference: Reference) -> Mapping[str, float]:
    """Mean of every metric over random matrices (of the condition number, which has none if square, the median).

    Up to 1,000 rows, matrices are drawn as tables are initialised. Above, only the triangular factor R of a Gaussian
    one is drawn (Bartlett's decomposition: the same singular values, whatever D is). Fixed seed: the value depends on
    the reference alone. Its standard error without weights is below 0.5% for information abundance (tested). Where
    there are many more rows than columns, three digits of the rows are read: fields of about the same cardinality share
    a value.

    Raises:
        ValueError: an unknown word for the entries.
    """
    return _drawn_metrics(_shared(reference))


def random_spectrum(reference: Reference) -> Tensor:
    """Mean singular spectrum (min(D, C),) of these random matrices, scaled to Frobenius norm 1; of the same draws.

    Raises:
        ValueError: as `random_metrics`.
    """
    return _drawn_spectrum(_shared(reference))


def _shared(reference: Reference) -> Reference:
    """The reference in whose place another one of about the same shape may stand: its values are drawn once."""
    if reference.entries not in ENTRIES:
        raise ValueError(f"entries={reference.entries}: expected one of {', '.join(ENTRIES)}")
    if len(reference.weights) == 1:
        reference = reference._replace(weights=())
    if reference.rows > max(DRAWN_ROWS, 10 * reference.columns) and not reference.weights:
        rows = int(float(f"{reference.rows - reference.centred:.3g}"))  # within 0.1% of the value
        reference = reference._replace(rows=rows, centred=False, entries="normal")
    return reference


@lru_cache(maxsize=16384)
def _drawn_metrics(reference: Reference) -> Mapping[str, float]:
    found = spectrum_metrics(_drawn(reference), eps=reference.eps)
    # A draw without a value (a slope that is too short) has none in any draw.
    middle = {
        name: value_S.median() if name == "condition_number" else value_S.mean() for name, value_S in found.items()
    }
    return MappingProxyType({name: value.item() for name, value in middle.items()})


@lru_cache(maxsize=16384)
def _drawn_spectrum(reference: Reference) -> Tensor:
    sigma_SC = _drawn(reference)
    return (sigma_SC / torch.linalg.vector_norm(sigma_SC, dim=1, keepdim=True)).mean(0)


@lru_cache(maxsize=2)  # metrics and spectrum of a reference are asked for one after the other
def _drawn(reference: Reference) -> Tensor:
    """Singular values of random matrices, (draws, min(D, C))."""
    size = min(reference.rows - reference.centred, reference.columns)
    return _draw(reference, size)[:, :size] if size > 0 else torch.empty(1, 0, dtype=torch.float64)


def _draw(reference: Reference, size: int) -> Tensor:
    """Singular values of random matrices, (draws, at least `size`)."""
    rows, columns, entries, centred, weights, _ = reference
    generator = torch.Generator().manual_seed(0)
    shape_factor = 1.0 if weights else min(1.0, 10 * size / max(rows - centred, columns))
    draws = max(2, math.ceil(shape_factor * DRAWN_VALUES / size))
    if rows > DRAWN_ROWS and weights:
        return singular_spectrum(_weighted_grams(draws, weights, columns, centred, generator))
    if rows > DRAWN_ROWS:
        return singular_spectrum(_random_wishart(draws, rows - centred, columns, generator))
    shape = (draws, rows, columns)
    if entries == "uniform":
        e = torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1
    else:
        e = torch.randn(shape, dtype=torch.float64, generator=generator)
    weight_G, rows_G = torch.tensor(weights or ((1.0, rows),), dtype=torch.float64).T
    weight_D1 = weight_G.repeat_interleave(rows_G.long()).unsqueeze(1)
    if centred:
        e -= (weight_D1 * e).sum(dim=1, keepdim=True) / weight_D1.sum()
    e *= weight_D1.sqrt()
    return singular_spectrum(e @ e.mT if rows < columns else e.mT @ e)


def _random_wishart(draws: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Gram matrices (draws, n, n) of the smaller side, n = min(D, C), of Gaussian (D, C) matrices, as R^T R."""
    large, small = max(rows, columns), min(rows, columns)
    r = torch.randn(draws, small, small, dtype=torch.float64, generator=generator).triu(1)
    # chi^2 with d degrees of freedom is twice a Gamma(d / 2).
    freedom = torch.arange(large, large - small, -1, dtype=torch.float64).expand(draws, small)
    chi = (2 * torch._standard_gamma(freedom / 2, generator=generator)).sqrt()
    r.diagonal(dim1=-2, dim2=-1).copy_(chi)
    return r.mT @ r


def grouped_weights(row_weight_D: Tensor) -> tuple[tuple[float, int], ...]:
    """Weights above 0 in groups that differ by less than 10%: (mean weight, rows of the group), heaviest first."""
    weight_D = row_weight_D[row_weight_D > 0].double().cpu()
    step_D = (weight_D.log() / math.log(WEIGHT_STEP)).floor().long()
    _, group_D, count_G = step_D.unique(return_inverse=True, return_counts=True)
    mean_G = torch.zeros(len(count_G), dtype=torch.float64).index_add_(0, group_D, weight_D) / count_G
    return tuple(zip(reversed(mean_G.tolist()), reversed(count_G.tolist()), strict=True))


def _weighted_grams(
    draws: int, weights: tuple[tuple[float, int], ...], columns: int, centred: bool, generator: torch.Generator
) -> Tensor:
    """Gram matrices (draws, C, C) of Gaussian matrices with weighted rows, without drawing every row.

    The k rows of a group are their mean, Gaussian of variance 1/k, and k - 1 independent ones around it.
    """
    gram_SCC = torch.zeros(draws, columns, columns, dtype=torch.float64)
    for weight, rows in weights:
        if rows - 1 >= columns:
            gram_SCC += weight * _random_wishart(draws, rows - 1, columns, generator)
        elif rows > 1:
            e_SBC = torch.randn(draws, rows - 1, columns, dtype=torch.float64, generator=generator)
            gram_SCC += weight * (e_SBC.mT @ e_SBC)
    weight_G, rows_G = torch.tensor(weights, dtype=torch.float64).T
    mean_SGC = torch.randn(draws, len(weights), columns, dtype=torch.float64, generator=generator)
    mean_SGC /= rows_G.sqrt().unsqueeze(1)
    mass_G1 = (weight_G * rows_G).unsqueeze(1)
    if centred:
        mean_SGC -= (mass_G1 * mean_SGC).sum(1, keepdim=True) / mass_G1.sum()
    return gram_SCC + mean_SGC.mT @ (mass_G1 * mean_SGC)
