"""The paper's appendix "Non-Linearity for Multi-Embedding", in float64 and to rounding.

It claims that multi-embedding (ME) without a non-linearity such as ReLU in the interaction is single-embedding (SE) of
size M*K. Both own the same table, (D, M*K): SE reads row x_i as e_i, ME as [e_i^(1), ..., e_i^(M)]. In the appendix's
"stronger version" the sets' features are concatenated, I_all = [I^(m)(e^(m))]_m; I is what SE has. Claim by claim:

- "DNN": I and I_all differ in a permutation, `places`; an MLP takes it into its first weight.
- "Projected DNN": with linear projections the mean over the sets is I / M. SE's weight is that of all sets side by
  side, permuted. SE's bias, of which the appendix does not speak, is the sum of theirs.
- "DCNv2": ME is SE with W^(m,m) = W^(m) and W^(m,m') = O, permuted. So is the package's cross network, which has
  several layers, a bias (permuted likewise) and the residual; so is an MLP on top of it.
- FM and FFM, which it does not name: an inner product is the sum of those of the sets, so the mean over them is SE's
  divided by M. Therefore both refuse embed=me.
- "Summary", the other way round: with the package's `Projection` the same weights give something else, unless M = 1. In
  evaluation mode the ReLU alone does it: without it they are equal again. In training the batch's statistics do it too.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, C = M*K columns, D sum of cardinalities, I = N*K
inputs of a set, J = N*C = M*I of all sets, H width of h.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import CrossNet, GroupedLinear, Projection
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.model.dnn import DNN
from recsys_collapse.model.ffm import FieldAwareProduct
from recsys_collapse.model.fm import PairSum

CARDINALITIES = [5, 2, 7, 3]
BATCH = 11
every_count = pytest.mark.parametrize("num_sets", [1, 2, 4])
several_counts = pytest.mark.parametrize("num_sets", [2, 4])
every_draw = pytest.mark.parametrize("draw", range(5))
few = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def places(num_fields: int, num_sets: int, size: int) -> list[int]:
    """Where [[e_i^(m)]_i]_m, the order of I_all, stands in [[e_i^(m)]_m]_i, the order of I: I_all = I[places]."""
    return [(i * num_sets + m) * size + k for m in range(num_sets) for i in range(num_fields) for k in range(size)]


def ids(num_fields: int) -> Tensor:
    return torch.stack([torch.randint(size, (BATCH,)) for size in CARDINALITIES[:num_fields]], dim=1)


@torch.no_grad()
def embed(num_sets: int, num_fields: int = 4, size: int = 3) -> tuple[Tensor, Tensor]:
    """The same ids in the same table, read by SE, (B, 1, N, C), and by ME, (B, M, N, K)."""
    cardinalities, x_BN = CARDINALITIES[:num_fields], ids(num_fields)
    se = FieldEmbedding(cardinalities, 1, num_sets * size).double()
    me = FieldEmbedding(cardinalities, num_sets, size).double()
    me.weight.copy_(se.weight.normal_())
    return se(x_BN), me(x_BN)


@torch.no_grad()
def single_linear(me: GroupedLinear, num_fields: int) -> GroupedLinear:
    """SE's layer for ME's: weights of all sets side by side, permuted, and the sum of the biases."""
    num_sets, out_size, in_size = me.weight.shape
    se = GroupedLinear(1, num_sets * in_size, out_size).double()
    se.weight[0, :, places(num_fields, num_sets, in_size // num_fields)] = torch.cat([*me.weight], dim=1)
    se.bias.copy_(me.bias.sum(dim=0))
    return se


@torch.no_grad()
def single_cross(me: CrossNet, num_fields: int) -> CrossNet:
    """SE's cross network for ME's: in every layer the sets' weights as blocks on the diagonal, permuted."""
    num_sets, in_size, _ = me.layers[0].weight.shape
    se = CrossNet(1, num_sets * in_size, len(me.layers)).double()
    place = torch.tensor(places(num_fields, num_sets, in_size // num_fields))
    for ours, theirs in zip(se.layers, me.layers, strict=True):
        ours.weight.zero_()
        ours.weight[0, place.unsqueeze(1), place] = torch.block_diag(*theirs.weight)
        ours.bias[0, place] = theirs.bias.flatten()
    return se


def cross_net(num_sets: int, in_size: int, num_layers: int) -> CrossNet:
    cross = CrossNet(num_sets, in_size, num_layers).double()
    for layer in cross.layers:
        nn.init.normal_(layer.bias)  # they start as 0
    return cross


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Rounding is relative to the largest number: small ones can be differences of large ones."""
    assert ours.dtype == theirs.dtype == torch.float64
    scale = theirs.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * scale)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the size of `theirs`."""
    return ((ours - theirs).norm() / theirs.norm()).item()


@every_count
def test_the_permutation_is_the_appendix_s(num_sets: int) -> None:
    """Entry (m, i, k) of I_all is entry (i, m, k) of I."""
    i_NMK = torch.arange(4 * num_sets * 3).view(4, num_sets, 3)
    assert places(4, num_sets, 3) == i_NMK.transpose(0, 1).flatten().tolist()
    assert (places(4, num_sets, 3) == i_NMK.flatten().tolist()) == (num_sets == 1)


@every_count
def test_dnn_concatenation_differs_in_a_permutation(num_sets: int) -> None:
    e_B1NC, e_BMNK = embed(num_sets)
    place = places(4, num_sets, 3)
    i_BJ, all_BJ = e_B1NC.flatten(1), e_BMNK.flatten(1)
    assert torch.equal(i_BJ[:, place], all_BJ)
    assert torch.equal(i_BJ, all_BJ) == (num_sets == 1)


@every_count
@few
@given(num_fields=sizes, size=sizes, width=sizes, seed=seeds)
def test_mean_of_linear_projections_is_one(num_sets: int, num_fields: int, size: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    e_B1NC, e_BMNK = embed(num_sets, num_fields, size)
    me = GroupedLinear(num_sets, num_fields * size, width).double()
    se = single_linear(me, num_fields)
    assert_same(me(e_BMNK.flatten(2)).mean(dim=1), se(e_B1NC.flatten(2))[:, 0] / num_sets)


def cross_layer(e_BNK: Tensor, w_NNKK: Tensor) -> Tensor:
    """The appendix's DCNv2, [e_i * sum_j W_{j->i} e_j]_i; `w_NNKK` is indexed [j, i]."""
    fields = range(e_BNK.shape[1])
    return torch.stack([e_BNK[:, i] * sum(e_BNK[:, j] @ w_NNKK[j, i].T for j in fields) for i in fields], dim=1)


@every_count
def test_cross_layer_is_one_with_blocks(num_sets: int) -> None:
    e_B1NC, e_BMNK = embed(num_sets)
    w_MNNKK = torch.randn(num_sets, 4, 4, 3, 3, dtype=torch.float64)
    w_NNCC = torch.zeros(4, 4, num_sets * 3, num_sets * 3, dtype=torch.float64)
    for m in range(num_sets):
        own = slice(m * 3, (m + 1) * 3)
        w_NNCC[:, :, own, own] = w_MNNKK[m]
    all_BJ = torch.cat([cross_layer(e_BMNK[:, m], w_MNNKK[m]).flatten(1) for m in range(num_sets)], dim=1)
    place = places(4, num_sets, 3)
    assert_same(cross_layer(e_B1NC[:, 0], w_NNCC).flatten(1)[:, place], all_BJ)
    if num_sets > 1:  # "a special case": with other blocks it is no ME of these weights
        other_NNCC = torch.where(w_NNCC == 0, 0.1, w_NNCC)
        assert difference(cross_layer(e_B1NC[:, 0], other_NNCC).flatten(1)[:, place], all_BJ) > 1e-3


@every_count
def test_cross_layer_of_the_appendix_is_the_package_s(num_sets: int) -> None:
    """But for x_l, which it adds, and a bias, which starts as 0. W_{j->i} are the blocks of `pair_projections`."""
    backbone = DCNv2(CARDINALITIES, num_sets, 3, num_cross_layers=1, hidden_sizes=[2]).double()
    nn.init.normal_(backbone.embedding.weight)
    e_BMNK, w_MNNKK = backbone.embedding(ids(4)), backbone.pair_projections()[0]
    expected = [e_BMNK[:, m] + cross_layer(e_BMNK[:, m], w_MNNKK[m]) for m in range(num_sets)]
    assert_same(backbone.cross(e_BMNK.flatten(2)).unflatten(2, (4, 3)), torch.stack(expected, dim=1))


@every_count
@few
@given(num_fields=sizes, size=sizes, num_layers=sizes, seed=seeds)
def test_cross_network_is_one_with_blocks(
    num_sets: int, num_fields: int, size: int, num_layers: int, seed: int
) -> None:
    torch.manual_seed(seed)
    e_B1NC, e_BMNK = embed(num_sets, num_fields, size)
    me = cross_net(num_sets, num_fields * size, num_layers)
    se = single_cross(me, num_fields)
    x_BJ = se(e_B1NC.flatten(2))[:, 0]
    assert_same(x_BJ[:, places(num_fields, num_sets, size)], me(e_BMNK.flatten(2)).flatten(1))


@every_count
@pytest.mark.parametrize("num_layers", [0, 3])
def test_mlp_on_the_concatenation_is_the_same(num_sets: int, num_layers: int) -> None:
    """DNN (no cross layers) and DCNv2: the first weight of the head takes the permutation in."""
    e_B1NC, e_BMNK = embed(num_sets)
    place, me = places(4, num_sets, 3), cross_net(num_sets, 4 * 3, num_layers)
    se = single_cross(me, 4) if num_layers else me
    ours, theirs = (MLPHead(num_sets * 4 * 3, [5, 4], dropout=0.0).double().eval() for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        ours.mlp[0].weight[:, place] = theirs.mlp[0].weight
    found_B, expected_B = ours(se(e_B1NC.flatten(2))[:, 0]), theirs(me(e_BMNK.flatten(2)).flatten(1))
    assert expected_B.std() > 1e-3
    assert_same(found_B, expected_B)


@every_count
def test_mean_of_fms_is_one(num_sets: int) -> None:
    e_B1NC, e_BMNK = embed(num_sets)
    assert_same(PairSum()(e_BMNK).mean(dim=1), PairSum()(e_B1NC)[:, 0] / num_sets)


@every_count
def test_mean_of_ffms_is_one(num_sets: int) -> None:
    """A row has N-1 parts of M*K numbers in SE, and in each set of ME N-1 parts of K: columns are permuted as above."""
    x_BN, size = ids(4), 3
    se = FieldEmbedding(CARDINALITIES, 1, 3 * num_sets * size).double()
    me = FieldEmbedding(CARDINALITIES, num_sets, 3 * size).double()
    with torch.no_grad():
        me.weight.copy_(se.weight.normal_()[:, places(3, num_sets, size)])
    product = FieldAwareProduct(4)
    assert_same(product(me(x_BN)).mean(dim=1), product(se(x_BN))[:, 0] / num_sets)


def single_projection(me: Projection, num_fields: int) -> Projection:
    """SE's projection for ME's, fresh: the running statistics are 0 and 1, so that BatchNorm is the same for both."""
    num_sets, out_size, in_size = me[0].weight.shape
    se = Projection(1, num_sets * in_size, out_size, dropout=0.0).double()
    se[0] = single_linear(me[0], num_fields)
    return se


@every_count
@every_draw
def test_mean_of_non_linear_projections_is_not_one(num_sets: int, draw: int) -> None:
    torch.manual_seed(draw)
    e_B1NC, e_BMNK = embed(num_sets)
    me = Projection(num_sets, 4 * 3, 6, dropout=0.0).double()
    me, se = me.eval(), single_projection(me, 4).eval()
    found_BH, expected_BH = me(e_BMNK.flatten(2)).mean(dim=1), se(e_B1NC.flatten(2))[:, 0] / num_sets
    if num_sets == 1:
        assert_same(found_BH, expected_BH)
    else:
        assert difference(found_BH, expected_BH) > 0.1
    me[2] = se[2] = nn.Identity()
    assert_same(me(e_BMNK.flatten(2)).mean(dim=1), se(e_B1NC.flatten(2))[:, 0] / num_sets)


@several_counts
@every_draw
def test_batch_statistics_are_a_non_linearity(num_sets: int, draw: int) -> None:
    """In training, also without ReLU: each set is divided by its own deviation."""
    torch.manual_seed(draw)
    e_B1NC, e_BMNK = embed(num_sets)
    me = Projection(num_sets, 4 * 3, 6, dropout=0.0).double()
    se = single_projection(me, 4)
    me[2] = se[2] = nn.Identity()
    assert difference(me(e_BMNK.flatten(2)).mean(dim=1), se(e_B1NC.flatten(2))[:, 0] / num_sets) > 0.1


@torch.no_grad()
def backbones(num_sets: int) -> tuple[DNN, DNN]:
    """DNN by SE and by ME, with one hidden layer, which is the projection, and so a linear head. SE's has 1/M in it."""
    se, me = (DNN(CARDINALITIES, m, num_sets // m * 3, hidden_sizes=[6]).double().eval() for m in (1, num_sets))
    se.embedding.weight.copy_(me.embedding.weight.normal_())
    se.interaction[1][0] = single_linear(me.interaction[1][0], len(CARDINALITIES))
    se.head.mlp[0].weight.copy_(me.head.mlp[0].weight / num_sets)
    se.head.mlp[0].bias.copy_(me.head.mlp[0].bias)
    return se, me


@every_count
@every_draw
def test_dnn_with_a_linear_head(num_sets: int, draw: int) -> None:
    """The whole backbone: ME is not SE, but without ReLU it is."""
    torch.manual_seed(draw)
    (se, me), x_BN = backbones(num_sets), ids(4)
    if num_sets == 1:
        assert_same(me(x_BN), se(x_BN))
    else:
        assert difference(me(x_BN), se(x_BN)) > 0.02
    me.interaction[1][2] = se.interaction[1][2] = nn.Identity()
    assert_same(me(x_BN), se(x_BN))
