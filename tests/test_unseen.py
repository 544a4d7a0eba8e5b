"""Rows to be scored: the columns they need, with and without labels and headers, and what is said of what is wrong."""

from pathlib import Path

import polars as pl
import pytest

from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.table import Table
from recsys_collapse.dataset.unseen import Unseen
from tests.test_synthetic import source as synthetic_source

FIELDS = ["user", "item"]
ROWS = "user,item,y\nu1,i1,1\nu2,,0\n"


def own(**options) -> Table:
    return Table(**({"name": "t", "label": "y", "path": "gone.csv"} | options))


def read(files: list[Path], source: Source | None = None, fields: list[str] | None = None, **options):
    """Rows by field, and labels or None."""
    unseen = Unseen(source or own(), fields or FIELDS, files, options)
    pieces = list(unseen.read())
    assert [piece.done for piece in pieces] == sorted(piece.done for piece in pieces)
    assert all((piece.label_n is not None) == unseen.has_labels for piece in pieces)
    labels = [int(label) for piece in pieces if piece.label_n is not None for label in piece.label_n]
    rows = [row for piece in pieces for row in piece.features.select(fields or FIELDS).rows()]
    return rows, labels if unseen.has_labels else None


def file(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.csv", ROWS, [1, 0]),
        ("a.tsv", ROWS.replace(",", "\t"), [1, 0]),
        ("a.csv", "item,more,user\ni1,x,u1\n,x,u2\n", None),
        ("a.csv", "item,user,y,y2\ni1,u1,1,7\n,u2,0,8\n", [1, 0]),
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, name: str, content: str, labels) -> None:
    """In any order, beside others, with or without the label."""
    path = file(tmp_path / name, content)
    assert read([path]) == ([("u1", "i1"), ("u2", "")], labels)


