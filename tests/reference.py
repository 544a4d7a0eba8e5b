"""The specification of multi-embedding: M complete ordinary models, a Python loop over them, the mean of h, one head.

Slow and obviously right; the fast backbones must equal it on shared weights. Keyed by the name in
conf/model/<name>.yaml: a new backbone adds one function to `REFERENCES` and, for a grouped layer of its own, one entry
to `PARTS`. It is also what the benchmarks compare with: what one would write without thinking of speed, but without
waste either (no (B, K, N, N) tensor in nfwfm).

Shapes: B batch, M embedding sets, N fields, K embedding size per set, k size per pair of ffm, H width of h.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise, permutations, product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_collapse.layers import GroupedBatchNorm, GroupedLinear
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.model.nfwfm import FieldWeightedPooling
from recsys_collapse.model.xdeepfm import CINLayer


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


class InnerProducts(nn.Module):
    """IPNN's pairs on one set: e_i . e_j for i < j."""

    def forward(self, e_BNK: Tensor) -> Tensor:
        i, j = zip(*combinations(range(e_BNK.shape[1]), 2), strict=True)
        return torch.einsum("bik,bjk->bij", e_BNK, e_BNK)[:, i, j]


class Pooling(nn.Module):
    """NFwFM's pooling on one set; `weight` is (N, N), or (pairs,) for i < j."""

    def __init__(self, num_fields: int, pairs: str) -> None:
        super().__init__()
        self.upper = [*combinations(range(num_fields), 2)] if pairs == "upper" else None
        self.weight = nn.Parameter(torch.randn(len(self.upper) if self.upper else (num_fields, num_fields)))

    def forward(self, e_BNK: Tensor) -> Tensor:
        if self.upper is None:
            return torch.einsum("bik,ij,bjk->bk", e_BNK, self.weight, e_BNK)
        return sum(r * e_BNK[:, i] * e_BNK[:, j] for r, (i, j) in zip(self.weight, self.upper, strict=True))


