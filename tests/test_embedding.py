"""FieldEmbedding against one `nn.Embedding` per field and set, and how its numbers start."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys_collapse import embedding as embedding_module
from recsys_collapse.callback.spectrum import table_of
from recsys_collapse.config import Init, config_dir
from recsys_collapse.dataset.store import Store
from recsys_collapse.embedding import INITS, FieldEmbedding, FirstOrder, coalesced
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.measure import spectra_of_table
from recsys_collapse.spectrum import random_information_abundance
from recsys_collapse.train import build_module
from recsys_collapse.variant import Variant

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
CARDINALITIES = [5, 1, 17, 3]
SHAPES = [(1, 1), (1, 6), (3, 4), (4, 1)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ids(dtype: torch.dtype) -> Tensor:
    """Every id of every field at least once, first and last included."""
    return torch.stack([torch.arange(2 * max(CARDINALITIES), dtype=dtype) % size for size in CARDINALITIES], dim=1)


@pytest.mark.parametrize(("num_sets", "embed_size"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_equals_one_table_per_field_and_set(num_sets: int, embed_size: int, dtype: torch.dtype) -> None:
    fused, x_BN = FieldEmbedding(CARDINALITIES, num_sets, embed_size), ids(dtype)
    e_BMNK = fused(x_BN)
    assert e_BMNK.shape == (len(x_BN), num_sets, len(CARDINALITIES), embed_size)
    pull_BMNK = torch.randn(e_BMNK.shape)
    e_BMNK.backward(pull_BMNK)
    for i, (rows, size) in enumerate(zip(fused.field_slices, CARDINALITIES, strict=True)):
        for m in range(num_sets):
            block = (rows, slice(m * embed_size, (m + 1) * embed_size))
            table = nn.Embedding(size, embed_size)
            table.weight.data.copy_(fused.weight.data[block])
            looked_up_BK = table(x_BN[:, i])
            looked_up_BK.backward(pull_BMNK[:, m, i])
            assert torch.equal(e_BMNK[:, m, i], looked_up_BK)
            torch.testing.assert_close(fused.weight.grad[block], table.weight.grad)


def test_memory_is_set_major() -> None:
    """What grouped layers rely on to need no copy."""
    assert FieldEmbedding(CARDINALITIES, 3, 4)(ids(torch.int32)).transpose(0, 1).is_contiguous()


def test_fields_own_adjacent_rows() -> None:
    embedding = FieldEmbedding(CARDINALITIES, 2, 3)
    assert embedding.field_slices == [slice(0, 5), slice(5, 6), slice(6, 23), slice(23, 26)]
    assert embedding.weight.shape == (26, 6)
    assert embedding.cardinalities == CARDINALITIES


def test_offsets_are_not_saved() -> None:
    assert list(FieldEmbedding(CARDINALITIES, 2, 3).state_dict()) == ["weight"]


@pytest.mark.parametrize("num_sets", [1, 3])
def test_each_set_fills_its_own_xavier_range(num_sets: int) -> None:
    rows, size = [300, 700], 10
    bound = math.sqrt(6 / (1000 + size))
    for columns_DK in FieldEmbedding(rows, num_sets, size).weight.detach().split(size, dim=1):
        assert 0.995 * bound < columns_DK.max() <= bound
        assert -bound <= columns_DK.min() < -0.995 * bound
        # 10,000 draws: five standard errors of the mean and of the standard deviation of a uniform one.
        assert abs(columns_DK.mean()) < 5 * bound / math.sqrt(3 * 10_000)
        assert columns_DK.std() == pytest.approx(bound / math.sqrt(3), rel=0.025)


def assert_uniform(block: Tensor, bound: float) -> None:
    """U(-bound, bound), to five standard errors of mean and standard deviation."""
    count = block.numel()
    assert -bound <= block.min() < -(1 - 20 / count) * bound
    assert (1 - 20 / count) * bound < block.max() <= bound
    assert abs(block.mean()) < 5 * bound / math.sqrt(3 * count)
    assert block.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 * math.sqrt(0.2 / count))


def blocks(init: str, cardinalities: list[int], num_sets: int, size: int) -> list[tuple[int, Tensor]]:
    """Cardinality and (D_i, K) table of every field in every set."""
    embedding = FieldEmbedding(cardinalities, num_sets, size)
    embedding.reset_parameters(init)
    found = zip(cardinalities, embedding.weight.detach().split(cardinalities), strict=True)
    return [(rows, table_DK) for rows, table_DC in found for table_DK in table_DC.split(size, dim=1)]


@pytest.fixture(params=[65_536, 64])
def rows_per_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of one block and of many, with rest."""
    monkeypatch.setattr(embedding_module, "ROWS_PER_BLOCK", request.param)


