"""Singular values of tall tables: from the Gram matrix, and where that is too coarse from blocked QR.

Rounding leaves about 1e-16 of the largest eigenvalue of a Gram matrix, 1e-8 of the largest singular value: sums such as
information abundance do not notice, condition numbers and spectra on log axes do. QR keeps 1e-16 of the largest
singular value and takes some four times as long. So: Gram first, and QR where a singular value lies below `TAIL` of the
norm.

Shapes: D rows, C columns, B rows of a block, r = min(D, C).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from recsys_collapse.spectrum.gram import Rows, check_weights, field_moments, row_blocks

TAIL = 1e-6  # of the table's norm: below it, the square is lost among rounding errors
CONSTANT_COLUMN = 1e-12  # deviations of a column over its norm: up to here it is constant
QR_ROWS_PER_COLUMN = 64  # of a block: R stands on top of every block, and is worked through again


@torch.no_grad()
def singular_spectrum(gram: Tensor, rank: int | None = None) -> Tensor:
    """Singular values of E (D, C), descending, from its Gram matrix (..., C, C) -> (..., C), same device.

    `rank` keeps the first min(D, C) of them: with D < C the others are rounding noise. A Gram matrix with an entry
    that is not finite gives NaN.
    """
    finite = gram.isfinite().all(dim=(-2, -1), keepdim=True)
    with _one_thread(gram):
        eigenvalues = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0))
    sigma = eigenvalues.clamp(min=0).sqrt().flip(-1)[..., :rank]
    return torch.where(finite.squeeze(-1), sigma, torch.nan)


@contextmanager
def _one_thread(matrix: Tensor) -> Iterator[None]:
    """On a CPU: LAPACK's threads wait for each other at every column.

    Where they wait without spinning, as in runs (`run.guarded`), two take 14 times as long as one at 100 columns, and
    twice as long at 1,000.
    """
    threads = torch.get_num_threads()
    try:
        if matrix.device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def triangular_factor(blocks: Iterable[Tensor], columns: int) -> Tensor:
    """R with R^T R = E^T E for E given as float64 blocks of rows (B, C): (min(D, C), C), by QR of [R; block].

    R of several shards, stacked, are blocks again: `triangular_factor([r_1, r_2], C)`.
    """
    r_RC, waiting, rows = None, [], 0
    for e_BC in blocks:
        waiting.append(e_BC)
        rows += len(e_BC)
        if rows >= QR_ROWS_PER_COLUMN * columns:
            r_RC = _stacked_qr(r_RC, waiting)
            waiting, rows = [], 0
    if waiting:
        r_RC = _stacked_qr(r_RC, waiting)
    return torch.empty(0, columns, dtype=torch.float64) if r_RC is None else r_RC


def _stacked_qr(r_RC: Tensor | None, blocks: list[Tensor]) -> Tensor:
    return torch.linalg.qr(torch.cat([*([] if r_RC is None else [r_RC]), *blocks]), mode="r").R


def factor_spectrum(factor: Tensor) -> Tensor:
    """Singular values (..., min(R, C)), descending, on the CPU, of factors (..., R, C); NaN where one is not finite."""
    factor = factor.cpu()
    finite = factor.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
    sigma = torch.linalg.svdvals(torch.where(finite, factor, 0.0))
    return torch.where(finite.squeeze(-1), sigma, torch.nan)


@torch.no_grad()
def field_factor(
    table_DC: Rows, rows: slice, counted: int, row_weight_D: Tensor | None = None, mean_C: Tensor | None = None
) -> Tensor:
    """F with F^T F = E^T E, where E has the rows sqrt(w) (e - mean) of a field: E itself if `counted` <= C, else R.

    A column that is not finite spoils those right of it in R, and no other one in E.
    """
    columns = table_DC.shape[1]
    blocks = row_blocks(table_DC, rows, row_weight_D, mean_C)
    if counted <= columns:  # the small side: R would have as many rows
        kept = [e_BA[e_BA[:, columns] > 0, :columns] for e_BA in blocks]
        return torch.cat([torch.empty(0, columns, dtype=torch.float64, device=table_DC.device), *kept])
    return triangular_factor((e_BA[:, :columns].clone() for e_BA in blocks), columns)


def without_rounding(factor_RC: Tensor, gram_CC: Tensor) -> Tensor:
    """A centred factor whose constant columns are zero and not rounding noise; `gram_CC` is that before centring."""
    limit_C = CONSTANT_COLUMN * gram_CC.diagonal().sqrt().to(factor_RC.device)
    return factor_RC.masked_fill(torch.linalg.vector_norm(factor_RC, dim=0) <= limit_C, 0.0)


def coarse(sigma: Tensor, size: Tensor, norm: Tensor) -> Tensor:
    """Whether a spectrum from a Gram matrix is too coarse: (S, C), its length (S,) and the table's norm (S,) -> (S,).

    True where the last singular value is below `TAIL` of the norm; not where an entry is not finite: QR would not help.
    Of centred tables the norm is that before: if it is x times the norm after, rounding too is x times as large.
    """
    if not sigma.shape[1]:
        return torch.zeros_like(size, dtype=torch.bool)
    last_S = sigma.gather(1, (size - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    after_S = torch.linalg.vector_norm(sigma, dim=1)
    return (size > 0) & norm.isfinite() & ~(last_S * after_S > TAIL * norm.square())


@torch.no_grad()
def singular_values(
    table_DC: Tensor, row_weight_D: Tensor | None = None, *, centred: bool = False, exact: bool = True
) -> Tensor:
    """Singular values of one table (D, C), descending, (min(D, C),) float64 on the CPU; D: rows of weight above 0.

    Centred, they are min(D - 1, C).

    Args:
        table_DC: any floating type, any device; no copy of it is made.
        row_weight_D: row d is multiplied by sqrt(w_d); rows of weight 0 (bool: False) do not count.
        centred: the (weighted) mean row is taken off.
        exact: take the QR path where the Gram path is too coarse for the small ones. Without it, singular values below
            1e-8 of the largest are rounding noise.

    Raises:
        ValueError: not a matrix; bad weights.
    """
    if table_DC.ndim != 2:
        raise ValueError(f"a table of shape {tuple(table_DC.shape)}: expected two dimensions, rows and columns")
    if row_weight_D is not None:
        check_weights(row_weight_D, len(table_DC))
    every = slice(0, len(table_DC))
    moments = field_moments(table_DC, [every], row_weight_D)
    counted = int(moments.rows_N)
    size = max(0, min(counted - centred, table_DC.shape[1]))
    if counted >= table_DC.shape[1] > 0:
        gram_NCC = moments.centred_gram() if centred else moments.gram_NCC
        sigma_NC, norm_N = singular_spectrum(gram_NCC), moments.gram_NCC.diagonal(dim1=1, dim2=2).sum(1).sqrt()
        if not exact or not coarse(sigma_NC, torch.full_like(moments.rows_N, size), norm_N).item():
            return sigma_NC[0, :size].cpu()
    mean_C = moments.mean_NC()[0] if centred else None
    factor_RC = field_factor(table_DC, every, counted, row_weight_D, mean_C)
    return factor_spectrum(without_rounding(factor_RC, moments.gram_NCC[0]) if centred else factor_RC)[:size]
