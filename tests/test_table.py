"""Files of a user: what is read is what Python's csv module reads, and whatever cannot be trusted is refused."""

import csv
import io
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset.records import DELIMITERS
from recsys_collapse.dataset.store import Store, prepare
from recsys_collapse.dataset.table import Table
from tests.sources import Whole, whole
from tests.test_dataset import expected_ids

REAL = Path(__file__).parents[2] / "shared" / "data"
TWO = "y,a,b\n1,x,z\n0,q,w\n"
TWO_ROWS = ([("x", "z"), ("q", "w")], [1, 0])
few = settings(max_examples=60, deadline=None)


def table(path: Path, content: str | bytes | pl.DataFrame, **options) -> Table:
    """A source that reads `content` from `path`; its label is the column y."""
    if isinstance(content, pl.DataFrame):
        content.write_parquet(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(**({"name": "t", "label": "y", "path": str(path)} | options))


def found(rows: Whole) -> tuple[list[tuple[str, ...]], list[int]]:
    """Feature values by row, and labels."""
    return rows.features.rows(), rows.labels.tolist()


def ids_of(store: Store, name: str) -> list[int]:
    return store.ids[:, store.fields.index(name)].tolist()


@pytest.mark.parametrize(
    ("file", "content", "options"),
    [
        ("t.csv", TWO, {}),
        ("T.CSV", TWO.rstrip("\n"), {}),
        ("t.csv", TWO.replace("\n", "\r\n"), {}),
        ("t.csv", "\ufeff" + TWO, {}),
        ("t.csv", 'y,"a",b\n1,"x",z\n0,q,"w"\n', {}),
        ("t.tsv", TWO.replace(",", "\t"), {}),
        ("t.txt", TWO.replace(",", "\t"), {}),
        ("t.data", TWO.replace(",", ";"), {"delimiter": ";"}),
        ("t.csv", TWO.replace(",", "|"), {"delimiter": "|"}),
        ("t.csv", "a,y,b,id\nx,1,z,7\nq,0,w,8\n", {"ignore": ["id"]}),
        ("t.csv", "b,a,y,id\nz,x,1,7\nw,q,0,8\n", {"features": ["a", "b"]}),
        ("t.csv", "b,a,y,id\nz,x,1,7\nw,q,0,8\n", {"features": ["a", "id", "b"], "ignore": ["id"]}),
        ("t.csv", TWO.replace("y", "Y"), {"label": "Y"}),
        ("t.csv", "y,a,b\n1.0,x,z\n0.0,q,w\n", {"label_map": {"1.0": 1, "0.0": 0}}),
        ("t.csv", "y,a,b\nyes,x,z\nno,q,w\n", {"label_map": {"yes": 1, "no": 0}}),
        ("t.csv", "1,x,z\n0,q,w\n", {"columns": ["y", "a", "b"]}),
        ("t.parquet", pl.DataFrame({"y": [True, False], "a": ["x", "q"], "b": ["z", "w"]}), {}),
    ],
)
def test_one_table_in_many_spellings(tmp_path: Path, file: str, content: str | pl.DataFrame, options: dict) -> None:
    rows = whole(table(tmp_path / file, content, **options))
    assert rows.features.columns == ["a", "b"]
    assert rows.parts is None
    assert found(rows) == TWO_ROWS


@pytest.mark.parametrize("y", [[True, False], [1, 0], [1.0, 0.0], ["1", "0"]])
def test_parquet_labels_and_missing_values(tmp_path: Path, y: list) -> None:
    frame = pl.DataFrame({"n": [7, None], "f": [None, 0.5], "s": ["", None], "b": [True, None], "y": y})
    assert found(whole(table(tmp_path / "t.parquet", frame))) == ([("7", "", "", "true"), ("", "0.5", "", "")], [1, 0])


@few
@given(
    st.lists(
        st.tuples(st.integers(0, 1), *[st.text('a,"\n\r\t é\U0001f600;', max_size=5)] * 3), min_size=1, max_size=12
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows: list[tuple], quoting: int, newline: bool) -> None:
    file, text = tmp_path_factory.getbasetemp() / "round_trip.csv", io.StringIO()
    writer = csv.writer(text, quoting=quoting)
    names = ["^.*$", 'b, "c"\nd', "é"]
    writer.writerows([["y", *names], *rows])
    read = whole(table(file, text.getvalue() if newline else text.getvalue().removesuffix("\r\n")))
    assert read.features.columns == names
    assert found(read) == ([row[1:] for row in rows], [row[0] for row in rows])


@few
@given(st.lists(st.tuples(st.sampled_from("01"), *[st.text('a",', max_size=3)] * 2), min_size=1, max_size=4))
def test_stray_quotes_are_read_as_the_csv_module_does_or_refused(tmp_path_factory, rows: list[tuple]) -> None:
    text = "y,a,b\n" + "\n".join(",".join(row) for row in rows)
    try:
        read = whole(table(tmp_path_factory.getbasetemp() / "stray.csv", text))
    except ValueError:
        return
    expected = list(csv.reader(io.StringIO(text), strict=True))[1:]
    assert found(read) == ([tuple(row[1:]) for row in expected], [int(row[0]) for row in expected])


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (TWO, {"label": "z"}, ["no label column (dataset.label=z)", "the columns are y, a, b"]),
        ("y,click,b\n1,x,z\n", {"label": "klick"}, ["dataset.label=klick", "did you mean click?"]),
        (TWO, {"features": ["bb"]}, ["no such feature column (dataset.features=bb)", "did you mean b?"]),
        (TWO, {"features": ["y"]}, ["no such feature column (dataset.features=y)", "the columns are a, b"]),
        (TWO, {"ignore": ["c"]}, ["no such feature column (dataset.ignore=c)", "the columns are a, b"]),
        (TWO, {"ignore": ["a", "b"]}, ["no feature columns left"]),
        (TWO, {"features": []}, ["no feature columns left"]),
        (TWO, {"features": ["a", "a"]}, ["dataset.features", "twice"]),
        (TWO, {"delimiter": ";;"}, ["dataset.delimiter=;;"]),
        (
            "y,a\n2,x\n1,x\n,x\n2,x\n",
            {},
            ["column y", "3 values", "'2' (2 times)", "'' (1 times)", "lines 2, 4, 5", "label_map"],
        ),
        ("y,a\nyes,x\ntrue,x\n", {}, ["neither 0 nor 1", "'yes' (1 times)", "'true' (1 times)"]),
        ("y,a,a\n1,x,z\n", {}, ["t.csv", "a", "twice"]),
        ("y,a,b\n1,x,z\n0,q\n", {}, ["t.csv:3: 2 values, expected 3"]),
        ("y,a,b\n1,x,z,v\n0,q,w\n", {}, ["t.csv:2: 4 values, expected 3"]),
        ("y,a,b\n1,x,z,v\n0,q\n", {}, ["t.csv:2: 4 values, expected 3"]),
        ("y,a,b\n1,x,z\n\n0,q,w\n", {}, ["t.csv:3: an empty line; 0 values, expected 3"]),
        ('y,a,b\n1,"x\nx",z\n0,"q",w,v\n', {}, ["t.csv:4: 4 values, expected 3"]),
        ('y,a,b\n1,"x",z\n0,"q,w\n', {}, ["t.csv:3: unexpected end of data"]),
        ('y,a,b\n1,"x"5,z\n0,q,w\n', {}, ["t.csv:2: ',' expected after '\"'"]),
        ('y,"a\n1,x\n', {}, ["t.csv:1: unexpected end of data", "in the header"]),
        (b"y,a,b\n1,\xff,z\n", {}, ["t.csv", "not UTF-8"]),
        (b'y,a,b\n1,"\xff",z\n', {}, ["t.csv", "not UTF-8"]),
        (b"y,\xff,b\n1,x,z\n", {}, ["t.csv", "not UTF-8"]),
        ("\n", {}, ["t.csv"]),
    ],
)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, content: str, options: dict, named: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        whole(table(tmp_path / "t.csv", content, **options))
    assert [words for words in named if words not in str(refusal.value)] == [], refusal.value


