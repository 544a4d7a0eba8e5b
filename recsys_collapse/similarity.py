"""Between embedding sets and between field pairs: are the sets different, and does the interaction-collapse law hold?

All of it is read from Gram matrices, from the blocks W_{i->j} and from information abundance; no table is touched again.
Columns of a set are known up to a rotation only, so sets are compared by what they make of the rows, never column by
column. Everything is float64, on the device of what is given, and without a gradient. A value that is not defined is NaN.

Shapes: B batch, M embedding sets, N fields, K columns of one set, C = M*K columns of all sets, H width of h, D rows of a
field, L rows or columns of a block, P permutations or pairs.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations as all_orders
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_collapse.spectrum import information_abundance, singular_spectrum

ROUNDING = 1e-12  # relative: what is smaller is rounding noise
ENTRIES_AT_ONCE = 2**20  # float64, 8 MB: of drawn blocks, and of reordered ranks


class CKA(NamedTuple):
    """Linear centred kernel alignment of every pair of sets, (N, M, M) each."""

    value_NMM: Tensor
    null_NMM: Tensor
    """Expected value if the rows of one set were shuffled."""
    adjusted_NMM: Tensor
    """(value - null) / (1 - null): 0 on average for unrelated sets, 1 for the same up to rotation and scale."""


@torch.no_grad()
def linear_cka(gram_NCC: Tensor, num_sets: int, rows_N: Tensor) -> CKA:
    """Linear CKA between the sets a, b of every field: ||G_ab||_F^2 / (||G_aa||_F ||G_bb||_F) (Kornblith et al., 2019).

    In [0, 1], 1 on the diagonal; rotating or scaling a set changes nothing. The null is exact, tr(G_aa) tr(G_bb) /
    ((D-1) ||G_aa||_F ||G_bb||_F), and for few rows far from 0: read `adjusted`, below 0 for sets less alike than chance.

    `adjusted` is NaN where D - 1 <= K: each set can then span all the space that centring leaves, and the null can be 1.
    With D < 2 all is NaN, as are the row and column of a set that is all zero or not finite. (A set of equal rows is only
    zero up to rounding once centred; leave it out.)

    Args:
        gram_NCC: CENTRED Gram matrices of all sets side by side, (N, M*K, M*K).
        num_sets: M.
        rows_N: D of every field, each row counted once.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_shapes(NCC=gram_NCC, N=rows_N)
    blocks_NMMKK = _unit_trace_blocks(gram_NCC, num_sets)
    square_NMM = blocks_NMMKK.square().sum(dim=(-2, -1))
    own_NM = square_NMM.diagonal(dim1=1, dim2=2)
    norm_NMM = (own_NM.unsqueeze(2) * own_NM.unsqueeze(1)).sqrt()
    free_N11 = rows_N.to(norm_NMM).view(-1, 1, 1) - 1
    value_NMM = torch.where(free_N11 > 0, (square_NMM / norm_NMM).clamp(max=1), torch.nan)
    null_NMM = torch.where(free_N11 > 0, 1 / (free_N11 * norm_NMM), torch.nan)
    adjusted_NMM = (value_NMM - null_NMM) / (1 - null_NMM)
    return CKA(value_NMM, null_NMM, torch.where(free_N11 > blocks_NMMKK.shape[-1], adjusted_NMM, torch.nan))


class Overlap(NamedTuple):
    """How much of each other's column space the sets share."""

    value_NMM: Tensor
    null_NMM: Tensor
    """Expected value for independent random spaces of the same ranks."""
    rank_NM: Tensor
    """Directions that count, float64; NaN for a set that is all zero or not finite."""


@torch.no_grad()
def subspace_overlap(gram_NCC: Tensor, num_sets: int, rows_N: Tensor, energy: float = 0.95) -> Overlap:
    """Mean squared cosine of the principal angles (Bjorck and Golub, 1973): ||Q_a^T Q_b||_F^2 / min(r_a, r_b) in [0, 1].

    Q_a (D, r_a): the left singular vectors of set a up to the smallest r that holds `energy` of its squared singular
    values. Unlike CKA, all of them count the same. 1 on the diagonal, and where one space lies in the other. The null is
    max(r_a, r_b) / D. Value and null are NaN where D <= K (the sets can span everything) or where a set has no rank.

    Args:
        gram_NCC: Gram matrices of all sets side by side, (N, M*K, M*K).
        num_sets: M.
        rows_N: D of every field; D - 1 if the Gram matrices are centred, which takes a dimension away.
        energy: in (0, 1].

    Raises:
        ValueError: shapes that do not fit, an energy outside its range.
    """
    _check_shapes(NCC=gram_NCC, N=rows_N)
    blocks_NMMKK = _unit_trace_blocks(gram_NCC, num_sets)
    basis_NMKK, rank_NM = _bases(blocks_NMMKK, energy)
    cosine_NMMKK = basis_NMKK.mT.unsqueeze(2) @ blocks_NMMKK @ basis_NMKK.unsqueeze(1)
    a_NM1, b_N1M = rank_NM.unsqueeze(2), rank_NM.unsqueeze(1)
    value_NMM = (cosine_NMMKK.square().sum(dim=(-2, -1)) / torch.minimum(a_NM1, b_N1M)).clamp(max=1)
    rows_N11 = rows_N.to(value_NMM).view(-1, 1, 1)
    enough_N11 = rows_N11 > blocks_NMMKK.shape[-1]
    null_NMM = torch.maximum(a_NM1, b_N1M) / rows_N11
    return Overlap(*(torch.where(enough_N11, found, torch.nan) for found in (value_NMM, null_NMM)), rank_NM)


