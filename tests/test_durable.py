"""The room where files are written: whole or not there, checked on reading, set aside when wrong, one holder a lock."""

import errno
import json
import logging
import multiprocessing
import os
import string
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.runs import durable
from recsys_collapse.runs.durable import (
    DamagedError,
    checksum,
    exclusive,
    quarantine,
    read_sealed,
    remove,
    rename,
    seal,
    umask,
    write,
    write_json,
    write_parquet,
    write_text,
)

few = settings(max_examples=80, deadline=None)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), json_values, max_size=6)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


class OtherOS:
    """The module `os` with some functions replaced."""

    def __init__(self, **functions: Any) -> None:
        self.functions = functions

    def __getattr__(self, name: str) -> Any:
        return self.functions.get(name) or getattr(os, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("durable")


# Writing


@few
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50), st.integers(1, 200))
def test_every_byte_arrives(folder: Path, parts: list[bytes], most: int, piece: int) -> None:
    """However little a single call writes, whatever is handed over at once."""
    path, calls = folder / "file", []

    def few_bytes(descriptor: int, data: Any) -> int:
        calls.append(len(data))
        return os.write(descriptor, data[:most])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", OtherOS(write=few_bytes))
        patch.setattr(durable, "PIECE", piece)
        write(path, lambda file: [file.write(part) for part in parts])
    whole = b"".join(parts)
    assert path.read_bytes() == whole and left(folder) == ["file"]
    assert len(calls) >= len(whole) / most


def test_what_fills_may_write_anything_with_bytes(tmp_path: Path) -> None:
    """And is told how much was taken."""
    told = []

    def fill(file: BinaryIO) -> None:
        array = memoryview(bytearray(b"abcdefgh")).cast("I")
        told.extend([file.write(b"12"), file.write(bytearray(b"3")), file.write(array), file.write(b"")])
        assert file.writable()

    write(tmp_path / "file", fill)
    assert told == [2, 1, 8, 0] and (tmp_path / "file").read_bytes() == b"123abcdefgh"


OPERATIONS = ("makedirs", "open", "write", "fsync", "close", "replace")


@pytest.mark.parametrize("operation", [*OPERATIONS, "in the middle"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: Any, operation: str, code: int) -> None:
    """And nothing beside it."""
    path, calls = tmp_path / "file", []
    write_text(path, "before")

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if operation == "in the middle" and len(calls) == 1:
            return os.write(args[0], args[1][:3])
        if operation == "close":
            os.close(args[0])
        raise OSError(code, os.strerror(code), "file")

    name = "write" if operation == "in the middle" else operation
    monkeypatch.setattr(durable, "os", OtherOS(**{name: fail}))
    with pytest.raises(OSError) as error:
        write_text(path, "after, and longer")
    assert error.value.errno == code and len(calls) == (2 if operation == "in the middle" else 1)
    monkeypatch.undo()
    assert path.read_text() == "before" and left(tmp_path) == ["file"]
    write_text(path, "after")
    assert path.read_text() == "after" and left(tmp_path) == ["file"]


def test_the_first_error_counts(tmp_path: Path, monkeypatch: Any) -> None:
    """Not that the unfinished file cannot be removed either."""

    def fail(*args: Any) -> Any:
        raise OSError(errno.EIO, "while removing")

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "while writing")

    monkeypatch.setattr(durable, "os", OtherOS(unlink=fail, write=full))
    with pytest.raises(OSError, match="while writing"):
        write_text(tmp_path / "file", "x")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError("x"), MemoryError()])
def test_whatever_ends_the_filling(tmp_path: Path, error: BaseException) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    before = open_files()
    for _ in range(3):
        with pytest.raises(type(error)):
            write(tmp_path / "file", fill)
    assert left(tmp_path) == [] and open_files() == before


def test_it_is_synced_before_it_has_its_name_and_the_folder_after(tmp_path: Path, monkeypatch: Any) -> None:
    done = []

    def noted(name: str) -> Any:
        def operation(*args: Any, **options: Any) -> Any:
            done.append(name)
            return getattr(os, name)(*args, **options)

        return operation

    monkeypatch.setattr(durable, "os", OtherOS(**{name: noted(name) for name in OPERATIONS}))
    write_text(tmp_path / "file", "x")
    assert done == ["makedirs", "open", "write", "fsync", "close", "replace", "open", "fsync", "close"]


def test_the_unfinished_file_is_hidden_and_nobody_elses(tmp_path: Path) -> None:
    """Two that write the same file at once do not write into each other's."""
    seen = []

    def fill(text: bytes, then: Any = None) -> Any:
        def filling(file: BinaryIO) -> None:
            file.write(text)
            if then:
                then()
            seen.append(left(tmp_path))

        return filling

    write(tmp_path / "file", fill(b"outer", lambda: write(tmp_path / "file", fill(b"inner"))))
    assert [len(names) for names in seen] == [2, 2]
    hidden = {name for names in seen for name in names if name != "file"}
    assert len(hidden) == 2 and all(name.startswith(".file-") for name in hidden)
    assert (tmp_path / "file").read_bytes() == b"outer" and left(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["a" * 300, "\0"])
