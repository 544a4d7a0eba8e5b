"""Every backbone in float64 and evaluation mode against the paper's formulas, one Python number at a time.

Section 5.1: y = F( 1/M sum_m I^(m)(e_1^(m), ..., e_N^(m)) ); I and F of each backbone are those of the appendix
"Specific multi-embedding design". Weights are read out once, as nested lists by their name in the state_dict; from then
on there are only numbers, lists and `math`. `tests/reference.py` is the same in tensors, and also covers training.

In the formulas `e[i]` is the embedding of field i in one set, K numbers, and `m` is the set.

Shapes: B batch, M embedding sets, N fields, H width of h.
"""

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from recsys_collapse.config import config_dir
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.model.dnn import DNN
from recsys_collapse.model.ffm import FFM
from recsys_collapse.model.finalmlp import FinalMLP
from recsys_collapse.model.fm import FM
from recsys_collapse.model.ipnn import IPNN
from recsys_collapse.model.nfwfm import NFwFM
from recsys_collapse.model.xdeepfm import XDeepFM

CARDINALITIES = [3, 2, 4, 1]  # four fields: with three, pairs ordered by i are also ordered by j
FIELDS = range(len(CARDINALITIES))
PAIRS = [*combinations(FIELDS, 2)]
K = 2
ROWS = [*product(*map(range, CARDINALITIES))]  # every combination of ids
EPS = 1e-5  # of BatchNorm

Numbers = list[float]
Weights = dict[str, Any]  # nested lists of numbers


def dot(x: Numbers, y: Numbers) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def linear(weight: list[Numbers], bias: Numbers, x: Numbers) -> Numbers:
    """W x + b, W a list of rows."""
    return [dot(row, x) + b for row, b in zip(weight, bias, strict=True)]


def relu(x: Numbers) -> Numbers:
    return [max(number, 0.0) for number in x]


def concat(e: list[Numbers]) -> Numbers:
    return [number for e_i in e for number in e_i]


def batch_norm(w: Weights, key: str, x: Numbers, m: int = 0) -> Numbers:
    """(x - mean) / sqrt(var + eps) * weight + bias; set m has the m-th stretch of each of the four."""
    own = [
        w[f"{key}.{name}"][m * len(x) : (m + 1) * len(x)] for name in ("running_mean", "running_var", "weight", "bias")
    ]
    return [
        (number - mean) / math.sqrt(var + EPS) * scale + shift
        for number, mean, var, scale, shift in zip(x, *own, strict=True)
    ]


def projection(w: Weights, key: str, m: int, x: Numbers) -> Numbers:
    """The set's own hidden layer: ReLU( BN( W^(m) x + b^(m) ) )."""
    return relu(batch_norm(w, f"{key}.1.norm", linear(w[f"{key}.0.weight"][m], w[f"{key}.0.bias"][m], x), m))


def mlp(w: Weights, key: str, x: Numbers) -> float:
    """One shared hidden layer, linear, BN, ReLU, then the output."""
    hidden = relu(batch_norm(w, f"{key}.1", linear(w[f"{key}.0.weight"], w[f"{key}.0.bias"], x)))
    (y,) = linear(w[f"{key}.4.weight"], w[f"{key}.4.bias"], hidden)
    return y


