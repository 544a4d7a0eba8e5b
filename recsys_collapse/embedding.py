"""The embedding layer E: one fused table for all fields and all embedding sets.

At scale s, single- and multi-embedding own the same table and fold its columns differently:
SE is (M=1, K=s*K0), ME is (M=s, K=K0). One gather serves every field of every set.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, D sum of cardinalities.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITS = ("xavier_table", "xavier_field", "normal")
ROWS_PER_BLOCK = 65_536  # drawn at a time: no second table
NORMAL_STD = 1e-4  # of BARS and FuxiCTR


class FieldEmbedding(nn.Module):
    """Rows of all fields below each other, columns of all sets beside each other: `weight` is (D, M*K).

    Field i owns the rows `field_slices[i]`, set m the columns m*K to (m+1)*K. `sparse` makes the gradient of `weight`
    hold only the rows of the batch, for optimizers that can use it. `entries` says how it was drawn: `uniform` or
    `normal`.

    Args:
        cardinalities: D_i of every field, each at least 1.
        num_sets: M, at least 1.
        embed_size: K, at least 1.

    Raises:
        ValueError: for an empty list of fields or a size below 1.
    """

    offset_N: Tensor

    def __init__(self, cardinalities: Sequence[int], num_sets: int, embed_size: int) -> None:
        super().__init__()
        sizes = {"cardinalities": min(cardinalities, default=0), "num_sets": num_sets, "embed_size": embed_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: smallest value {size}, expected at least 1 (and at least one field)")
        self.cardinalities = list(cardinalities)
        self.num_sets, self.embed_size = num_sets, embed_size
        ends = list(accumulate(self.cardinalities))
        self.field_slices = [slice(end - size, end) for end, size in zip(ends, self.cardinalities, strict=True)]
        small = ends[-1] < 2**31  # int32 ids halve the traffic; promotion to int64 happens by itself beyond that
        offsets = torch.tensor([rows.start for rows in self.field_slices], dtype=torch.int32 if small else torch.int64)
        self.register_buffer("offset_N", offsets, persistent=False)
        self.sparse = False
        self.entries = "uniform"
        self.weight = nn.Parameter(torch.empty(ends[-1], num_sets * embed_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, init: str = "xavier_table") -> None:
        """Draw every set afresh from the global generator, each on its own, so that its scale does not depend on M.

        Args:
            init: `xavier_table`: U(-a, a) with a = sqrt(6 / (D + K)), Xavier over the (D, K) table of all fields, as in
                the official code: all fields start alike. `xavier_field`: a = sqrt(6 / (D_i + K)) for field i: small
                fields start larger. `normal`: N(0, 1e-4^2), as in BARS.

        Raises:
            ValueError: another init.
        """
        if init not in INITS:
            raise ValueError(f"init={init}: expected one of {', '.join(INITS)}")
        self.entries = "normal" if init == "normal" else "uniform"
        if self.weight.is_meta:  # an outline has no numbers
            return
        fields = self.field_slices if init == "xavier_field" else [slice(0, len(self.weight))]
        for columns_DK in self.weight.split(self.embed_size, dim=1):
            for rows in fields:
                bound = math.sqrt(3) * math.sqrt(2 / (rows.stop - rows.start + self.embed_size))
                for block_DK in columns_DK[rows].split(ROWS_PER_BLOCK):
                    # Drawn contiguously first: a draw into a strided view would depend on M.
                    drawn_DK = torch.empty_like(block_DK, memory_format=torch.contiguous_format)
                    if init == "normal":
                        drawn_DK.normal_(std=NORMAL_STD)
                    else:
                        drawn_DK.uniform_(-bound, bound)
                    block_DK.copy_(drawn_DK)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Look up ids (B, N), int32 or int64 with 0 <= id < D_i, -> embeddings (B, M, N, K).

        The memory is set-major, (M, B, N, K): grouped layers work set by set and need no further copy.
        """
        # F.embedding and not weight[ids]: the latter's gradient is not repeatable bit for bit with 2 CPU threads.
        e_BNC = F.embedding(x_BN + self.offset_N, self.weight, sparse=self.sparse)
        e_BNMK = e_BNC.unflatten(2, (self.num_sets, self.embed_size))
        return e_BNMK.permute(2, 0, 1, 3).contiguous().transpose(0, 1)


class FirstOrder(nn.Module):
    """The first-order term of factorisation machines: one weight per id, starting at 0; ids (B, N) -> (B,)."""

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self.table = FieldEmbedding(cardinalities, num_sets=1, embed_size=1)
        nn.init.zeros_(self.table.weight)

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.table(x_BN).sum(dim=(1, 2, 3))


def coalesced(gradient: Tensor) -> Tensor:
    """A table's sparse gradient (D, C) with every row once, in order: `gradient.coalesce()`, three times as fast.

    `F.embedding` leaves a row standing as often as it was looked up. The sums do not depend on the number of threads.
    """
    if gradient.is_coalesced() or not gradient._nnz():
        return gradient.coalesce()
    row_n, order_n = gradient._indices()[0].sort(stable=True)
    start_u = F.pad(row_n.diff() != 0, (1, 0), value=True).nonzero().flatten()
    sum_uC = F.embedding_bag(order_n, gradient._values(), start_u, mode="sum")
    return torch.sparse_coo_tensor(row_n[start_u].unsqueeze(0), sum_uC, gradient.shape, is_coalesced=True)
