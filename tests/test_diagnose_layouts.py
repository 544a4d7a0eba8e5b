"""Embedding tables are found by the names that libraries give them, and cut into fields and embedding sets."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys_collapse.diagnose.fields import FieldTable, SideBySide, cut, read_cardinalities
from recsys_collapse.diagnose.layouts import GUESS, LAYOUTS, recognise
from recsys_collapse.diagnose.truncation.of_function import truncated
from recsys_collapse.diagnose.weights import read_weights

D, K = 12, 3
SIZES = {"user": 7, "site": 5}


def tensors(*names: str, shape: tuple[int, ...] = (D, K)) -> dict[str, Tensor]:
    return {name: torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(names)}


# Names as the libraries' modules have them in their state dicts, what they mean, {field: embedding sets}, and how the
# library draws them.
NAMED = {
    "FuxiCTR": (
        [
            "embedding_layer.embedding_layer.embedding_layers.C1.weight",
            "embedding_layer.embedding_layer.embedding_layers.user.id.weight",
        ],
        {"C1": 1, "user.id": 1},
        "normal",
    ),
    "DeepCTR-Torch": (
        ["embedding_dict.C1.weight", "embedding_dict.C2.weight", "second_order_embedding_dict.C1+C2.weight"],
        {"C1": 1, "C2": 1, "C1+C2": 1},
        "normal",
    ),
    "TorchRec": (
        ["model.sparse_arch.embedding_bag_collection.embedding_bags.t_user.weight"],
        {"t_user": 1},
        "uniform",
    ),
    "TorchRec or a ModuleDict of embeddings": (["ec.embeddings.t_item.weight"], {"t_item": 1}, "uniform"),
    "RecBole, context-aware": (["token_embedding_table.embedding.weight"], {"user": 1, "site": 1}, "normal"),
    "RecBole, sequences": (
        ["token_seq_embedding_table.0.weight", "token_seq_embedding_table.user.1.weight"],
        {"0": 1, "user.1": 1},
        "normal",
    ),
    "<field>_embedding (RecBole)": (
        ["user_embedding.weight", "item_embedding.weight", "kg.relation_embedding.weight"],
        {"user": 1, "item": 1, "relation": 1},
        "normal",
    ),
    "torchfm (the official code)": (["embedding.embedding.weight"], {"user": 1, "site": 1}, "uniform"),
    "torchfm (the official code), sets": (
        ["embeddings.10.embedding.weight", "embeddings.2.embedding.weight"],
        {"user": 2, "site": 2},
        "uniform",
    ),
    "torchfm (the official code), sets in a sequence": (
        ["embeddings.0.0.embedding.weight", "embeddings.1.0.embedding.weight"],
        {"user": 2, "site": 2},
        "uniform",
    ),
    "torchfm, field-aware": (
        ["ffm.embeddings.0.weight", "ffm.embeddings.1.weight"],
        {"user": 2, "site": 2},
        "uniform",
    ),
    'names with "emb", a guess': (
        ["UserEmb.weight", "towers.item_emb", "emb_site.weight"],
        {"UserEmb": 1, "towers.item_emb": 1, "emb_site": 1},
        "normal",
    ),
}
MORE = {  # beside the tables, in every checkpoint
    "linear_model.embedding_dict.C1.weight": (D, 1),
    "lr_layer.embedding_layer.embedding_layer.embedding_layers.C1.weight": (D, 1),
    "first_order_linear.token_embedding_table.embedding.weight": (D, 1),
    "linear.fc.weight": (D, 1),
    "mlp.0.weight": (4, 6),
    "embedding.norm.weight": (K,),
}


@pytest.mark.parametrize("name", NAMED)
def test_libraries_are_recognised(name: str) -> None:
    names, expected, entries = NAMED[name]
    tables = tensors(*names) | {other: torch.ones(shape) for other, shape in MORE.items()}
    found = recognise(tables)
    assert found.layout == name.partition(", sets")[0]
    assert {member.tensor for member in found.members} == set(names)
    assert {member.entries for member in found.members} == {entries}
    assert all(one.why.startswith(("one column", "1 dimensions")) for one in found.left_out)
    fused = found.members[0].field is None
    fields = cut(tables, found.members, SIZES if fused else None)
    assert {field.name: field.num_sets for field in fields} == expected
    assert {field.entries for field in fields} == {entries}
    rows = {field.name: len(field.rows(tables)) for field in fields}
    assert rows == (SIZES if fused else dict.fromkeys(expected, D))


def test_every_layout_has_a_case() -> None:
    assert {layout.name for layout in [*LAYOUTS, GUESS]} == {name.partition(", sets")[0] for name in NAMED}


def test_several_layouts_in_one_checkpoint_and_what_is_not_taken() -> None:
    tables = tensors("token_embedding_table.embedding.weight", "item_embedding.weight", "float_embedding_table.weight")
    found = recognise(tables)
    assert found.layout == "RecBole, context-aware, <field>_embedding (RecBole)"
    assert [one.tensor for one in found.members] == ["token_embedding_table.embedding.weight", "item_embedding.weight"]
    assert [(one.name, one.why) for one in found.left_out] == [
        ("float_embedding_table.weight", "no name of a known library; --tables takes it")
    ]
    assert [one.name for one in cut(tables, found.members, SIZES)] == ["user", "site", "item"]


NO_TABLES = [
    "encoder.embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embedding_layer.embedding_layer.embedding_layers.item.proj.weight",
    "position_embedding.weight",
    "pos_emb.weight",
    "emb_attention.in_proj_weight",
    "embed_mlp.0.weight",
    "ensemble.0.weight",
    "member_fc.weight",
]


@pytest.mark.parametrize("name", NO_TABLES)
def test_what_only_looks_like_a_table_is_not_taken(name: str) -> None:
    tables = tensors("user_embedding.weight", name)
    found = recognise(tables)
    assert [member.tensor for member in found.members] == ["user_embedding.weight"]
    assert [one.name for one in found.left_out] == [name]
    if "word" not in name:
        with pytest.raises(ValueError, match="none has a name of a known library"):
            recognise(tensors(name))


def test_tied_tables_are_one(tmp_path: Path) -> None:
    shared, other = tensors("a", "b").values()
    torch.save(
        {"embedding_dict.item.weight": shared, "embedding_dict.history.weight": shared, "out": other}, tmp_path / "t"
    )
    tables = read_weights(tmp_path / "t").tensors
    found = recognise(tables)
    assert [(one.tensor, one.field) for one in found.members] == [("embedding_dict.item.weight", "item = history")]
    (table,) = cut(tables, found.members)
    changed = truncated([table], tables, {"item = history": torch.zeros(K, K, dtype=torch.float64)})
    assert changed.keys() == tables.keys()
    assert not changed["embedding_dict.item.weight"].any() and not changed["embedding_dict.history.weight"].any()
    assert torch.equal(changed["out"], other) and torch.equal(tables["embedding_dict.item.weight"], shared)


def test_tied_embedding_sets_are_still_sets() -> None:
    """The worst case of sets that share directions must not vanish."""
    (shared,) = tensors("a").values()
    found = {f"embeddings.{number}.embedding.weight": shared for number in range(3)}
    fields = cut(found, recognise(found).members, SIZES)
    assert [(one.name, one.num_sets) for one in fields] == [("user", 3), ("site", 3)]
    towers = {f"{tower}.embedding_dict.{name}.weight": shared for tower, name in ["ax", "ay", "bx", "bz"]}
    assert [one.field for one in recognise(towers).members] == ["x = y = z"]


def test_a_very_long_name_takes_no_time() -> None:
    with pytest.raises(ValueError, match="no embedding table"):
        recognise(tensors("embedding_dict." * 20_000))


def test_sets_are_in_the_order_of_their_numbers() -> None:
    found = tensors("embeddings.10.embedding.weight", "embeddings.2.embedding.weight")
    members = recognise(found).members
    user, site = cut(found, members, SIZES)
    expected = torch.cat([found["embeddings.2.embedding.weight"], found["embeddings.10.embedding.weight"]], dim=1)
    assert torch.equal(user.rows(found)[0:7], expected[:7])
    assert torch.equal(site.rows(found)[0:5], expected[7:])
    assert site.rows(found).shape == (5, 2 * K)


def test_a_pattern_of_the_users_own() -> None:
    found = tensors("a.s0.color.w", "a.s1.color.w", "a.s0.shape.w", "a.s1.shape.w", "head.w")
    members = recognise(found, r"a\.s(?P<set>\d+)\.(?P<field>\w+)\.w").members
    assert [(table.name, table.num_sets) for table in cut(found, members)] == [("color", 2), ("shape", 2)]
    members = recognise(found, r"head\.w").members
    assert [table.name for table in cut(found, members)] == ["head.w"]
    assert [table.name for table in cut(found, members, SIZES)] == ["user", "site"]


def test_fields_of_two_towers_have_names_of_their_own() -> None:
    found = tensors("a.embedding_dict.C1.weight", "b.embedding_dict.C1.weight", "b.embedding_dict.C2.weight")
    members = recognise(found).members
    assert [one.name for one in cut(found, members)] == ["a.embedding_dict.C1", "b.embedding_dict.C1", "C2"]


def test_sets_of_two_towers_stay_apart() -> None:
    found = tensors(*(f"{tower}.embeddings.{number}.embedding.weight" for tower in "ab" for number in range(2)))
    fields = cut(found, recognise(found).members, SIZES)
    assert [(one.name, one.num_sets) for one in fields] == [
        (f"{tower}.embeddings.*.{field}", 2) for tower in "ab" for field in SIZES
    ]


def test_all_sets_side_by_side_in_one_tensor() -> None:
    found = tensors("backbone.embedding.weight", shape=(D, 6))
    members = recognise(found, r"backbone\.embedding\.weight").members
    assert [one.num_sets for one in cut(found, members, SIZES, num_sets=2)] == [2, 2]
    with pytest.raises(
        ValueError,
        match=r"--sets 4: expected so many embedding sets side by side in a tensor: .* has 6 columns",
    ):
        cut(found, members, SIZES, num_sets=4)


@pytest.mark.parametrize(
    ("tables", "sizes", "message"),
    [
        (["embedding.embedding.weight"], None, "12 rows: --cardinalities must say"),
        (
            ["embedding.embedding.weight"],
            {"a": 5, "b": 5},
            "2 fields with 10 rows in all; expected the rows of a table",
        ),
        (["embedding_dict.C1.weight"], {"a": 5}, r"embedding_dict.C1.weight 12"),
    ],
)
def test_cardinalities_that_are_missing_or_do_not_fit(
    tables: list[str], sizes: dict[str, int] | None, message: str
) -> None:
    found = tensors(*tables)
    with pytest.raises(ValueError, match=message):
        cut(found, recognise(found).members, sizes)


def test_a_table_of_several_fields_as_one() -> None:
    found = tensors("embedding.embedding.weight")
    assert [one.name for one in cut(found, recognise(found).members, {})] == ["embedding"]


def test_sets_that_are_counted_twice_are_an_error() -> None:
    found = tensors("ffm.embeddings.0.weight", "ffm.embeddings.1.weight", shape=(D, 4))
    with pytest.raises(ValueError, match="has 4 columns, and is one of 2 sets already"):
        cut(found, recognise(found).members, SIZES, num_sets=2)


def test_cardinalities_of_one_of_two_tables() -> None:
    found = tensors("a.embedding.embedding.weight") | tensors("b.embedding.embedding.weight", shape=(7, K))
    with pytest.raises(ValueError, match=r"a.embedding.embedding.weight holds .*as b.embedding has; --tables"):
        cut(found, recognise(found).members, {"x": 3, "y": 4})


def test_fields_of_two_tables_never_share_a_name() -> None:
    found = tensors("token_embedding_table.embedding.weight") | tensors("user_embedding.weight", shape=(9, K))
    fields = cut(found, recognise(found).members, SIZES)
    assert [(one.name, len(one.rows(found))) for one in fields] == [
        ("token_embedding_table.user", 7),
        ("site", 5),
        ("user_embedding.user", 9),
    ]


def test_sets_of_different_shapes_are_an_error() -> None:
    found = tensors("ffm.embeddings.0.weight") | tensors("ffm.embeddings.1.weight", shape=(D, K + 1))
    with pytest.raises(ValueError, match=r"different shapes: ffm.embeddings.0.weight \(12, 3\), .*1.weight \(12, 4\)"):
        cut(found, recognise(found).members, SIZES)


def test_without_a_table_the_message_names_what_could_be_one() -> None:
    found = {"mlp.weight": torch.ones(4, 5), "mlp.bias": torch.ones(4), "emb.weight": torch.ones(9, 1)}
    with pytest.raises(ValueError) as error:
        recognise(found)
    assert "among 3 tensors: none has a name of a known library" in str(error.value)
    assert "mlp.weight (4, 5)" in str(error.value) and "--tables" in str(error.value)
    assert "emb.weight (9, 1): one column" in str(error.value)
    with pytest.raises(ValueError, match="No tensor has two dimensions"):
        recognise({"emb.bias": torch.ones(4)})
    with pytest.raises(ValueError, match="is no regular expression"):
        recognise(found, "(")
    with pytest.raises(ValueError, match=r"group feld; expected only"):
        recognise(found, "(?P<feld>.*)")
    with pytest.raises(ValueError, match="group `set` is 'mlp'"):
        recognise(found, r"(?P<set>\w+)\.weight")


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.ones(4, 3, dtype=torch.int8), "int8: not floating-point numbers"),
        (torch.ones(4, 3).to_sparse(), "not a dense tensor"),
        (torch.ones(4, 3, device="meta"), "not a dense tensor"),
        (torch.ones(1, 3), "one row or none"),
        (torch.ones(5, 0), "no columns"),
        (torch.ones(2, 9000), "more than 8,192 columns"),
        (torch.ones(1, 3).expand(9, 3), "its rows are one and the same piece"),
        (torch.ones(4, 3, 2), "3 dimensions"),
    ],
)
def test_what_is_no_table_is_left_out_with_a_reason(tensor: Tensor, why: str) -> None:
    found = recognise(tensors("user_embedding.weight") | {"item_embedding.weight": tensor})
    assert [member.field for member in found.members] == ["user"]
    assert [(one.name, one.why.startswith(why)) for one in found.left_out] == [("item_embedding.weight", True)]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 9))
def test_tables_side_by_side_are_one_wide_table(parts: int, columns: int, rows: int) -> None:
    tables = [torch.randn(rows, columns) for _ in range(parts)]
    wide = SideBySide(tables)
    assert wide.shape == (rows, parts * columns) and len(wide) == rows
    for start in range(rows):
        assert torch.equal(wide[start : start + 2], torch.cat(tables, dim=1)[start : start + 2])


def test_nothing_is_copied() -> None:
    module = nn.Embedding(D, K)
    table = FieldTable("a", [("weight", slice(2, 9))])
    rows = table.rows(module.state_dict())
    assert isinstance(rows, Tensor) and rows.data_ptr() == module.weight[2:].data_ptr()


def test_cardinalities_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    for value in ([7, 5], {"user": 7, "site": 5}, {"fields": [{"name": "user", "cardinality": 7}]}):
        path.write_text(json.dumps(value))
        expected = (
            {"user": 7} if "fields" in value else SIZES if isinstance(value, dict) else {"field_0": 7, "field_1": 5}
        )
        assert read_cardinalities(str(path)) == expected
    assert read_cardinalities("7, 5") == {"field_0": 7, "field_1": 5}
    assert read_cardinalities("whole") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSONDecodeError"),
        ("[]", "expected a list of numbers or a mapping"),
        ('"7"', "expected a list of numbers or a mapping"),
        ("[7, 0]", "field_1 has 0; expected the number of its rows"),
        ('{"a": 1.5}', "a has 1.5"),
        ("[true]", "field_0 has True"),
    ],
)
def test_cardinalities_that_are_none(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_cardinalities(str(path))
    with pytest.raises(ValueError, match="expected numbers such as 7,40,3, a JSON file, or whole"):
        read_cardinalities(str(tmp_path / "none.json"))
