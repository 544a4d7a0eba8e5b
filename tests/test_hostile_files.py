"""Hostile data, by the numbers of the fault matrix: the right rows, or one error that says where and what."""

import csv
import gzip
import io
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset import encode, report, spill
from recsys_collapse.dataset import source as source_module
from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.inputs import Form
from recsys_collapse.dataset.records import TextFormat
from recsys_collapse.dataset.split import split_rows, split_sizes
from recsys_collapse.dataset.store import open_store, prepare
from recsys_collapse.dataset.table import Table
from recsys_collapse.dataset.text import read_text
from recsys_collapse.memory import Memory, check_memory, memory_of
from recsys_collapse.model.fm import FM
from tests.sources import whole
from tests.test_dataset import FILES, digests, expected_ids, given_rows
from tests.test_table import TWO, found, ids_of, table

ROOT = Path(__file__).parents[1]
few, many = settings(max_examples=60, deadline=None), settings(max_examples=250, deadline=None)
blocks = st.sampled_from([1, 2, 7, 64, 300, 4096])  # bytes; far less than a file, and sometimes than a record


class Read(NamedTuple):
    rows: list[tuple[str, ...]]
    lines: list[int]
    bad: list[dict[str, Any]]


def read(path: Path, content: str | bytes, block: int, policy: str = "error", **layout: Any) -> Read:
    """A file, read in blocks of so many bytes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad = BadLines(policy, 100)
    pieces = list(
        read_text(path, TextFormat(**({"delimiter": ",", "quoting": True, "block_bytes": block} | layout)), bad)
    )
    rows, lines = [piece.frame.rows() for piece in pieces], [piece.lines for piece in pieces]
    return Read(list(itertools.chain(*rows)), [int(line) for line in itertools.chain(*lines)], bad.lines)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "h.csv"


def clicks(rows: int) -> str:
    return "".join(f"{i % 2},v{i % 7},w{i}\n" for i in range(rows))


# 1: tests/test_table.py::test_files_are_checked, tests/test_files.py::test_not_found; nothing is created:
#    tests/test_run_failures.py::test_wrong_command_starts_nothing


@few
@given(st.integers(50, 2000), st.integers(0, 10**6), st.sampled_from([-2, -1, 1, 3]), blocks, st.booleans())
def test_02_a_line_of_another_length(file: Path, rows: int, k: int, more: int, block: int, quoting: bool) -> None:
    lines, k, block = clicks(rows).splitlines(), k % rows, max(block, rows // 40)
    expected = [tuple(line.split(",")) for line in lines]
    lines[k] = ",".join((*expected[k], "x", "x", "x")[: 3 + more])
    text = "y,a,b\n" + "\n".join(lines)
    with pytest.raises(ValueError, match=rf"h\.csv:{k + 2}: {3 + more} values?, expected 3"):
        read(file, text, block, quoting=quoting)
    left = read(file, text, block, "quarantine", quoting=quoting)
    assert left.rows == expected[:k] + expected[k + 1 :]
    assert left.lines == [*range(2, k + 2), *range(k + 3, rows + 2)]
    assert [(bad["file"], bad["line"], bad["text"]) for bad in left.bad] == [("h.csv", k + 2, lines[k])]


def test_02_what_was_left_out_is_in_the_store(tmp_path: Path) -> None:
    text = "y,a,b\n" + clicks(30) + "1,x\n" + clicks(30) + "1,x,y,z\n" + clicks(3)
    store = prepare(table(tmp_path / "t.csv", text, bad_lines="quarantine", max_bad_lines=2), tmp_path, 0)
    clean = prepare(table(tmp_path / "u.csv", "y,a,b\n" + clicks(30) + clicks(30) + clicks(3)), tmp_path, 0)
    differ = set(digests(store.path).items()) ^ set(digests(clean.path).items())
    assert {name for name, _ in differ} == {"bad_lines.jsonl", "manifest.json"}
    kept = pl.read_ndjson(store.path / "bad_lines.jsonl").select("file", "line", "text").rows()
    assert kept == [("t.csv", 32, "1,x"), ("t.csv", 63, "1,x,y,z")]
    assert store.manifest()["bad_lines"] == 2
    assert any("2 lines could not be used" in words for words in report.warnings(store.manifest()))
    with pytest.raises(ValueError, match=r"t\.csv:63: 4 values.*bad line number 2, more than dataset.max_bad_lines=1"):
        whole(table(tmp_path / "t.csv", text, bad_lines="quarantine", max_bad_lines=1))


def test_02_a_row_that_is_wrong_twice_counts_once(tmp_path: Path) -> None:
    options = {"bad_lines": "quarantine", "max_bad_lines": 2, "buckets": {"a": "log_squared", "b": "log_squared"}}
    source = table(tmp_path / "t.csv", "y,a,b\n0,x,z\n2,x,z\n1,1,2\n", **options)
    assert found(whole(source)) == ([("1", "2")], [1])
    assert [bad["line"] for bad in source.left_out()] == [2, 3]


def test_02_a_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,a,b\n2,x,z\n")
    (tmp_path / "b.csv").write_text("y,a,b\n" + clicks(60))
    source = Table(name="t", label="y", path=str(tmp_path / "?.csv"), bad_lines="quarantine")
    assert prepare(source, tmp_path, 0).manifest()["rows"] == 60


def by_csv_module(text: str, quoting: bool = True) -> list[tuple[str, ...]] | int:
    """The rows under a header; or the line of the first record that is not as long as the header or cannot be read."""
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    )
    rows, line = [], 1
    try:
        for row in reader:
            rows.append(tuple(row))
            if len(row) != len(rows[0]):
                return line
            line = reader.line_num + 1
    except csv.Error:
        return line
    return rows[1:]


quoted = ['"', '"', '""', '"x,\ny"']
pieces = st.sampled_from(
    [*quoted, "\n", "\n", "\r\n", "\r", ",", ",", "a", "é", "1,u,v\n", "0,,\n", "x^", "\ufeff", "x\x01,,\n"]
)


@many
@given(st.lists(pieces, max_size=80).map("".join), blocks, st.booleans())
def test_03_quotes_anywhere(file: Path, body: str, block: int, quoting: bool) -> None:
    """What the csv module reads is read, what it refuses is refused, and at the same line."""
    expected = by_csv_module("y,a,b\n" + body, quoting)
    if isinstance(expected, int):
        with pytest.raises(ValueError, match=rf"h\.csv:{expected}: "):
            read(file, "y,a,b\n" + body, block, quoting=quoting)
    else:
        assert read(file, "y,a,b\n" + body, block, quoting=quoting).rows == expected


words = [b"1,", b"x", b"\n", b"\r\n", b"\r", b'"', b",", b"\0", b"\xff", b"\xe2", b'1,"a"\n', b"1,b\n", b'1,"c\rd"\n']
junk = st.sampled_from([*words, "é".encode(), "\ufffd".encode(), "\ufeff1,".encode(), b"x^,1\n", b"x\x01,1\n"])


@many
@given(st.lists(junk, max_size=60).map(b"".join), blocks, st.booleans(), st.sampled_from([5, 12, 30, 1 << 20]))
def test_03_the_block_does_not_matter(file: Path, body: bytes, block: int, quoting: bool, limit: int) -> None:
    """Not for the rows, nor their lines, nor which lines are left out, nor the first error."""

    def outcome(size: int, policy: str) -> Read | str:
        try:
            return read(file, b"y,a\n" + body, size, policy, quoting=quoting, max_line_bytes=limit)
        except ValueError as error:
            return str(error)

    for policy in ("error", "quarantine"):
        assert outcome(block, policy) == outcome(1 << 20, policy)


def test_04_one_store_from_every_spelling(tmp_path: Path, monkeypatch) -> None:
    """Byte for byte, the manifest included: it speaks of the rows and not of the file. Only the fingerprint differs."""
    layout, stores = Form.layout, []
    records = ["y,a,b", *(f'{i % 2},"a,{i % 9}\nb\r\n""c""\rd",é{i % 5}' for i in range(60))]
    ends = itertools.product(("\n", "\r\n", "\r"), ("", "\ufeff"), (True, False))
    contents = [(mark + end.join(records) + end * last).encode() for end, mark, last in ends]
    files = {f"{i}.csv": content for i, content in enumerate(contents)}
    files |= {"gz.csv.gz": gzip.compress(contents[6]), "zst.csv.zst": zstandard.compress(contents[9])}
    for (name, content), size in zip(files.items(), itertools.cycle([2, 9, 64, 1000, 1 << 20]), strict=False):
        monkeypatch.setattr(Form, "layout", lambda *args, size=size: replace(layout(*args), block_bytes=size))
        stores.append(prepare(table(tmp_path / name, content), tmp_path, 0))
    assert len({store.fingerprint for store in stores}) == len(files) == 14
    first, *others = [digests(store.path) for store in stores]
    assert sorted(first) == FILES
    assert others == [first] * len(others)
    values = set(pl.read_parquet(stores[0].path / "vocabulary.parquet").filter(field="a")["value"])
    assert values == {f'a,{i}\nb\r\n"c"\rd' for i in range(9)}


@many
@given(
    st.lists(junk | st.binary(max_size=4), max_size=50).map(b"".join),
    blocks,
    st.sampled_from([b"", b"\xef\xbb\xbf", b"y,a\n", b"\xef\xbb\xbfy,a\r\n"]),
)
def test_05_random_bytes(file: Path, body: bytes, block: int, start: bytes) -> None:
    """The rows that Python decodes and its csv module reads, or one error: nothing is replaced."""
    try:
        text = (start + body).decode().removeprefix("\ufeff")
        expected = 1 if "\0" in text else by_csv_module(text)
    except UnicodeDecodeError:
        expected = 1
    try:
        rows: list | int = read(file, start + body, block).rows
    except ValueError as error:
        assert type(error) is ValueError and str(file) in str(error)
        rows = 1
    if len(start) > 3:  # else the header is random, too
        assert rows == (1 if isinstance(expected, int) else expected)


ends, marks = st.sampled_from([b"\n", b"\r\n", b"\r"]), st.sampled_from([b"", b"\xef\xbb\xbf"])
wrong_bytes = st.sampled_from([b"\xff", b"\xc3", b"\0", b"\xed\xa0\x80"])


@few
@given(st.integers(1, 300), st.integers(0, 10**6), wrong_bytes, blocks, ends, marks)
def test_05_line_and_byte_are_named(
    file: Path, rows: int, k: int, wrong: bytes, block: int, end: bytes, mark: bytes
) -> None:
    lines, k = [b"y,a", *(f"{i % 2},é{i}".encode() for i in range(rows))], k % (rows + 1)  # 0: the header
    offset = len(mark) + len(end.join([*lines[:k], lines[k]]))
    lines[k] += wrong
    with pytest.raises(ValueError, match=rf"h\.csv:{k + 1}: .*at byte {offset} of the file"):
        read(file, mark + end.join(lines), max(block, rows // 20))


@pytest.mark.parametrize("name", ["latin-1", "utf-16", "utf-16-le", "UTF8", "utf-8-sig", "shift_jis", "utf-7"])
@pytest.mark.parametrize("block", [1, 5, 64])
def test_05_other_encodings(tmp_path: Path, name: str, block: int) -> None:
    letters = {"shift_jis": "ｱ漢", "latin-1": "éß"}.get(name, "é漢\U0001f600")
    rows = [(str(i % 2), f"{letters}{i}", letters * (i % 3)) for i in range(40)]
    content = ("y,a,b\n" + "".join(",".join(row) + "\n" for row in rows)).encode(name)
    assert read(tmp_path / "t.csv", content, block, encoding=name).rows == rows


@pytest.mark.parametrize(
    ("content", "name", "named"),
    [
        (TWO.encode("utf-16"), "utf-8", r"t\.csv: the text is UTF-16: set dataset.encoding=utf-16"),
        (TWO.encode("utf-16")[:-1], "utf-16", r"t\.csv: around byte 3\d: not utf-16"),
        (TWO.encode(), "utf-16", r"t\.csv: around byte 0: not utf-16"),
        (b"y,a\n1,+2AA-\n", "utf-7", r"t\.csv: around byte \d+: not utf-7"),  # half a character
        (b"y,a\n1,\xe9\n", "ascii", r"t\.csv: around byte 6: not ascii"),
        ("y,a\n1,é\0".encode("latin-1"), "latin-1", r"t\.csv:2: zero byte at byte 8 of the text as UTF-8"),
        *((b"y,a\n", name, f"dataset.encoding={name}: no such encoding") for name in ("utf8x", "hex", "rot13", "")),
    ],
)
def test_05_wrong_encoding(tmp_path: Path, content: bytes, name: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        whole(table(tmp_path / "t.csv", content, encoding=name))


def test_06_an_endless_line_fills_no_memory(tmp_path: Path) -> None:
    """200 MB without a line end, in the header, in a value and in quotes, with 4 GB of address space."""
    million = gzip.compress(b"a" * 1_000_000, 1)
    for name, start in {"head": b"", "row": b"y,a\n1,", "quoted": b'y,a\n1,"'}.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(start) + million * 200)
    code = f"""if True:
        import resource
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        from recsys_collapse.dataset.table import Table
        for name in ("head", "row", "quoted"):
            try:
                print(list(Table(name="t", label="y", path="{tmp_path}/" + name + ".csv.gz").read()))
            except ValueError as error:
                print(error)
        print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    *errors, peak = done.stdout.splitlines()  # VmHWM: what getrusage has begins with the peak of the test process
    for error, place in zip(errors, ("head.csv.gz:1", "row.csv.gz:2", "quoted.csv.gz:2"), strict=True):
        assert f"{place}: more than 1048576 bytes" in error and "dataset.max_line_bytes" in error
    assert int(peak) < 1_000_000  # KB


