"""Second moments of embedding tables, in one pass: all that most measures read of a table.

Of the rows e of a field: the Gram matrix G = sum w e e^T (w is 1 without row weights), the sum of w e, and how many
rows there are. All are sums over rows, so blocks of rows, shards of a table and ranks of a process group merge exactly.
The squares of the singular values are the eigenvalues of G, its diagonal blocks belong to the embedding sets, and
centring needs nothing but these sums.

Everything is float64, block by block. A float32 Gram matrix loses every singular value below 3e-4 of the largest; and
neither TF32 nor autocast touches float64, so that no surrounding setting can change a number.

Shapes: D rows, C columns (all embedding sets beside each other, C = M*K), A columns of a block, N fields, B rows of a
block.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

BLOCK_BYTES = {"cpu": 2**22, "cuda": 2**27}  # of a float64 block: it stays in a CPU's cache; a GPU needs large ones
PANEL = 56  # columns; G is symmetric, and half of it is redundant: a panel is multiplied with what is right of it
ALIGNED = 8
CONSTANT = 1e-12  # variance of a column that is constant, up to rounding, over its mean square


class Rows(Protocol):
    """What is read of a table (D, C), block by block. A tensor is one; so are tables that stand beside each other."""

    @property
    def shape(self) -> torch.Size:
        """(D, C)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the entries."""

    @property
    def device(self) -> torch.device:
        """Where blocks are."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Moments(NamedTuple):
    """Sums over the rows of N fields, float64 on the device of the table."""

    gram_NCC: Tensor
    sum_NC: Tensor
    weight_N: Tensor
    """Sum of the row weights."""
    rows_N: Tensor
    """Rows whose weight is above 0, int64: what `cardinality` means for the rows that are counted."""

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows together."""
        return Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def all_reduce(self, group: "torch.distributed.ProcessGroup | None" = None) -> "Moments":
        """The moments of all ranks' rows together, on every rank: for tables whose rows are sharded."""
        summed = Moments(*(tensor.clone(memory_format=torch.contiguous_format) for tensor in self))
        for tensor in summed:
            torch.distributed.all_reduce(tensor, group=group)
        return summed

    def centred_gram(self) -> Tensor:
        """Gram matrices (N, C, C) of the rows minus their (weighted) mean row, of rank min(D - 1, C) at most.

        Rounding leaves 1e-16 of the *uncentred* entries: a column that varies by less than 1e-6 of its size is zero.
        """
        centred_NCC = self.gram_NCC - self.sum_NC.unsqueeze(2) * self.mean_NC().unsqueeze(1)
        own_NC, all_NC = (gram_NCC.diagonal(dim1=1, dim2=2) for gram_NCC in (centred_NCC, self.gram_NCC))
        constant_NC = all_NC.isfinite() & (own_NC <= CONSTANT * all_NC)
        return centred_NCC.masked_fill_(constant_NC.unsqueeze(1) | constant_NC.unsqueeze(2), 0.0)

    def mean_NC(self) -> Tensor:
        """The (weighted) mean row of every field; zero without a row."""
        return self.sum_NC / self.weight_N.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)


