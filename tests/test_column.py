"""A field's values as codes or as keys: the same ids either way, and those of a plain dictionary."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset import column as column_module
from recsys_collapse.dataset import store as store_module
from recsys_collapse.dataset.buckets import parse_bucket
from recsys_collapse.dataset.column import Column
from recsys_collapse.dataset.keys import KeyTable, count_keys, pack, unpack
from recsys_collapse.dataset.store import prepare
from tests.test_dataset import digests, expected_ids, given_rows

few = settings(max_examples=60, deadline=None)
SHORT = st.text("ab~é\U0001f600", max_size=3)
WORDS = st.text("0123456789abcdef", min_size=8, max_size=8)
ANY = st.one_of(SHORT, WORDS, st.text("ab\0", max_size=9))
keys = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=60)


def series(values: list[str]) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


@few
@given(st.lists(st.one_of(WORDS, st.just("")) | st.text("ab0~", max_size=8), max_size=30))
def test_short_values_are_packed_and_unpacked_in_order(values: list[str]) -> None:
    key_n = pack(series(values))
    assert key_n is not None and key_n.dtype == np.uint64
    assert unpack(key_n).to_list() == values
    assert key_n.argsort(kind="stable").tolist() == sorted(range(len(values)), key=lambda i: values[i].encode())


@few
@given(st.lists(ANY, min_size=1, max_size=6))
def test_what_is_packed_is_unpacked_and_the_rest_is_refused(values: list[str]) -> None:
    key_n = pack(series(values))
    if key_n is not None:
        assert unpack(key_n).to_list() == values
    if any("\0" in value or len(value.encode()) > 8 for value in values):
        assert key_n is None
    if all(value.isascii() and len(value) <= 8 and "\0" not in value for value in values):
        assert key_n is not None


@few
@given(keys, st.data(), st.integers(1, 3), st.integers(1, 20))
def test_keys_are_counted_in_any_number_of_passes(values: list[int], data, min_count: int, at_once: int) -> None:
    counted = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    expected = Counter(value for value, is_counted in zip(values, counted, strict=True) if is_counted)
    key_n, counted_n = np.array(values, np.uint64), np.array(counted, bool)
    key_v, count_v, distinct = count_keys(key_n, counted_n, min_count, at_once)
    frequent = {key: count for key, count in expected.items() if count >= min_count}
    assert len(key_v) == len(frequent)
    assert dict(zip(key_v.tolist(), count_v.tolist(), strict=True)) == frequent
    assert distinct == len(expected)


@few
@given(st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=60), keys)
def test_a_table_of_keys_is_a_dictionary(known: set[int], asked: list[int]) -> None:
    ids = {key: number + 1 for number, key in enumerate(sorted(known))}
    table = KeyTable(np.array(list(ids), np.uint64), np.array(list(ids.values()), np.int32))
    asked += list(known)
    found = table.ids(np.array(asked, np.uint64))
    assert found.dtype == np.int32
    assert found.tolist() == [ids.get(key, 0) for key in asked]


def test_a_full_table_finds_every_key() -> None:
    """Many collisions: 100,000 keys in a row, and as many that are not there."""
    key_v = np.arange(1, 100_001, dtype=np.uint64)
    table = KeyTable(key_v, np.arange(100_000, dtype=np.int32) + 1)
    assert np.array_equal(table.ids(key_v), np.arange(1, 100_001))
    assert not table.ids(key_v + np.uint64(100_000)).any()


@few
@given(st.data(), st.sampled_from([1, 4, 1000]), st.integers(1, 3))
def test_ids_do_not_depend_on_how_values_are_kept(tmp_path_factory, data, many: int, min_count: int) -> None:
    """Pieces of short words, of long values, of both: from codes to keys and back at any time."""
    before, column_module.MANY = column_module.MANY, many
    try:
        pieces = data.draw(st.lists(st.lists(data.draw(st.sampled_from([WORDS, SHORT, ANY])), max_size=8), max_size=6))
        values = [value for piece in pieces for value in piece]
        counted = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
        path = tmp_path_factory.mktemp("column") / "0.bin"
        column = Column(path)
        for piece in pieces:
            column.add(series(piece))
        vocabulary, distinct = column.count(np.array(counted, bool), min_count, None)
    finally:
        column_module.MANY = before
    chosen = [value for value, is_counted in zip(values, counted, strict=True) if is_counted]
    expected = expected_ids(values, chosen, min_count)
    assert column.ids(slice(0, len(values))).tolist() == [expected[value] for value in values]
    assert distinct == len(set(chosen))
    assert dict(vocabulary.known.select("value", "id").rows()) == {v: i for v, i in expected.items() if i}


def test_large_fields_use_keys(tmp_path: Path, monkeypatch) -> None:
    """What the tests above switch by hand happens by itself, but not for what needs its distinct values."""
    monkeypatch.setattr(column_module, "MANY", 100)
    words = series([f"{i:08x}" for i in range(200)])
    kept = {}
    for name, column in {
        "words": Column(tmp_path / "a"),
        "bucketed": Column(tmp_path / "b", parse_bucket("key", "log_squared")),
        "time": Column(tmp_path / "c", ordered=True),
    }.items():
        column.add(words)
        kept[name] = column.path.stat().st_size // len(words)
    assert kept == {"words": 8, "bucketed": 4, "time": 4}


def test_stores_do_not_depend_on_how_values_are_kept(tmp_path: Path, monkeypatch) -> None:
    stores = []
    for many in (1, 2, 1000):
        monkeypatch.setattr(column_module, "MANY", many)
        stores.append(digests(prepare(given_rows(), tmp_path / str(many), 0).path))
    assert stores[0] == stores[1] == stores[2]
    assert store_module.open_store(prepare(given_rows(), tmp_path / "1", 0).path).cardinalities == [4, 4]


def test_numbers_and_missing_values_are_text(tmp_path: Path) -> None:
    column = Column(tmp_path / "0.bin")
    column.add(pl.Series([7, None, 7], dtype=pl.Int64))
    column.add(series(["7", ""]))
    vocabulary, _ = column.count(np.ones(5, bool), 1, None)
    assert vocabulary.known.rows() == [("7", 3, 1), ("", 2, 2)]


@pytest.mark.parametrize("min_count", [1, 2])
def test_an_empty_column(tmp_path: Path, min_count: int) -> None:
    vocabulary, distinct = Column(tmp_path / "0.bin").count(np.empty(0, bool), min_count, None)
    assert (vocabulary.cardinality, distinct) == (1, 0)