def test_06_a_wrong_delimiter_is_seen_at_once(tmp_path: Path) -> None:
    header = "\t".join(["y", *(f"c{i}" for i in range(39))]) + "\n"
    with pytest.raises(ValueError, match=r"t\.csv:1: 1 column found .*tab seen 39 times: set dataset.delimiter=tab"):
        whole(table(tmp_path / "t.csv", header + "1\n"))
    with pytest.raises(ValueError, match=r"t\.csv:1: 1 value, expected 2; tab seen 39 times: set dataset.delimiter"):
        whole(table(tmp_path / "t.csv", header, columns=["y", "a"]))


# 7, missing, renamed, duplicated: tests/test_table.py::test_what_cannot_be_trusted_is_refused
def test_07_given_parts_may_order_their_columns_differently(tmp_path: Path) -> None:
    frame, stores = pl.DataFrame({"y": [0, 1, 1, 0], "a": list("pqrp"), "b": list("zzwz")}), []
    for i, (valid, test) in enumerate(itertools.product(itertools.permutations("yab"), repeat=2)):
        paths = {part: str(tmp_path / f"{i}-{part}") for part in ("train.csv", "valid.csv", "test.parquet")}
        frame.write_csv(paths["train.csv"])
        frame.select(valid).write_csv(paths["valid.csv"])
        frame.select(test).write_parquet(paths["test.parquet"])
        parts = {name.partition(".")[0]: path for name, path in paths.items()}
        stores.append(prepare(Table(name=f"t{i}", label="y", **parts), tmp_path, 0))
    assert len({tuple(sorted(digests(store.path).items())) for store in stores}) == 1
    assert ids_of(stores[-1], "a") == [1, 2, 3, 1] * 3


