"""Sub-embeddings and the interaction-collapse law, against loops over pairs and over labellings in numpy and scipy.

Shapes: M embedding sets, N fields, K embedding size per set, D rows of a field.
"""

import math
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, spearmanr
from torch import Tensor

from recsys_collapse import similarity
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.model.ffm import FFM
from recsys_collapse.similarity import Law, axis_sums, collapse_law, sub_abundance
from recsys_collapse.spectrum import field_grams, set_grams

few = settings(max_examples=40, deadline=None)
CARDINALITIES = [5, 1, 2, 12]
SIZE = 3
NAN = math.nan

# Sub-embeddings


def abundance(table: np.ndarray) -> float:
    sigma = np.linalg.svd(table, compute_uv=False)
    return sigma.sum() / sigma[0] if sigma[0] > 0 else NAN


def sub_grams(backbone: DCNv2 | FFM, num_sets: int) -> Tensor:
    embedding = backbone.embedding
    return backbone.sub_gram(set_grams(field_grams(embedding.weight, slices()), num_sets))


def slices() -> list[slice]:
    ends = np.cumsum(CARDINALITIES).tolist()
    return [slice(end - rows, end) for end, rows in zip(ends, CARDINALITIES, strict=True)]


@pytest.mark.parametrize("num_sets", [1, 3])
def test_abundance_of_projected_embeddings(num_sets: int) -> None:
    """E_i W^T with the table and the weight cut by hand; fields 1 and 2 have fewer rows than columns."""
    torch.manual_seed(0)
    backbone = DCNv2(CARDINALITIES, num_sets, SIZE, num_cross_layers=2, hidden_sizes=(4, 3))
    table, weight = (
        tensor.detach().double().numpy() for tensor in (backbone.embedding.weight, backbone.cross.layers[0].weight)
    )
    found = sub_abundance(sub_grams(backbone, num_sets), torch.tensor(CARDINALITIES))
    assert found.shape == (num_sets, 4, 4) and found.dtype == torch.float64 and not found.requires_grad
    for m, i, j in product(range(num_sets), range(4), range(4)):
        e = table[slices()[i], m * SIZE : (m + 1) * SIZE]
        w = weight[m, j * SIZE : (j + 1) * SIZE, i * SIZE : (i + 1) * SIZE]
        assert found[m, i, j].item() == pytest.approx(abundance(e @ w.T), abs=1e-7)
        assert 1 <= found[m, i, j] <= min(CARDINALITIES[i], SIZE)
    assert (found[:, 1] == 1).all(), "a single row"


def test_abundance_of_split_embeddings() -> None:
    """FFM: the parts of row i are ordered by j != i, and there is none at i = j."""
    torch.manual_seed(0)
    backbone = FFM(CARDINALITIES, 1, SIZE)
    table = backbone.embedding.weight.detach().double().numpy()
    found = sub_abundance(sub_grams(backbone, 1), torch.tensor(CARDINALITIES))[0]
    for i in range(4):
        for slot, j in enumerate(j for j in range(4) if j != i):
            part = table[slices()[i], slot * SIZE : (slot + 1) * SIZE]
            assert found[i, j].item() == pytest.approx(abundance(part), abs=1e-7)
    assert torch.equal(found.isnan(), torch.eye(4, dtype=torch.bool))


def test_singular_values_that_a_table_cannot_have_do_not_count() -> None:
    """Rounding noise of a Gram matrix: 1e-8 of the largest one, in all K - D of them."""
    gram_MNNKK = torch.diag(torch.tensor([4.0, 1.0, 1.0, 1.0])).expand(1, 2, 2, 4, 4)
    found = sub_abundance(gram_MNNKK, torch.tensor([2, 9]))
    assert found.tolist() == [[[1.5, 1.5], [2.5, 2.5]]]


