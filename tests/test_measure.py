"""Tables of any module, and every metric of every variant, against numpy on matrices made row by row."""

import math
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.measure import COLLAPSE, Table, by_field, find_tables, measure
from recsys_collapse.spectrum import METRICS, Reference, random_metrics
from recsys_collapse.spectrum import fields as of_fields
from recsys_collapse.spectrum.random import grouped_weights
from recsys_collapse.variant import WEIGHTINGS, Variant, parse_variants

few = settings(max_examples=60, deadline=None)
Matrix = np.ndarray

# The words of a variant


@few
@given(
    st.builds(Variant, st.integers(0, 100), st.sampled_from(("", *WEIGHTINGS)), st.booleans(), st.booleans()),
    st.integers(0, 23),
)
def test_a_variant_is_its_words_in_any_order(variant: Variant, number: int) -> None:
    assert Variant.parse(str(variant)) == variant
    orders = list(permutations(str(variant).split("+")))
    assert Variant.parse("+".join(orders[number % len(orders)])) == variant


def test_one_variant_has_one_spelling() -> None:
    spelled = {"all": "all", "min_count:0": "all", "min_count:1": "seen", "all+centred": "centred"}
    spelled["centred+seen"] = "seen+centred"
    assert {words: str(Variant.parse(words)) for words in spelled} == spelled


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("seem", "seem"),
        ("", ""),
        ("seen+", ""),
        ("seen+Centred", "Centred"),
        ("min_count", "min_count"),
        ("min_count:", "min_count:"),
        ("min_count:-1", "min_count:-1"),
        ("min_count:2.5", "min_count:2.5"),
        ("seen:2", "seen:2"),
        ("all+seen", "seen"),
        ("seen+min_count:3", "min_count:3"),
        ("frequency+sqrt_count", "sqrt_count"),
        ("centred+centred", "centred"),
    ],
)
def test_an_error_names_the_word_and_the_variant(words: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^variant '{words}'.*'{named}'".replace("+", r"\+")):
        Variant.parse(words)


@pytest.mark.parametrize(
    ("words", "needs"),
    [("all", False), ("centred+unit_norm", False), ("seen", True), ("min_count:4", True), ("frequency", True)],
)
def test_whether_counts_are_needed(words: str, needs: bool) -> None:
    assert Variant.parse(words).needs_counts == needs


# Tables


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(5, 3)
        self.words = nn.EmbeddingBag(7, 2, padding_idx=2)
        self.dense = nn.Linear(3, 3)


class Towers(nn.Module):
    """Tables at several depths, beside parts that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.left = Tower()
        self.more = nn.ModuleList([nn.ReLU(), nn.Sequential(nn.Embedding(4, 1))])
        self.fused = FieldEmbedding([3, 2], num_sets=2, embed_size=2)


def test_every_table_is_found() -> None:
    found = find_tables(module := Towers())
    assert [(table.name, [*table.fields]) for table in found] == [
        ("left.item", ["left.item"]),
        ("left.words", ["left.words"]),
        ("more.1.0", ["more.1.0"]),
        ("fused", ["fused.0", "fused.1"]),
    ]
    assert [(table.entries, table.num_sets, table.padding_idx) for table in found] == [
        *[("normal", 1, None), ("normal", 1, 2), ("normal", 1, None)],
        ("uniform", 2, None),
    ]
    assert found[1].weight is module.left.words.weight
    assert found[3].field_slices == [slice(0, 3), slice(3, 5)]


def test_the_module_may_be_a_table() -> None:
    assert measure(nn.Embedding(5, 3))["field"].unique().to_list() == ["Embedding"]
    assert set(measure(FieldEmbedding([3, 2], 1, 4))["field"]) == {"0", "1"}


def test_a_table_that_others_share_is_measured_once() -> None:
    first, second = nn.Embedding(6, 2), nn.Embedding(6, 2)
    second.weight = first.weight
    tied = nn.ModuleDict({"a": first, "b": second, "c": first, "d": nn.Embedding(6, 2)})
    assert [table.name for table in find_tables(tied)] == ["a", "d"]


def test_fields_may_lie_below_each_other_in_one_table() -> None:
    model = nn.ModuleDict({"all": nn.Embedding(9, 2), "other": nn.Embedding(3, 2)})
    found = measure(model, fields={"all": {"user": 5, "shop": 4}}, variants=["all"])
    weight = model["all"].weight.detach().double().numpy()
    assert values(found, "user", None) == near(expected_metrics(weight[:5]))
    assert values(found, "shop", None) == near(expected_metrics(weight[5:]))
    assert found["field"].unique(maintain_order=True).to_list() == ["user", "shop", "other"]
    assert set(found.filter(field="shop")["cardinality"]) == {4}


def test_fields_of_a_field_embedding_may_have_names() -> None:
    found = measure(Towers(), fields={"fused": {"user": 3, "shop": 2}})
    assert found["field"].unique(maintain_order=True).to_list()[3:] == ["user", "shop"]
    assert set(found.filter(field="user")["embedding_set"]) == {None, 0, 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fields": {"left.item": {"a": 3, "b": 1}}}, ["fields['left.item']", "[3, 1]", "5"]),
        ({"fields": {"fused": {"a": 2, "b": 3}}}, ["fields['fused']", "[2, 3]", "[3, 2]"]),
        ({"fields": {"item": {"a": 5}}}, ["item", "left.item, left.words, more.1.0, fused", "Towers"]),
        ({"counts": {"left.wrods": torch.ones(7)}}, ["left.wrods", "left.words"]),
        ({"variants": ["seen"]}, ["left.item", "seen", "none", "counts={'left.item': tensor of 5 counts}"]),
        (
            {"variants": ["all", "frequency"], "counts": {"left.item": torch.ones(4)}},
            ["left.item", "frequency", "shape (4,)", "tensor of 5 counts"],
        ),
        ({"variants": ["seen"], "counts": {"left.item": torch.ones(5, 1)}}, ["left.item", "shape (5, 1)"]),
        ({"variants": ["all", "odd"]}, ["variant 'odd'"]),
    ],
)
def test_an_error_names_what_is_wrong(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        measure(Towers(), **arguments)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_module_without_tables_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^Sequential has no nn\.Embedding, nn\.EmbeddingBag or FieldEmbedding"):
        measure(nn.Sequential(nn.Linear(3, 3)))


# Rows that are no embedding


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("padding", [0, 4, -1])
@pytest.mark.parametrize("words", ["all", "centred", "seen", "frequency+centred"])
def test_the_padding_row_never_counts(kind: Any, padding: int, words: str) -> None:
    """Whatever stands there, and however often it is looked up."""
    model = nn.ModuleDict({"a": kind(12, 4, padding_idx=padding)})
    weight = seeded(12, 4)
    count_D = torch.tensor([3, 1, 0, 2, 5, 1, 1, 4, 0, 2, 1, 6])
    count_D[padding] = 1000
    model["a"].weight.data = weight.clone().index_fill(0, torch.tensor(padding % 12), math.nan)
    kept = [row for row in range(12) if row != padding % 12]
    matrix = VARIANTS[words](weight[kept].double().numpy(), count_D[kept].numpy())
    found = measure(model, variants=[words], counts={"a": count_D})
    assert values(found, "a", None, words) == near(expected_metrics(matrix))
    counted = len(kept) if words in ("all", "centred") else int((count_D[kept] > 0).sum())
    assert set(found["cardinality"]) == {counted}


# Values


def seeded(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def near(expected: dict[str, float]) -> Any:
    return pytest.approx(expected, rel=1e-6, nan_ok=True)


def expected_metrics(matrix: Matrix, size: int | None = None, eps: float = 2**-23) -> dict[str, float]:
    """Every metric of the first `size` singular values, from its definition; NaN where it has none."""
    sigma = np.linalg.svd(matrix, compute_uv=False)[:size]
    p, q = sigma / sigma.sum(), sigma**2 / (sigma**2).sum()
    floor = eps * np.sqrt((sigma**2).sum())
    k = np.arange(2, len(sigma) // 2 + 1)
    slope = -np.polyfit(np.log(k), np.log(sigma[k - 1] ** 2), 1)[0] if len(sigma) >= 16 else math.nan
    return {
        "information_abundance": sigma.sum() / sigma[0],
        "effective_rank": math.exp(-(p * np.log(p)).sum()),
        "rank_me": math.exp(-((p + 1e-7) * np.log(p + 1e-7)).sum()),
        "stable_rank": (sigma**2).sum() / sigma[0] ** 2,
        "participation_ratio": 1 / (q**2).sum(),
        "covariance_effective_rank": math.exp(-(q * np.log(q)).sum()),
        "numerical_rank": float((sigma > floor).sum()),
        "condition_number": sigma[0] / sigma[-1],
        "k90": 1.0 + (np.cumsum(q) < 0.9).sum(),
        "k99": 1.0 + (np.cumsum(q) < 0.99).sum(),
        "spectrum_slope": slope,
    }


def values(found: pl.DataFrame, field: str, embedding_set: int | None, words: str = "all") -> dict[str, float]:
    """Metric -> value of one spectrum, without the suffix of the variant; NaN for null."""
    own = found.filter((pl.col("field") == field) & pl.col("embedding_set").eq_missing(embedding_set))
    suffix = "" if words == "all" else f"@{words}"
    named = dict(own.select("metric", pl.col("value").fill_null(math.nan)).iter_rows())
    return {name: named[name + suffix] for name in METRICS}


def repeated(e: Matrix, n: Matrix) -> Matrix:
    """The rows as lookups see them."""
    return np.repeat(e, n, axis=0)


def weighted_and_centred(e: Matrix, w: Matrix) -> Matrix:
    return np.sqrt(w)[:, None] * (e - (w @ e) / w.sum())


VARIANTS: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "all": lambda e, n: e,
    "centred": lambda e, n: e - e.mean(0),
    "seen": lambda e, n: e[n > 0],
    "seen+centred": lambda e, n: e[n > 0] - e[n > 0].mean(0),
    "min_count:3": lambda e, n: e[n >= 3],
    "frequency": repeated,
    "frequency+centred": lambda e, n: repeated(e, n) - repeated(e, n).mean(0),
    "min_count:3+frequency": lambda e, n: repeated(e[n >= 3], n[n >= 3]),
    "sqrt_count": lambda e, n: n[:, None] ** 0.25 * e,
    "sqrt_count+centred": lambda e, n: weighted_and_centred(e, np.sqrt(n)),
}


class Mixed(nn.Module):
    """A tall table, one with fewer rows than columns, and two fields of three sets; their counts."""

    def __init__(self) -> None:
        super().__init__()
        self.tall, self.small = nn.Embedding(60, 18), nn.EmbeddingBag(7, 9)
        self.sets = FieldEmbedding([30, 8], num_sets=3, embed_size=2)
        rng = np.random.default_rng(0)
        for seed, part in enumerate((self.tall, self.small, self.sets)):
            part.weight.data = seeded(*part.weight.shape, seed) + 0.5
        self.counts = {
            name: torch.tensor(np.append([7, 3, 0], rng.integers(0, 8, len(part.weight) - 3)))
            for name, part in (("tall", self.tall), ("small", self.small), ("sets", self.sets))
        }

    def matrices(self) -> dict[tuple[str, int | None], tuple[Matrix, Matrix, str]]:
        """Rows, counts and kind of entries of every field and set."""
        found: dict[tuple[str, int | None], tuple[Matrix, Matrix, str]] = {}
        for name, part in (("tall", self.tall), ("small", self.small)):
            found[name, None] = (part.weight.detach().double().numpy(), self.counts[name].numpy(), "normal")
        e, n = self.sets.weight.detach().double().numpy(), self.counts["sets"].numpy()
        for (i, rows), m in product(enumerate((slice(0, 30), slice(30, 38))), (None, 0, 1, 2)):
            columns = slice(None) if m is None else slice(2 * m, 2 * m + 2)
            found[f"sets.{i}", m] = (e[rows, columns], n[rows], "uniform")
        return found


@pytest.mark.parametrize("words", VARIANTS)
def test_every_metric_is_that_of_the_matrix(words: str) -> None:
    model, variant = Mixed(), Variant.parse(words)
    found = measure(model, variants=[words], counts=model.counts)
    for (field, m), (e, n, entries) in model.matrices().items():
        kept = n >= max(variant.min_count, int(variant.needs_counts))
        rows = int(kept.sum())
        size = min(rows - variant.centred, e.shape[1])
        assert size > 1, "an example that says something"
        expected = expected_metrics(VARIANTS[words](e, n), size)
        assert values(found, field, m, words) == near(expected), (field, m)
        own = found.filter((pl.col("field") == field) & pl.col("embedding_set").eq_missing(m))
        assert set(own["cardinality"]) == {rows}
        power = {"frequency": 1.0, "sqrt_count": 0.5}.get(variant.weighting)
        weights = () if power is None else grouped_weights(torch.tensor(n[kept] ** power))
        random = random_metrics(Reference(rows, e.shape[1], entries, variant.centred, weights))
        assert own["random_value"].fill_null(math.nan).to_list() == pytest.approx([*random.values()], nan_ok=True)
    assert len(found) == len(METRICS) * len(model.matrices())


@pytest.mark.parametrize("words", ["unit_norm", "centred+unit_norm", "seen+unit_norm", "frequency+centred+unit_norm"])
def test_at_unit_norm_every_set_counts_as_much(words: str) -> None:
    """Only all sets side by side, only where there are several."""
    model = Mixed()
    model.sets.weight.data *= torch.tensor([1.0, 1.0, 1e-3, 1e-3, 50.0, 50.0])
    found = measure(model, variants=[words], counts=model.counts)
    assert set(found.select("field", "embedding_set").rows()) == {("sets.0", None), ("sets.1", None)}
    for i in range(2):
        e, n, _ = model.matrices()[f"sets.{i}", None]
        sets = np.split(VARIANTS[words.removesuffix("unit_norm").strip("+") or "all"](e, n), 3, axis=1)
        matrix = np.hstack([columns / np.linalg.norm(columns) for columns in sets])
        assert values(found, f"sets.{i}", None, words) == near(expected_metrics(matrix))


def test_the_frame_has_the_columns_it_states() -> None:
    found = measure(model := Mixed(), variants=["all", "centred", "seen", "unit_norm"], counts=model.counts)
    assert found.schema == pl.Schema(COLLAPSE)
    assert list(found.columns) == [
        *["field", "embedding_set", "cardinality", "metric", "value", "random_value", "reason"]
    ]
    assert found.select("field", "embedding_set", "metric").is_unique().all()
    assert found["value"].is_nan().sum() == found["random_value"].is_nan().sum() == 0
    assert (found["value"].is_null() == found["reason"].is_not_null()).all()


def test_all_and_centred_are_measured_unless_something_else_is_asked() -> None:
    assert {metric.partition("@")[2] for metric in measure(nn.Embedding(9, 2))["metric"]} == {"", "centred"}


def test_a_variant_that_is_asked_twice_is_measured_once() -> None:
    counts = {"a": torch.ones(9)}
    found = measure(nn.ModuleDict({"a": nn.Embedding(9, 2)}), variants=["seen", "min_count:1", "seen"], counts=counts)
    assert len(found) == len(METRICS)


def test_a_table_is_read_once_for_all_variants_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    moments = of_fields.field_moments
    monkeypatch.setattr(of_fields, "field_moments", lambda *args: read.append(args[2]) or moments(*args))
    model = nn.ModuleDict({"a": FieldEmbedding([40, 30], num_sets=2, embed_size=3)})
    words = ["all", "centred", "unit_norm", "seen", "seen+centred+unit_norm", "frequency", "centred+frequency"]
    measure(model, variants=words, counts={"a": torch.arange(70)})
    assert [rows if rows is None else rows.dtype for rows in read] == [None, torch.bool, torch.float64]


def test_the_small_singular_values_are_found_if_asked() -> None:
    table = nn.Embedding(200, 4)
    left, right = (torch.linalg.qr(seeded(rows, 4).double())[0] for rows in (200, 4))
    table.weight.data = left * torch.tensor([1, 1e-2, 1e-6, 1e-9]) @ right
    found = {exact: values(measure(table, exact=exact), "Embedding", None) for exact in (True, False)}
    assert found[True]["condition_number"] == pytest.approx(1e9, rel=1e-4)
    assert found[False]["condition_number"] != pytest.approx(1e9, rel=0.1)
    assert found[False]["effective_rank"] == pytest.approx(found[True]["effective_rank"], rel=1e-6)


# What does not change


def test_nothing_of_the_module_changes() -> None:
    model = Mixed().train()
    model.tall.weight.grad = torch.ones_like(model.tall.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    measure(model, variants=["all", "seen+centred", "frequency", "unit_norm"], counts=model.counts)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.tall.weight.grad == 1).all() and model.sets.weight.grad is None
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Values are those of the numbers in the table; what is rounding depends on how they are rounded."""
    table = nn.Embedding(50, 4).to(dtype)
    table.weight.data = (torch.linalg.qr(seeded(50, 4))[0] * torch.tensor([1, 1, 1e-2, 1e-5])).to(dtype)
    found = values(measure(table, variants=["all"]), "Embedding", None)
    expected = expected_metrics(table.weight.detach().double().numpy(), eps=torch.finfo(dtype).eps)
    rank = {torch.bfloat16: 2, torch.float16: 3, torch.float64: 4}[dtype]
    assert (found["numerical_rank"], expected["numerical_rank"]) == (rank, rank)
    if rank < 4:
        expected["condition_number"] = math.inf
    assert found == near(expected)


# No value


def filled(*shape: int, value: float = math.nan, rows: slice | None = None) -> nn.Embedding:
    table = nn.Embedding(*shape)
    table.weight.data = seeded(*shape)
    if rows is not None:
        table.weight.data[rows] = value
    return table


ONE_ROW, NOT_FINITE = "no spread: one row or none", "an entry is not finite"
ZEROS, RANK_5 = filled(6, 4, value=0.0, rows=slice(None)), filled(40, 18, value=0.0, rows=slice(5, None))
A_NAN, INFINITE = filled(6, 4, rows=slice(2, 3)), filled(6, 4, value=math.inf, rows=slice(2, 3))
SHORT = "4 singular values, a slope needs 16"


@pytest.mark.parametrize(
    ("table", "words", "metric", "value", "reason"),
    [
        (filled(0, 3), "all", "information_abundance", None, ONE_ROW),
        (filled(0, 3), "centred", "numerical_rank", None, ONE_ROW),
        (filled(1, 3), "all", "information_abundance", 1.0, None),
        (filled(1, 3), "centred", "information_abundance", None, ONE_ROW),
        (filled(6, 1), "all", "effective_rank", 1.0, None),
        (filled(6, 1), "centred", "condition_number", 1.0, None),
        (ZEROS, "all", "information_abundance", None, "all zero"),
        (ZEROS, "centred", "condition_number", None, "all zero"),
        (ZEROS, "all", "numerical_rank", 0.0, None),
        (A_NAN, "all", "k90", None, NOT_FINITE),
        (INFINITE, "centred", "stable_rank", None, NOT_FINITE),
        (A_NAN, "all", "numerical_rank", None, NOT_FINITE),
        (A_NAN, "all", "spectrum_slope", None, NOT_FINITE),
        (filled(6, 4), "all", "spectrum_slope", None, SHORT),
        (RANK_5, "all", "spectrum_slope", None, "a singular value is zero"),
        (RANK_5, "all", "condition_number", math.inf, None),
        (filled(6, 4), "seen", "information_abundance", None, ONE_ROW),
        (filled(6, 4), "frequency", "rank_me", None, ONE_ROW),
    ],
)
def test_where_there_is_no_value_there_is_a_reason(
    table: nn.Embedding, words: str, metric: str, value: float | None, reason: str | None
) -> None:
    counts = {"a": torch.zeros(len(table.weight), dtype=torch.int64)}
    found = measure(nn.ModuleDict({"a": table}), variants=[words], counts=counts)
    name = metric if words == "all" else f"{metric}@{words}"
    row = found.filter(metric=name).row(0, named=True)
    assert (row["value"], row["reason"]) == (pytest.approx(value), reason)
    nothing_to_compare = reason == ONE_ROW or (metric == "spectrum_slope" and reason in (SHORT, NOT_FINITE))
    assert (row["random_value"] is None) == nothing_to_compare
    assert len(found) == len(METRICS)


def test_a_set_that_is_not_finite_leaves_the_others_their_values() -> None:
    table = FieldEmbedding([9, 8], num_sets=2, embed_size=2)
    table.weight.data[3, 1] = math.nan  # field 0, set 0
    found = measure(table, variants=["all"]).filter(metric="information_abundance")
    known = {(field, m): reason is None for field, m, reason in found.select("field", "embedding_set", "reason").rows()}
    assert known == {("0", None): False, ("0", 0): False, ("0", 1): True} | {("1", m): True for m in (None, 0, 1)}


def test_row_weights() -> None:
    count_D = torch.tensor([0, 1, 4, 9])

    def weights(words: str, padding_idx: int | None = None) -> list[float] | None:
        table = Table("a", seeded(4, 2), ["a"], [slice(0, 4)], count_D=count_D, padding_idx=padding_idx)
        found = table.row_weight(Variant.parse(words))
        return None if found is None else found.tolist()

    assert weights("all") is None and weights("centred") is None
    assert weights("all", 1) == [True, False, True, True]
    assert weights("seen") == [False, True, True, True]
    assert weights("min_count:4", 3) == [False, False, True, False]
    assert weights("frequency") == [0, 1, 4, 9]
    assert weights("sqrt_count+centred", 2) == [0, 1, 0, 3]
    assert weights("min_count:2+sqrt_count") == [0, 0, 2, 3]


def test_one_variant_may_be_a_word_and_none_is_measured_twice() -> None:
    assert parse_variants("seen+centred") == [Variant(min_count=1, centred=True)]
    assert parse_variants(["seen", "all", "min_count:1"]) == [Variant(min_count=1), Variant()]
    with pytest.raises(ValueError, match="unknown word 'everything'"):
        parse_variants("everything")


# For reading


def test_by_field_has_a_row_for_every_field_and_set_and_a_column_for_every_variant() -> None:
    table = FieldEmbedding([9, 30], num_sets=2, embed_size=3)
    frame = measure(table, variants=["all", "centred", "unit_norm"])
    wide = by_field(frame, "effective_rank")
    assert wide.columns == ["field", "embedding_set", "cardinality", "effective_rank", "all", "centred", "unit_norm"]
    assert len(wide) == 2 * 3
    for row in wide.rows(named=True):
        own = frame.filter(pl.col("field") == row["field"], pl.col("embedding_set").eq_missing(row["embedding_set"]))
        for variant in ("all", "centred", "unit_norm"):
            name = "effective_rank" if variant == "all" else f"effective_rank@{variant}"
            (found,) = own.filter(metric=name).rows(named=True) or [{"value": None, "random_value": 1.0}]
            expected = None if found["value"] is None else found["value"] / found["random_value"]
            assert row[variant] == expected
            if variant == "all":
                assert (row["cardinality"], row["effective_rank"]) == (found["cardinality"], found["value"])


def test_by_field_knows_its_metrics() -> None:
    with pytest.raises(ValueError, match="metric=rank: expected one of information_abundance"):
        by_field(measure(nn.Embedding(3, 2)), "rank")


def test_a_table_without_columns_has_no_value() -> None:
    found = measure(nn.Embedding(5, 0))
    assert len(found) == 2 * len(METRICS) and found["value"].is_null().all() and found["reason"].is_not_null().all()


def test_counts_of_some_tables_are_enough_for_those() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Embedding(4, 3)})
    found = measure(model, counts={"a": [0, 1, 2, 3, 4]}, variants=["all", "seen"])
    seen = found.filter(pl.col("metric") == "information_abundance@seen")
    assert seen.select("field", "cardinality", "reason").rows() == [
        ("a", 4, None),
        ("b", None, "how often ids occur is not known"),
    ]
    assert len(found.filter(pl.col("field") == "b")) == 2 * len(METRICS)


def test_counts_below_zero_and_names_that_occur_twice_are_errors() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Embedding(4, 3)})
    with pytest.raises(ValueError, match=r"counts\['a'\]: found a negative one"):
        measure(model, counts={"a": torch.tensor([1, 1, -1, 1, 1])})
    with pytest.raises(ValueError, match="fields: x named in several tables"):
        measure(model, fields={"a": {"x": 5}, "b": {"x": 4}})