@few
@given(st.lists(st.sampled_from("01") | st.sampled_from(["2", "-1", "", "nan", "1.0", "yes", " 1", "01"]), min_size=1))
def test_08_labels_are_0_and_1(file: Path, labels: list[str]) -> None:
    source, ones = table(file, "y,a\n" + "".join(f"{label},x\n" for label in labels)), [int(y == "1") for y in labels]
    mapped = table(file, file.read_text(), label_map={label: int(label == "1") for label in labels})
    assert whole(mapped).labels.tolist() == ones
    wrong = [(i + 2, label) for i, label in enumerate(labels) if label not in ("0", "1")]
    if not wrong:
        assert whole(source).labels.tolist() == ones
        return
    with pytest.raises(ValueError) as error:
        whole(source)
    counts = [f"{value!r} ({count} times)" for value, count in Counter(label for _, label in wrong).most_common(5)]
    places = ", ".join(str(line) for line, _ in wrong[:5])
    said = [f"h.csv:{wrong[0][0]}: ", f"{len(wrong)} values", f"lines {places};", "dataset.label_map", *counts]
    assert [words for words in said if words not in str(error.value)] == []


# 9: tests/test_dataset.py::test_one_class_for_training_or_validation_is_refused,
#    tests/test_run_failures.py::test_bad_data_fails_the_run_and_damages_nothing (null and its reason)