@pytest.mark.parametrize("bad", [0.0, NAN, math.inf])
def test_a_pair_without_a_sub_embedding(bad: float) -> None:
    gram_MNNKK = torch.eye(3).repeat(2, 3, 3, 1, 1)
    gram_MNNKK[1, 0, 2] = bad
    gram_MNNKK[0, 2] = bad
    none = torch.zeros(2, 3, 3, dtype=torch.bool)
    none[1, 0, 2] = none[0, 2] = True
    found = sub_abundance(gram_MNNKK, torch.tensor([4, 5, 6]))
    assert torch.equal(found.isnan(), none) and (found[~none] == 3).all()
    assert sub_abundance(gram_MNNKK, torch.tensor([0, 5, 6]))[:, 0].isnan().all(), "no row"


def test_axis_sums() -> None:
    ia_MNN = 1 + torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    of_field_MN, towards_field_MN = axis_sums(ia_MNN)
    assert of_field_MN.shape == towards_field_MN.shape == (2, 5)
    for m, field in product(range(2), range(5)):
        others = [other for other in range(5) if other != field]
        ia = ia_MNN[m].double().numpy()
        assert of_field_MN[m, field].item() == pytest.approx(sum(ia[field, j] for j in others), rel=1e-12)
        assert towards_field_MN[m, field].item() == pytest.approx(sum(ia[i, field] for i in others), rel=1e-12)


def test_axis_sums_without_some_pairs() -> None:
    ia_NN = torch.tensor([[NAN, 2, 4, 6], [1, NAN, 3, NAN], [NAN, NAN, NAN, NAN], [5, 4, 3, 99]])
    (of_field_N,), (towards_field_N,) = axis_sums(ia_NN.unsqueeze(0))
    np.testing.assert_allclose(of_field_N, [12, 6, NAN, 12])
    np.testing.assert_allclose(towards_field_N, [9, 9, 10, 18])
    assert all(part.isnan().all() for part in axis_sums(torch.ones(2, 1, 1)))


# The law


def rho_by_scipy(ia_NN: np.ndarray, ia_N: np.ndarray) -> np.ndarray:
    """Of every field; NaN where its values, or those it is compared with, are all the same or not all finite."""
    found = np.full(len(ia_N), NAN)
    for i in range(len(ia_N)):
        others = [j for j in range(len(ia_N)) if j != i]
        sub, raw = ia_NN[i, others], ia_N[others]
        if np.isfinite(sub).all() and len(set(sub)) > 1 and len(set(raw)) > 1:
            found[i] = spearmanr(sub, raw).statistic
    return found


