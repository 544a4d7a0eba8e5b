"""From rows to batches: fingerprint, ids, split, store and the order of the batches."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset import batches as batches_module
from recsys_collapse.dataset import build as build_module
from recsys_collapse.dataset import source as source_module
from recsys_collapse.dataset import store as store_module
from recsys_collapse.dataset.batches import Batches, shuffled, train_counts
from recsys_collapse.dataset.encode import build_vocabulary
from recsys_collapse.dataset.source import Rows, Source
from recsys_collapse.dataset.split import consecutive, split_rows
from recsys_collapse.dataset.store import Store, prepare
from recsys_collapse.seeding import derive

few = settings(max_examples=60, deadline=None)
THIRDS = {"train": 4, "valid": 2, "test": 2}
FILES = ["ids.bin", "labels.bin", "manifest.json", "splits.bin", "vocabulary.parquet"]


@dataclass(kw_only=True)
class Given(Source):
    """Rows from memory; `reads` counts how often they were asked for."""

    columns: dict[str, list[str | None]]
    labels: list[int]
    parts: dict[str, int] | None = None
    paths: list[Path] = field(default_factory=list, metadata={"runtime": True})
    reads: list[int] = field(default_factory=list, metadata={"runtime": True})

    def files(self) -> list[Path]:
        return self.paths

    def read(self) -> Iterator[Rows]:
        self.reads.append(1)
        frame, labels, start = pl.DataFrame(self.columns), np.array(self.labels, dtype=np.uint8), 0
        for part, size in (self.parts or {None: len(labels)}).items():
            rows = slice(start, start + size)
            yield Rows(frame[rows], labels[rows], part)
            start += size


def given_rows(**changes) -> Given:
    """Eight rows in three parts; `b` of valid and test has values and a missing one that training has not."""
    columns = {"a": ["x", "y", "x", "z", "x", "y", "z", "x"], "b": ["p", "q", "q", None, "u", "", "q", None]}
    return Given(**({"name": "g", "columns": columns, "labels": [0, 1, 1, 0, 0, 1, 1, 1], "parts": THIRDS} | changes))


def expected_ids(values: Sequence[str | None], counted: Sequence[str | None], min_count: int) -> dict[str, int]:
    """Value -> id, from `collections.Counter` alone; what is not in it has id 0."""
    counts = Counter(value or "" for value in counted)
    frequent = [value for value, count in counts.items() if count >= min_count]
    ranked = sorted(frequent, key=lambda value: (-counts[value], value.encode()))
    known = {value: i + 1 for i, value in enumerate(ranked)}
    return {value or "": known.get(value or "", 0) for value in values}


def test_fingerprint_follows_rows_recipe_and_split(tmp_path: Path, monkeypatch) -> None:
    file, other = tmp_path / "a.csv", tmp_path / "folder" / "b.csv"
    other.parent.mkdir()
    file.write_text("one")
    before = given_rows(paths=[file]).fingerprint(0)
    assert len(before) == 16
    assert given_rows(paths=[file]).fingerprint(1) != before
    assert given_rows(paths=[file, file]).fingerprint(0) != before
    for option in ({"min_count": 2}, {"vocabulary": "all"}, {"parts": None}):
        assert given_rows(paths=[file], **option).fingerprint(0) != before
    monkeypatch.setattr(Given, "version", 2)
    assert given_rows(paths=[file]).fingerprint(0) != before
    monkeypatch.undo()
    os.utime(file, (1, 1))
    assert given_rows(paths=[file]).fingerprint(0) == before, "the time matters"
    file.rename(other)
    assert given_rows(paths=[other]).fingerprint(0) == before, "the path matters"
    file.write_text("two")
    os.utime(file, (1, 1))
    file.replace(other)
    assert given_rows(paths=[other]).fingerprint(0) != before, "remembered by size and time alone"


@pytest.mark.parametrize(("key", "value"), [("min_count", 0), ("vocabulary", "tests")])
def test_options_of_every_source_are_checked(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"dataset\.{key}={value}: expected"):
        given_rows(**{key: value})


@few
@given(st.lists(st.text("ab~\x00é\uffff\U0001f600", max_size=2), max_size=40), st.integers(1, 3))
def test_ids_follow_count_then_value(values: list[str], min_count: int) -> None:
    """UTF-8 bytes decide between values of equal count; what is rare or unseen has id 0."""
    expected = expected_ids([*values, "never seen"], values, min_count)
    distinct = pl.Series("any name", [*dict.fromkeys([*values, "never seen"])], dtype=pl.String)
    count_v = np.array([values.count(value) for value in distinct])
    (known, cardinality), id_v = build_vocabulary(distinct, count_v, min_count)
    assert known.columns == ["value", "count", "id"]
    counts = Counter(values)
    by_id = sorted((i, value) for value, i in expected.items() if i > 0)
    assert known.rows() == [(value, counts[value], i) for i, value in by_id]
    assert id_v.dtype == np.int32
    assert cardinality == known.height + 1
    assert id_v.tolist() == [expected[value] for value in distinct]


@few
@given(st.integers(10, 400), st.integers(0, 2**40))
def test_split_is_the_official_one(num_rows: int, seed: int) -> None:
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    first, second = int(num_rows * 0.8), int(num_rows * 0.1)
    expected = [order[:first], order[first : first + second], order[first + second :]]
    found = split_rows(num_rows, seed)
    assert list(found) == ["train", "valid", "test"]
    for rows, wanted in zip(found.values(), expected, strict=True):
        assert rows.tolist() == wanted.tolist()
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(num_rows))


def test_given_parts_follow_each_other() -> None:
    found = consecutive({"test": 4, "train": 3, "valid": 2})
    expected = {"train": [0, 1, 2], "valid": [3, 4], "test": [5, 6, 7, 8]}
    assert {part: list(rows) for part, rows in found.items()} == expected


@pytest.mark.parametrize(
    ("num_rows", "parts", "named"),
    [
        (9, None, "9 rows split into train 7, valid 0, test 2"),
        (3, {"train": 2, "valid": 1, "test": 0}, "3 rows split into train 2, valid 1, test 0"),
    ],
)
def test_a_part_without_rows_is_refused(num_rows: int, parts: dict[str, int] | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        consecutive(parts) if parts else split_rows(num_rows, 0)


@pytest.mark.parametrize("vocabulary", ["train", "all"])
@pytest.mark.parametrize("min_count", [1, 2])
def test_store_holds_the_rows(tmp_path: Path, vocabulary: str, min_count: int) -> None:
    source = given_rows(vocabulary=vocabulary, min_count=min_count)
    store = prepare(source, tmp_path, 0)
    assert store.path == tmp_path / f"g-v1-{store.fingerprint}"
    assert store.fingerprint == source.fingerprint(0)
    assert sorted(path.name for path in store.path.iterdir()) == FILES
    assert store.fields == ["a", "b"]
    assert (store.ids.dtype, store.labels.dtype) == (torch.int32, torch.uint8)
    assert store.labels.tolist() == source.labels  # one class only in the test part: allowed
    assert [rows.tolist() for rows in store.splits.values()] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    known = pl.read_parquet(store.path / "vocabulary.parquet")
    for i, (name, values) in enumerate(source.columns.items()):
        counted = values[: THIRDS["train"]] if vocabulary == "train" else values
        expected = expected_ids(values, counted, min_count)
        assert store.ids[:, i].tolist() == [expected[value or ""] for value in values]
        assert store.cardinalities[i] == max(expected.values()) + 1
        own = known.filter(pl.col("field") == name)
        assert dict(own.select("value", "id").rows()) == {value: i for value, i in expected.items() if i}


def test_store_is_built_once(tmp_path: Path) -> None:
    source = given_rows()
    built, opened = prepare(source, tmp_path, 0), prepare(source, tmp_path, 0)
    assert len(source.reads) == 1
    assert torch.equal(built.ids, opened.ids)
    assert (built.path, built.cardinalities) == (opened.path, opened.cardinalities)
    assert prepare(source, tmp_path, 1).path != built.path
    assert len(source.reads) == 2


def test_store_can_be_read_by_others(tmp_path: Path) -> None:
    """`store_dir` may be shared: the umask decides, not the privacy of a temporary folder."""
    before = os.umask(0o022)
    try:
        assert prepare(given_rows(), tmp_path, 0).path.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_killed_build_leaves_nothing(tmp_path: Path, monkeypatch, error: type[BaseException]) -> None:
    build = store_module.build

    def killed(*args) -> None:
        build(*args)
        raise error("killed")

    monkeypatch.setattr(store_module, "build", killed)
    with pytest.raises(error, match="killed"):
        prepare(given_rows(), tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    monkeypatch.undo()
    assert prepare(given_rows(), tmp_path, 0).cardinalities == [4, 4]


def test_builds_without_locks_are_one_store(tmp_path: Path, monkeypatch) -> None:
    """Without file locks the second to finish finds the first one's store, with the same bytes."""
    build = store_module.build

    def overtaken(*args) -> dict:
        monkeypatch.undo()
        prepare(given_rows(), tmp_path, 0, lock=False)
        return build(*args)

    monkeypatch.setattr(store_module, "build", overtaken)
    store = prepare(given_rows(), tmp_path, 0, lock=False)
    assert list(tmp_path.iterdir()) == [store.path]
    assert sorted(path.name for path in store.path.iterdir()) == FILES


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "gone"])
def test_a_damaged_store_is_set_aside_and_built_again(tmp_path: Path, monkeypatch, name: str, damage: str) -> None:
    path = prepare(given_rows(), tmp_path, 0).path
    whole, content = digests(path), (path / name).read_bytes()
    if damage == "gone":
        (path / name).unlink()
    else:
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :]
        (path / name).write_bytes({"cut": content[:-1], "longer": content + b"x", "flipped": flipped}[damage])
    monkeypatch.setattr(store_module, "_verified", set())  # as in another process
    notes: list[str] = []
    assert prepare(given_rows(), tmp_path, 0, note=notes.append).path == path
    assert digests(path) == whole
    assert name in notes[0] and "damaged" in notes[0]
    assert len(list(tmp_path.glob("*.damaged-*/*"))) == 1


