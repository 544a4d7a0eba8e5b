"""Similarity between embedding sets, against the same numbers from the tables themselves by loops in numpy and scipy.

Shapes: B batch, M embedding sets, N fields, K columns of one set, C = M*K columns of all sets, H units, D rows.
"""

import math
from collections.abc import Callable
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from recsys_collapse import similarity
from recsys_collapse.model.backbone import Stages
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.regularizer.norm_align import NormAlign
from recsys_collapse.similarity import (
    Divergence,
    linear_cka,
    pair_norms,
    pattern_divergence,
    principal_angles,
    random_pattern_divergence,
    set_correlation,
    sub_abundance,
    subspace_overlap,
)

few = settings(max_examples=50, deadline=None)
ROWS = [40, 7, 5, 4, 3, 2]
ENERGIES = [0.3, 0.8, 0.95, 1.0]


def tables(num_sets: int, size: int, rows: list[int] = ROWS, seed: int = 0) -> list[np.ndarray]:
    """(D, M, K) of every field: sets with a common part, every column of its own size, a mean row."""
    rng = np.random.default_rng(seed)
    found = []
    for number in rows:
        own, common = rng.standard_normal((number, num_sets, size)), rng.standard_normal((number, 1, size))
        found.append((own + common + 0.5) * rng.uniform(0.1, 2, (num_sets, size)))
    return found


def centred(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=0)


def gram(fields: list[np.ndarray]) -> Tensor:
    """Gram matrices of all sets side by side, (N, M*K, M*K)."""
    flat = [table.reshape(len(table), -1) for table in fields]
    return torch.tensor(np.stack([table.T @ table for table in flat]))


def counts(fields: list[np.ndarray]) -> Tensor:
    return torch.tensor([len(table) for table in fields])


def cka_of(a: np.ndarray, b: np.ndarray) -> float:
    """By the matrices of products between rows, (D, D)."""
    a, b = centred(a), centred(b)
    return float(np.vdot(a @ a.T, b @ b.T) / (np.linalg.norm(a @ a.T) * np.linalg.norm(b @ b.T)))


def directions(table: np.ndarray, energy: float) -> np.ndarray:
    """Left singular vectors, one after the other until they hold `energy`."""
    u, sigma, _ = np.linalg.svd(table, full_matrices=False)
    share = np.cumsum(sigma**2) / (sigma**2).sum()
    rank = next(r for r in range(1, len(sigma) + 1) if share[r - 1] >= energy - 1e-10)
    return u[:, :rank]


@pytest.fixture(params=[(3, 4), (2, 1), (1, 3)], ids=str)
def some(request: pytest.FixtureRequest) -> list[np.ndarray]:
    return tables(*request.param)


def shape_of(fields: list[np.ndarray]) -> tuple[int, int]:
    return fields[0].shape[1:]  # type: ignore[return-value]


# CKA


def test_cka_is_that_of_the_tables(some: list[np.ndarray]) -> None:
    num_sets, size = shape_of(some)
    found = linear_cka(gram([centred(table) for table in some]), num_sets, counts(some))
    assert all(part.shape == (len(some), num_sets, num_sets) and part.dtype == torch.float64 for part in found)
    for i, a, b in product(range(len(some)), range(num_sets), range(num_sets)):
        x, y, rows = centred(some[i][:, a]), centred(some[i][:, b]), len(some[i])
        value, null, adjusted = (part[i, a, b].item() for part in found)
        assert value == pytest.approx(cka_of(x, y), rel=1e-10)
        norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
        assert null == pytest.approx((x**2).sum() * (y**2).sum() / ((rows - 1) * norms), rel=1e-10)
        if rows - 1 > size:
            assert adjusted == pytest.approx((value - null) / (1 - null), rel=1e-9)
        else:
            assert math.isnan(adjusted)
    assert (found.value_NMM.diagonal(dim1=1, dim2=2) == 1).all()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_null_of_cka_is_the_mean_over_all_orders_of_the_rows(size: int) -> None:
    (table,) = tables(2, size, [5], seed=1)
    a, b = table[:, 0], table[:, 1]
    orders = [cka_of(a, b[list(order)]) for order in permutations(range(5))]
    found = linear_cka(gram([centred(table)]), 2, counts([table]))
    assert found.null_NMM[0, 0, 1].item() == found.null_NMM[0, 1, 0].item() == pytest.approx(np.mean(orders), rel=1e-10)