def test_10_from_1_to_50_rows(tmp_path: Path) -> None:
    for n in range(1, 51):
        labels, (train, valid, test) = [i % 3 % 2 for i in range(n)], split_sizes(n)
        source = table(tmp_path / "t.csv", "y,a\n" + "".join(f"{label},x\n" for label in labels))
        named = rf"{n} rows split into train {train}, valid {valid}, test {test}: .* 10 rows or more"
        if n >= 10:
            split = split_rows(n, 0)
            named = "both classes" if any(len({labels[i] for i in split[p]}) < 2 for p in ("train", "valid")) else ""
        if named:
            with pytest.raises(ValueError, match=named):
                prepare(source, tmp_path, 0)
        else:
            assert [len(rows) for rows in prepare(source, tmp_path, 0).splits.values()] == [train, valid, test]


# 11, which bucket a number has: tests/test_buckets.py
def test_11_what_is_no_number_is_named(tmp_path: Path) -> None:
    numbers = ["", "-3", "1e9", "5", "99999999999999999999"]
    text = "y,a,n\n" + "".join(f"{i % 2},x,{numbers[i % 5]}\n" for i in range(60)) + "1,x,abc\n"
    with pytest.raises(ValueError, match=r"t\.csv:62: column n: 'abc', expected a number"):
        whole(table(tmp_path / "t.csv", text, buckets={"n": "log_squared"}))
    source = table(tmp_path / "t.csv", text, buckets={"n": "log_squared"}, bad_lines="quarantine")
    store = prepare(source, tmp_path, 0)
    assert store.manifest()["rows"] == 60 and [bad["line"] for bad in source.left_out()] == [62]
    values = pl.read_parquet(store.path / "vocabulary.parquet").filter(field="n")["value"]
    assert sorted(values) == sorted(["", "-5", "429", "2", "2120"])