def test_parquet_is_as_text(tmp_path: Path) -> None:
    """Nulls are the empty text, whole numbers have no point, labels may be truth values."""
    frame = pl.DataFrame({"y": [True, False], "item": [1.0, None], "other": [[1], [2]], "user": ["a", None]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert read([tmp_path / "a.parquet"]) == ([("a", "1"), ("", "")], [1, 0])
    frame.drop("y").write_parquet(tmp_path / "b.parquet")
    assert read([tmp_path / "b.parquet"]) == ([("a", "1"), ("", "")], None)


def test_options_are_those_of_the_run_unless_given(tmp_path: Path) -> None:
    path = file(tmp_path / "a.csv", "user;item;y\nu1;i1;yes\n")
    source = own(delimiter="semicolon", label_map={"yes": 1, "no": 0}, time="gone", bad_lines="quarantine")
    assert read([path], source) == ([("u1", "i1")], [1])
    other = file(tmp_path / "b.csv", "user|item|z\nu1|i1|ja\n")
    assert read([other], source, delimiter="pipe", label="z", label_map={"ja": 1}) == ([("u1", "i1")], [1])
    assert read([other], source, delimiter="pipe") == ([("u1", "i1")], None)


def test_runs_of_other_sources_have_columns_by_the_names_of_their_fields(tmp_path: Path) -> None:
    source = synthetic_source()
    path = file(tmp_path / "a.csv", "user,item,label\nu1,i1,1\n")
    assert read([path], source) == ([("u1", "i1")], [1])
    assert read([path], source, ["user", "item", "label"]) == ([("u1", "i1", "1")], None), "the label is a field"


@pytest.mark.parametrize(("values", "labels"), [(["1", "u1", "i1"], [1]), (["u1", "i1"], None)])
def test_text_without_a_header(tmp_path: Path, values: list[str], labels) -> None:
    """With the label or without, as Criteo's train.txt and test.txt are."""
    path = file(tmp_path / "a.txt", "\t".join(values) + "\n")
    assert read([path], own(columns=["y", "user", "item"])) == ([("u1", "i1")], labels)


def test_text_with_a_header_for_a_run_without(tmp_path: Path) -> None:
    path = file(tmp_path / "a.txt", "item\tuser\ni1\tu1\n")
    source = own(columns=["y", "user", "item"])
    assert read([path], source) == ([("item", "user"), ("i1", "u1")], None), "a header is a row, if nobody says so"
    assert read([path], source, columns="header") == ([("u1", "i1")], None)
    other = file(tmp_path / "b.txt", "i1\tu1\n")
    assert read([other], own(), columns=["item", "user"]) == ([("u1", "i1")], None)


def test_derived_fields_are_made_from_their_column(tmp_path: Path) -> None:
    path = file(tmp_path / "a.csv", "hour,user\n14102109,u1\n")
    source = own(derive={"day": "hour"}, buckets={"hour": "hour", "day": "weekday"})
    assert read([path], source, ["hour", "user", "day"]) == ([("14102109", "u1", "14102109")], None)
    source = own(derive={"day": "hour"}, buckets={"day": "weekday"})
    assert read([path], source, ["user", "day"]) == ([("u1", "14102109")], None), "the hour itself was left out"
    with pytest.raises(
        ValueError, match=r"a\.csv: no column hour, which the run needs, of which the field day is made"
    ):
        read([file(tmp_path / "a.csv", "user,x\nu1,1\n")], source, ["user", "day"])


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (
            "usr,item\nu,i\n",
            {},
            r"a\.csv: no column user, which the run needs; did you mean usr\? the columns are usr, i",
        ),
        ("user;item\nu;i\n", {}, r"a\.csv:1: 1 column found.*set dataset\.delimiter=semicolon"),
        ("user,user,item\n", {}, r"a\.csv:1: column user stands in the header twice"),
        ("user,item,y\nu,i,2\n", {}, r"a\.csv:2: label column y has 1 values"),
        ("user,item,y\nu,i,\n", {}, r"a\.csv:2: label column y has 1 values.*''"),
        ("user,item\nu,i\nu\n", {}, r"a\.csv:3: 1 value, expected 2"),
        ("user,item\nu,i\n\nu,i\n", {}, r"a\.csv:3: an empty line"),
        ("user,item\nu,i\n", {"label": "z"}, r"a\.csv: no label column \(dataset\.label=z\)"),
        ("user,item\nu,i\n", {"label": "y"}, r"a\.csv: no label column \(dataset\.label=y\)"),
        ("user,item\nu,i\n", {"encoding": "utf-99"}, r"dataset\.encoding=utf-99: no such encoding"),
        ("user,item\nu,i\n", {"block_mib": 0}, r"dataset\.block_mib=0: expected 1 or more"),
        ("user,item\nu,i\n", {"label_map": {"a": 3}}, r"dataset\.label_map=.*expected 0 or 1"),
        ("u,i,x\n", {"columns": ["user", "item"]}, r"a\.csv:1: 3 values, expected 2 as in dataset\.columns;"),
        ("u\n", {"columns": ["y", "user", "item"]}, r"a\.csv:1: 1 values, expected 3 .* or 2 without the label y"),
        ("\n", {}, r"a\.csv:1: no column names; expected a header"),
        ("user,item" * 200_000, {}, r"a\.csv:1: more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, options: dict, said: str) -> None:
    path = file(tmp_path / "a.csv", content)
    with pytest.raises(ValueError, match=said):
        read([path], **options)


def test_a_value_without_a_bucket_is_named(tmp_path: Path) -> None:
    """Also where the run itself left such lines out."""
    path = file(tmp_path / "a.csv", "user,item\n1,i\n,i\nmany,i\n")
    source = own(buckets={"user": "quantile:4"}, bad_lines="quarantine")
    with pytest.raises(ValueError, match=r"a\.csv:4: column user: 'many', expected a number or nothing"):
        read([path], source)


def test_all_files_are_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    good, bad = file(tmp_path / "a.csv", ROWS), file(tmp_path / "b.csv", "user,y\nu1,1\n")
    with pytest.raises(ValueError, match=r"b\.csv: no column item"):
        Unseen(own(), FIELDS, [good, bad], {})
    without = file(tmp_path / "c.csv", "user,item\nu1,i1\n")
    with pytest.raises(ValueError, match=r"a\.csv has the label column y, .*c\.csv has not"):
        Unseen(own(), FIELDS, [good, without], {})


def test_parquet_files_have_one_type_per_column(tmp_path: Path) -> None:
    """Or 7 and 07 would be two values in one file and one in the other."""
    pl.DataFrame({"user": ["a"], "item": [7]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"user": ["a"], "item": ["07"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        ValueError, match=r"b\.parquet: column item has values of type text, in the files before number"
    ):
        read([tmp_path / "a.parquet", tmp_path / "b.parquet"])