def test_a_name_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        write_text(tmp_path / name, "x")
    assert left(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "below", "y")
    assert (tmp_path / "file").read_text() == "x" and left(tmp_path) == ["file"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_the_umask_is_read_and_left(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert umask() == mask == umask()
        write_parquet(tmp_path / "file", pl.DataFrame({"a": [1]}))
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "mine" and not (tmp_path / "link").is_symlink()


@few
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_is_utf_8_and_as_given(folder: Path, text: str) -> None:
    write_text(folder / "file", text)
    assert (folder / "file").read_bytes() == text.encode("utf-8")


# Reading


@few
@given(objects)
def test_what_is_sealed_is_read(folder: Path, value: dict[str, Any]) -> None:
    value.pop("checksum", None)
    write_json(folder / "file", seal(value))
    found = read_sealed(folder / "file")
    assert found == seal(value) and found["checksum"] == checksum(value) == checksum(found)
    assert seal(found) == found


@few
@given(objects, st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert checksum({key: value[key] for key in keys}) == checksum(value)


@few
@given(objects, objects)
def test_other_content_has_another_checksum(one: dict[str, Any], other: dict[str, Any]) -> None:
    def text(value: dict[str, Any]) -> str:
        return json.dumps({key: part for key, part in value.items() if key != "checksum"}, sort_keys=True)

    assert (checksum(one) == checksum(other)) == (text(one) == text(other))
    assert set(checksum(one)) <= set(string.hexdigits) and len(checksum(one)) == 16


@settings(max_examples=300, deadline=None)
@given(objects, st.data())
def test_a_changed_file_is_damaged_or_says_the_same(folder: Path, value: dict[str, Any], data: st.DataObject) -> None:
    value.pop("checksum", None)
    path = folder / "file"
    write_json(path, seal(value))
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 3)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=3)) + whole[stop:])
    try:
        found = read_sealed(path)
    except DamagedError as error:
        assert str(path) in str(error)
    else:
        assert json.dumps(found, sort_keys=True) == json.dumps(seal(value), sort_keys=True)


@few
@given(st.binary(max_size=60))
def test_random_bytes_are_damaged(folder: Path, content: bytes) -> None:
    (folder / "file").write_bytes(content)
    with pytest.raises(DamagedError, match="file: "):
        read_sealed(folder / "file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": NaN, "checksum": "x"}', "not JSON"),
        ('{"a": 1e999, "checksum": "x"}', "not JSON"),
        ('{"a": ' + "9" * 5000 + ', "checksum": "x"}', "not JSON"),
        ("[1]", "expected a JSON object with a checksum"),
        ('{"a": 1}', "expected a JSON object with a checksum"),
        ('{"a": 1, "checksum": null}', "the checksum does not fit: the content has changed"),
    ],
)
def test_the_reason_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DamagedError, match=f"file: {said}"):
        read_sealed(tmp_path / "file")


def test_no_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "file")
    with pytest.raises(IsADirectoryError):
        read_sealed(tmp_path)


# Setting aside, renaming, removing


def test_what_is_set_aside_replaces_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.json"
    for number in (1, 2, 3):
        path.write_text(f"{number}")
        quarantine(path, f"reason {number}")
    assert {name: (tmp_path / name).read_text() for name in left(tmp_path)} == {
        f"a.json.damaged-{number}": f"{number}" for number in (1, 2, 3)
    }
    assert [record.getMessage() for record in caplog.records] == [
        f"reason {number}; set aside as a.json.damaged-{number}" for number in (1, 2, 3)
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_folder_is_set_aside_too(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "file", "x")
    quarantine(tmp_path / "a", "wrong")
    assert (tmp_path / "a.damaged-1" / "file").read_text() == "x" and left(tmp_path) == ["a.damaged-1"]


def test_rename_and_remove(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "a")
    write_text(tmp_path / "b", "b")
    rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a" and left(tmp_path) == ["b"]
    for _ in range(2):
        remove(tmp_path / "b")
    assert left(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "a", tmp_path / "b")


# Locks


def _add_one(lock: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        with exclusive(lock, "counts"):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_one_at_a_time(tmp_path: Path) -> None:
    """Processes that read, add one and write lose nothing."""
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_add_one, args=(tmp_path / "lock", tmp_path / "counter", 30)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0] and (tmp_path / "counter").read_text() == "60"


def test_who_holds_it_is_said(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    with (
        exclusive(lock, "prepares t"),
        pytest.raises(TimeoutError) as busy,
        exclusive(lock, "prepares t", longest_wait=0.0),
    ):
        raise AssertionError("two hold it")
    assert f"process {os.getpid()} on " in str(busy.value) and "prepares t and has not finished in" in str(busy.value)
    assert "end it, or remove the file" in str(busy.value)
    with exclusive(lock, "again", longest_wait=0.0):
        pass


def test_it_is_free_after_an_error(tmp_path: Path) -> None:
    before = open_files()
    for _ in range(3):
        with pytest.raises(KeyError), exclusive(tmp_path / "lock", "fails", longest_wait=0.0):
            raise KeyError
    assert open_files() == before


def test_without_locks_there_is_no_file(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", "x", enabled=False), exclusive(tmp_path / "lock", "x", enabled=False):
        assert left(tmp_path) == []


def test_a_lock_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "lock", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be written .* choose another folder"), exclusive(path, "x"):
            raise AssertionError("it was locked")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_as_such(tmp_path: Path, monkeypatch: Any, code: int) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError) as error, exclusive(tmp_path / "lock", "x"):
        raise AssertionError("it was locked")
    assert error.value.errno == code
