"""The split 8:1:1, exactly the official one, so that a run here and a run there test on the same rows."""

import torch
from torch import Tensor

from recsys_collapse.dataset.source import PARTS


def split_rows(num_rows: int, split_seed: int, parts: dict[str, int] | None = None) -> dict[str, Tensor]:
    """Row numbers (int64) of train, valid and test.

    Random: a permutation of the rows in file order, generator seeded with `split_seed`; the first int(.8 n), the next
    int(.1 n), the rest. Given `parts`: consecutive rows in file order, the seed is not used.

    Raises:
        ValueError: a part has no rows.
    """
    if parts is None:
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(split_seed))
        sizes = [int(0.8 * num_rows), int(0.1 * num_rows)]
        sizes.append(num_rows - sum(sizes))
    else:
        order = torch.arange(num_rows)
        sizes = [parts[part] for part in PARTS]
    if 0 in sizes:
        found = ", ".join(f"{part} {size}" for part, size in zip(PARTS, sizes, strict=True))
        raise ValueError(
            f"dataset: {num_rows} rows split into {found}: expected at least one row in each; "
            "a random 8:1:1 split needs 10 rows or more"
        )
    return dict(zip(PARTS, order.split(sizes), strict=True))