two_values = st.lists(st.tuples(st.sampled_from("abcdef"), st.text("xy", max_size=3)), min_size=12, max_size=60)


@few
@given(two_values, st.sampled_from(["train", "all"]), st.integers(1, 4), st.sampled_from([None, 2, 3]))
def test_12_unseen_values(
    tmp_path_factory, rows: list[tuple[str, str]], vocabulary: str, least: int, hashed: int
) -> None:
    train, labels = len(rows) - 8, [i % 2 for i in range(len(rows))]
    columns = {"a": [a for a, _ in rows], "b": [b for _, b in rows]}
    options = {"vocabulary": vocabulary, "min_count": least, "hashed_cardinality": hashed}
    source = given_rows(columns=columns, labels=labels, parts={"train": train, "valid": 4, "test": 4}, **options)
    store = prepare(source, tmp_path_factory.mktemp("unseen"), 0)
    manifest, worst = store.manifest(), 0.0
    for i, (name, values) in enumerate(columns.items()):
        known = expected_ids(values, values if vocabulary == "all" else values[:train], least)
        assert [number == 0 for number in ids_of(store, name)] == [known[value] == 0 for value in values]
        assert all(0 <= number < store.cardinalities[i] for number in ids_of(store, name))
        for part, numbers in store.splits.items():
            rate = sum(known[values[row]] == 0 for row in numbers.tolist()) / len(numbers)
            assert manifest["id_0_rate"][name][part] == rate
            worst = max(worst, rate if part != "train" else 0)
    assert any("rare or unseen" in words for words in report.warnings(manifest)) == (worst > 0.2)


special = st.sampled_from(
    ["__OOV__", "NULL", "null", "nan", " a", "a ", "a", "A", "", "0", "00", "é", "e\u0301", "\\N"]
)


@few
@given(st.lists(special, min_size=1))
def test_13_every_value_is_itself(tmp_path_factory, values: list[str]) -> None:
    folder, text, values = tmp_path_factory.mktemp("special"), io.StringIO(), values * 40
    csv.writer(text).writerows([["y", "a"], *([i % 3 % 2, value] for i, value in enumerate(values))])
    store = prepare(table(folder / "t.csv", text.getvalue(), vocabulary="all"), folder, 0)
    value_of = dict(pl.read_parquet(store.path / "vocabulary.parquet").select("id", "value").rows())
    assert [value_of[number] for number in ids_of(store, "a")] == values


def test_14_a_table_that_does_not_fit_is_refused_before_it_is_made() -> None:
    sizes, names = [9_100_000, 5, 400_000], ["C3", "C1", "C2"]
    with torch.device("meta"):
        model = FM(sizes, 1, 100)

    def memory(**optimizer: int) -> Memory:
        trainer, rows = {"batch_size": 8, "eval_batch_size": 8}, {"train": 9, "valid": 9, "test": 9}
        return memory_of(model, optimizer, trainer, rows)

    needed = memory().peak - memory().process
    assert sum(sizes) * 100 * 16 < needed < sum(sizes) * 100 * 16.1  # the copy of the weights comes after the gradient
    check_memory(model, names, memory(), needed)
    check_memory(model, names, memory(), None)
    with pytest.raises(
        ValueError, match=r"15\.3 GB are free\. .*min_count.* dataset\.hashed_cardinality.* dataset\.ignore"
    ):
        check_memory(model, names, memory(), needed - 1)
    with pytest.raises(
        ValueError, match=r"8\.0 GB are free\. .* Largest fields: C3: 9,100,000 ids x 100 .*= 14\.6 GB, C2"
    ):
        check_memory(model, names, memory(), 8 * 10**9)
    check_memory(model, names, memory(bytes_per_weight=8), 8 * 10**9)