def augmented_size(columns: int) -> int:
    """Columns of a block: C, one for the row weight, and zeros up to a multiple that products are fast for."""
    return (columns // ALIGNED + 1) * ALIGNED


def row_blocks(
    table_DC: Rows, rows: slice, row_weight_D: Tensor | None = None, mean_C: Tensor | None = None
) -> Iterator[Tensor]:
    """Blocks of a field, float64 (B, A): sqrt(w) (e - mean) in C columns, sqrt(w) in the next one, then zeros.

    Rows of weight 0 are zero, NaN or not. A block is overwritten by the next one.
    """
    device, columns = table_DC.device, table_DC.shape[1]
    augmented = augmented_size(columns)
    size = max(1, BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"]) // (8 * augmented))
    buffer_BA = torch.zeros(min(size, rows.stop - rows.start), augmented, dtype=torch.float64, device=device)
    for start in range(rows.start, rows.stop, size):
        block = slice(start, min(start + size, rows.stop))
        filled_BA = buffer_BA[: block.stop - block.start]
        e_BC = filled_BA[:, :columns].copy_(table_DC[block])
        if mean_C is not None:
            e_BC -= mean_C
        if row_weight_D is None:
            filled_BA[:, columns] = 1.0
        else:
            root_B = row_weight_D[block].to(filled_BA).sqrt()
            e_BC.mul_(root_B.unsqueeze(1)).masked_fill_((root_B == 0).unsqueeze(1), 0.0)
            filled_BA[:, columns] = root_B
        yield filled_BA


@torch.no_grad()
def field_moments(table_DC: Rows, field_slices: Sequence[slice], row_weight_D: Tensor | None = None) -> Moments:
    """Moments of every field of a fused table, which is read once.

    Args:
        table_DC: rows of all fields below each other, any floating type, any device.
        field_slices: the rows of every field.
        row_weight_D: weights of 0 or more (bool: which rows count); None: every row counts once.

    Raises:
        ValueError: a weight is negative or not finite, or there is not one for each row.
    """
    if row_weight_D is not None:
        check_weights(row_weight_D, len(table_DC))
    columns, device = table_DC.shape[1], table_DC.device
    size = augmented_size(columns)
    gram_NAA = torch.zeros(len(field_slices), size, size, dtype=torch.float64, device=device)
    for gram_AA, rows in zip(gram_NAA, field_slices, strict=True):
        for e_BA in row_blocks(table_DC, rows, row_weight_D):
            _add_upper_gram(gram_AA, e_BA)
        gram_AA.triu_()
        gram_AA += gram_AA.triu(1).T  # field by field: no second copy of all
    counted = (rows.stop - rows.start if row_weight_D is None else row_weight_D[rows] > 0 for rows in field_slices)
    rows_N = torch.tensor([int(torch.as_tensor(rows).sum()) for rows in counted], dtype=torch.int64, device=device)
    gram_NCC, sum_NC, weight_N = (
        gram_NAA[:, :columns, :columns],
        gram_NAA[:, :columns, columns],
        gram_NAA[:, columns, columns],
    )
    return Moments(gram_NCC, sum_NC, weight_N, rows_N)


def _add_upper_gram(gram_AA: Tensor, e_BA: Tensor) -> None:
    """Add E^T E to the upper triangle (and to some of the lower one)."""
    columns = e_BA.shape[1]
    panel = PANEL if e_BA.device.type == "cpu" else columns  # a GPU waits for launches, not for products
    for start in range(0, columns, panel):
        gram_AA[start : start + panel, start:].addmm_(e_BA[:, start : start + panel].T, e_BA[:, start:])


def check_weights(row_weight_D: Tensor, rows: int) -> None:
    """Row weights must be what a Gram matrix can take.

    Raises:
        ValueError: a weight is negative or not finite, or there is not one for each row.
    """
    if row_weight_D.shape != (rows,):
        raise ValueError(f"row weights of shape {tuple(row_weight_D.shape)}: expected one for each of {rows} rows")
    if row_weight_D.dtype != torch.bool and not ((row_weight_D >= 0) & (row_weight_D < torch.inf)).all():
        raise ValueError("row weights: found one that is negative or not finite; expected 0 or more")


def field_grams(table_DC: Tensor, field_slices: Sequence[slice], row_weight_D: Tensor | None = None) -> Tensor:
    """Gram matrix of every field, (N, C, C) float64: `field_moments` without the rest."""
    return field_moments(table_DC, field_slices, row_weight_D).gram_NCC


def set_grams(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """The diagonal blocks: Gram matrix of every field in every set, (M, N, K, K), from the whole (N, M*K, M*K)."""
    blocks_NMKMK = gram_NCC.unflatten(2, (num_sets, -1)).unflatten(1, (num_sets, -1))
    return blocks_NMKMK.diagonal(dim1=1, dim2=3).permute(3, 0, 1, 2)


def unit_norm_gram(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """Gram matrices after every set is scaled to Frobenius norm 1, so that a set of small numbers is seen too.

    A set that is all zero stays so.
    """
    scale_NC = unit_norm_scale(gram_NCC, num_sets)
    return scale_NC.unsqueeze(2) * gram_NCC * scale_NC.unsqueeze(1)


def unit_norm_scale(gram_NCC: Tensor, num_sets: int) -> Tensor:
    """What the columns (N, C) are multiplied with so that every set has Frobenius norm 1; 0 for a set of zeros."""
    energy_MN = set_grams(gram_NCC, num_sets).diagonal(dim1=2, dim2=3).sum(2)
    scale_MN = torch.where(energy_MN > 0, energy_MN.rsqrt(), 0.0)
    return scale_MN.T.repeat_interleave(gram_NCC.shape[1] // num_sets, dim=1)