@pytest.mark.parametrize(("num_sets", "size"), [(1, 10), (3, 10), (3, 40)])
@pytest.mark.parametrize("init", ["xavier_table", "xavier_field"])
def test_xavier_is_over_the_table_of_all_fields_or_of_each(
    init: str, num_sets: int, size: int, rows_per_block: None
) -> None:
    for rows, table_DK in blocks(init, [20, 300, 4000], num_sets, size):
        assert_uniform(table_DK, math.sqrt(6 / ((4320 if init == "xavier_table" else rows) + size)))


@pytest.mark.parametrize("num_sets", [1, 3])
def test_normal_has_the_standard_deviation_of_bars(num_sets: int, rows_per_block: None) -> None:
    for _, table_DK in blocks("normal", [20, 300, 4000], num_sets, 40):
        count, z = table_DK.numel(), table_DK / 1e-4
        assert abs(z.mean()) < 5 / math.sqrt(count)
        assert z.std().item() == pytest.approx(1, rel=5 * math.sqrt(0.5 / count))
        beyond = (z.abs() > 2).double().mean().item()  # a uniform one has none there
        assert beyond == pytest.approx(0.0455, abs=5 * math.sqrt(0.0455 / count))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("block", [65_536, 4])
def test_a_set_does_not_depend_on_how_many_there_are(init: str, block: int, monkeypatch) -> None:
    monkeypatch.setattr(embedding_module, "ROWS_PER_BLOCK", block)

    def draw(num_sets: int) -> Tensor:
        embedding = FieldEmbedding(CARDINALITIES, num_sets, 4)
        torch.manual_seed(0)
        embedding.reset_parameters(init)
        return embedding.weight.detach()

    one, three = draw(1), draw(3)
    assert torch.equal(three[:, :4], one)
    sets = three.split(4, dim=1)
    assert all((sets[m] != sets[n]).all() for m, n in ((0, 1), (0, 2), (1, 2))), "sets start equal"


def test_a_table_is_made_with_the_default() -> None:
    made = FieldEmbedding(CARDINALITIES, 2, 4).weight.detach().clone()
    embedding = FieldEmbedding(CARDINALITIES, 2, 4)
    for init in INITS:
        torch.manual_seed(0)
        embedding.reset_parameters(init)
        assert torch.equal(embedding.weight, made) == (init == "xavier_table")


def test_inits_are_those_of_the_config() -> None:
    assert list(INITS) == [init.name for init in Init] == [init.value for init in Init]


@pytest.mark.parametrize("word", ["xavier", "", "Normal"])
def test_another_init_is_refused(word: str) -> None:
    embedding = FieldEmbedding(CARDINALITIES, 2, 4)
    before = embedding.weight.detach().clone()
    with pytest.raises(ValueError, match=rf"^init={word}: expected one of xavier_table, xavier_field, normal$"):
        embedding.reset_parameters(word)
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("model", MODELS)
def test_init_changes_the_table_alone(model: str) -> None:
    """All else starts with the same bits; of FFM's two tables, the first-order one starts at 0 with each."""
    ids, train = torch.zeros(1, 3, dtype=torch.int32), torch.arange(1)
    store = Store(Path(), "", ["a", "b", "c"], [5, 1, 30], ids, torch.zeros(1), {"train": train})
    sets = ["embed=se"] if model in ("ffm", "fm") else ["embed=me"]
    found = compose_jobs(["-m", f"model={model}", "scale=2", *sets, f"init={','.join(INITS)}", "seed=3"])
    assert found is not None
    first, *others = [build_module(config, store).state_dict() for config in found]
    for other in others:
        assert list(other) == list(first)
        differ = [name for name in first if not torch.equal(first[name], other[name])]
        assert differ == ["backbone.embedding.weight"]
        assert (first[differ[0]] != other[differ[0]]).all()
    if model == "ffm":
        assert (first["backbone.first_order.table.weight"] == 0).all()


def test_reset_parameters_draws_afresh() -> None:
    embedding = FieldEmbedding(CARDINALITIES, 2, 4)
    before = embedding.weight.detach().clone()
    embedding.reset_parameters()
    assert (embedding.weight != before).all()