# 15, offsets beyond int32: tests/test_embedding.py::test_offsets_hold_every_row_number
def test_15_nothing_wraps_around(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encode, "MAX_IDS", 3)
    with pytest.raises(ValueError, match=r"field a: 4 different values, more than int32 ids: set dataset\.min_count"):
        prepare(given_rows(), tmp_path, 0)
    assert prepare(given_rows(hashed_cardinality=3), tmp_path, 0).cardinalities == [3, 3]
    monkeypatch.setattr(spill, "MAX_ROWS", 7)
    with pytest.raises(ValueError, match="more than 7 rows"):
        prepare(given_rows(hashed_cardinality=2), tmp_path, 0)


# 16, wrong types and nulls: tests/test_table.py::test_unusable_parquet_is_refused
@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zst", "t.parquet", "t[1].parquet"])
def test_16_a_download_that_broke_off(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / name, "y,a,b\n" + clicks(3000)
    if name.endswith("parquet"):
        pl.read_csv(io.StringIO(text)).write_parquet(path.as_posix(), row_group_size=500)
    else:
        path.write_bytes((gzip.compress if name.endswith("gz") else zstandard.compress)(text.encode()))
    content, source = path.read_bytes(), Table(name="t", label="y", path=str(path))
    assert len(whole(source).labels) == 3000
    for length in np.linspace(1, len(content) - 1, 20).astype(int).tolist():
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"{re.escape(name)}: .*(get the file|download it) again"):
            whole(source)
    for place in range(len(content) - 1500, len(content), 30) if name.endswith("parquet") else ():
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with suppress(ValueError):  # a name may be wrong; but polars may not panic
            whole(source)


def test_16_rows_that_differ_from_the_paper_are_said(tmp_path: Path) -> None:
    published = {"rows": "45.8M", "fields": "2", "by": "the paper"}
    source = table(tmp_path / "t.csv", "y,a,b\n" + clicks(50), published_as=published)
    manifest = prepare(source, tmp_path, 0).manifest()
    assert report.differences(manifest, source.published()) == ["rows: 50 here, 45.8M in the paper"]
    assert report.differences(manifest | {"rows": 45_840_617}, source.published()) == []


# 17, the hash: tests/test_files.py::test_same_size_and_restored_mtime
def test_17_other_content_is_another_store(tmp_path: Path) -> None:
    file, notes = tmp_path / "t.csv", []
    source = table(file, "y,a,b\n" + clicks(50))
    stat, before = file.stat(), prepare(source, tmp_path, 0)
    file.write_text(file.read_text().replace("v3", "v9"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    after = prepare(source, tmp_path, 0, note=notes.append)
    assert after.fingerprint != before.fingerprint and before.path.is_dir()
    assert notes == [f"t: preparing {after.path}\n  {before.path.name} is of another content or split_seed"]
    assert "v9" in set(pl.read_parquet(after.path / "vocabulary.parquet")["value"])


def test_17_content_that_changes_while_it_is_prepared(tmp_path: Path, monkeypatch) -> None:
    """Else the fingerprint of the old content would name a store of the new."""
    source, old = table(tmp_path / "t.csv", "y,a,b\n" + clicks(50)), source_module.content_hash

    def then_changed(path: Path, *args: Any) -> str:
        digest = old(path, *args)
        path.write_text("y,a,b\n" + clicks(50).replace("v3", "v9"))
        return digest

    monkeypatch.setattr(source_module, "content_hash", then_changed)
    with pytest.raises(ValueError, match="changed"):
        prepare(source, tmp_path, 0)


# 18, 20, 21, 22: tests/test_hostile_processes.py
# 19: tests/test_dataset.py::test_a_damaged_store_is_set_aside_and_built_again


# 23, another format: tests/test_dataset.py::test_a_store_of_another_format_is_refused
def test_23_another_version_of_the_recipe_is_another_store(tmp_path: Path, monkeypatch) -> None:
    source = table(tmp_path / "t.csv", "y,a,b\n" + clicks(50))
    before = prepare(source, tmp_path, 0)
    monkeypatch.setattr(Table, "version", 99)
    after = prepare(source, tmp_path, 0)
    assert after.path.name.startswith("t-v99-") and after.fingerprint != before.fingerprint
    assert open_store(before.path).fingerprint == before.fingerprint