def test_null_of_cka_at_random_orders_and_for_unrelated_sets() -> None:
    (table,) = tables(2, 3, [30], seed=2)
    rng = np.random.default_rng(0)
    drawn = [cka_of(table[:, 0], table[rng.permutation(30), 1]) for _ in range(1000)]
    null = linear_cka(gram([centred(table)]), 2, counts([table])).null_NMM[0, 0, 1].item()
    assert null == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(1000)) and null > 0.05
    fields = [centred(rng.standard_normal((20, 2, 5)) * [3, 2, 1, 1, 0.5]) for _ in range(1000)]
    value, null, adjusted = (part[:, 0, 1] for part in linear_cka(gram(fields), 2, counts(fields)))
    for above in (value - null, adjusted):
        assert abs(above.mean()) < 4 * above.std() / math.sqrt(1000)
    assert value.mean() > 0.1


def test_cka_of_known_sets() -> None:
    u, v, w = np.linalg.qr(centred(np.random.default_rng(0).standard_normal((9, 3))))[0].T
    fields = [np.stack(sets, axis=1)[..., None] for sets in ((u, u), (u, -3 * u), (u, v), (u, u + v))]
    found = linear_cka(gram(fields), 2, counts(fields)).value_NMM[:, 0, 1]
    np.testing.assert_allclose(found, [1, 1, 0, 0.5], atol=1e-12)
    wide = [np.stack([np.stack([u, 0 * u], 1), np.stack([u, v], 1), np.stack([v, w], 1)], axis=1)]
    found = linear_cka(gram(wide), 3, counts(wide)).value_NMM[0]
    root = math.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, root, 0], [root, 1, 0.5], [0, 0.5, 1]], atol=1e-12)


def test_rows_alone_decide_whether_cka_has_an_adjusted_value() -> None:
    """A set of K = 2 columns can span all that is left of 3 rows once their mean is taken off, but not of 4."""
    fields = [centred(table) for table in tables(2, 2, [4, 3, 2, 1])]
    value, null, adjusted = (part[:, 0, 1].isnan().tolist() for part in linear_cka(gram(fields), 2, counts(fields)))
    assert (value, null, adjusted) == ([False] * 3 + [True], [False] * 3 + [True], [False] + [True] * 3)
    two = linear_cka(gram(fields[2:3]), 2, counts(fields[2:3]))
    assert two.value_NMM[0, 0, 1].item() == pytest.approx(1) and two.null_NMM[0, 0, 1].item() == pytest.approx(1)
    noise = linear_cka(gram(tables(2, 2, [4, 4])), 2, torch.tensor([1, 0]))  # of a single row that centring left
    assert all(part.isnan().all() for part in noise)


# Overlap of spaces


@pytest.mark.parametrize("energy", ENERGIES)
def test_overlap_is_that_of_the_tables(some: list[np.ndarray], energy: float) -> None:
    num_sets, size = shape_of(some)
    found = subspace_overlap(gram(some), num_sets, counts(some), energy)
    assert all(part.dtype == torch.float64 for part in found)
    assert found.value_NMM.shape == found.null_NMM.shape == (len(some), num_sets, num_sets)
    assert found.rank_NM.shape == (len(some), num_sets)
    for i, a, b in product(range(len(some)), range(num_sets), range(num_sets)):
        q_a, q_b = directions(some[i][:, a], energy), directions(some[i][:, b], energy)
        ranks = q_a.shape[1], q_b.shape[1]
        assert found.rank_NM[i, a].item() == ranks[0]
        if len(some[i]) > size:
            expected = np.linalg.norm(q_a.T @ q_b) ** 2 / min(ranks)
            assert found.value_NMM[i, a, b].item() == pytest.approx(expected, abs=1e-9)
            assert found.null_NMM[i, a, b].item() == pytest.approx(max(ranks) / len(some[i]))
        else:
            assert found.value_NMM[i, a, b].isnan() and found.null_NMM[i, a, b].isnan()