def test_a_disk_that_takes_less_than_it_is_given(tmp_path: Path, monkeypatch) -> None:
    """Short writes are continued; a file that is too short in the end never becomes a store."""
    expected = digests(prepare(given_rows(), tmp_path / "whole", 0).path)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: pwrite(descriptor, data[:7], place))
    assert digests(prepare(given_rows(), tmp_path / "short", 0).path) == expected
    monkeypatch.setattr(build_module, "_write_at", lambda *args: None)
    with pytest.raises(OSError, match=r"ids\.bin: not written in full: expected 64 bytes"):
        prepare(given_rows(), tmp_path / "none", 0)
    assert list((tmp_path / "none").glob("g-*")) == []


def test_a_disk_that_is_too_small_is_seen_at_once(tmp_path: Path, monkeypatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: Usage(free=20))
    with pytest.raises(OSError, match=r"GB needed for about 4 rows of 2 fields, 0\.0 GB free: make room"):
        prepare(given_rows(), tmp_path, 0)


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"part": "train"}, "rows of train after rows of valid"),
        ({"part": None}, "a time or part among pieces without one"),
        ({"time": pl.Series(["1", "2"])}, "a time or part among pieces without one"),
        ({"labels": np.array([1, 2], np.uint8)}, r"labels \[1, 2\]: expected 0 and 1"),
        ({"labels": np.array([1], np.uint8)}, "a piece of 1 labels, 2 rows"),
        ({"features": pl.DataFrame({"b": ["u", "v"]})}, r"columns \['b'\]: expected .* columns \['a'\]"),
    ],
)
def test_pieces_of_a_source_have_to_fit(tmp_path: Path, second: dict, named: str) -> None:
    """Whoever wrote the source."""
    piece = Rows(pl.DataFrame({"a": ["u", "v"]}), np.array([0, 1], np.uint8), "valid")
    spill = build_module.Spill(tmp_path, {})
    spill.add(piece)
    with pytest.raises(ValueError, match=named):
        spill.add(piece._replace(**second))
    assert spill.rows == 2