class CompressedInteraction(nn.Module):
    """xDeepFM's CIN on one set: an ordinary convolution over all products."""

    def __init__(self, num_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        sizes = zip((num_fields, *maps), maps, strict=False)
        self.layers = nn.ModuleList(nn.Conv1d(num_fields * before, after, 1) for before, after in sizes)

    def forward(self, e_BNK: Tensor) -> Tensor:
        x, found = e_BNK, []
        for layer in self.layers:
            x = layer((e_BNK.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)).relu()
            found.append(x.sum(2))
        return torch.cat(found, dim=1)


class Beside(nn.Module):
    """What several modules make of the same embeddings, side by side."""

    def __init__(self, *streams: nn.Module) -> None:
        super().__init__()
        self.streams = nn.ModuleList(streams)

    def forward(self, e_BNK: Tensor) -> Tensor:
        return torch.cat([stream(e_BNK) for stream in self.streams], dim=1)


class CINHead(nn.Module):
    """xDeepFM's output: linear on the CIN's part, the rest of the MLP on the other."""

    def __init__(self, cin_size: int, deep: nn.Sequential) -> None:
        super().__init__()
        self.linear, self.deep = nn.Linear(cin_size, 1), deep

    def forward(self, h_BH: Tensor) -> Tensor:
        size = self.linear.in_features
        return self.linear(h_BH[:, :size]) + self.deep(h_BH[:, size:])


class Fusion(nn.Module):
    """FinalMLP's output: linear in both streams, and bilinear."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, size))
        self.linear_x, self.linear_y = nn.Linear(size, 1), nn.Linear(size, 1)

    def forward(self, h_BH: Tensor) -> Tensor:
        x, y = h_BH.chunk(2, dim=1)
        return self.linear_x(x) + self.linear_y(y) + torch.einsum("bi,ij,bj->b", x, self.weight, y).unsqueeze(1)


class PairSum(nn.Module):
    """FM: the sum over pairs of e_i . e_j."""

    def forward(self, e_BNK: Tensor) -> Tensor:
        return sum((e_BNK[:, i] * e_BNK[:, j]).sum(1) for i, j in combinations(range(e_BNK.shape[1]), 2)).unsqueeze(1)


class FieldAwareSum(nn.Module):
    """FFM: the sum over pairs of e_i^{->j} . e_j^{->i}; a field has one part of k numbers for every other field."""

    def forward(self, e_BNK: Tensor) -> Tensor:
        num_fields = e_BNK.shape[1]
        parts = e_BNK.chunk(num_fields - 1, dim=2)
        towards = {(i, j): parts[j - (j > i)][:, i] for i, j in permutations(range(num_fields), 2)}
        pairs = combinations(range(num_fields), 2)
        return sum((towards[i, j] * towards[j, i]).sum(1) for i, j in pairs).unsqueeze(1)


class Bias(nn.Module):
    """A number is added."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, h_B1: Tensor) -> Tensor:
        return h_B1 + self.bias


class Reference(nn.Module):
    """y = F( mean_m I^(m)(e^(m)) ), one set after the other; `first_order`, an embedding of size 1, is added."""

    def __init__(
        self,
        embeddings: list[Embedding],
        interactions: list[nn.Module],
        head: nn.Module,
        first_order: Embedding | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.interactions, self.head = nn.ModuleList(embeddings), nn.ModuleList(interactions), head
        self.first_order = first_order

    def h(self, x_BN: Tensor) -> list[Tensor]:
        """h^(m) (B, H) of every set."""
        return [interact(embed(x_BN)) for embed, interact in zip(self.embeddings, self.interactions, strict=True)]

    def forward(self, x_BN: Tensor) -> Tensor:
        h = self.h(x_BN)
        mean_BH = h[0]
        for h_BH in h[1:]:
            mean_BH = mean_BH + h_BH
        logit_B = self.head(mean_BH / len(h)).squeeze(1)
        return logit_B if self.first_order is None else logit_B + self.first_order(x_BN).sum(dim=(1, 2))


def hidden(in_size: int, out_size: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(in_size, out_size), nn.BatchNorm1d(out_size), nn.ReLU(), nn.Dropout(dropout)]


def mlp_head(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in hidden(*pair, dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def repeat(
    cardinalities: Sequence[int], num_sets: int, embed_size: int, interaction: Callable[[], nn.Module], head: nn.Module
) -> Reference:
    """One embedding and one interaction per set."""
    embeddings = [Embedding(cardinalities, embed_size) for _ in range(num_sets)]
    return Reference(embeddings, [interaction() for _ in range(num_sets)], head)


def dnn(
    cardinalities: Sequence[int], num_sets: int, embed_size: int, *, hidden_sizes: Sequence[int], dropout: float
) -> Reference:
    width = len(cardinalities) * embed_size

    def interaction() -> nn.Module:
        return nn.Sequential(nn.Flatten(1), *hidden(width, hidden_sizes[0], dropout))

    return repeat(cardinalities, num_sets, embed_size, interaction, mlp_head(hidden_sizes, dropout))


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


def ipnn(
    cardinalities: Sequence[int],
    num_sets: int,
    embed_size: int,
    *,
    linear_signal: bool,
    hidden_sizes: Sequence[int],
    dropout: float,
) -> Reference:
    fields = len(cardinalities)
    size = fields * (fields - 1) // 2 + (fields * embed_size if linear_signal else 0)

    def interaction() -> nn.Module:
        products = Beside(nn.Flatten(1), InnerProducts()) if linear_signal else InnerProducts()
        return nn.Sequential(products, *hidden(size, hidden_sizes[0], dropout))

    return repeat(cardinalities, num_sets, embed_size, interaction, mlp_head(hidden_sizes, dropout))


def nfwfm(
    cardinalities: Sequence[int],
    num_sets: int,
    embed_size: int,
    *,
    pairs: str,
    hidden_sizes: Sequence[int],
    dropout: float,
) -> Reference:
    def interaction() -> nn.Module:
        pooled = [Pooling(len(cardinalities), pairs), nn.BatchNorm1d(embed_size), nn.Dropout(dropout)]
        return nn.Sequential(*pooled, *hidden(embed_size, hidden_sizes[0], dropout))

    return repeat(cardinalities, num_sets, embed_size, interaction, mlp_head(hidden_sizes, dropout))


def xdeepfm(
    cardinalities: Sequence[int],
    num_sets: int,
    embed_size: int,
    *,
    maps: Sequence[int],
    hidden_sizes: Sequence[int],
    dropout: float,
) -> Reference:
    def interaction() -> nn.Module:
        deep = hidden(len(cardinalities) * embed_size, hidden_sizes[0], dropout)
        return Beside(CompressedInteraction(len(cardinalities), maps), nn.Sequential(nn.Flatten(1), *deep))

    head = CINHead(sum(maps), mlp_head(hidden_sizes, dropout))
    return repeat(cardinalities, num_sets, embed_size, interaction, head)


def finalmlp(
    cardinalities: Sequence[int], num_sets: int, embed_size: int, *, hidden_sizes: Sequence[int], dropout: float
) -> Reference:
    sizes = (len(cardinalities) * embed_size, *hidden_sizes)

    def stream() -> nn.Module:
        return nn.Sequential(nn.Flatten(1), *(layer for pair in pairwise(sizes) for layer in hidden(*pair, dropout)))

    return repeat(cardinalities, num_sets, embed_size, lambda: Beside(stream(), stream()), Fusion(sizes[-1]))


def fm(cardinalities: Sequence[int], num_sets: int, embed_size: int, *, first_order: bool) -> Reference:
    reference = repeat(cardinalities, num_sets, embed_size, PairSum, Bias())
    reference.first_order = Embedding(cardinalities, 1) if first_order else None
    return reference


def ffm(cardinalities: Sequence[int], num_sets: int, embed_size: int, *, first_order: bool) -> Reference:
    reference = repeat(cardinalities, num_sets, embed_size * (len(cardinalities) - 1), FieldAwareSum, Bias())
    reference.first_order = Embedding(cardinalities, 1) if first_order else None
    return reference


REFERENCES: dict[str, Callable[..., Reference]] = {
    "dcnv2": dcnv2,
    "dnn": dnn,
    "ffm": ffm,
    "finalmlp": finalmlp,
    "fm": fm,
    "ipnn": ipnn,
    "nfwfm": nfwfm,
    "xdeepfm": xdeepfm,
}


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
    """`ours[index]` of the backbone and `theirs` of the reference are the same numbers, but for the shape."""

    embedding_set: int | None
    """None: shared by all sets."""
    name: str
    ours: Tensor
    index: tuple[int | slice, ...]
    theirs: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """The part of `tensor` (`ours` itself, or its gradient) that corresponds to `theirs`, in its shape."""
        return tensor[self.index].reshape(self.theirs.shape)


Part = tuple[str, Tensor, tuple[int | slice, ...], Tensor]


def linear_parts(ours: GroupedLinear | CINLayer, theirs: nn.Linear | nn.Conv1d, m: int) -> list[Part]:
    return [("weight", ours.weight, (m,), theirs.weight), ("bias", ours.bias, (m,), theirs.bias)]


def batch_norm_parts(ours: GroupedBatchNorm, theirs: nn.BatchNorm1d, m: int) -> list[Part]:
    columns = slice(m * theirs.num_features, (m + 1) * theirs.num_features)
    state = {**dict(ours.norm.named_parameters()), **dict(ours.norm.named_buffers())}
    whole = "num_batches_tracked"  # one count for all sets
    return [(key, state[key], () if key == whole else (columns,), value) for key, value in tensors(theirs)]


def pooling_parts(ours: FieldWeightedPooling, theirs: Pooling, m: int) -> list[Part]:
    return [("weight", ours.weight, (m,), theirs.weight)]


PARTS: dict[type[nn.Module], Callable[..., list[Part]]] = {
    GroupedLinear: linear_parts,
    GroupedBatchNorm: batch_norm_parts,
    CINLayer: linear_parts,
    FieldWeightedPooling: pooling_parts,
}
PLAIN = (nn.Linear, nn.BatchNorm1d, nn.Conv1d, Pooling)


def tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def pairs(backbone: Backbone, reference: Reference) -> Iterator[Pair]:
    """Which numbers of the backbone are which of the reference: layers correspond in the order they were added."""
    size = backbone.embedding.embed_size
    if reference.first_order is not None:
        yield Pair(None, "first order", backbone.first_order.table.weight, (), reference.first_order.table.weight)
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
        pair.theirs.copy_(pair.of(pair.ours))