@pytest.mark.parametrize(
    "content",
    [b"not Parquet at all", pl.DataFrame({"y": [0, 1], "a": [[1], [2]]}), pl.DataFrame({"y": [None, 1], "a": [1, 2]})],
)
def test_unusable_parquet_is_refused(tmp_path: Path, content: bytes | pl.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"t\.parquet"):
        whole(table(tmp_path / "t.parquet", content))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"path": "gone.csv"}, ["dataset.path=gone.csv: no such file", "current folder is"]),
        ({"path": "empty.csv"}, ["dataset.path=empty.csv", "the file is empty"]),
        ({"path": "here.unknown"}, ["here.unknown: ending .unknown is not known; set dataset.delimiter"]),
        ({"path": "noending"}, ["noending:1: 1 column found", "comma seen 2 times: set dataset.delimiter=comma"]),
        ({}, ["dataset.path=None", "either dataset.path=FILE or all three of train, valid and test"]),
        ({"path": "here.csv", "train": "here.csv"}, ["dataset.train=here.csv", "expected either"]),
        ({"train": "here.csv", "valid": "here.csv"}, ["dataset.test=None", "expected either"]),
        ({"train": "here.csv", "valid": "here.csv", "test": "gone.csv"}, ["dataset.test=gone.csv: no such file"]),
        ({"train": "here.csv", "valid": "other.csv", "test": "here.csv"}, ["other.csv: fields", "expected those of"]),
    ],
)
def test_files_are_checked(tmp_path: Path, monkeypatch, options: dict, named: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here.csv", "here.unknown", "noending"):
        Path(name).write_text(TWO)
    Path("empty.csv").touch()
    Path("other.csv").write_text("y,c\n1,0\n")
    with pytest.raises(ValueError) as refusal:
        whole(Table(name="t", label="y", **options))
    assert [words for words in named if words not in str(refusal.value)] == [], refusal.value


@pytest.mark.parametrize(("rows", "named"), [(0, "0 rows split into train 0"), (9, "9 rows .* valid 0")])
def test_too_few_rows_are_refused(tmp_path: Path, rows: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prepare(table(tmp_path / "t.csv", "y,a\n" + "".join(f"{i % 2},x\n" for i in range(rows))), tmp_path, 0)


def test_given_parts_keep_their_rows_in_order(tmp_path: Path) -> None:
    options = {}
    for part, rows in {"test": "1,new\n", "train": "1,b\n0,a\n0,b\n", "valid": "0,c\n1,a\n"}.items():
        options[part] = str(tmp_path / f"{part}.csv")
        Path(options[part]).write_text("y,a\n" + rows)
    source = Table(name="t", label="y", **options)
    assert found(whole(source)) == ([("b",), ("a",), ("b",), ("c",), ("a",), ("new",)], [1, 0, 0, 0, 1, 1])
    store = prepare(source, tmp_path, 0)
    assert [rows.tolist() for rows in store.splits.values()] == [[0, 1, 2], [3, 4], [5]]
    assert ids_of(store, "a") == [1, 2, 1, 0, 2, 0]
    Path(options["train"]).write_text("y,a\n0,b\n0,a\n0,b\n")
    with pytest.raises(ValueError, match="all 3 train rows have label 0"):
        prepare(source, tmp_path, 0)


@few
@given(
    st.lists(st.tuples(st.sampled_from("01"), *[st.text('aé ,;|\t"', max_size=4)] * 2), min_size=1, max_size=8),
    st.sampled_from(["comma", "semicolon", "pipe", "tab", "space"]),
    st.sampled_from(["utf-8", "latin-1", "utf-16", "cp1252"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_delimiters_encodings_and_missing_values(
    tmp_path_factory, rows: list[tuple], delimiter: str, encoding: str, end: str
) -> None:
    file, text = tmp_path_factory.getbasetemp() / "spelled.txt", io.StringIO()
    writer = csv.writer(text, delimiter=DELIMITERS[delimiter], lineterminator=end)
    writer.writerows([("y", "a", "b"), *rows])
    read = table(file, text.getvalue().encode(encoding), delimiter=delimiter, quoting=True, encoding=encoding)
    assert found(whole(read)) == ([row[1:] for row in rows], [int(row[0]) for row in rows])


def test_parquet_of_pandas(tmp_path: Path) -> None:
    """An integer column with a missing value becomes a float one in pandas: the values stay what they were."""
    pl.DataFrame({"y": [0, 1], "a": [3, 10**15]}).write_parquet(tmp_path / "p1.parquet")
    pl.DataFrame({"y": [1.0, 0.0], "a": [3.0, None]}).write_parquet(tmp_path / "p2.pq")
    source = Table(name="t", label="y", path=[str(tmp_path / name) for name in ("p1.parquet", "p2.pq")])
    assert found(whole(source)) == ([("3",), ("1000000000000000",), ("3",), ("",)], [0, 1, 1, 0])
    pl.DataFrame({"y": [1, 0], "a": ["3", "x"]}).write_parquet(tmp_path / "p2.pq")
    with pytest.raises(ValueError, match=r"p2\.pq: column a has values of type text, in the files before number"):
        whole(source)


def test_parquet_types_that_say_the_same(tmp_path: Path) -> None:
    """Decimals, columns of missing values only, and the hour that a clock shows twice."""
    decimals = pl.Series(["3.00", "2.50"], dtype=pl.String).cast(pl.Decimal(10, 2))
    pl.DataFrame({"y": [0, 1], "a": [None, None]}).write_parquet(tmp_path / "p0.parquet")
    pl.DataFrame({"y": [0, 1], "a": [3, 20]}).write_parquet(tmp_path / "p1.parquet")
    pl.DataFrame({"y": [0, 1], "a": decimals}).write_parquet(tmp_path / "p2.parquet")
    read = whole(Table(name="t", label="y", path=str(tmp_path / "p?.parquet")))
    assert read.features["a"].to_list() == ["", "", "3", "20", "3", "2.5"]
    utc = pl.datetime_range(datetime(2024, 10, 26, 22), datetime(2024, 10, 27, 4), "1h", time_zone="UTC", eager=True)
    frame = pl.DataFrame({"y": [0, 1, 0, 1, 0, 1, 0], "t": utc.dt.convert_time_zone("Europe/Berlin")})
    found = whole(table(tmp_path / "t.parquet", frame)).features["t"].to_list()
    assert len(set(found)) == 7 and found == sorted(found)
    (tmp_path / "t.parquet.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="decompress it; Parquet is compressed inside"):
        whole(Table(name="t", label="y", path=str(tmp_path / "t.parquet.gz")))


def test_which_file_is_of_which_part_is_in_the_fingerprint(tmp_path: Path) -> None:
    a, b, c, d = (str(tmp_path / f"{name}.csv") for name in "abcd")
    for i, file in enumerate((a, b, c, d)):
        Path(file).write_text(f"y,a\n1,{i}\n0,{i}\n")
    given = [
        {"path": [a, b, c, d]},
        {"train": [a, b], "valid": c, "test": d},
        {"train": a, "valid": [b, c], "test": d},
    ]
    assert len({Table(name="t", label="y", **parts).fingerprint(0) for parts in given}) == 3
    typed = {"path": [a], "name": "t", "label": "y"}
    assert Table(**typed).fingerprint(0) != Table(**typed, label_map={0: 0, 1: 1}).fingerprint(0)


def test_parquet_columns_that_are_not_used_may_be_anything(tmp_path: Path) -> None:
    frame = pl.DataFrame({"e": [[1.0], [2.0]], "^a.*$": ["u", "v"], "y": [0, 1], "ab": [b"1", b"2"]})
    rows = (["u", "v"], [0, 1])
    for options in ({"ignore": ["e", "ab"]}, {"features": ["^a.*$"]}):
        read = whole(table(tmp_path / "t.parquet", frame, **options))
        assert (read.features["^a.*$"].to_list(), read.labels.tolist()) == rows
    with pytest.raises(ValueError, match=r"column e has values of type List.*leave it out with dataset\.ignore"):
        whole(table(tmp_path / "t.parquet", frame))


@pytest.mark.parametrize(
    ("content", "options", "columns"),
    [
        ("0,1,2\n1,5,6\n0,7,8\n", {"label": 0, "ignore": [1], "buckets": {2: "log_squared"}}, ["2"]),
        (",y\n5,1\n6,0\n", {}, [""]),
        (",y\n5,1\n6,0\n", {"features": [""], "buckets": {"": "log_squared"}}, [""]),
        (pl.DataFrame({"y": [True, False], "a": ["u", "v"]}), {"label_map": {True: 1, False: 0}}, ["a"]),
        ("1,u\n0,v\n", {"columns": [0, 1], "label": "0"}, ["1"]),
    ],
)
def test_names_that_yaml_takes_for_something_else(tmp_path: Path, content, options: dict, columns: list[str]) -> None:
    file = tmp_path / ("t.csv" if isinstance(content, str) else "t.parquet")
    read = whole(table(file, content, **options))
    assert read.features.columns == columns
    assert read.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"derive": {"wd": "a"}}, "dataset.derive.wd: expected a bucket for it, e.g. 'dataset.buckets={wd: hour}'"),
        ({"published_as": {"foo": 2}}, "dataset.published_as.foo: expected only by, rows"),
        ({"label_map": {"a": 2}}, "expected 0 or 1 for every word"),
        ({"label_map": {"a": [0]}}, "expected 0 or 1 for every word"),
        ({"bad_lines": "skip"}, "expected error or quarantine"),
        ({"block_mib": 0}, "dataset.block_mib=0: expected 1 or more"),
        ({"hashed_cardinality": 1}, "dataset.hashed_cardinality=1: expected 2 or more"),
        ({"device_resident": "yes"}, "expected auto, true or false"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict, named: str) -> None:
    with pytest.raises(ValueError) as refusal:
        table(tmp_path / "t.csv", TWO, **options)
    assert named in str(refusal.value)


def test_given_parts_are_not_split_again() -> None:
    with pytest.raises(ValueError, match=r"dataset\.time=a: expected dataset\.path=.*; given parts are split already"):
        Table(name="t", label="y", time="a", **dict.fromkeys(("train", "valid", "test"), "t.csv"))


def test_every_option_of_the_rows_is_in_the_fingerprint(tmp_path: Path) -> None:
    """A new option needs a value here that differs from the one before."""
    other = {
        "label": "a", "label_map": {"0": 1, "1": 0}, "features": ["a"], "ignore": ["b"], "derive": {"c": "a"},
        "buckets": {"a": "log_squared"}, "time": "a", "columns": ["y", "a", "b"], "delimiter": ";", "quoting": False,
        "encoding": "latin-1", "bad_lines": "quarantine", "max_line_bytes": 99, "min_count": 2,
        "vocabulary": "all", "hashed_cardinality": 5,
    }  # fmt: skip
    before = table(tmp_path / "t.csv", TWO).fingerprint(0)
    for option in fields(Table):
        if not option.metadata.get("runtime"):
            changes = {option.name: other[option.name]} | (
                {"buckets": {"c": "hour"}} if option.name == "derive" else {}
            )
            assert table(tmp_path / "t.csv", TWO, **changes).fingerprint(0) != before, option.name
    same = {"delimiter": "comma", "quoting": True, "encoding": "UTF8", "label_map": {}, "max_bad_lines": 3}
    assert table(tmp_path / "t.csv", TWO, **same).fingerprint(0) == before, "another spelling of the same"
    assert table(tmp_path / "copy.csv", TWO, name="copy").fingerprint(0) == before
    parts = dict.fromkeys(("path", "train", "valid", "test"), str(tmp_path / "t.csv"))
    assert Table(name="t", label="y", **parts | {"path": None}).fingerprint(0) != before


def ids_by_hand(path: Path, label: str, train_only: bool, min_count: int) -> dict[str, list[int]]:
    """Ids of every column of a CSV file, from `csv` and `collections.Counter`."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    train = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))[: int(0.8 * len(rows))].tolist()
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header) if name != label}
    ids = {}
    for name, values in columns.items():
        known = expected_ids(values, [values[row] for row in train] if train_only else values, min_count)
        ids[name] = [known[value] for value in values]
    return ids


def check_against_hand(source: Table, folder: Path) -> None:
    store = prepare(source, folder, 3)
    expected = ids_by_hand(source.files()[0], source.label, source.vocabulary == "train", source.min_count)
    assert store.fields == list(expected)
    for name, ids in expected.items():
        assert ids_of(store, name) == ids, name
    assert store.cardinalities == [max(ids) + 1 for ids in expected.values()]


@pytest.mark.parametrize(
    "options", [{}, {"vocabulary": "all"}, {"min_count": 2}, {"min_count": 9, "vocabulary": "all"}]
)
def test_ids_of_a_table(tmp_path: Path, options: dict) -> None:
    rng = np.random.default_rng(0)
    rows = [f'{i % 2},"u,{rng.zipf(1.5) % 50}",{rng.choice(["", "NA", " ", "é", "null", "0"])}\n' for i in range(200)]
    check_against_hand(table(tmp_path / "t.csv", "y,a,b\n" + "".join(rows), **options), tmp_path)


@pytest.mark.parametrize("vocabulary", ["train", "all"])
@pytest.mark.parametrize(("name", "label"), [("amazon_access.csv", "ACTION"), ("avazu_sample.csv", "click")])
def test_ids_of_real_data(tmp_path: Path, name: str, label: str, vocabulary: str) -> None:
    if not (REAL / name).is_file():
        pytest.skip(f"{REAL / name} is not here; it is not part of the project")
    check_against_hand(Table(name="t", label=label, path=str(REAL / name), vocabulary=vocabulary), tmp_path)
