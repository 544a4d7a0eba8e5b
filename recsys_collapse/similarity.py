"""Between embedding sets and between field pairs: do the sets differ, and does the interaction-collapse law hold?

The columns of a set are known up to a rotation only: sets are compared by what they make of the rows. All is float64
on the device of the first argument, without gradient. NaN where a value is not defined, ValueError for other shapes.

Shapes: B batch, M embedding sets, N fields, K columns of one set, C = M*K columns of all sets, H width of h, P orders
of the fields, X pairs of them; D rows of a field. IA is information abundance.
"""

import math
from functools import lru_cache
from itertools import permutations as every_order
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_collapse.spectrum import information_abundance, singular_spectrum

ROUNDING = 1e-12  # relative: what is smaller is rounding noise
ENTRIES_AT_ONCE = 2**20  # 8 MB of drawn weights or of reordered ranks


class CKA(NamedTuple):
    """Linear centred kernel alignment of every pair of sets."""

    value_NMM: Tensor
    null_NMM: Tensor  # expected value if the rows of one set are shuffled
    adjusted_NMM: Tensor  # (value - null) / (1 - null): 1 for the same sets, 0 on average for unrelated ones


def linear_cka(gram_NCC: Tensor, num_sets: int, rows_N: Tensor) -> CKA:
    """||G_ab||_F^2 / (||G_aa||_F ||G_bb||_F) of sets a, b from CENTRED Gram matrices (Kornblith and others, 2019).

    In [0, 1], 1 on the diagonal; rotating or scaling a set changes nothing. The null, tr(G_aa) tr(G_bb) / ((D-1)
    ||G_aa||_F ||G_bb||_F) for D = `rows_N` rows, is exact, and with few rows far from 0: read `adjusted`. It is NaN
    where D - 1 <= K: there a set can span all that centring leaves, and the null can be 1. All is NaN with D < 2, and
    for a set that is all zero or not finite. (Centred equal rows are zero up to rounding only: no meaning.)
    """
    gram_NCC, rows_N = _checked(NCC=gram_NCC, N=rows_N)
    blocks_NMMKK = _unit_norm_blocks(gram_NCC, num_sets)
    square_NMM = blocks_NMMKK.square().sum(dim=(-2, -1))
    own_NM = square_NMM.diagonal(dim1=1, dim2=2)
    free_N11 = rows_N.view(-1, 1, 1) - 1
    norm_NMM = torch.where(free_N11 > 0, (own_NM.unsqueeze(2) * own_NM.unsqueeze(1)).sqrt(), torch.nan)
    value_NMM, null_NMM = (square_NMM / norm_NMM).clamp(max=1), 1 / (free_N11 * norm_NMM)
    adjusted_NMM = (value_NMM - null_NMM) / (1 - null_NMM)
    return CKA(value_NMM, null_NMM, torch.where(free_N11 > blocks_NMMKK.shape[-1], adjusted_NMM, torch.nan))


class Overlap(NamedTuple):
    """How far the column spaces of every pair of sets are the same."""

    value_NMM: Tensor
    null_NMM: Tensor  # expected value for independent random spaces of the same ranks
    rank_NM: Tensor  # directions that count, float64


def subspace_overlap(gram_NCC: Tensor, num_sets: int, rows_N: Tensor, energy: float = 0.95) -> Overlap:
    """||Q_a^T Q_b||_F^2 / min(r_a, r_b): mean squared cosine of the principal angles (Bjorck and Golub, 1973).

    Q_a (D, r_a): the left singular vectors of set a up to the smallest r that holds `energy`, in (0, 1], of the squared
    singular values. In [0, 1], and 1 where one space lies in the other; all directions count the same. The null is
    max(r_a, r_b) / D. Both are NaN where D <= K, for there a set can span everything; all is NaN for a set that is all
    zero or not finite. For centred Gram matrices give D - 1 as `rows_N`. ValueError for another `energy`.
    """
    gram_NCC, rows_N = _checked(NCC=gram_NCC, N=rows_N)
    cosine_NMMKK, rank_NM = _cosines(gram_NCC, num_sets, energy)
    rows_N11 = torch.where(rows_N > cosine_NMMKK.shape[-1], rows_N, torch.nan).view(-1, 1, 1)
    a_NM1, b_N1M = rank_NM.unsqueeze(2), rank_NM.unsqueeze(1)
    value_NMM = (cosine_NMMKK.square().sum(dim=(-2, -1)) / torch.minimum(a_NM1, b_N1M)).clamp(max=1)
    null_NMM = torch.maximum(a_NM1, b_N1M) / rows_N11
    return Overlap(torch.where(null_NMM.isnan(), torch.nan, value_NMM), null_NMM, rank_NM)


