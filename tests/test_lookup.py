"""Ids of new rows: those that the store gave its own rows, for every kind of field, and those of a plain dictionary."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset import column as column_module
from recsys_collapse.dataset import lookup as lookup_module
from recsys_collapse.dataset import store as store_module
from recsys_collapse.dataset.lookup import Encoder, Lookup
from recsys_collapse.dataset.store import Store, prepare
from recsys_collapse.dataset.table import Table
from recsys_collapse.dataset.unseen import Unseen
from tests.recipe_files import read_table

WORDS = st.text("ab\0é\U0001f600", max_size=3)
BUCKETS = {
    "price": "quantile:5",
    "few": "quantile:7",
    "half": "quantile:2",
    "square": "log_squared",
    "bars": "log_squared_bars",
    "hour": "hour",
    "day": "weekday",
    "end": "weekend",
}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(WORDS, st.integers(1, 9), max_size=20), st.lists(WORDS, max_size=30))
def test_a_lookup_is_a_dictionary(known: dict[str, int], asked: list[str]) -> None:
    asked += list(known)
    values = pl.Series("value", list(known), dtype=pl.String)
    found = Lookup(values, np.array(list(known.values()), np.int64)).ids(pl.Series(asked, dtype=pl.String))
    assert found.dtype == np.int32
    assert found.tolist() == [known.get(value, 0) for value in asked]


def test_a_value_with_the_hash_of_another_is_not_taken_for_it(monkeypatch) -> None:
    """Nobody can name two such values: so the hash is made a bad one, of the first letter."""
    monkeypatch.setattr(Lookup, "_hashes", lambda self, text: np.array([ord(t[0]) for t in text], np.uint64))
    lookup = Lookup(pl.Series(["apple", "berry"]), np.array([1, 2]))
    assert lookup.ids(pl.Series(["apple", "avocado", "berry", "banana", "cherry"])).tolist() == [1, 0, 2, 0, 0]


def test_many_values_with_many_pieces_use_one_map(monkeypatch) -> None:
    """What a piece costs does not depend on the size of the vocabulary: the map is made once."""
    made = []
    monkeypatch.setattr(
        lookup_module,
        "KeyTable",
        lambda *args, table=lookup_module.KeyTable: made.append(1) or table(*args),
    )
    values = pl.Series([f"v{i}" for i in range(100_000)])
    lookup = Lookup(values, np.arange(1, 100_001))
    for start in range(0, 100_000, 10_000):
        assert lookup.ids(values[start : start + 10_000]).tolist() == list(range(start + 1, start + 10_001))
    assert made == [1]


def mixed_rows(count: int, seed: int, unseen: bool = False) -> dict[str, list[str]]:
    """Every kind of field; `unseen` has other values, beyond the edges too."""
    rng = random.Random(seed)
    top = 300.0 if unseen else 100.0

    def sometimes(value: str) -> str:
        return "" if rng.random() < 0.1 else value

    def time() -> str:
        return f"1410{rng.randrange(1, 30):02}{rng.randrange(24):02}"

    return {
        "y": [str(i % 2) for i in range(count)],
        "price": [sometimes(repr(rng.uniform(-top, top))) for _ in range(count)],
        "few": [sometimes(str(rng.randrange(4))) for _ in range(count)],
        "half": [sometimes("1e-300" if rng.random() < 0.7 else "0.1") for _ in range(count)],
        "square": [sometimes(str(int(rng.lognormvariate(2, 2)) - 2)) for _ in range(count)],
        "bars": [sometimes(str(int(rng.lognormvariate(2, 2)))) for _ in range(count)],
        "hour": [sometimes(time()) for _ in range(count)],
        "day": [sometimes(time()) for _ in range(count)],
        "end": [sometimes(time()) for _ in range(count)],
        "word": [sometimes(f"{rng.randrange(300 if unseen else 60):08x}") for _ in range(count)],
        "text": [sometimes(f"longer than a key {rng.randrange(40)}é") for _ in range(count)],
        "only": [f"{seed}-{i}" for i in range(count)],
    }


def write_csv(path: Path, columns: dict[str, list[str]]) -> Path:
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path: Path, **options) -> Table:
    derive = {"day2": "hour"}
    buckets = BUCKETS | {"day2": "weekday"}
    return Table(**({"name": "t", "label": "y", "path": str(path), "buckets": buckets, "derive": derive} | options))


def encode(source: Table, store: Store, files: Sequence[Path]) -> np.ndarray:
    encoder = Encoder(store, source.field_buckets())
    pieces = [encoder.ids(rows.features) for rows in Unseen(source, store.fields, files, {}).read()]
    ids_nN = np.concatenate(pieces)
    zeros = dict(zip(store.fields, (ids_nN == 0).mean(axis=0).tolist(), strict=True))
    assert encoder.rates() == pytest.approx(zeros)
    return ids_nN


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_count": 3},
        {"vocabulary": "all", "min_count": 2},
        {"hashed_cardinality": 7},
        {"hashed_cardinality": 12, "min_count": 2, "vocabulary": "all"},
    ],
)
@pytest.mark.parametrize("many", [5, 1 << 15])
def test_ids_of_the_rows_of_a_store_are_those_of_the_store(tmp_path: Path, monkeypatch, options, many: int) -> None:
    """Whether the store kept values as codes or as keys."""
    monkeypatch.setattr(column_module, "MANY", many)
    path = write_csv(tmp_path / "t.csv", mixed_rows(500, 0))
    source = table(path, **options)
    store = prepare(source, tmp_path / "stores", 0)
    assert np.array_equal(encode(source, store, [path]), store.ids.numpy())


def naive_bucket(word: str, edges: list[float], value: str) -> str:
    """A bucket of one value, in plain Python; only quantiles need one here."""
    if word.startswith("quantile"):
        return "" if value == "" else f"q{sum(edge < float(value) for edge in edges)}"
    raise NotImplementedError(word)


def test_ids_of_new_rows_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Edges counted one by one, values looked up in a dictionary, what is not there is 0."""
    source = table(write_csv(tmp_path / "t.csv", mixed_rows(500, 0)), min_count=2)
    store = prepare(source, tmp_path / "stores", 0)
    new = write_csv(tmp_path / "new.csv", mixed_rows(300, 1, unseen=True))
    found = encode(source, store, [new])
    columns, edges = read_table(new, None, ","), store.manifest()["edges"]
    assert {name: len(found) for name, found in edges.items()} == {"price": 4, "few": len(edges["few"]), "half": 1}
    known = pl.read_parquet(store.path / "vocabulary.parquet")
    checked = set()
    for i, name in enumerate(store.fields):
        if not BUCKETS.get(name, "quantile").startswith("quantile") or name == "day2":
            continue
        ids = dict(known.filter(pl.col("field") == name).select("value", "id").rows())
        values = columns[name]
        if name in BUCKETS:
            values = [naive_bucket(BUCKETS[name], edges[name], value) for value in values]
        assert found[:, i].tolist() == [ids.get(value, 0) for value in values], name
        checked.add(name)
    assert checked == {"price", "few", "half", "word", "text", "only"}
    assert (found[:, store.fields.index("only")] == 0).all()
    assert 0 < (found[:, store.fields.index("word")] == 0).mean() < 1


