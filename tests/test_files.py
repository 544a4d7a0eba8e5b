"""Files of a user: found or explained, hashed once, and read whole or not at all."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset import files
from recsys_collapse.dataset.files import COMPRESSED, ByteStream, content_hash, find_files, kind

few = settings(max_examples=60, deadline=None)
every_format = pytest.mark.parametrize("ending", COMPRESSED)
SIZES = (1, 7, 1000, 65_537, 1 << 21)


def zipped(members: dict[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zst,
    ".zip": lambda content: zipped({"folder/": b"", "a.csv": content}),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
VARIANTS = {
    **{ending: (ending, pack) for ending, pack in PACK.items() if ending},
    "zst without checksum": (".zst", zstandard.ZstdCompressor().compress),
    "stored zip": (".zip", lambda content: zipped({"a.csv": content}, method=zipfile.ZIP_STORED)),
    "zip with comment": (".zip", lambda content: zipped({"a.csv": content}, comment=b"downloaded " * 9)),
}


def read(path: Path, sizes: tuple[int, ...] = (100_003,)) -> bytes:
    """The whole content, by reads of the given sizes in turn; every read but the last is full."""
    data = b""
    with ByteStream(path) as stream:
        while True:
            for size in sizes:
                part = stream.read(size)
                data += part
                if len(part) < size:
                    assert stream.read(size) == b""
                    assert stream.done == 1.0
                    return data


def text(rows: int) -> bytes:
    draw = random.Random(rows)
    return "".join(f"{draw.randrange(10**9)},{draw.randrange(9)},word\n" for _ in range(rows)).encode()


def refused(path: Path, *words: str) -> None:
    """Reading is an error that names the file, now and at the next call: the end never follows an error."""
    with ByteStream(path) as stream:
        for _ in range(2):
            with pytest.raises(ValueError) as error:
                while stream.read(100_003):
                    pass
            assert all(word in str(error.value) for word in (str(path), "decompressed bytes", "download", *words))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv.gz", ".csv"),
        ("A.CSV.ZST", ".csv"),
        ("a.b.parquet", ".parquet"),
        ("train", ""),
        ("train.gz", ""),
        ("folder.csv/train", ""),
        ("a.tsv.xz", ".tsv"),
    ],
)
def test_kind(name: str, expected: str) -> None:
    assert kind(Path(name)) == expected


# ---- reading


@pytest.mark.parametrize("ending", PACK)
@few
@given(
    parts=st.lists(st.tuples(st.binary(max_size=300), st.sampled_from([1, 3, 5000])), min_size=1, max_size=4),
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=3),
)
def test_what_was_packed_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    ending: str,
    parts: list[tuple[bytes, int]],
    sizes: list[int],
) -> None:
    """Also as several members, frames or streams after each other, some of them empty."""
    contents = [unit * times for unit, times in parts]
    whole = b"".join(contents)
    several = [PACK[ending](whole)] if ending == ".zip" else [PACK[ending](content) for content in contents]
    path = tmp_path_factory.mktemp("packed") / f"a.csv{ending.upper()}"
    path.write_bytes(b"".join(several))
    if len(whole) > 1000:
        sizes = [size for size in sizes if size > 7] or [4093]
    assert read(path, tuple(sizes)) == whole


@pytest.mark.parametrize("variant", VARIANTS)
def test_large_content_in_odd_steps(tmp_path: Path, variant: str) -> None:
    ending, pack = VARIANTS[variant]
    whole = text(100_000) + bytes(5_000_000)
    (path := tmp_path / f"a{ending}").write_bytes(pack(whole))
    assert read(path, (99_991, 1 << 21, 17)) == whole


@every_format
def test_progress(tmp_path: Path, ending: str) -> None:
    """The compressed bytes are read when they are needed and not before."""
    draw = random.Random(1)
    whole = b"".join(bytes(1 << 20) + draw.randbytes(1 << 17) for _ in range(24))
    (path := tmp_path / f"a{ending}").write_bytes(PACK[ending](whole))
    with ByteStream(path) as stream:
        assert stream.done == 0.0
        for count in range(1, 28):
            assert len(stream.read(1 << 20)) == 1 << 20
            assert stream.done == pytest.approx(count / 27, abs=0.35)


def test_skippable_frames_and_padding(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
    for name, content in {
        "a.zst": skipped + zst(b"abc") + skipped + zst(b"def"),
        "a.gz": gzip.compress(b"abcdef") + bytes(1000),
        "a.xz": lzma.compress(b"abc") + bytes(8) + lzma.compress(b"def") + bytes(400_000),
        "a.zip": zipped({"a.csv": b"abcdef"}, comment=b"PK or so"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) == b"abcdef"


@pytest.mark.parametrize("variant", VARIANTS)
def test_cut_off(tmp_path: Path, variant: str) -> None:
    ending, pack = VARIANTS[variant]
    path = tmp_path / f"a{ending}"
    for content in (text(30), text(20_000)):
        whole = pack(content)
        spread = {len(whole) * i // 20 for i in range(1, 20)}
        for length in sorted({*range(1, 30), *spread, *range(len(whole) - 30, len(whole))}):
            path.write_bytes(whole[:length])
            refused(path)


def test_cut_off_zip_that_ends_like_the_zip_in_it(tmp_path: Path) -> None:
    inner = zipped({"a.csv": b"1,2\n"})
    whole = zipped({"inner.zip": inner, "folder/": b""}, method=zipfile.ZIP_STORED)
    path = tmp_path / "a.zip"
    path.write_bytes(whole[: whole.index(inner) + len(inner)])
    refused(path)
    path.write_bytes(whole)
    assert read(path) == inner


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "zst without checksum"])
def test_one_wrong_bit(tmp_path: Path, variant: str) -> None:
    """An error wherever it changes the content; a date or a name may be wrong."""
    ending, pack = VARIANTS[variant]
    content = text(300)
    whole = pack(content)
    path = tmp_path / f"a{ending}"
    draw = random.Random(0)
    for place in [*range(60), *draw.sample(range(len(whole)), 60), *range(len(whole) - 300, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        if 100 < place < len(whole) - 300:
            refused(path)
            continue
        try:
            assert read(path) == content
        except ValueError as error:
            assert str(path) in str(error)


@every_format
@pytest.mark.parametrize("garbage", [b"x", b"\0\0\0x", b"\n" * 70_000, b"\x1f\x8b", b"PK\5\6", b"(\xb5/\xfd"])
def test_garbage_after_the_end(tmp_path: Path, ending: str, garbage: bytes) -> None:
    (path := tmp_path / f"a{ending}").write_bytes(PACK[ending](b"1,2\n" * 1000) + garbage)
    refused(path)


def test_garbage_before_a_zip(tmp_path: Path) -> None:
    (path := tmp_path / "a.zip").write_bytes(b"PKx" + zipped({"a.csv": b"1"}))
    refused(path, "does not begin and end with the file")


@every_format
@pytest.mark.parametrize("content", [b"", b"<", b"<html>Not found</html>", text(100)])
def test_not_what_the_name_says(tmp_path: Path, ending: str, content: bytes) -> None:
    (path := tmp_path / f"a{ending}").write_bytes(content)
    refused(path, f"no {ending} file", repr(content[:8]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped({}), ["found 0 (none)"]),
        (zipped({"folder/": b""}), ["found 0 (none)"]),
        (zipped({"a.csv": b"1", "b.csv": b"2"}), ["found 2 (a.csv, b.csv)"]),
        (zipped({"a.csv": b"1"}, method=zipfile.ZIP_BZIP2), ["plain deflate"]),
    ],
)
def test_zip_with_other_than_one_plain_file(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (path := tmp_path / "a.zip").write_bytes(content)
    refused(path, "decompress it yourself", *words)


@pytest.mark.parametrize("variant", [*VARIANTS, ""])
def test_memory_is_bounded(tmp_path: Path, variant: str) -> None:
    """200 MB of zeros, one stream of a few KB."""
    ending, pack = VARIANTS.get(variant, ("", bytes))
    zeros = bytes(200_000_000)
    (path := tmp_path / f"a{ending}").write_bytes(lzma.compress(zeros, preset=0) if ending == ".xz" else pack(zeros))
    del zeros
    tiny = tmp_path / f"b{ending}"
    tiny.write_bytes(PACK[ending](b"1"))
    assert read(tiny) == b"1"
    with ByteStream(path) as stream:
        tracemalloc.start()
        try:
            count = 0
            while part := stream.read(100_000):
                count += len(part)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == 200_000_000
    assert peak < 8_000_000


def test_too_large_a_window(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (path := tmp_path / "a.zst").write_bytes(packer.compress(bytes(1000)) + packer.flush())
    refused(path, "memory", "decompress it yourself")
    packed = bytearray(lzma.compress(b"1,2\n"))
    end = 12 + 4 * packed[12]  # of the block header, which says how large the dictionary is
    packed[16] = 40  # 4 GiB
    packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
    (path := tmp_path / "a.xz").write_bytes(packed)
    refused(path, "Memory", "decompress it yourself")


@pytest.mark.parametrize("use", [ByteStream, content_hash])
def test_what_cannot_be_opened(tmp_path: Path, use: Callable[[Path], object]) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(ValueError, match="cannot be read") as error:
            use(path)
        assert str(path) in str(error.value)


# ---- finding


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["train.csv", "part-2.csv", "part-10.csv", ".part-3.csv", "part-x/part-4.csv", "data[1]/a*.csv", "b.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "train.csv")
    (tmp_path / "broken.csv").symlink_to(tmp_path / "gone.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("train.csv", ["train.csv"]),
        (["train.csv", "b.csv"], ["train.csv", "b.csv"]),
        ("part-*", ["part-10.csv", "part-2.csv"]),
        (["train.csv", "part-?.csv"], ["train.csv", "part-2.csv"]),
        ("**/part-*.csv", ["part-10.csv", "part-2.csv", "part-x/part-4.csv"]),
        ("data[1]/a*.csv", ["data[1]/a*.csv"]),
        ("data[1]/*", ["data[1]/a*.csv"]),
        ("[t]rain.csv", ["train.csv"]),
        ("link.csv", ["link.csv"]),
    ],
)
@pytest.mark.parametrize("start", ["folder", "current", "absolute", "home"])
def test_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str | list[str], expected: list[str], start: str
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    before = sorted(folder.rglob("*"))
    prefix = {"absolute": f"{folder}/", "home": "~/"}.get(start, "")
    value = prefix + value if isinstance(value, str) else [prefix + item for item in value]
    if start == "current":
        monkeypatch.chdir(folder)
    found = find_files("dataset.path", value, folder if start == "folder" else None)
    assert [path.absolute() for path in found] == [folder / name for name in expected]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("tran.csv", ["dataset.path=tran.csv", "no such file", "{folder}/tran.csv", "{cwd}", "train.csv"]),
        ("TRAIN.CSV", ["no such file", "has train.csv"]),
        ("prat-*", ["dataset.path=prat-*", "no such file", "{folder}/prat-*", "has part-"]),
        ("pard-x/part-4.csv", ["{folder} has part-x"]),
        ("part-x/zzz", ["{folder}/part-x holds part-4.csv"]),
        ("train.csv/zzz", ["no such file", "has train.csv"]),
        ("~nobody-of-this-name/a.csv", ["no such file"]),
        ("nul\0l", ["no such file"]),
        ("x" * 5000, ["dataset.path=", "cannot be looked up"]),
        ("part-x", ["{folder}/part-x is a folder", "{folder}/part-x/*"]),
        ("data[1]", ["is a folder", "{folder}/data[[]1]/*"]),
        ("", ["dataset.path=", "{folder} is a folder"]),
        ("*-x", ["no such file"]),
        ("empty.csv", ["{folder}/empty.csv: the file is empty; expected"]),
        ("e*.csv", ["{folder}/empty.csv: the file is empty; expected"]),
        ("broken.csv", ["{folder}/broken.csv is a broken link"]),
        ("bro*", ["{folder}/broken.csv is a broken link"]),
        ([], ["names no file"]),
        (["b.csv", "b.csv"], ["b.csv and b.csv both name {folder}/b.csv"]),
        (["part-2.csv", "part-*.csv"], ["part-2.csv and part-*.csv both name {folder}/part-2.csv"]),
        (["train.csv", "link.csv"], ["train.csv and link.csv both name {folder}/train.csv"]),
        (["part-x/../b.csv", "b.csv"], ["both name {folder}/b.csv"]),
        (["b.csv", "c*"], ["dataset.path=c*", "no such file"]),
    ],
)
def test_not_found(folder: Path, value: str | list[str], words: list[str]) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError) as error:
        find_files("dataset.path", value, folder)
    for word in words:
        assert word.format(folder=folder, cwd=Path.cwd()) in str(error.value)
    assert sorted(folder.rglob("*")) == before


def test_pattern_gives_sorted_names(tmp_path: Path) -> None:
    names = [f"part-{number:02}" for number in range(40)]
    for name in random.Random(0).sample(names, 40):
        (tmp_path / name).write_text("1")
    assert [path.name for path in find_files("dataset.path", "part-*", tmp_path)] == names


def test_a_pipe_and_the_root_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="no regular file"):
        find_files("dataset.path", "pipe.csv", tmp_path)
    with pytest.raises(ValueError, match="is a folder"):
        find_files("dataset.path", "/")


# ---- hashing


@pytest.fixture
def fresh_process() -> Iterator[Callable[[], None]]:
    files._hashes.clear()
    yield files._hashes.clear
    files._hashes.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is old enough to be remembered."""
    (path := tmp_path / "a.csv").write_bytes(b"1,2\n")
    time.sleep(0.15)
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def was_hashed(path: Path, memo: Path | None = None) -> bool:
    """Whether the bytes were read; the hash is right in any case."""
    calls: list[tuple[int, int]] = []
    assert content_hash(path, memo, lambda *done: calls.append(done)) == sha(path.read_bytes())
    return bool(calls)


