"""The specification of multi-embedding: M complete ordinary models, a Python loop over them, the mean of h, one head.

Slow and obviously right; the fast backbones must equal it on shared weights. Keyed by the name in
conf/model/<name>.yaml: a new backbone adds one function to `REFERENCES` and, for a grouped layer of its own, one entry
to `PARTS`.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, H width of h.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_collapse.layers import GroupedBatchNorm, GroupedLinear
from recsys_collapse.model.backbone import Backbone


class Embedding(nn.Module):
    """One embedding set: ids (B, N) -> (B, N, K) from one table with the fields' rows below each other."""

    def __init__(self, cardinalities: Sequence[int], embed_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(cardinalities), embed_size)
        self.offsets = [sum(cardinalities[:i]) for i in range(len(cardinalities))]

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.table(x_BN + torch.tensor(self.offsets, device=x_BN.device))


class Cross(nn.Module):
    """DCNv2's cross layers on one set: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l."""

    def __init__(self, size: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))

    def forward(self, x0_BH: Tensor) -> Tensor:
        x_BH = x0_BH
        for layer in self.layers:
            x_BH = x0_BH * layer(x_BH) + x_BH
        return x_BH


class Reference(nn.Module):
    """y = F( mean_m I^(m)(e^(m)) ), one set after the other."""

    def __init__(self, embeddings: list[Embedding], interactions: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.embeddings, self.interactions, self.head = nn.ModuleList(embeddings), nn.ModuleList(interactions), head

    def h(self, x_BN: Tensor) -> list[Tensor]:
        """h^(m) (B, H) of every set."""
        return [interact(embed(x_BN)) for embed, interact in zip(self.embeddings, self.interactions, strict=True)]

    def forward(self, x_BN: Tensor) -> Tensor:
        h = self.h(x_BN)
        mean_BH = h[0]
        for h_BH in h[1:]:
            mean_BH = mean_BH + h_BH
        return self.head(mean_BH / len(h)).squeeze(1)


def hidden(in_size: int, out_size: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(in_size, out_size), nn.BatchNorm1d(out_size), nn.ReLU(), nn.Dropout(dropout)]


def mlp_head(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in hidden(*pair, dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def dnn(
    cardinalities: Sequence[int], num_sets: int, embed_size: int, *, hidden_sizes: Sequence[int], dropout: float
) -> Reference:
    in_size = len(cardinalities) * embed_size
    return Reference(
        [Embedding(cardinalities, embed_size) for _ in range(num_sets)],
        [nn.Sequential(nn.Flatten(1), *hidden(in_size, hidden_sizes[0], dropout)) for _ in range(num_sets)],
        mlp_head(hidden_sizes, dropout),
    )


def dcnv2(
    cardinalities: Sequence[int],
    num_sets: int,
    embed_size: int,
    *,
    num_cross_layers: int,
    hidden_sizes: Sequence[int],
    dropout: float,
) -> Reference:
    reference = dnn(cardinalities, num_sets, embed_size, hidden_sizes=hidden_sizes, dropout=dropout)
    for interaction in reference.interactions:
        interaction.insert(1, Cross(len(cardinalities) * embed_size, num_cross_layers))  # after Flatten
    return reference


REFERENCES: dict[str, Callable[..., Reference]] = {"dcnv2": dcnv2, "dnn": dnn}


@torch.no_grad()
def pair_projections(dcnv2: Reference, num_fields: int, size: int) -> Tensor:
    """W_{i->j}, [l, m, i, j], column by column: a unit vector in field i alone, through W x, read at field j."""
    num_layers, num_sets = len(dcnv2.interactions[0][1].layers), len(dcnv2.interactions)
    w = torch.zeros(num_layers, num_sets, num_fields, num_fields, size, size, dtype=torch.float64)
    for layer, m, i, k in product(range(num_layers), range(num_sets), range(num_fields), range(size)):
        x_H = torch.zeros(num_fields * size, dtype=torch.float64)
        x_H[i * size + k] = 1
        linear = dcnv2.interactions[m][1].layers[layer]
        y_H = linear(x_H) - linear.bias
        for j in range(num_fields):
            w[layer, m, i, j, :, k] = y_H[j * size : (j + 1) * size]
    return w


@torch.no_grad()
def sub_embedding(dcnv2: Reference, rows: slice, m: int, i: int, j: int, size: int) -> Tensor:
    """E_i^{->j} (D_i, K): every row of field i through the first cross layer, other fields at 0, read at field j."""
    linear = dcnv2.interactions[m][1].layers[0]
    e_DK = dcnv2.embeddings[m].table.weight[rows]
    x_DH = torch.zeros(len(e_DK), linear.in_features, dtype=torch.float64)
    x_DH[:, i * size : (i + 1) * size] = e_DK
    y_DH = linear(x_DH) - linear.bias
    return y_DH[:, j * size : (j + 1) * size]


class Pair(NamedTuple):
    """`ours[index]` of the backbone and `theirs` of the reference are the same numbers."""

    embedding_set: int | None
    """None: shared by all sets."""
    name: str
    ours: Tensor
    index: tuple[int | slice, ...]
    theirs: Tensor


Part = tuple[str, Tensor, tuple[int | slice, ...], Tensor]


def linear_parts(ours: GroupedLinear, theirs: nn.Linear, m: int) -> list[Part]:
    return [("weight", ours.weight, (m,), theirs.weight), ("bias", ours.bias, (m,), theirs.bias)]


def batch_norm_parts(ours: GroupedBatchNorm, theirs: nn.BatchNorm1d, m: int) -> list[Part]:
    columns = slice(m * theirs.num_features, (m + 1) * theirs.num_features)
    state = {**dict(ours.norm.named_parameters()), **dict(ours.norm.named_buffers())}
    whole = "num_batches_tracked"  # one count for all sets
    return [(key, state[key], () if key == whole else (columns,), value) for key, value in tensors(theirs)]


PARTS: dict[type[nn.Module], Callable[..., list[Part]]] = {
    GroupedLinear: linear_parts,
    GroupedBatchNorm: batch_norm_parts,
}
PLAIN = (nn.Linear, nn.BatchNorm1d)


def tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def pairs(backbone: Backbone, reference: Reference) -> Iterator[Pair]:
    """Which numbers of the backbone are which of the reference: layers correspond in the order they were added."""
    size = backbone.embedding.embed_size
    grouped = [layer for layer in backbone.interaction.modules() if type(layer) in PARTS]
    for m, (embedding, interaction) in enumerate(zip(reference.embeddings, reference.interactions, strict=True)):
        columns = (slice(None), slice(m * size, (m + 1) * size))
        yield Pair(m, "table", backbone.embedding.weight, columns, embedding.table.weight)
        plain = [layer for layer in interaction.modules() if isinstance(layer, PLAIN)]
        for number, (ours, theirs) in enumerate(zip(grouped, plain, strict=True)):
            for name, *part in PARTS[type(ours)](ours, theirs, m):
                yield Pair(m, f"{number}.{type(theirs).__name__}.{name}", *part)
    for (name, ours), (_, theirs) in zip(tensors(backbone.head), tensors(reference.head), strict=True):
        yield Pair(None, f"head.{name}", ours, (), theirs)


@torch.no_grad()
def copy_weights(backbone: Backbone, reference: Reference) -> None:
    """All parameters, and the BatchNorms' running statistics, of the backbone into the reference."""
    for pair in pairs(backbone, reference):
        pair.theirs.copy_(pair.ours[pair.index])
