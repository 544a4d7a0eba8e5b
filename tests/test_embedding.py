"""FieldEmbedding against one `nn.Embedding` per field and set."""

import math

import pytest
import torch
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding

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


def test_a_set_does_not_depend_on_how_many_there_are() -> None:
    def draw(num_sets: int) -> Tensor:
        torch.manual_seed(0)
        return FieldEmbedding(CARDINALITIES, num_sets, 4).weight.detach()

    one, three = draw(1), draw(3)
    assert torch.equal(three[:, :4], one)
    assert not torch.equal(three[:, 4:8], one), "all sets start equal"


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