def law_by_scipy(ia_NN: np.ndarray, ia_N: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Over all labellings of the fields that have an abundance."""
    kept = np.flatnonzero(np.isfinite(ia_N))
    rho_N = np.full(len(ia_N), NAN)
    rho_N[kept] = rho_by_scipy(ia_NN[np.ix_(kept, kept)], ia_N[kept])
    means = []
    for order in permutations(kept):
        rho = rho_by_scipy(ia_NN[np.ix_(kept, kept)], ia_N[list(order)])
        means.append(rho[~np.isnan(rho)].mean() if not np.isnan(rho).all() else math.inf)
    observed = rho_N[~np.isnan(rho_N)].mean()
    return rho_N, observed, np.mean(np.array(means) >= observed - 1e-9)


def assert_same(law: Law, expected: Law) -> None:
    torch.testing.assert_close(law.rho_N, expected.rho_N, rtol=0, atol=1e-12, equal_nan=True)
    assert law[1:] == pytest.approx(expected[1:], abs=1e-12, nan_ok=True)


def planted(num_fields: int, slope: float, seed: int, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """IA(E_i^{->j}) that rise with IA(E_j) by `slope`, noise of size 1; much larger differences along i."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(1, 2, num_fields)
    sub = 10 * raw[:, None] + slope * raw[None] + rng.standard_normal((num_fields, num_fields))
    if steps:
        raw, sub = np.round(steps * raw), np.round(steps * (sub - sub.mean(1, keepdims=True)))
    return torch.tensor(sub), torch.tensor(raw)


@pytest.mark.parametrize("num_fields", [3, 4, 5])
@pytest.mark.parametrize("steps", [None, 1, 2])
@pytest.mark.parametrize("slope", [0, 2])
def test_law_by_scipy(num_fields: int, steps: int | None, slope: int) -> None:
    """With and without ties, down to two values in all."""
    for seed in range(3):
        ia_NN, ia_N = planted(num_fields, slope, seed, steps)
        if len(set(ia_N.tolist())) < 2 or np.isnan(rho_by_scipy(ia_NN.numpy(), ia_N.numpy())).all():
            continue
        rho_N, observed, p_value = law_by_scipy(ia_NN.numpy(), ia_N.numpy())
        law = collapse_law(ia_NN, ia_N)
        np.testing.assert_allclose(law.rho_N, rho_N, atol=1e-12)
        assert law.mean_rho == pytest.approx(observed, abs=1e-12)
        assert law.p_value == pytest.approx(p_value, abs=1e-12)
        assert (law.permutations, law.fields) == (math.factorial(num_fields), num_fields)


def test_rho_of_many_fields() -> None:
    for steps in (None, 3):
        ia_NN, ia_N = planted(39, 2, 0, steps)
        law = collapse_law(ia_NN.float(), ia_N.float(), 9)
        expected = rho_by_scipy(ia_NN.float().numpy(), ia_N.float().numpy())
        np.testing.assert_allclose(law.rho_N, expected, atol=1e-12)
        assert law.rho_N.dtype == torch.float64 and law.mean_rho == pytest.approx(expected.mean(), abs=1e-12)
        assert all(isinstance(value, float) for value in law[1:3]) and law[3:] == (9, 39)


def test_rounding_lifts_no_rho_above_one() -> None:
    for num_fields in range(3, 40):
        ia_N = torch.arange(float(num_fields))
        rho_N = collapse_law(ia_N.expand(num_fields, num_fields), ia_N, 1).rho_N
        assert (rho_N <= 1).all() and (rho_N > 1 - 1e-12).all()


def test_fields_without_a_value() -> None:
    """Field 1 has no abundance and field 4 a single row: its sub-embeddings are constant. Field 6 lacks a pair."""
    ia_NN, ia_N = planted(7, 3, 1)
    ia_N[1], ia_NN[1], ia_NN[4], ia_NN[6, 3] = NAN, NAN, 1, NAN
    ia_NN.fill_diagonal_(NAN)
    law = collapse_law(ia_NN, ia_N)
    rho_N, observed, p_value = law_by_scipy(ia_NN.numpy(), ia_N.numpy())
    np.testing.assert_allclose(law.rho_N, rho_N, atol=1e-12)
    assert law.rho_N.isnan().tolist() == [False, True, False, False, True, False, True]
    assert law[1:] == pytest.approx((observed, p_value, 720, 6), abs=1e-12)
    for bad in (math.inf, -math.inf):
        assert_same(collapse_law(ia_NN.nan_to_num(bad), ia_N.nan_to_num(bad, bad)), law)


def test_diagonal_is_not_read() -> None:
    ia_NN, ia_N = planted(6, 1, 0)
    law = collapse_law(ia_NN, ia_N)
    for value in (NAN, 1e9, -5.0):
        assert_same(collapse_law(ia_NN.clone().fill_diagonal_(value), ia_N), law)


def test_fields_are_those_they_are_for() -> None:
    """ia_NN[i, j] belongs to E_i^{->j}: of these, field 2 follows the others and field 0 runs against them."""
    ia_N = torch.tensor([1.0, 2, 3, 4])
    ia_NN = torch.tensor([[0.0, 9, 8, 7], [5, 0, 5, 5], [1, 2, 0, 3], [1, 3, 2, 0]])
    law = collapse_law(ia_NN, ia_N)
    np.testing.assert_allclose(law.rho_N, [-1, NAN, 1, 0.5], atol=1e-12)
    assert law.mean_rho == pytest.approx(1 / 6)


@few
@given(st.integers(3, 6), st.integers(0, 2**31), st.floats(-3, 3), st.sampled_from([None, 1, 3]))
def test_names_and_scales_of_fields_do_not_matter(num_fields: int, seed: int, slope: float, steps: int | None) -> None:
    """All fields in another order; values of every field through a rising function of its own."""
    ia_NN, ia_N = planted(num_fields, slope, seed, steps)
    law = collapse_law(ia_NN, ia_N)
    assert (math.isnan(law.p_value) and law.permutations == 0) or -1 <= law.mean_rho <= 1
    assert math.isnan(law.p_value) == math.isnan(law.mean_rho)
    assert math.isnan(law.p_value) or 1 / math.factorial(num_fields) - 1e-12 <= law.p_value <= 1
    order = torch.randperm(num_fields, generator=torch.Generator().manual_seed(seed))
    other = collapse_law(ia_NN[order][:, order], ia_N[order])
    assert_same(other, law._replace(rho_N=law.rho_N[order]))
    for same in (
        collapse_law(torch.arange(1, num_fields + 1).unsqueeze(1) * ia_NN + ia_N.unsqueeze(1), ia_N),
        collapse_law(ia_NN * ia_NN * ia_NN, ia_N * ia_N),
    ):
        assert_same(same, law)


@pytest.mark.parametrize("num_fields", [0, 1, 2])
def test_three_fields_are_needed(num_fields: int) -> None:
    ia_NN, ia_N = planted(5, 1, 0)
    ia_N[num_fields:] = NAN
    for law, total in ((collapse_law(ia_NN, ia_N), 5), (collapse_law(*planted(num_fields, 1, 0)), num_fields)):
        assert_same(law, Law(torch.full((total,), NAN).double(), NAN, NAN, 0, num_fields))


def test_nothing_that_varies_no_law() -> None:
    ia_NN, ia_N = planted(5, 1, 0)
    for law in (collapse_law(ia_NN, torch.ones(5)), collapse_law(ia_N.unsqueeze(1).expand(5, 5), ia_N)):
        assert_same(law, Law(torch.full((5,), NAN).double(), NAN, NAN, 0, 5))


# Its test


def test_known_p_values() -> None:
    """With three fields and rho = 1 for all, one labelling of six is as good; its reverse is the worst."""
    ia_N = torch.tensor([1.0, 2.0, 3.0])
    ia_NN = ia_N.expand(3, 3)
    assert collapse_law(ia_NN, ia_N)[1:] == (pytest.approx(1), pytest.approx(1 / 6), 6, 3)
    assert collapse_law(-ia_NN, ia_N)[1:] == (pytest.approx(-1), 1, 6, 3)


def test_all_labellings_if_they_are_no_more_than_asked_for() -> None:
    ia_NN, ia_N = planted(6, 1, 3)
    exact = collapse_law(ia_NN, ia_N, 720)
    assert exact.permutations == 720
    assert_same(collapse_law(ia_NN, ia_N, 10**6), exact)
    drawn = collapse_law(ia_NN, ia_N, 719)
    assert drawn.permutations == 719 and drawn.mean_rho == exact.mean_rho and 0.02 < exact.p_value < 0.98
    error = math.sqrt(exact.p_value * (1 - exact.p_value) / 719)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * error)
    many = collapse_law(*planted(8, 0, 5), 9999)
    assert many.p_value == pytest.approx(collapse_law(*planted(8, 0, 5), 40320).p_value, abs=0.02)