def dnn(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    return projection(w, "interaction.1", m, concat(e))


def ipnn(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """[e_1, ..., e_N, e_i . e_j for i < j]."""
    return projection(w, "interaction.1", m, concat(e) + products(e))


def ipnn_without_embeddings(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    return projection(w, "interaction.1", m, products(e))


def products(e: list[Numbers]) -> Numbers:
    return [dot(e[i], e[j]) for i, j in PAIRS]


def nfwfm(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """sum_ij r_ij e_i * e_j over all i and j."""
    r = w["interaction.0.weight"][m]
    return after_pooling(w, m, [sum(r[i][j] * e[i][k] * e[j][k] for i in FIELDS for j in FIELDS) for k in range(K)])


def nfwfm_upper(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """sum_{i<j} r_ij e_i * e_j."""
    r = dict(zip(PAIRS, w["interaction.0.weight"][m], strict=True))
    return after_pooling(w, m, [sum(r[i, j] * e[i][k] * e[j][k] for i, j in PAIRS) for k in range(K)])


def after_pooling(w: Weights, m: int, pooled: Numbers) -> Numbers:
    return projection(w, "interaction.3", m, batch_norm(w, "interaction.1.norm", pooled, m))


def xdeepfm(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """[sum_k of the maps of every CIN layer, projection]; x^{l+1}_o = ReLU(sum_{n,i} W_{o,n,i} x0_n * x^l_i + b_o)."""
    x, summed = e, []
    for layer in range(2):
        weight, bias = (w[f"interaction.streams.0.layers.{layer}.{name}"][m] for name in ("weight", "bias"))
        x = [
            relu(
                [
                    sum(weight[o][n][i] * e[n][k] * x[i][k] for n in FIELDS for i in range(len(x))) + bias[o]
                    for k in range(K)
                ]
            )
            for o in range(len(bias))
        ]
        summed += [sum(x_o) for x_o in x]
    return summed + projection(w, "interaction.streams.1.1", m, concat(e))


def cin_head(w: Weights, h: Numbers) -> float:
    """Linear in the 3 + 2 maps, plus the MLP on the rest."""
    (y,) = linear(w["head.linear.weight"], w["head.linear.bias"], h[:5])
    return y + mlp(w, "head.deep.mlp", h[5:])


def dcnv2(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l."""
    x0 = x = concat(e)
    for layer in range(3):
        wx = linear(*(w[f"interaction.1.layers.{layer}.{name}"][m] for name in ("weight", "bias")), x)
        x = [x0[c] * wx[c] + x[c] for c in range(len(x))]
    return projection(w, "interaction.2", m, x)


def finalmlp(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """[x, y], each from its own MLP of two layers."""
    x, y = (
        projection(w, f"interaction.streams.{s}.2", m, projection(w, f"interaction.streams.{s}.1", m, concat(e)))
        for s in range(2)
    )
    return x + y


def bilinear_head(w: Weights, h: Numbers) -> float:
    """w_x . x + b_x + w_y . y + b_y + sum_ab x_a W_ab y_b."""
    x, y = h[: len(h) // 2], h[len(h) // 2 :]
    (from_x,), (from_y,) = (
        linear(w[f"head.linear_{s}.weight"], w[f"head.linear_{s}.bias"], part) for s, part in (("x", x), ("y", y))
    )
    return from_x + from_y + sum(x[a] * w["head.weight"][a][b] * y[b] for a in range(len(x)) for b in range(len(y)))


def fm(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """sum_{i<j} e_i . e_j."""
    return [sum(products(e))]


def ffm(w: Weights, m: int, e: list[Numbers]) -> Numbers:
    """sum_{i<j} e_i^{->j} . e_j^{->i}; e[i] is e_i^{->j} for every j != i in order, K numbers each."""

    def towards(i: int, j: int) -> Numbers:
        place = [other for other in FIELDS if other != i].index(j)
        return e[i][place * K : (place + 1) * K]

    return [sum(dot(towards(i, j), towards(j, i)) for i, j in PAIRS)]


def shared_mlp(w: Weights, h: Numbers) -> float:
    return mlp(w, "head.mlp", h)


def bias_only(w: Weights, h: Numbers) -> float:
    (y,) = h
    return y + w["head.bias"]


class Case(NamedTuple):
    """A backbone with its options, and the I^(m) and F that it must be."""

    backbone: type[Backbone]
    options: dict[str, Any]
    interaction: Callable[[Weights, int, list[Numbers]], Numbers]
    head: Callable[[Weights, Numbers], float]
    has_sets: bool = True


MLP: dict[str, Any] = {"hidden_sizes": [3, 2], "dropout": 0.5}  # evaluation mode drops nothing
CASES = {
    "dcnv2": Case(DCNv2, {**MLP, "num_cross_layers": 3}, dcnv2, shared_mlp),
    "dnn": Case(DNN, MLP, dnn, shared_mlp),
    "ffm": Case(FFM, {"first_order": True}, ffm, bias_only, has_sets=False),
    "ffm:no_first_order": Case(FFM, {"first_order": False}, ffm, bias_only, has_sets=False),
    "finalmlp": Case(FinalMLP, MLP, finalmlp, bilinear_head),
    "fm": Case(FM, {"first_order": False}, fm, bias_only, has_sets=False),
    "fm:first_order": Case(FM, {"first_order": True}, fm, bias_only, has_sets=False),
    "ipnn": Case(IPNN, {**MLP, "linear_signal": True}, ipnn, shared_mlp),
    "ipnn:no_linear_signal": Case(IPNN, {**MLP, "linear_signal": False}, ipnn_without_embeddings, shared_mlp),
    "nfwfm": Case(NFwFM, {**MLP, "pairs": "full"}, nfwfm, shared_mlp),
    "nfwfm:upper": Case(NFwFM, {**MLP, "pairs": "upper"}, nfwfm_upper, shared_mlp),
    "xdeepfm": Case(XDeepFM, {**MLP, "maps": [3, 2]}, xdeepfm, cin_head),
}
every_case = pytest.mark.parametrize(
    ("name", "num_sets"), [(n, m) for n, case in CASES.items() for m in (1, 2) if m == 1 or case.has_sets]
)


def table_row(table: list[Numbers], x: tuple[int, ...], i: int) -> Numbers:
    """E_i^T 1_{x_i}: the rows of field i stand below those of the fields before it."""
    return table[sum(CARDINALITIES[:i]) + x[i]]


def h_by_loops(case: Case, w: Weights, num_sets: int, x: tuple[int, ...]) -> list[Numbers]:
    """h^(m) of every set, which owns the m-th stretch of each row of the table."""
    h = []
    for m in range(num_sets):
        rows = [table_row(w["embedding.weight"], x, i) for i in FIELDS]
        size = len(rows[0]) // num_sets
        h.append(case.interaction(w, m, [row[m * size : (m + 1) * size] for row in rows]))
    return h


def logit_by_loops(case: Case, w: Weights, num_sets: int, x: tuple[int, ...]) -> float:
    """F of the mean of h over the sets; then the weight of each id, where the backbone has first_order."""
    h = h_by_loops(case, w, num_sets, x)
    y = case.head(w, [sum(h_m[c] for h_m in h) / num_sets for c in range(len(h[0]))])
    if "first_order.table.weight" in w:
        y += sum(table_row(w["first_order.table.weight"], x, i)[0] for i in FIELDS)
    return y


@torch.no_grad()
def make(case: Case, num_sets: int) -> Backbone:
    """Every tensor away from its initial value: biases of 0 and BatchNorm weights of 1 would hide an exchange.

    The running statistics are near those of all rows, and biases positive, so that units are above 0 on most of them.
    """
    generator = torch.Generator().manual_seed(1)
    backbone = case.backbone(CARDINALITIES, num_sets, K, **case.options).double().eval()
    for name, tensor in floats(backbone).items():
        drawn = torch.rand if name.endswith("bias") else torch.randn
        tensor.copy_(0.2 * name.endswith("bias") + drawn(tensor.shape, dtype=tensor.dtype, generator=generator))
    norms = [module.train() for module in backbone.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.momentum = 1.0
    backbone(torch.tensor(ROWS))
    for norm in norms:
        norm.running_mean += 0.2 * norm.running_var.sqrt() * (torch.rand(norm.num_features, generator=generator) - 0.5)
        norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)
    return backbone.eval()


def floats(backbone: Backbone) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in backbone.state_dict().items() if tensor.is_floating_point()}


def assert_same(ours: Tensor, numbers: list[Any]) -> None:
    torch.testing.assert_close(ours.detach(), torch.tensor(numbers, dtype=torch.float64), rtol=1e-12, atol=1e-13)


@every_case
def test_equals_the_formula(name: str, num_sets: int) -> None:
    case = CASES[name]
    backbone = make(case, num_sets)
    w = {key: tensor.tolist() for key, tensor in floats(backbone).items()}
    x_BN = torch.tensor(ROWS)
    assert_same(backbone.stages(x_BN).h_BMH, [h_by_loops(case, w, num_sets, x) for x in ROWS])
    assert_same(backbone(x_BN), [logit_by_loops(case, w, num_sets, x) for x in ROWS])


@every_case
@torch.no_grad()
def test_every_number_counts(name: str, num_sets: int) -> None:
    """Else the comparison above would say nothing about it, as for a unit that is 0 on all rows."""
    backbone, x_BN = make(CASES[name], num_sets), torch.tensor(ROWS)
    before_B = backbone(x_BN)
    assert len({tensor.data_ptr() for tensor in floats(backbone).values()}) == len(floats(backbone)), "shared tensors"
    for key, tensor in floats(backbone).items():
        for place in product(*map(range, tensor.shape)):
            value = tensor[place].clone()
            tensor[place] += 0.1
            assert not torch.allclose(backbone(x_BN), before_B, rtol=1e-6), f"{key}{[*place]} does not matter"
            tensor[place] = value


def test_every_backbone_has_its_formula() -> None:
    models = {path.stem for path in (config_dir() / "model").glob("*.yaml")}
    assert {name.partition(":")[0] for name in CASES} == models