def test_progress_of_hashing_and_md5(tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_bytes(content := random.Random(3).randbytes((9 << 20) + 1))
    calls: list[tuple[int, int]] = []
    assert content_hash(path, on_bytes=lambda *done: calls.append(done)) == sha(content)
    assert calls == [(4 << 20, len(content)), (8 << 20, len(content)), (len(content), len(content))]
    assert content_hash(path, algorithm="md5") == hashlib.md5(content).hexdigest()
    (tmp_path / "empty").touch()
    assert content_hash(tmp_path / "empty") == sha(b"")


def test_remembered_until_touched(
    path: Path, fresh_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert was_hashed(path)
    assert not was_hashed(path)
    monkeypatch.chdir(path.parent)
    assert not was_hashed(Path(path.name))
    fresh_process()
    assert was_hashed(path)
    os.utime(path, (1, 1))
    assert was_hashed(path)


@pytest.mark.parametrize("how", ["rewritten", "replaced"])
@pytest.mark.parametrize("where", ["memory", "memo"])
def test_same_size_and_restored_mtime(
    path: Path, tmp_path: Path, fresh_process: Callable[[], None], how: str, where: str
) -> None:
    memo = tmp_path / "memo.json" if where == "memo" else None
    before = path.stat()
    assert was_hashed(path, memo)
    (other := tmp_path / "other").write_bytes(b"9,9\n")
    path.write_bytes(b"9,9\n") if how == "rewritten" else other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    if memo is not None:
        fresh_process()
    assert was_hashed(path, memo)


def test_a_fresh_file_is_not_remembered(
    path: Path, tmp_path: Path, fresh_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can change again without a change of its ctime, which some kernels set by a clock of 100 ticks a second."""
    assert files.TICK > 10_000_000
    monkeypatch.setattr(files, "TICK", 60 * 10**9)
    assert was_hashed(path, tmp_path / "memo.json")
    assert was_hashed(path, tmp_path / "memo.json")
    assert not (tmp_path / "memo.json").exists()


def test_memo_across_processes(path: Path, tmp_path: Path, fresh_process: Callable[[], None]) -> None:
    memo = tmp_path / "new" / "memo.json"
    code = (
        "import sys; from pathlib import Path; from recsys_collapse.dataset.files import content_hash\n"
        "print(content_hash(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: print('hashed')))"
    )

    def elsewhere() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, path, memo],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        return done.stdout.split()

    assert elsewhere() == ["hashed", sha(b"1,2\n")]
    assert elsewhere() == [sha(b"1,2\n")]
    assert not was_hashed(path, memo)
    memo.unlink()
    assert not was_hashed(path, memo)
    fresh_process()
    written = memo.stat()
    assert not was_hashed(path, memo)  # what this process knew was written, too
    assert memo.stat() == written


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"%s": 5}',
        b'{"%s": []}',
        b'{"a": {}, "b\\u0000": 1}',
    ]
    + [b'{"%%s": [%s]}' % entry for entry in (b"1, 2, 3, 4", b"%d, %d, %d, %d, 5", b'%d, %d, %d, %d, "abc"')],
)
def test_damaged_memo(path: Path, tmp_path: Path, fresh_process: Callable[[], None], damage: bytes) -> None:
    stat = path.stat()
    values = (str(path).encode(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    (memo := tmp_path / "memo.json").write_bytes(damage % values[: damage.count(b"%")])
    assert was_hashed(path, memo)
    assert list(json.loads(memo.read_bytes())) == [str(path)]
    fresh_process()
    assert not was_hashed(path, memo)


def test_memo_that_cannot_be_written(path: Path, tmp_path: Path, fresh_process: Callable[[], None]) -> None:
    (tmp_path / "folder").mkdir()
    for memo in (path / "memo.json", tmp_path / "folder"):
        assert was_hashed(path, memo)
        fresh_process()
    assert list((tmp_path / "folder").iterdir()) == []


def test_memo_keeps_what_exists(path: Path, tmp_path: Path, fresh_process: Callable[[], None]) -> None:
    memo = tmp_path / "memo.json"
    others = [tmp_path / name for name in "bcd"]
    for other in others:
        other.write_bytes(other.name.encode())
    time.sleep(0.15)
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(lambda file: was_hashed(file, memo), others))
    for other in others:
        was_hashed(other, memo)  # one that lost the race is written now
    assert set(json.loads(memo.read_bytes())) == set(map(str, others))
    others[0].unlink()
    assert was_hashed(path, memo)
    assert set(json.loads(memo.read_bytes())) == {str(path), *map(str, others[1:])}


@pytest.mark.parametrize("how", ["appended", "cut", "replaced", "touched", "gone"])
def test_change_while_hashing(path: Path, tmp_path: Path, fresh_process: Callable[[], None], how: str) -> None:
    (other := tmp_path / "other").write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))

    def change(*_: int) -> None:
        if how == "appended":
            path.write_bytes(path.read_bytes() + b"3,4\n")
        elif how == "cut":
            os.truncate(path, 1)
        elif how == "replaced":
            other.replace(path)
        elif how == "touched":
            path.touch()
        else:
            path.unlink()

    with pytest.raises(ValueError, match="cannot be read" if how == "gone" else "changed while it was read") as error:
        content_hash(path, tmp_path / "memo.json", change)
    assert str(path) in str(error.value)
    assert not (tmp_path / "memo.json").exists()
    assert not files._hashes