def principal_angles(gram_CC: Tensor, num_sets: int, a: int, b: int, energy: float = 0.95) -> Tensor:
    """Cosines of the angles between sets a and b of one field, (min(r_a, r_b),), descending, in [0, 1].

    The mean of their squares is the value of `subspace_overlap` (which see); where D <= K they say nothing. Empty for a
    set that is all zero or not finite. ValueError if there is no such set, or for an `energy` outside (0, 1].
    """
    if not (0 <= a < num_sets and 0 <= b < num_sets):
        raise ValueError(f"sets {a} and {b}: expected numbers from 0 to {num_sets - 1}")
    cosine_1MMKK, rank_1M = _cosines(_checked(CC=gram_CC)[0].unsqueeze(0), num_sets, energy)
    size = int(rank_1M[0, [a, b]].amin().nan_to_num(0))
    return torch.linalg.svdvals(cosine_1MMKK[0, a, b].nan_to_num(0))[:size].clamp(max=1)


def _unit_norm_blocks(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """G_ab (N, M, M, K, K) of sets scaled to Frobenius norm 1; NaN for one that is all zero or not finite."""
    if num_sets < 1 or gram_NCC.shape[1] % num_sets:
        raise ValueError(f"num_sets={num_sets}: expected a divisor of the {gram_NCC.shape[1]} columns of all sets")
    trace_NM = gram_NCC.diagonal(dim1=1, dim2=2).unflatten(1, (num_sets, -1)).sum(-1)
    norm_NM = torch.where(trace_NM.isfinite() & (trace_NM > 0), trace_NM, torch.nan).sqrt()
    blocks_NMMKK = gram_NCC.unflatten(2, (num_sets, -1)).unflatten(1, (num_sets, -1)).transpose(2, 3)
    return blocks_NMMKK / norm_NM[:, :, None, None, None] / norm_NM[:, None, :, None, None]


def _cosines(gram_NCC: Tensor, num_sets: int, energy: float) -> tuple[Tensor, Tensor]:
    """Q_a^T Q_b in the last (r_a, r_b) of (N, M, M, K, K), 0 before; r (N, M). NaN for a set without directions."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy}: expected a number above 0, up to 1")
    blocks_NMMKK = _unit_norm_blocks(gram_NCC, num_sets)
    own_NMKK = blocks_NMMKK.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    square_NMK, vector_NMKK = torch.linalg.eigh(own_NMKK.nan_to_num(0, 0, 0))
    held_NMK = square_NMK.clamp(min=0).cumsum(-1)  # ascending: by this direction and all weaker ones
    counts_NMK = held_NMK > (1 - energy + ROUNDING) * held_NMK[..., -1:]
    basis_NMKK = vector_NMKK * torch.where(counts_NMK, square_NMK.rsqrt(), 0.0).unsqueeze(-2)  # Q = E basis
    rank_NM = torch.where(held_NMK[..., -1] > 0, counts_NMK.sum(-1).double(), torch.nan)
    return basis_NMKK.mT.unsqueeze(2) @ blocks_NMMKK @ basis_NMKK.unsqueeze(1), rank_NM


def pair_norms(w_MNNKK: Tensor) -> Tensor:
    """||W_{i->j}^(m)||_F of one layer, (M, N, N, K, K) -> (M, N, N): the interaction patterns (Figure 8c)."""
    return torch.linalg.vector_norm(*_checked(MNNKK=w_MNNKK), dim=(-2, -1))


class Divergence(NamedTuple):
    """How much the interaction patterns of the sets differ. Standard deviation and variance divide by M."""

    correlation: float  # Pearson's, of the patterns of two sets, mean over pairs of sets; NaN if one is constant
    divergence: float  # 1 - correlation
    variation: float  # standard deviation / mean over sets, mean over i, j; NaN if some W_{i->j} is 0 in all sets
    variance: float  # over sets, of the SQUARED norms, mean over i, j: the released code's penalty, `norm_align`


def pattern_divergence(norm_MNN: Tensor) -> Divergence:
    """Of ||W_{i->j}^(m)||_F, i = j included (Figure 8c, d); NaN with one set. See `random_pattern_divergence`."""
    (norm_MNN,) = _checked(MNN=norm_MNN)
    if len(norm_MNN) < 2:
        return Divergence(*[math.nan] * 4)
    unit_MX, varies_M = _unit_deviations(norm_MNN.flatten(1))
    divergence = torch.pdist(unit_MX).square().mean().item() / 2 if varies_M.all() else math.nan  # |u-v|^2 = 2 - 2 u.v
    variation = (norm_MNN.std(dim=0, correction=0) / norm_MNN.mean(dim=0)).mean().item()
    return Divergence(1 - divergence, divergence, variation, norm_MNN.square().var(dim=0, correction=0).mean().item())


@lru_cache(maxsize=256)
def random_pattern_divergence(num_sets: int, num_fields: int, size: int, draws: int = 20) -> Divergence:
    """Mean divergence of `draws` new models' W_{i->j}, as a cross layer starts: U(-b, b), b = sqrt(6 / (2 N K)).

    Such norms are nearly constant and vary by noise alone: the correlation is about 0 though nothing has diverged.
    Patterns have diverged where `variation` and `variance` are above these; a correlation above this one is what the
    sets learned in common. Fixed seed. ValueError for an argument below 1.
    """
    if min(num_sets, num_fields, size, draws) < 1:
        raise ValueError(f"{num_sets=}, {num_fields=}, {size=}, {draws=}: expected 1 or more of each")
    generator, bound = torch.Generator().manual_seed(0), math.sqrt(6 / (2 * num_fields * size))
    found, norm_MNN = [], torch.empty(num_sets, num_fields, num_fields, dtype=torch.float64)
    for _ in range(draws):
        for part_X in norm_MNN.view(-1).split(max(1, ENTRIES_AT_ONCE // size**2)):
            w_XKK = part_X.new_empty(len(part_X), size, size).uniform_(-bound, bound, generator=generator)
            part_X.copy_(torch.linalg.vector_norm(w_XKK, dim=(1, 2)))
        found.append(pattern_divergence(norm_MNN))
    return Divergence(*torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist())


def sub_abundance(sub_gram_MNNKK: Tensor, rows_N: Tensor) -> Tensor:
    """IA(E_i^{->j}) in [1, min(D_i, K)] (Evidence I, II), (M, N, N) indexed [m, i, j], from `Backbone.sub_gram`.

    Singular values after the D_i-th are noise and not read. NaN where E_i^{->j} is all zero, not finite or not there.
    """
    sub_gram_MNNKK, rows_N = _checked(MNNKK=sub_gram_MNNKK, N=rows_N)
    inside_N1K = torch.arange(sub_gram_MNNKK.shape[-1], device=rows_N.device) < rows_N.view(-1, 1, 1)
    return information_abundance(torch.where(inside_N1K, singular_spectrum(sub_gram_MNNKK), 0.0))


def axis_sums(ia_MNN: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of IA(E_i^{->j}) without i = j: (of_field_MN, towards_field_MN), the curves beside Figure 3's heat maps.

    Over j: the sub-embeddings that field i has. Over i: those that the others have for field j. N - 1 times the mean of
    the pairs with a value, so that a NaN makes no sum small; NaN if none has one.
    """
    (ia_MNN,) = _checked(MNN=ia_MNN)
    others_NN = ~torch.eye(ia_MNN.shape[1], dtype=torch.bool, device=ia_MNN.device)
    ia_MNN = torch.where(others_NN, ia_MNN, torch.nan) * (len(others_NN) - 1)
    return ia_MNN.nanmean(dim=2), ia_MNN.nanmean(dim=1)


class Law(NamedTuple):
    """Whether the sub-embeddings of a field follow the fields they are for."""

    rho_N: Tensor  # of every field i, on the CPU; NaN where it has none
    mean_rho: float
    p_value: float
    permutations: int  # those really used
    fields: int  # those whose labels are permuted


def collapse_law(ia_NN: Tensor, ia_N: Tensor, permutations: int = 9999, seed: int = 0) -> Law:
    """Test of the interaction-collapse law (Finding 1): IA(E_i^{->j}) of a set, indexed [i, j], rises with IA(E_j).

    For every i, Spearman's rho of the two over j != i; the statistic is the mean over i. All rho share the IA(E_j), so
    their labels are permuted jointly for all i (Mantel, 1967). One-sided p: the share of labellings with at least this
    mean, of all N! if no more than `permutations`, else of so many random ones and the true one. The trend along i is
    trivial, as E_i^{->j} is made of E_i, and not tested. The one along j at a fixed i is not explained by D_i. Whether
    IA(E_j) explains it, or what goes with it, such as D_j, the test does not say.

    A field without a finite IA(E_i) is left out; one has no rho if its IA(E_i^{->j}) are constant (a single row) or not
    all finite, or the other IA(E_j) equal. NaN below 3 fields or without any rho. ValueError below 1 permutation.
    """
    ia_NN, ia_N = (tensor.cpu() for tensor in _checked(NN=ia_NN, N=ia_N))
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: expected 1 or more")
    kept = ia_N.isfinite().nonzero().flatten()
    fields, rho_N = len(kept), torch.full_like(ia_N, torch.nan)
    sub_NN, raw_NN = _unit_ranks(ia_NN[kept][:, kept]), _unit_ranks(ia_N[kept].expand(fields, -1))
    rho_N[kept] = (sub_NN * raw_NN).sum(dim=1).clamp(-1, 1)
    observed = rho_N.nanmean().item()
    if math.isnan(observed):
        return Law(rho_N, math.nan, math.nan, 0, fields)
    if math.factorial(fields) <= permutations:
        order_PN = torch.tensor(list(every_order(range(fields))))
    else:
        drawn_PN = torch.rand(permutations, fields, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        order_PN = torch.cat([torch.arange(fields).unsqueeze(0), drawn_PN.argsort(dim=1)])
    as_large = 0
    for part_PN in order_PN.split(max(1, ENTRIES_AT_ONCE // fields**2)):
        rho_PN = torch.einsum("ij,pij->pi", sub_NN, raw_NN[part_PN.unsqueeze(2), part_PN.unsqueeze(1)])
        as_large += int((~(rho_PN.nanmean(dim=1) < observed - ROUNDING)).sum())  # as does a labelling without any rho
    return Law(rho_N, observed, as_large / len(order_PN), min(permutations, len(order_PN)), fields)


def _unit_ranks(value_NN: Tensor) -> Tensor:
    """Average ranks in every row as `_unit_deviations`, the diagonal left out and 0; NaN: constant or not finite."""
    others_NN = ~torch.eye(len(value_NN), dtype=torch.bool)
    row_NX = value_NN[others_NN].view(len(value_NN), max(0, len(value_NN) - 1))
    sorted_NX = row_NX.sort(dim=1).values
    twice_NX = torch.searchsorted(sorted_NX, row_NX) + torch.searchsorted(sorted_NX, row_NX, right=True)
    unit_NX, varies_N = _unit_deviations(twice_NX.double())
    unit_NN = torch.zeros_like(value_NN).masked_scatter_(others_NN, unit_NX)
    return torch.where((varies_N & row_NX.isfinite().all(dim=1)).unsqueeze(1), unit_NN, torch.nan)


def set_correlation(h_BMH: Tensor) -> Tensor:
    """Pearson correlation over the batch between h^(m) and h^(m') of the same unit, mean over the units: (M, M).

    In [-1, 1], 1 on the diagonal. Units correspond, for the sets are averaged unit by unit. One that is constant in
    either set (dead, or a batch of one) is left out; NaN if none is left.
    """
    unit_HMB, varies_HM = _unit_deviations(_checked(BMH=h_BMH)[0].permute(2, 1, 0))
    count_MM = varies_HM.double().T @ varies_HM.double()
    return ((unit_HMB @ unit_HMB.mT).sum(dim=0) / count_MM).clamp(-1, 1)


def _unit_deviations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., n) minus their mean, at norm 1, and whether (...) they vary beyond rounding; 0 where not."""
    deviation = rows - rows.mean(dim=-1, keepdim=True)
    norm = torch.linalg.vector_norm(deviation, dim=-1, keepdim=True)
    varies = ~(norm <= ROUNDING * torch.linalg.vector_norm(rows, dim=-1, keepdim=True))
    return torch.where(varies, deviation / norm, 0.0), varies.squeeze(-1)


def _checked(**tensors: Tensor) -> list[Tensor]:
    """Float64, without gradient, on the device of the first. Names spell the shapes: ValueError for others."""
    sizes, device = dict[str, int](), next(iter(tensors.values())).device
    for name, x in tensors.items():
        if x.ndim != len(name) or any(sizes.setdefault(k, n) != n for k, n in zip(name, x.shape, strict=True)):
            raise ValueError(f"shape {tuple(x.shape)}: expected ({', '.join(name)}) as in {sizes}")
    return [x.detach().to(device, torch.float64) for x in tensors.values()]