@pytest.mark.parametrize(
    ("cardinalities", "num_sets", "embed_size", "named"),
    [
        ([], 1, 1, "cardinalities: smallest value 0"),
        ([3, 0], 1, 1, "cardinalities: smallest value 0"),
        ([3, -2, 5], 1, 1, "cardinalities: smallest value -2"),
        ([3], 0, 1, "num_sets: smallest value 0"),
        ([3], 1, 0, "embed_size: smallest value 0"),
        ([3], 1, -1, "embed_size: smallest value -1"),
    ],
)
def test_sizes_below_one_are_refused(cardinalities: list[int], num_sets: int, embed_size: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FieldEmbedding(cardinalities, num_sets, embed_size)


@pytest.mark.parametrize(("last", "dtype"), [(2**30 - 1, torch.int32), (2**30, torch.int64)])
def test_offsets_hold_every_row_number(last: int, dtype: torch.dtype) -> None:
    """Row numbers of 2**31 rows and more need int64, also where the ids come as int32."""
    with torch.device("meta"):
        embedding = FieldEmbedding([2**30, last], 1, 2)
        assert embedding.offset_N.dtype == dtype
        assert (torch.zeros(3, 2, dtype=torch.int32) + embedding.offset_N).dtype == dtype
        assert embedding(torch.zeros(3, 2, dtype=torch.int32)).shape == (3, 1, 2, 2)
    assert embedding.field_slices[1] == slice(2**30, 2**30 + last)


@pytest.mark.parametrize(("num_sets", "embed_size"), SHAPES)
def test_a_sparse_gradient_is_the_dense_one(num_sets: int, embed_size: int) -> None:
    """And holds the rows of the batch alone."""
    found, x_BN = [], ids(torch.int32)[:4]
    pull_BMNK = torch.randn(len(x_BN), num_sets, len(CARDINALITIES), embed_size)
    for sparse in (False, True):
        torch.manual_seed(1)
        embedding = FieldEmbedding(CARDINALITIES, num_sets, embed_size)
        assert embedding.sparse is False
        embedding.sparse = sparse
        e_BMNK = embedding(x_BN)
        e_BMNK.backward(pull_BMNK)
        found.append((e_BMNK.detach(), embedding.weight.grad))
    (dense_e, dense), (sparse_e, sparse_grad) = found
    assert torch.equal(dense_e, sparse_e)
    assert not dense.is_sparse and sparse_grad.is_sparse
    torch.testing.assert_close(sparse_grad.to_dense(), dense)
    rows = (x_BN + torch.tensor([0, 5, 6, 23])).unique()
    assert sparse_grad.coalesce().indices()[0].tolist() == rows.tolist()
    assert len(rows) < sum(CARDINALITIES)


def test_first_order_is_the_sum_of_one_weight_per_id() -> None:
    first_order, x_BN = FirstOrder(CARDINALITIES).double(), ids(torch.int32)
    assert first_order.table.weight.shape == (26, 1)
    assert torch.equal(first_order(x_BN), torch.zeros(len(x_BN)))
    with torch.no_grad():
        first_order.table.weight.copy_(2.0 ** torch.arange(26).unsqueeze(1))  # sums without rounding, each another one
    y_B = first_order(x_BN)
    starts = [0, 5, 6, 23]
    expected = [sum(2.0 ** (start + i) for start, i in zip(starts, row, strict=True)) for row in x_BN.tolist()]
    assert y_B.tolist() == expected
    y_B.sum().backward()
    counts = torch.bincount((x_BN + torch.tensor(starts)).flatten(), minlength=26)
    assert first_order.table.weight.grad.flatten().tolist() == counts.tolist()


@pytest.mark.parametrize("init", INITS)
def test_a_table_knows_how_it_was_drawn_and_is_compared_with_such(init: str) -> None:
    """A random 10 x 10 matrix of normal entries has another abundance than one of uniform ones."""
    ids, train = torch.zeros(1, 3, dtype=torch.int32), torch.arange(1)
    store = Store(Path(), "", ["a", "b", "c"], [10, 10, 10], ids, torch.zeros(1), {"train": train})
    found = compose_jobs(["model=dnn", f"init={init}"])
    assert found is not None
    module = build_module(found[0], store)
    entries = "normal" if init == "normal" else "uniform"
    assert module.backbone.embedding.entries == entries == table_of(module).entries
    (spectrum, *_), *_ = (spectra for _, spectra in spectra_of_table(table_of(module), [Variant()]))
    assert spectrum.random == random_information_abundance(10, 10, entries)
    assert random_information_abundance(10, 10, "normal") < 0.99 * random_information_abundance(10, 10, "uniform")


@given(st.lists(st.integers(0, 5), max_size=40))
def test_coalesced_is_what_torch_makes_of_it(rows: list[int]) -> None:
    values = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(len(rows)), dtype=torch.float64)
    gradient = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.long), values, (6, 3))
    found, expected = coalesced(gradient), gradient.coalesce()
    assert found.is_coalesced() and torch.equal(found.indices(), expected.indices())
    torch.testing.assert_close(found.values(), expected.values())
    assert coalesced(found) is found