def test_the_true_labelling_counts_among_the_random_ones() -> None:
    ia_N = torch.arange(1.0, 31)
    for permutations_ in (1, 99, 999):
        law = collapse_law(ia_N.expand(30, 30), ia_N, permutations_)
        assert law.p_value == pytest.approx(1 / (1 + permutations_), rel=1e-12) and law.permutations == permutations_
        assert collapse_law(-ia_N.expand(30, 30), ia_N, permutations_).p_value == 1


def test_a_labelling_without_a_rho_counts_against_the_law() -> None:
    """Only field 0 has a rho, and none if the single larger value is its own: two labellings of six."""
    ia_NN = torch.tensor([[0.0, 2, 1], [1, 0, 1], [1, 1, 0]])
    law = collapse_law(ia_NN, torch.tensor([1.0, 2.0, 1.0]))
    assert law[1:] == (pytest.approx(1), pytest.approx(4 / 6), 6, 3)


def unrelated(kind: str, num_fields: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """`columns`: every IA(E_i^{->j}) depends on j in the same way, but on nothing that IA(E_j) has to do with."""
    ia_NN, ia_N = rng.standard_normal((num_fields, num_fields)), rng.uniform(1, 5, num_fields)
    if kind == "columns":
        ia_NN += 10 * rng.standard_normal(num_fields)
    elif kind == "ties":
        ia_NN, ia_N = np.round(ia_NN), np.round(ia_N)
    return torch.tensor(ia_NN), torch.tensor(ia_N)


@pytest.mark.parametrize("kind", ["independent", "columns", "ties"])
@pytest.mark.parametrize("num_fields", [5, 12])
def test_p_values_under_the_null(kind: str, num_fields: int) -> None:
    """All of 5! labellings, or 99 random ones: the share of p <= x is at most x, and without ties about x."""
    rng = np.random.default_rng(0)
    p_values = np.array([collapse_law(*unrelated(kind, num_fields, rng), 199).p_value for _ in range(300)])
    for level in (0.1, 0.5, 0.8):
        low, high = binom.ppf([1e-4, 1 - 1e-4], 300, level)
        below = (p_values <= level + 1e-9).sum()
        assert below <= high and (kind == "ties" or below >= low)


@pytest.mark.parametrize("num_fields", [8, 39])
def test_a_planted_law_is_found_and_its_opposite_is_not(num_fields: int) -> None:
    for seed in range(5):
        law = collapse_law(*planted(num_fields, 6, seed), 999)
        assert law.p_value < 0.01 and law.mean_rho > 0.4
        assert collapse_law(*planted(num_fields, -6, seed), 999).p_value > 0.9


def test_random_labellings_depend_on_the_seed_alone() -> None:
    ia_NN, ia_N = planted(12, 0.3, 0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = collapse_law(ia_NN, ia_N, 99)
    assert torch.equal(torch.get_rng_state(), before), "it moved the generator of the training"
    torch.manual_seed(1)
    assert_same(collapse_law(ia_NN, ia_N, 99, seed=0), first)
    assert len({collapse_law(ia_NN, ia_N, 99, seed=seed).p_value for seed in range(10)}) > 3


@pytest.mark.parametrize("entries", [1, 500])
@pytest.mark.parametrize("num_fields", [5, 12])
def test_how_many_labellings_are_taken_at_once_changes_nothing(
    entries: int, num_fields: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ia_NN, ia_N = planted(num_fields, 0.5, 1)
    expected = collapse_law(ia_NN, ia_N, 199)
    monkeypatch.setattr(similarity, "ENTRIES_AT_ONCE", entries)
    assert_same(collapse_law(ia_NN, ia_N, 199), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sub_abundance(torch.zeros(2, 3, 3, 4, 4), torch.ones(2)), r"shape \(2,\): expected \(N\)"),
        (lambda: sub_abundance(torch.zeros(3, 3, 4, 4), torch.ones(3)), r"expected \(M, N, N, K, K\)"),
        (lambda: axis_sums(torch.zeros(3, 3)), r"shape \(3, 3\): expected \(M, N, N\)"),
        (lambda: axis_sums(torch.zeros(2, 3, 4)), r"shape \(2, 3, 4\): expected \(M, N, N\)"),
        (lambda: collapse_law(torch.zeros(3, 4), torch.zeros(3)), r"shape \(3, 4\): expected \(N, N\)"),
        (lambda: collapse_law(torch.zeros(3, 3), torch.zeros(4)), r"shape \(4,\): expected \(N\) as in {'N': 3}"),
        (lambda: collapse_law(torch.zeros(1, 3, 3), torch.zeros(3)), r"shape \(1, 3, 3\): expected \(N, N\)"),
        (lambda: collapse_law(torch.zeros(3, 3), torch.zeros(3), 0), "permutations=0: expected 1 or more"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
