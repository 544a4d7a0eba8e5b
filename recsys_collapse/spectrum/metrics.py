"""How many dimensions does a spectrum use? One family of answers, and the shape of its tail.

Most are Renyi effective numbers (of order a) of weights proportional to sigma^b: information abundance is (inf, 1),
effective rank (1, 1), stable rank (inf, 2), participation ratio (2, 2), covariance effective rank (1, 2), rank
(0, any). Hence

    1 <= stable rank <= information abundance <= effective rank <= rank <= min(D, C),
         stable rank <= participation ratio <= covariance effective rank <= effective rank,

where each grows if the spectrum becomes flatter, all equal r for r equal singular values, and none depends on scale or
rotation. Information abundance and participation ratio are not ordered.

Shapes: S spectra, C columns; sigma_SC is descending, and zero from `size_S` = min(D, C) on.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

RANKME_EPS = 1e-7
SLOPE_FROM, SLOPE_SIZE = 2, 16  # first index, and the shortest spectrum, of which a slope is taken


def information_abundance(sigma: Tensor) -> Tensor:
    """IA(E) = sum of the singular values / largest one (paper, Definition 1): (..., C) -> (...), in [1, min(D, C)].

    NaN for an all-zero or empty matrix, where the paper's definition has no value.
    """
    return sigma.sum(-1) / sigma.amax(-1) if sigma.shape[-1] else sigma.new_full(sigma.shape[:-1], torch.nan)


def _effective_number(weight: Tensor) -> Tensor:
    """Exponential of the Shannon entropy of weights that are normalised first; zeros add nothing."""
    share = weight / weight.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def effective_rank(sigma: Tensor) -> Tensor:
    """exp(entropy of sigma / sum sigma), in [1, min(D, C)] (Roy and Vetterli, 2007): (..., C) -> (...)."""
    return _effective_number(sigma)


def covariance_effective_rank(sigma: Tensor) -> Tensor:
    """exp(entropy of sigma^2 / sum sigma^2), in [1, min(D, C)]: that of the Gram matrix. (..., C) -> (...)."""
    return _effective_number(sigma.square())


def stable_rank(sigma: Tensor) -> Tensor:
    """||E||_F^2 / ||E||_2^2, in [1, min(D, C)] (Rudelson and Vershynin, 2007): (..., C) -> (...)."""
    return information_abundance(sigma.square())


def participation_ratio(sigma: Tensor) -> Tensor:
    """(sum lambda)^2 / sum lambda^2 of lambda = sigma^2, in [1, min(D, C)]: (..., C) -> (...)."""
    share = sigma.square() / sigma.square().sum(-1, keepdim=True)
    return 1 / share.square().sum(-1)


def rank_me(sigma_SC: Tensor, size_S: Tensor) -> Tensor:
    """Effective rank with 1e-7 added to every share (Garrido et al., 2023), in about [1, min(D, C)]: (S, C) -> (S,)."""
    share = sigma_SC / sigma_SC.sum(-1, keepdim=True) + RANKME_EPS
    return torch.where(_inside(sigma_SC, size_S), torch.special.entr(share), 0.0).sum(-1).exp()


def numerical_rank(sigma: Tensor, floor: Tensor) -> Tensor:
    """Singular values above a floor (...), in [0, min(D, C)]: (..., C) -> (...).

    The floor is eps ||E||_F of the table as it is stored, before centring: rounding every entry to a relative eps moves
    no singular value by more (Weyl's inequality), so that what is below may be mere rounding. The usual threshold
    max(D, C) * eps * sigma_1 assumes the worst case of an algorithm; with 10^6 float32 rows it would take everything
    below a tenth of sigma_1 for rounding.
    """
    return (sigma > floor.unsqueeze(-1)).sum(-1).double()


def condition_number(sigma_SC: Tensor, size_S: Tensor, floor_S: Tensor) -> Tensor:
    """sigma_1 / sigma_min(D, C), at least 1; inf where the last one is not above the floor: (S, C) -> (S,)."""
    last_S = sigma_SC.gather(-1, (size_S - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(last_S > floor_S, sigma_SC[:, 0] / last_S, torch.inf)


def energy_rank(sigma: Tensor, share: float) -> Tensor:
    """Fewest singular values that hold a `share` of the energy sum sigma^2, in [1, min(D, C)]: (..., C) -> (...)."""
    energy = sigma.square().cumsum(-1)
    missing = energy < (share - 1e-12) * energy[..., -1:]  # 9 of 10 equal ones do hold 90%
    return missing.sum(-1).double() + 1


def spectrum_slope(sigma_SC: Tensor, size_S: Tensor) -> Tensor:
    """-d log(sigma_k^2) / d log k, least squares over k = 2 .. r/2 of r = min(D, C): 0 is flat. (S, C) -> (S,).

    The exponent of a power law (Agrawal et al., 2022, alpha-ReQ). NaN if r < 16 or a singular value in the window is 0.
    """
    k_C = torch.arange(1, sigma_SC.shape[1] + 1, dtype=sigma_SC.dtype, device=sigma_SC.device)
    window_SC = (k_C >= SLOPE_FROM) & (k_C <= (size_S // 2).unsqueeze(1))
    count_S1 = window_SC.sum(1, keepdim=True)
    x_SC = torch.where(window_SC, k_C.log(), 0.0)
    y_SC = torch.where(window_SC, 2 * sigma_SC.log(), 0.0)
    x_SC = torch.where(window_SC, x_SC - x_SC.sum(1, keepdim=True) / count_S1, 0.0)
    slope_S = (x_SC * y_SC).sum(1) / x_SC.square().sum(1)
    return torch.where((size_S >= SLOPE_SIZE) & slope_S.isfinite(), -slope_S, torch.nan)


def _inside(sigma_SC: Tensor, size_S: Tensor) -> Tensor:
    return torch.arange(sigma_SC.shape[1], device=sigma_SC.device) < size_S.unsqueeze(1)


class Padded(NamedTuple):
    """Spectra of different lengths beside each other, and below what they may be rounding."""

    sigma_SC: Tensor
    size_S: Tensor
    floor_S: Tensor


METRICS: dict[str, Callable[[Padded], Tensor]] = {
    "information_abundance": lambda s: information_abundance(s.sigma_SC),
    "effective_rank": lambda s: effective_rank(s.sigma_SC),
    "rank_me": lambda s: rank_me(s.sigma_SC, s.size_S),
    "stable_rank": lambda s: stable_rank(s.sigma_SC),
    "participation_ratio": lambda s: participation_ratio(s.sigma_SC),
    "covariance_effective_rank": lambda s: covariance_effective_rank(s.sigma_SC),
    "numerical_rank": lambda s: numerical_rank(s.sigma_SC, s.floor_S),
    "condition_number": lambda s: condition_number(s.sigma_SC, s.size_S, s.floor_S),
    "k90": lambda s: energy_rank(s.sigma_SC, 0.9),
    "k99": lambda s: energy_rank(s.sigma_SC, 0.99),
    "spectrum_slope": lambda s: spectrum_slope(s.sigma_SC, s.size_S),
}
"""Every metric by the name under which it is written."""


def spectrum_metrics(
    sigma_SC: Tensor, size_S: Tensor | None = None, eps: float = 2**-23, norm_S: Tensor | None = None
) -> dict[str, Tensor]:
    """All of `METRICS` for many spectra at once: (S, C) -> (S,) each, float64.

    Args:
        sigma_SC: descending, zero from `size_S` on.
        size_S: min(D, C) of every spectrum; None: C.
        eps: relative precision of the tables' entries (float32: 2^-23).
        norm_S: Frobenius norms of the tables as stored, if the spectra are of centred ones; None: of the spectra.

    Where a spectrum is empty, all zero or not finite there is no value: NaN; only the numerical rank of zeros is 0.
    """
    sigma_SC = sigma_SC.double()
    if size_S is None:
        size_S = torch.full((len(sigma_SC),), sigma_SC.shape[1], device=sigma_SC.device)
    if not sigma_SC.shape[1]:
        return {name: sigma_SC.new_full((len(sigma_SC),), torch.nan) for name in METRICS}
    known_S = sigma_SC.isfinite().all(1) & (size_S > 0)
    valued_S = known_S & (sigma_SC[:, 0] > 0)
    # Of a spectrum near 1: squares of very small or large numbers do not leave the range.
    largest_S = torch.where(valued_S, sigma_SC[:, 0], 1.0)
    scaled_SC = torch.where(_inside(sigma_SC, size_S), sigma_SC / largest_S.unsqueeze(1), 0.0)
    own_S = scaled_SC.square().sum(1).sqrt()
    padded = Padded(scaled_SC, size_S, eps * (own_S if norm_S is None else torch.maximum(own_S, norm_S / largest_S)))
    found = {name: metric(padded) for name, metric in METRICS.items()}
    return {
        name: torch.where(known_S if name == "numerical_rank" else valued_S, value_S, torch.nan)
        for name, value_S in found.items()
    }


def why_null(name: str, sigma: Tensor) -> str:
    """Why a metric of one spectrum (r,) has no value, in words."""
    if not len(sigma):
        return "no spread: one row or none"
    if not sigma.isfinite().all():
        return "an entry is not finite"
    if sigma[0] == 0:
        return "all zero"
    if name == "spectrum_slope" and len(sigma) < SLOPE_SIZE:
        return f"{len(sigma)} singular values, a slope needs {SLOPE_SIZE}"
    return "a singular value is zero"