def test_energy_is_of_the_squares_and_95_percent_unless_told() -> None:
    """Singular values 10, 3, 1, .5: shares .907, .988, .998, 1 of the squares (.69, .90, .97, 1 of themselves)."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((20, 4)))[0] * [10, 3, 1, 0.5]
    table = (u @ np.linalg.qr(rng.standard_normal((4, 4)))[0])[:, None]
    ranks = [subspace_overlap(gram([table]), 1, counts([table]), e).rank_NM.item() for e in (0.9, 0.91, 0.99, 0.999, 1)]
    assert ranks == [1, 2, 3, 4, 4]
    assert subspace_overlap(gram([table]), 1, counts([table])).rank_NM.item() == 2
    assert len(principal_angles(gram([table])[0], 1, 0, 0)) == 2


@pytest.mark.parametrize("columns", [20, 40])
def test_a_share_that_is_held_exactly_needs_no_further_direction(columns: int) -> None:
    same = torch.eye(columns, dtype=torch.float64).unsqueeze(0)
    assert subspace_overlap(same, 1, torch.tensor([100])).rank_NM.item() == 0.95 * columns


@pytest.mark.parametrize("energy", ENERGIES)
def test_angles_are_scipys(energy: float) -> None:
    for table in tables(3, 4, [40, 6, 5]):
        (gram_CC,) = gram([table])
        for a, b in product(range(3), range(3)):
            q_a, q_b = directions(table[:, a], energy), directions(table[:, b], energy)
            found = principal_angles(gram_CC, 3, a, b, energy)
            assert found.shape == (min(q_a.shape[1], q_b.shape[1]),) and found.dtype == torch.float64
            assert (found.diff() <= 0).all() and (found >= 0).all() and (found <= 1).all()
            np.testing.assert_allclose(found, np.sort(np.cos(subspace_angles(q_a, q_b)))[::-1], atol=1e-9)
            overlap = subspace_overlap(gram([table]), 3, counts([table]), energy)
            assert found.square().mean().item() == pytest.approx(overlap.value_NMM[0, a, b].item(), abs=1e-9)


def test_overlap_and_angles_of_known_sets() -> None:
    u, v, w = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 3)))[0].T
    tilted = math.cos(math.pi / 6) * v + math.sin(math.pi / 6) * w
    sets = [np.stack(pair, axis=1) for pair in ((u, v), (10 * v, u), (u, 1e-3 * v), (u, w), (u, tilted))]
    table = np.stack(sets, axis=1)
    found = subspace_overlap(gram([table]), 5, counts([table]))
    assert found.rank_NM[0].tolist() == [2, 1, 1, 2, 2]
    np.testing.assert_allclose(found.value_NMM[0, 0], [1, 1, 1, 0.5, (1 + 0.75) / 2], atol=1e-12)
    assert subspace_overlap(gram([table]), 5, counts([table]), 0.999).value_NMM[0, 0, 1].item() == pytest.approx(1)
    np.testing.assert_allclose(principal_angles(gram([table])[0], 5, 4, 0), [1, math.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(principal_angles(gram([table])[0], 5, 1, 2, 1.0), [1, 1], atol=1e-9)
    np.testing.assert_allclose(principal_angles(gram([table])[0], 5, 1, 3), [0], atol=1e-12)


@pytest.mark.parametrize(("mean_off", "energy"), [(False, 1.0), (True, 1.0), (False, 0.6)])
def test_null_of_overlap_is_the_mean_for_random_spaces(mean_off: bool, energy: float) -> None:
    """Centred tables lie in one dimension less, and so many `rows_N` are to be given."""
    rng = np.random.default_rng(1)
    fields = [rng.standard_normal((9, 2, 4)) * [1, 1, 1, 0.5] for _ in range(1000)]
    fields = [centred(table) for table in fields] if mean_off else fields
    found = subspace_overlap(gram(fields), 2, counts(fields) - int(mean_off), energy)
    above = (found.value_NMM - found.null_NMM)[:, 0, 1]
    assert abs(above.mean()) < 4 * above.std() / math.sqrt(1000) < 0.03


# Both


@few
@given(
    rows=st.integers(4, 30),
    num_sets=st.integers(1, 4),
    size=st.integers(1, 5),
    rank=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    energy=st.floats(0.01, 1),
    exponents=st.lists(st.integers(-30, 30), min_size=4, max_size=4),
)
def test_ranges_and_invariance(
    rows: int, num_sets: int, size: int, rank: int, seed: int, energy: float, exponents: list[int]
) -> None:
    """Sets of any rank; turned, and scaled by up to 1e30 against each other."""
    rng = np.random.default_rng(seed)
    table = np.einsum(
        "dmr,mrk->dmk", rng.standard_normal((rows, num_sets, rank)), rng.normal(size=(num_sets, rank, size))
    )
    turns = [np.linalg.qr(rng.standard_normal((size, size)))[0] * 10.0**e for e in exponents[:num_sets]]
    turned = np.stack([table[:, m] @ turns[m] for m in range(num_sets)], axis=1)
    count = counts([table])

    before, after = (linear_cka(gram([centred(x)]), num_sets, count) for x in (table, turned))
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-8, atol=1e-10, equal_nan=True)
        torch.testing.assert_close(old, old.mT, rtol=1e-10, atol=1e-13, equal_nan=True)
    assert ((before.value_NMM >= 0) & (before.value_NMM <= 1)).all()
    assert (before.value_NMM.diagonal(dim1=1, dim2=2) == 1).all()
    assert ((before.null_NMM > 0) & (before.null_NMM <= 1 + 1e-9)).all()
    assert before.adjusted_NMM.isnan().all() if rows - 1 <= size else (before.adjusted_NMM <= 1 + 1e-9).all()

    shares = [np.cumsum(s**2) / (s**2).sum() for s in (np.linalg.svd(table[:, m])[1] for m in range(num_sets))]
    assume(min(np.abs(share - energy).min() for share in shares) > 1e-6)  # no cut at the edge
    before, after = (subspace_overlap(gram([x]), num_sets, count, energy) for x in (table, turned))
    assert torch.equal(before.rank_NM, after.rank_NM) and (before.rank_NM >= 1).all()
    if rows > size:
        torch.testing.assert_close(after.value_NMM, before.value_NMM, rtol=0, atol=1e-6)
        torch.testing.assert_close(before.value_NMM, before.value_NMM.mT, rtol=0, atol=1e-6)
        assert ((before.value_NMM >= 0) & (before.value_NMM <= 1)).all()
        torch.testing.assert_close(
            before.value_NMM.diagonal(dim1=1, dim2=2), torch.ones(1, num_sets).double(), rtol=0, atol=1e-6
        )
    else:
        assert before.value_NMM.isnan().all() and before.null_NMM.isnan().all()


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_set_without_a_direction_has_no_value_and_takes_none_from_the_others(bad: float) -> None:
    fields = [centred(table) for table in tables(3, 2, [9, 12])]
    good = [table.copy() for table in fields]
    fields[0][:, 1] *= bad
    with np.errstate(all="ignore"):
        gram_NCC = gram(fields)
    pairs = torch.zeros(2, 3, 3, dtype=torch.bool)
    pairs[0, 1], pairs[0, :, 1] = True, True
    calls: list[Callable[[Tensor], Tensor]] = [
        *(lambda g, n=n: linear_cka(g, 3, counts(fields))[n] for n in range(3)),
        *(lambda g, n=n: subspace_overlap(g, 3, counts(fields))[n] for n in range(2)),
    ]
    for call in calls:
        assert torch.equal(call(gram_NCC).isnan(), pairs)
        torch.testing.assert_close(call(gram_NCC)[~pairs], call(gram(good))[~pairs], rtol=1e-12, atol=1e-14)
    assert subspace_overlap(gram_NCC, 3, counts(fields)).rank_NM.isnan().tolist() == [[False, True, False], [False] * 3]
    assert principal_angles(gram_NCC[0], 3, 0, 1).shape == principal_angles(gram_NCC[0], 3, 1, 1).shape == (0,)
    assert torch.equal(principal_angles(gram_NCC[0], 3, 0, 2), principal_angles(gram(good)[0], 3, 0, 2))


# Interaction patterns


def patterns(num_sets: int, num_fields: int = 4, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    common = rng.uniform(0.5, 1.5, (1, num_fields, num_fields))
    return torch.tensor(common + rng.uniform(0, 1, (num_sets, num_fields, num_fields)))


def test_norms_are_those_of_the_blocks() -> None:
    w_MNNKK = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = pair_norms(w_MNNKK)
    assert found.shape == (2, 3, 3) and found.dtype == torch.float64 and not found.requires_grad
    for m, i, j in product(range(2), range(3), range(3)):
        expected = np.linalg.norm(w_MNNKK[m, i, j].detach().double().numpy(), "fro")
        assert found[m, i, j].item() == pytest.approx(expected, rel=1e-12)


def test_norms_of_a_cross_layer() -> None:
    """[m, i, j] is that of W_{i->j}: columns of field i, rows of field j in W x."""
    backbone = DCNv2([3, 4, 5], 2, 2, num_cross_layers=2, hidden_sizes=(4, 3))
    with torch.no_grad():
        backbone.cross.layers[0].weight.zero_()
        backbone.cross.layers[0].weight[1, 4:6, 0:2] = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    found = pair_norms(backbone.pair_projections()[0])
    assert found[1, 0, 2].item() == 5 and found.count_nonzero() == 1


@pytest.mark.parametrize("num_sets", [2, 3, 5])
def test_divergence_by_loops(num_sets: int) -> None:
    norm_MNN = patterns(num_sets)
    norm = norm_MNN.numpy()
    found = pattern_divergence(norm_MNN.float())
    pairs = list(combinations(range(num_sets), 2))
    correlation = sum(np.corrcoef(norm[a].ravel(), norm[b].ravel())[0, 1] for a, b in pairs) / len(pairs)
    cells = [norm[:, i, j] for i, j in product(range(4), range(4))]
    variation = np.mean([math.sqrt(np.mean((cell - cell.mean()) ** 2)) / cell.mean() for cell in cells])
    variance = np.mean([np.mean((cell**2 - (cell**2).mean()) ** 2) for cell in cells])
    expected = (correlation, 1 - correlation, variation, variance)
    assert found == pytest.approx(expected, rel=1e-5)
    assert pattern_divergence(norm_MNN) == pytest.approx(expected, rel=1e-12)
    assert all(isinstance(value, float) for value in found)


@few
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_divergence_has_its_range_and_knows_no_order(num_sets: int, num_fields: int, seed: int, scale: float) -> None:
    norm_MNN = torch.rand(num_sets, num_fields, num_fields, generator=torch.Generator().manual_seed(seed)).double()
    found = pattern_divergence(norm_MNN)
    assert -1 <= found.correlation <= 1 and 0 <= found.divergence <= 2
    assert found.variation >= 0 and found.variance >= 0
    assert pattern_divergence(norm_MNN.flip(0)) == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert pattern_divergence(norm_MNN.mT.flip(2)) == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert pattern_divergence(scale * norm_MNN)[:3] == pytest.approx(found[:3], rel=1e-9, abs=1e-12)


def test_variance_is_the_penalty() -> None:
    torch.manual_seed(0)
    backbone = DCNv2([3, 4, 5], 3, 2, num_cross_layers=1, hidden_sizes=(4, 3)).double()
    penalty = NormAlign(backbone)(backbone, Stages(*[torch.zeros(0)] * 3)).item()
    found = pattern_divergence(pair_norms(backbone.pair_projections()[0]))
    assert found.variance == pytest.approx(penalty, rel=1e-12)


def test_divergence_of_known_patterns() -> None:
    norm_MNN = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]] * 2).double()
    assert pattern_divergence(norm_MNN) == pytest.approx((1, 0, 0, 0), abs=1e-12)
    norm_MNN[1] = 5 - norm_MNN[1]
    # 1 4, 2 3, 3 2, 4 1: deviation / mean 1.5 / 2.5 or .5 / 2.5; squares 1 16 and 4 9.
    assert pattern_divergence(norm_MNN) == pytest.approx((-1, 2, 0.4, (7.5**2 + 2.5**2) / 2), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "defined"),
    [
        (lambda norm_MNN: norm_MNN[:1], (False, False)),
        (lambda norm_MNN: norm_MNN[:0], (False, False)),
        (lambda norm_MNN: norm_MNN.index_fill(0, torch.tensor([1]), 0.1), (False, True)),
        (lambda norm_MNN: norm_MNN.index_fill(2, torch.tensor([1]), 0), (True, True)),
        (lambda norm_MNN: norm_MNN.index_fill(0, torch.tensor([2]), math.nan), (False, False)),
        (lambda norm_MNN: norm_MNN[:, :1, :1], (False, True)),
    ],
    ids=["one set", "no set", "one constant", "zero pairs", "NaN", "one field"],
)
def test_where_patterns_have_no_divergence(change: Callable[[Tensor], Tensor], defined: tuple[bool, bool]) -> None:
    norm_MNN = change(patterns(3))
    found = pattern_divergence(norm_MNN)
    assert math.isfinite(found.correlation) == math.isfinite(found.divergence) == defined[0]
    assert math.isfinite(found.variance) == defined[1]
    assert math.isfinite(found.variation) == (defined[1] and bool((norm_MNN > 0).all()))


def test_rounding_is_no_pattern() -> None:
    """Norms that are all the same but for the last digit."""
    noise = 2.0**-52 * torch.randint(0, 3, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    assert math.isnan(pattern_divergence(1 + noise.double()).correlation)


@pytest.mark.parametrize(("num_sets", "num_fields", "size"), [(2, 5, 2), (4, 8, 3)])
def test_random_divergence_is_that_of_new_blocks(num_sets: int, num_fields: int, size: int) -> None:
    """Against numpy's draws, and the cross layers of new models."""
    rng = np.random.default_rng(0)
    bound = math.sqrt(6 / (2 * num_fields * size))
    shape = (num_sets, num_fields, num_fields, size, size)
    drawn = [pattern_divergence(pair_norms(torch.tensor(rng.uniform(-bound, bound, shape)))) for _ in range(300)]
    torch.manual_seed(0)
    models = [DCNv2([2] * num_fields, num_sets, size, num_cross_layers=1, hidden_sizes=(2,)) for _ in range(100)]
    started = [pattern_divergence(pair_norms(model.pair_projections()[0])) for model in models]
    found = random_pattern_divergence(num_sets, num_fields, size, 300)
    assert isinstance(found, Divergence) and found.correlation + found.divergence == pytest.approx(1, abs=1e-12)
    for others in (drawn, started):
        mean, deviation = np.mean(others, axis=0), np.std(others, axis=0)
        assert (np.abs(mean - found) < 4 * deviation * math.sqrt(1 / 300 + 1 / len(others))).all()
    assert abs(found.correlation) < 0.06 and 0.05 < found.variation < 0.3