def test_edges_survive_the_manifest(tmp_path: Path) -> None:
    """To the last bit: every number of the rows, and its neighbours, fall on the side of the edge where they were."""
    values = [repr(random.Random(i).uniform(0, 1) * 10 ** (i % 9 - 4)) for i in range(400)]
    columns = {"y": [str(i % 2) for i in range(400)], "price": values}
    source = table(write_csv(tmp_path / "t.csv", columns), buckets={"price": "quantile:50"}, derive=None)
    store = prepare(source, tmp_path / "stores", 0)
    edges = store.manifest()["edges"]["price"]
    assert set(map(repr, edges)) <= set(values) and len(edges) > 40
    encoder = Encoder(store, source.field_buckets())
    above = pl.DataFrame({"price": [repr(float(np.nextafter(edge, np.inf))) for edge in edges]})
    at = pl.DataFrame({"price": list(map(repr, edges))})
    assert not (encoder.ids(at) == encoder.ids(above)).any()


def test_a_store_of_before_has_no_edges(tmp_path: Path) -> None:
    """And says what to do; after that its ids are what they were."""
    path = write_csv(tmp_path / "t.csv", mixed_rows(100, 0))
    source = table(path)
    store = prepare(source, tmp_path / "stores", 0)
    before = store.ids.numpy().copy()
    manifest = json.loads((store.path / "manifest.json").read_text())
    del manifest["edges"], manifest["crc32"]
    manifest["crc32"] = store_module._crc32(manifest)
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"few.*half|half.*few|price.*remove this folder and prepare the data again"):
        Encoder(store, source.field_buckets())
    plain = {name: bucket for name, bucket in source.field_buckets().items() if bucket.fit is None}
    Encoder(store, plain)
    for file in [*store.path.iterdir()]:
        file.unlink()
    store.path.rmdir()
    again = prepare(source, tmp_path / "stores", 0)
    assert again.path == store.path and np.array_equal(again.ids.numpy(), before)
    assert np.array_equal(encode(source, again, [path]), before)


def test_null_and_nothing_are_one_value(tmp_path: Path) -> None:
    source = table(write_csv(tmp_path / "t.csv", mixed_rows(200, 0)))
    store = prepare(source, tmp_path / "stores", 0)
    encoder = Encoder(store, source.field_buckets())
    nulls = pl.DataFrame({name: [None, ""] for name in store.fields}, schema=dict.fromkeys(store.fields, pl.String))
    first, second = encoder.ids(nulls).tolist()
    assert first == second
    assert first[store.fields.index("word")] > 0 and first[store.fields.index("only")] == 0