@torch.no_grad()
def principal_angles(gram_CC: Tensor, num_sets: int, a: int, b: int, energy: float = 0.95) -> Tensor:
    """Cosines of the principal angles between sets a and b of one field, descending, (min(r_a, r_b),) in [0, 1].

    Of the spaces that `subspace_overlap` describes, whose value is the mean of their squares; they say nothing where
    D <= K. Empty if a set is all zero or not finite.

    Raises:
        ValueError: shapes that do not fit, no such set, an energy outside its range.
    """
    _check_shapes(CC=gram_CC)
    if not (0 <= a < num_sets and 0 <= b < num_sets):
        raise ValueError(f"sets {a} and {b}: expected numbers from 0 to {num_sets - 1}")
    blocks_1MMKK = _unit_trace_blocks(gram_CC.unsqueeze(0), num_sets)
    basis_1MKK, rank_1M = _bases(blocks_1MMKK, energy)
    r_a, r_b = rank_1M[0, [a, b]].nan_to_num(0).int().tolist()
    if not (r_a and r_b):
        return blocks_1MMKK.new_empty(0)
    return torch.linalg.svdvals(basis_1MKK[0, a, :, :r_a].mT @ blocks_1MMKK[0, a, b] @ basis_1MKK[0, b, :, :r_b]).clamp(
        max=1
    )


def _unit_trace_blocks(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """Blocks G_ab (N, M, M, K, K) of sets scaled to Frobenius norm 1; NaN for one that is all zero or not finite."""
    columns = gram_NCC.shape[1]
    if num_sets < 1 or columns % num_sets:
        raise ValueError(f"num_sets={num_sets}: expected a divisor of the {columns} columns of all sets")
    blocks_NMMKK = gram_NCC.double().unflatten(2, (num_sets, -1)).unflatten(1, (num_sets, -1)).transpose(2, 3)
    own_NKKM = blocks_NMMKK.diagonal(dim1=1, dim2=2)
    trace_NM = own_NKKM.diagonal(dim1=1, dim2=2).sum(-1)
    known_NM = own_NKKM.isfinite().all(1).all(1) & (trace_NM > 0)
    norm_NM = torch.where(known_NM, trace_NM, torch.nan).sqrt()
    return blocks_NMMKK / (norm_NM.unsqueeze(2) * norm_NM.unsqueeze(1))[..., None, None]


def _bases(blocks_NMMKK: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """(N, M, K, K) with E_a basis_a = Q_a, columns from the rank on zero, and the ranks (N, M)."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy}: expected a share above 0 and up to 1")
    own_NMKK = blocks_NMMKK.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    known_NM = own_NMKK.isfinite().all(-1).all(-1)
    square_NMK, vector_NMKK = torch.linalg.eigh(torch.where(known_NM[..., None, None], own_NMKK, 0.0))
    square_NMK, vector_NMKK = square_NMK.clamp(min=0).flip(-1), vector_NMKK.flip(-1)
    held_NMK = square_NMK.cumsum(-1) - square_NMK  # by the directions before this one
    counts_NMK = held_NMK < (energy - ROUNDING) * square_NMK.sum(-1, keepdim=True)
    basis_NMKK = vector_NMKK * torch.where(counts_NMK, square_NMK.rsqrt(), 0.0).unsqueeze(-2)
    return basis_NMKK, torch.where(known_NM, counts_NMK.sum(-1).double(), torch.nan)


@torch.no_grad()
def pair_norms(w_MNNLL: Tensor) -> Tensor:
    """||W_{i->j}^(m)||_F of one layer, (M, N, N, K, K) -> (M, N, N): the interaction pattern of a set (Figure 8c).

    Raises:
        ValueError: another shape.
    """
    _check_shapes(MNNLL=w_MNNLL)
    return torch.linalg.vector_norm(w_MNNLL.double(), dim=(-2, -1))


class Divergence(NamedTuple):
    """How much the interaction patterns of the sets differ."""

    correlation: float
    """Mean over pairs of sets of the Pearson correlation between their patterns; NaN if a pattern is constant."""
    divergence: float
    """1 - correlation, in [0, 2]."""
    variation: float
    """Mean over i, j of standard deviation / mean over the sets; NaN if a pair's norm is 0 in all sets."""
    variance: float
    """Mean over i, j of the variance over the sets of the SQUARED norm: the released code's penalty, `norm_align`."""


@torch.no_grad()
def pattern_divergence(norm_MNN: Tensor) -> Divergence:
    """How much the patterns ||W_{i->j}^(m)||_F differ (Figure 8c; appendix "Different interaction patterns").

    All pairs count, i = j too. Deviations and variances are divided by M. All NaN with one set. Read it beside
    `random_pattern_divergence`: a correlation near 0 is where patterns start.

    Raises:
        ValueError: another shape.
    """
    _check_shapes(MNN=norm_MNN)
    if len(norm_MNN) < 2:
        return Divergence(*[math.nan] * 4)
    norm_MP = norm_MNN.double().flatten(1)
    unit_MP, varies_M = _unit_deviations(norm_MP)
    correlation_MM = torch.where(varies_M, unit_MP @ unit_MP.T, torch.nan)
    first_P, second_P = torch.triu_indices(*correlation_MM.shape, offset=1)
    correlation = correlation_MM[torch.cat([first_P, second_P]), torch.cat([second_P, first_P])].mean().item()
    variation = (norm_MP.std(dim=0, correction=0) / norm_MP.mean(dim=0)).mean().item()
    variance = norm_MP.square().var(dim=0, correction=0).mean().item()
    return Divergence(correlation, 1 - correlation, variation, variance)
