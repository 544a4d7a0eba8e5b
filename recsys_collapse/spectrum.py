"""Gram matrix -> singular spectrum -> information abundance. Pure torch.

One float64 Gram matrix per field, G_i = E_i^T E_i over the columns of all sets, is all that is read from the table:
its eigenvalues are the squared singular values of the whole, its diagonal blocks belong to the single sets. A float32
Gram loses the small singular values; forming it from float64 rows also keeps TF32 out.

Shapes: D rows of one field, C = M*K columns of all sets, M embedding sets, N fields, K embedding size per set.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS_PER_BLOCK = 65_536  # float64 copy of one block: 52 MB at 100 columns


@torch.no_grad()
def field_grams(weight: Tensor, field_slices: Sequence[slice], rows_D: Tensor | None = None) -> Tensor:
    """Gram matrix of every field, (N, C, C) float64 on the table's device, for a fused table (D, C).

    `rows_D` (D,) bool leaves rows out: a row of zeros adds nothing to a Gram matrix.
    """
    columns = weight.shape[1]
    gram_NCC = torch.zeros(len(field_slices), columns, columns, dtype=torch.float64, device=weight.device)
    for gram_CC, rows in zip(gram_NCC, field_slices, strict=True):
        for start in range(rows.start, rows.stop, ROWS_PER_BLOCK):
            block = slice(start, min(start + ROWS_PER_BLOCK, rows.stop))
            e_DC = weight[block].double()
            if rows_D is not None:
                e_DC = torch.where(rows_D[block].unsqueeze(1), e_DC, 0.0)
            gram_CC.addmm_(e_DC.T, e_DC)
    return gram_NCC


def set_grams(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """The diagonal blocks: Gram matrix of every field in every set, (M, N, K, K), from the whole (N, M*K, M*K)."""
    blocks_NMKMK = gram_NCC.unflatten(2, (num_sets, -1)).unflatten(1, (num_sets, -1))
    return blocks_NMKMK.diagonal(dim1=1, dim2=3).permute(3, 0, 1, 2)


@torch.no_grad()
def singular_spectrum(gram: Tensor, rank: int | None = None) -> Tensor:
    """Singular values of E (D, C), descending, from its Gram matrix (..., C, C) -> (..., C), same device.

    `rank` keeps the first min(D, C) of them: with D < C the others are rounding noise. A Gram matrix with an entry
    that is not finite gives NaN.
    """
    finite = gram.isfinite().all(dim=(-2, -1), keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0))
    sigma = eigenvalues.clamp(min=0).sqrt().flip(-1)[..., :rank]
    return torch.where(finite.squeeze(-1), sigma, torch.nan)


def information_abundance(sigma: Tensor) -> Tensor:
    """IA(E) = sum of the singular values / largest one (paper, Definition 1): (..., C) -> (...), in [1, min(D, C)].

    NaN for an all-zero or empty matrix, where the paper's definition has no value.
    """
    return sigma.sum(-1) / sigma.amax(-1) if sigma.shape[-1] else sigma.new_full(sigma.shape[:-1], torch.nan)


class FieldSpectrum(NamedTuple):
    """What the spectrum of one field says, for all sets side by side (`embedding_set` None) or for one of them."""

    field: int
    embedding_set: int | None
    cardinality: int
    sigma: Tensor
    """Singular values, descending, (min(D, columns),) float64 on the CPU."""
    information_abundance: float
    random: float
    """Mean information abundance of random matrices of this shape; NaN without a row."""


def field_spectra(
    weight: Tensor, field_slices: Sequence[slice], num_sets: int, rows_D: Tensor | None = None
) -> list[FieldSpectrum]:
    """Spectrum of every field of a fused table (D, M*K): whole (D_i, M*K) and, if M > 1, in every set (D_i, K).

    `rows_D` (D,) bool: of these rows only, whose number is then the cardinality. Rows that no training sample has stay
    where the optimizer leaves them, at initialisation or at zero, and say nothing of what was learned.
    """
    gram_NCC = field_grams(weight, field_slices, rows_D)
    spectra: list[tuple[int | None, Tensor]] = [(None, singular_spectrum(gram_NCC).cpu())]
    if num_sets > 1:
        spectra += enumerate(singular_spectrum(set_grams(gram_NCC, num_sets)).cpu())
    found = []
    for embedding_set, sigma_NC in spectra:
        for i, (sigma_C, rows) in enumerate(zip(sigma_NC, field_slices, strict=True)):
            columns = len(sigma_C)
            cardinality = rows.stop - rows.start if rows_D is None else int(rows_D[rows].sum())
            sigma = sigma_C[: min(cardinality, columns)]
            random = random_information_abundance(cardinality, columns)
            found.append(
                FieldSpectrum(i, embedding_set, cardinality, sigma, information_abundance(sigma).item(), random)
            )
    return found


def abundance_of_fields(
    weight: Tensor, field_slices: Sequence[slice], num_sets: int, fields: Sequence[str], seen_D: Tensor
) -> dict[str, dict[str, Any]]:
    """Information abundance by field name, as `result.json` has it; None where there is no value.

    `whole` (all sets side by side), `per_set`, and `random`, `random_per_set` for random matrices of the same shapes;
    `seen`: `rows`, `whole` and `random` of the rows `seen_D` (D,) bool alone, those of ids that training samples have.
    """
    found: dict[str, dict[str, Any]] = {name: {"per_set": []} for name in fields}
    for spectrum in field_spectra(weight, field_slices, num_sets):
        field, value = found[fields[spectrum.field]], _known(spectrum.information_abundance)
        if spectrum.embedding_set is None:
            field |= {"whole": value, "random": spectrum.random, "random_per_set": spectrum.random}
        else:
            field["per_set"].append(value)
            field["random_per_set"] = spectrum.random
    for field in found.values():
        field["per_set"] = field["per_set"] or [field["whole"]]
    for spectrum in field_spectra(weight, field_slices, 1, seen_D.to(weight.device)):
        values = {"whole": _known(spectrum.information_abundance), "random": _known(spectrum.random)}
        found[fields[spectrum.field]]["seen"] = {"rows": spectrum.cardinality, **values}
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean_relative(spectra: Iterable[FieldSpectrum], per_set: bool = False) -> float:
    """Mean over fields of IA / random IA, of the whole or (`per_set`) of the single sets; NaN if no field has one."""
    ratios = [s.information_abundance / s.random for s in spectra if (s.embedding_set is None) != per_set]
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    return sum(ratios) / len(ratios) if ratios else math.nan


@lru_cache(maxsize=4096)
def random_information_abundance(cardinality: int, columns: int) -> float:
    """Mean IA of a random (cardinality, columns) matrix with independent entries: what "not collapsed" means there.

    IA <= min(D, C), so an IA says nothing without it. Up to 1,000 rows, matrices are drawn as the tables are
    initialised (uniform entries: for tiny shapes the distribution matters, 4% at 10 x 10). Above, only the triangular
    factor R of a Gaussian one is drawn (Bartlett's decomposition: the same singular values, whatever D is).
    Fixed seed: the value depends on the shape alone. Its standard error is below 0.5% (tested).
    """
    if cardinality == 0:
        return math.nan
    generator = torch.Generator().manual_seed(0)
    draws = math.ceil(4000 / min(cardinality, columns))
    if cardinality <= 1000:
        e = torch.rand(draws, cardinality, columns, dtype=torch.float64, generator=generator) * 2 - 1
        gram = e @ e.mT if cardinality < columns else e.mT @ e
    else:
        gram = _random_wishart(draws, cardinality, columns, generator)
    return information_abundance(singular_spectrum(gram)).mean().item()


def _random_wishart(draws: int, cardinality: int, columns: int, generator: torch.Generator) -> Tensor:
    """Gram matrices (draws, n, n) of the smaller side, n = min(D, C), of Gaussian (D, C) matrices, as R^T R."""
    large, small = max(cardinality, columns), min(cardinality, columns)
    r = torch.randn(draws, small, small, dtype=torch.float64, generator=generator).triu(1)
    # chi^2 with d degrees of freedom is twice a Gamma(d / 2).
    freedom = torch.arange(large, large - small, -1, dtype=torch.float64).expand(draws, small)
    chi = (2 * torch._standard_gamma(freedom / 2, generator=generator)).sqrt()
    r.diagonal(dim1=-2, dim2=-1).copy_(chi)
    return r.mT @ r