def test_a_store_of_another_format_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = prepare(given_rows(), tmp_path, 0).path
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ValueError, match="the store is damaged"):  # not another format: the name says which it is
        store_module.open_store(path)
    path = prepare(given_rows(), tmp_path, 0).path
    monkeypatch.setattr(store_module, "STORE_FORMAT", 99)
    with pytest.raises(ValueError, match="store of format 2, need 99: run the prepare command again"):
        store_module.open_store(path)
    monkeypatch.setattr(source_module, "STORE_FORMAT", 99)
    assert given_rows().fingerprint(0) != path.name.rpartition("-")[2]


@pytest.mark.parametrize(
    ("labels", "named"),
    [([1, 1, 1, 1, 0, 1, 1, 1], "all 4 train rows have label 1"), ([0, 1, 1, 0, 0, 0, 1, 1], "all 2 valid rows .* 0")],
)
def test_one_class_for_training_or_validation_is_refused(tmp_path: Path, labels: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prepare(given_rows(labels=labels), tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def numbered(num_rows: int) -> Store:
    """Row r has ids (r, r + 1) and label r % 2, and the train part has all rows, the last one first."""
    row_n = torch.arange(num_rows, dtype=torch.int32)
    splits = {"train": torch.arange(num_rows).flip(0)}
    ids = torch.stack([row_n, row_n + 1], dim=1)
    return Store(Path(), "", ["a", "b"], [num_rows, num_rows + 1], ids, (row_n % 2).to(torch.uint8), splits)


@few
@given(st.integers(1, 60), st.integers(1, 64), st.booleans())
def test_every_row_comes_once(num_rows: int, batch_size: int, mixed: bool) -> None:
    batches = Batches(numbered(num_rows), "train", batch_size, shuffled(0, lambda: 0) if mixed else None)
    found = list(batches)
    full, rest = divmod(num_rows, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if rest == 1 and full:
        sizes = [*sizes[:-2], batch_size + 1]
    assert [len(y_B) for _, y_B in found] == sizes
    assert len(batches) == len(sizes)
    assert {(x_BN.dtype, y_B.dtype) for x_BN, y_B in found} == {(torch.int32, torch.uint8)}
    x_nN, y_n = (torch.cat(part) for part in zip(*found, strict=True))
    row_n = x_nN[:, 0]
    assert torch.equal(x_nN[:, 1], row_n + 1)
    assert torch.equal(y_n, row_n % 2)
    assert row_n.sort().values.tolist() == list(range(num_rows))
    if not mixed:
        assert row_n.tolist() == list(range(num_rows))[::-1]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, *epochs: int) -> list[list[int]]:
        """Rows of each epoch, all served by one object, as in a run."""
        running = iter(epochs)
        batches = Batches(numbered(50), "train", 8, shuffled(seed, lambda: next(running)))
        return [[row for x_BN, _ in batches for row in x_BN[:, 0].tolist()] for _ in epochs]

    first, second, again = order(0, 0, 1, 0)
    assert first == again
    assert first != second
    assert order(0, 1) == [second], "what ran before matters"
    assert order(1, 0) != [first]
    torch.manual_seed(5)
    assert order(0, 0) == [first], "the global generator matters"


@few
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 1000), st.sampled_from([1, 7, 500_000]))
def test_train_counts_are_numpys(num_rows: int, num_fields: int, seed: int, rows_per_block: int) -> None:
    """Of training rows alone; ids that none of them has count 0."""
    rng = np.random.default_rng(seed)
    cardinalities = rng.integers(1, 9, num_fields)
    ids = rng.integers(0, cardinalities, (num_rows, num_fields))
    train, valid = np.split(rng.permutation(num_rows), [rng.integers(0, num_rows + 1)])
    splits = {"train": torch.tensor(train, dtype=torch.int32), "valid": torch.tensor(valid, dtype=torch.int32)}
    sizes, id_nN = cardinalities.tolist(), torch.tensor(ids, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "ROWS_PER_BLOCK", rows_per_block)
        found = train_counts(Store(Path(), "", [""] * num_fields, sizes, id_nN, torch.zeros(num_rows), splits))
    expected = [np.bincount(ids[train, i], minlength=size) for i, size in enumerate(sizes)]
    assert found.dtype == torch.int64
    assert found.tolist() == np.concatenate(expected).tolist()


def test_derived_seeds_are_pinned() -> None:
    """Another value here means that every run made before is another run."""
    assert derive(0, "order", 3) == 2723741169552378311
    assert len({derive(seed, word, epoch) for seed in (0, 1) for word in ("order", "init") for epoch in range(5)}) == 20
    assert all(0 <= derive(seed) < 2**63 for seed in range(50))