def test_random_divergence_is_the_mean_over_its_draws() -> None:
    one, many = random_pattern_divergence(3, 4, 2, 1), random_pattern_divergence(3, 4, 2)
    assert random_pattern_divergence(3, 4, 2, 20) == many != one
    assert random_pattern_divergence(3, 4, 2) is many, "drawn a second time"


@pytest.mark.parametrize("entries", [1, 20, 100])
def test_how_many_blocks_are_drawn_at_once_changes_nothing(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = random_pattern_divergence(3, 5, 3)
    asked: list[int] = []
    uniform = torch.Tensor.uniform_

    def recorded(self: Tensor, *args: float, **options: torch.Generator) -> Tensor:
        asked.append(self.numel())
        return uniform(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "uniform_", recorded)
    monkeypatch.setattr(similarity, "ENTRIES_AT_ONCE", entries)
    assert random_pattern_divergence.__wrapped__(3, 5, 3) == pytest.approx(expected, rel=1e-12)
    assert sum(asked) == 20 * 3 * 5**2 * 3**2 and max(asked) <= max(entries, 3**2)


def test_random_divergence_depends_on_its_arguments_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = random_pattern_divergence.__wrapped__(2, 3, 2)
    assert torch.equal(torch.get_rng_state(), before), "it moved the generator of the training"
    torch.manual_seed(1)
    assert random_pattern_divergence.__wrapped__(2, 3, 2) == first
    assert all(math.isnan(value) for value in random_pattern_divergence(1, 3, 2))


# Activations


def activations(batch: int = 30, num_sets: int = 3, units: int = 5, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((batch, 1, units))
    return torch.tensor(
        3 + common + rng.uniform(0.5, 2, num_sets)[:, None] * rng.standard_normal((batch, num_sets, units))
    )


def by_units(h_BMH: Tensor) -> np.ndarray:
    h, (_, num_sets, units) = h_BMH.double().numpy(), h_BMH.shape
    found = np.full((num_sets, num_sets), np.nan)
    for a, b in product(range(num_sets), range(num_sets)):
        both = [(h[:, a, u], h[:, b, u]) for u in range(units)]
        values = [np.corrcoef(x, y)[0, 1] for x, y in both if np.ptp(x) > 0 and np.ptp(y) > 0]
        found[a, b] = np.mean(values) if values else np.nan
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlation_is_the_mean_over_units(dtype: torch.dtype) -> None:
    h_BMH = activations().to(dtype)
    found = set_correlation(h_BMH.requires_grad_())
    assert found.shape == (3, 3) and found.dtype == torch.float64 and not found.requires_grad
    np.testing.assert_allclose(found, by_units(h_BMH.detach()), rtol=1e-10)
    torch.testing.assert_close(found.diagonal(), torch.ones(3).double())
    torch.testing.assert_close(found, found.T)


def test_dead_units_do_not_count() -> None:
    """Of set 0 the first two, of set 1 the first and the last, of set 2 none: each pair has its own mean."""
    h_BMH = activations()
    h_BMH[:, 0, :2], h_BMH[:, 1, 0], h_BMH[:, 1, -1] = 0, 0.1, 1e6 / 3
    np.testing.assert_allclose(set_correlation(h_BMH), by_units(h_BMH), rtol=1e-10)
    h_BMH[:, 0] = 7
    found = set_correlation(h_BMH)
    assert found[0].isnan().all() and found[:, 0].isnan().all() and found[1:, 1:].isfinite().all()


@few
@given(st.integers(2, 10), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31))
def test_correlation_ignores_size_and_place_of_units(batch: int, num_sets: int, units: int, seed: int) -> None:
    h_BMH = activations(batch, num_sets, units, seed)
    generator = torch.Generator().manual_seed(seed)
    sizes_MH, places_MH = (0.5 + torch.rand(num_sets, units, generator=generator).double() for _ in range(2))
    found = set_correlation(h_BMH)
    assert ((found >= -1) & (found <= 1)).all()
    np.testing.assert_allclose(found, by_units(h_BMH), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(set_correlation(sizes_MH * h_BMH + places_MH), found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(set_correlation(h_BMH.flip(2)), found)


def test_correlation_of_known_sets() -> None:
    x_BH = activations()[:, 0]
    h_BMH = torch.stack([x_BH, 2 * x_BH + 1, -x_BH, x_BH * torch.tensor([1, 1, 1, 1, -1])], dim=1)
    expected = torch.tensor([[1, 1, -1, 0.6], [1, 1, -1, 0.6], [-1, -1, 1, -0.6], [0.6, 0.6, -0.6, 1]])
    torch.testing.assert_close(set_correlation(h_BMH), expected.double())


@pytest.mark.parametrize("shape", [(1, 2, 3), (0, 2, 3), (4, 2, 0)])
def test_no_unit_that_varies_no_correlation(shape: tuple[int, int, int]) -> None:
    found = set_correlation(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 2) and found.isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_no_dead_unit(bad: float) -> None:
    h_BMH = activations()
    h_BMH[3, 1, 2] = bad
    found = set_correlation(h_BMH)
    assert found[1].isnan().all() and found[:, 1].isnan().all() and found[::2, ::2].isfinite().all()


# What all have in common


def test_stays_on_the_device() -> None:
    """Mixing devices is an error, on "meta" as on a GPU; the counts of rows may come from the CPU."""
    gram_NCC, rows_N = torch.empty(2, 6, 6, device="meta"), torch.tensor([9, 8])
    found = [*linear_cka(gram_NCC, 3, rows_N), *subspace_overlap(gram_NCC, 3, rows_N)]
    found.append(pair_norms(torch.empty(2, 3, 3, 4, 4, device="meta")))
    found.append(sub_abundance(torch.empty(3, 2, 2, 4, 4, device="meta"), rows_N))
    found += similarity.axis_sums(torch.empty(3, 2, 2, device="meta"))
    found.append(set_correlation(torch.empty(7, 3, 4, device="meta")))
    assert all(part.is_meta and part.dtype == torch.float64 for part in found)


def test_no_gradient_is_kept() -> None:
    gram_NCC = gram(tables(2, 2)).requires_grad_()
    rows_N = torch.tensor(ROWS)
    parts = [*linear_cka(gram_NCC, 2, rows_N), *subspace_overlap(gram_NCC, 2, rows_N)]
    assert not any(part.requires_grad for part in [*parts, principal_angles(gram_NCC[0], 2, 0, 1)])


EYE = torch.eye(6).unsqueeze(0)
ONE = torch.tensor([9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_cka(EYE, 4, ONE), "num_sets=4: expected a divisor of the 6 columns"),
        (lambda: linear_cka(EYE, 0, ONE), "num_sets=0: expected a divisor of the 6 columns"),
        (lambda: linear_cka(EYE[0], 3, ONE), r"shape \(6, 6\): expected \(N, C, C\)"),
        (lambda: linear_cka(EYE[:, :5], 5, ONE), r"shape \(1, 5, 6\): expected \(N, C, C\)"),
        (lambda: linear_cka(EYE, 3, torch.tensor([9, 9])), r"shape \(2,\): expected \(N\) as in {'N': 1, 'C': 6}"),
        (lambda: subspace_overlap(EYE, 4, ONE), "num_sets=4: expected a divisor of the 6 columns"),
        (lambda: subspace_overlap(EYE, 3, torch.tensor(9)), r"shape \(\): expected \(N\)"),
        (lambda: subspace_overlap(EYE, 3, ONE, 0.0), "energy=0.0: expected a number above 0, up to 1"),
        (lambda: subspace_overlap(EYE, 3, ONE, 1.1), "energy=1.1: expected a number above 0, up to 1"),
        (lambda: subspace_overlap(EYE, 3, ONE, math.nan), "energy=nan: expected a number above 0, up to 1"),
        (lambda: principal_angles(EYE[0], 3, 0, 3), "sets 0 and 3: expected numbers from 0 to 2"),
        (lambda: principal_angles(EYE[0], 3, -1, 0), "sets -1 and 0: expected numbers from 0 to 2"),
        (lambda: principal_angles(EYE[0], 3, 0, 1, 2.0), "energy=2.0: expected a number above 0, up to 1"),
        (lambda: principal_angles(EYE, 3, 0, 1), r"shape \(1, 6, 6\): expected \(C, C\)"),
        (lambda: principal_angles(EYE[0], 5, 0, 1), "num_sets=5: expected a divisor of the 6 columns"),
        (lambda: pair_norms(torch.zeros(2, 3, 4, 5, 5)), r"shape \(2, 3, 4, 5, 5\): expected \(M, N, N, K, K\)"),
        (lambda: pattern_divergence(torch.zeros(2, 3, 4)), r"shape \(2, 3, 4\): expected \(M, N, N\)"),
        (lambda: random_pattern_divergence(2, 0, 4), "num_sets=2, num_fields=0, size=4, draws=20: expected 1 or more"),
        (lambda: random_pattern_divergence(2, 3, 4, 0), "draws=0: expected 1 or more of each"),
        (lambda: set_correlation(torch.zeros(2, 3)), r"shape \(2, 3\): expected \(B, M, H\)"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
