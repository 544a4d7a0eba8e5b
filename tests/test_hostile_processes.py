"""Killed, waiting, racing and differently configured processes, by the numbers of the fault matrix: one store."""

import fcntl
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys_collapse.dataset import store as store_module
from recsys_collapse.dataset.source import Rows, Source
from recsys_collapse.dataset.store import prepare
from recsys_collapse.runs.durable import exclusive
from tests.test_dataset import Given, digests, given_rows
from tests.test_table import table

ROOT = Path(__file__).parents[1]
elsewhere = multiprocessing.get_context("forkserver")  # a fork of this process, full of threads, might hang
elsewhere.set_forkserver_preload([__name__])
OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")


def prepare_and_die(source: Source, folder: Path, k: int) -> None:
    """Killed at the k-th time that something happens to a file in `folder`, or something is said of the progress."""
    count = itertools.count(1)

    def happened(*_: object) -> None:
        if next(count) == k:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in OPERATIONS or (event == "open" and str(folder) in str(args[0])):
            happened()

    sys.addaudithook(hook)
    prepare(source, folder, 0, progress=happened)


def test_18_killed_at_every_step(tmp_path: Path, monkeypatch) -> None:
    source = table(tmp_path / "t.csv", "y,a\n" + "0,v\n1,w\n" * 40 + "1\n" + "0,u\n1,v\n" * 9, bad_lines="quarantine")
    clean = prepare(source, tmp_path / "clean", 0).path
    expected, states, k, code = digests(clean), set(), 0, -1
    while code != 0:
        k += 1
        folder = tmp_path / str(k)
        process = elsewhere.Process(target=prepare_and_die, args=(source, folder, k), daemon=True)
        process.start()
        process.join(60)
        code = process.exitcode
        assert code in (0, -signal.SIGKILL)
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        states.add((clean.name in names, any(name.startswith(f".{clean.name}-") for name in names)))
        monkeypatch.setattr(store_module, "_verified", set())  # as in another process
        assert digests(prepare(source, folder, 0).path) == expected
        assert list(folder.glob(f".{clean.name}*")) == []
    assert states == {(False, False), (False, True), (True, False)}
    assert k > 40


@dataclass(kw_only=True)
class Slow(Given):
    diary: Path = field(metadata={"runtime": True})

    def read(self) -> Iterator[Rows]:
        with self.diary.open("a") as file:
            file.write("read\n")
        time.sleep(0.7)
        yield from super().read()


def prepare_and_tell(source: Source, folder: Path, answers: Any) -> None:
    store = prepare(source, folder, 0)
    answers.put((store.path.name, store.ids.tolist(), store.labels.tolist()))


def test_20_one_of_four_processes_builds(tmp_path: Path) -> None:
    plain, answers, folder = given_rows(), elsewhere.SimpleQueue(), tmp_path / "stores"
    source = Slow(name="g", columns=plain.columns, labels=plain.labels, parts=plain.parts, diary=tmp_path / "diary")
    four = [elsewhere.Process(target=prepare_and_tell, args=(source, folder, answers), daemon=True) for _ in range(4)]
    for process in four:
        process.start()
    for process in four:
        process.join(60)
    assert [process.exitcode for process in four] == [0] * 4
    assert (tmp_path / "diary").read_text() == "read\n"
    told = [answers.get() for _ in four]
    assert told == [told[0]] * 4 and told[0][2] == plain.labels
    assert sorted(path.name for path in folder.iterdir()) == [".locks", told[0][0]]


def hold(lock: Path, ready: Any) -> None:
    with exclusive(lock, "prepares the same data"):
        ready.set()
        time.sleep(600)


def test_21_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    lock, ready = tmp_path / "lock", elsewhere.Event()
    holder = elsewhere.Process(target=hold, args=(lock, ready), daemon=True)
    holder.start()
    assert ready.wait(60)
    named = rf"lock: process {holder.pid} on .* prepares the same data and has not finished"
    with pytest.raises(TimeoutError, match=named), exclusive(lock, "prepares the same data", longest_wait=0.2):
        pass
    holder.kill()
    holder.join()
    with exclusive(lock, "prepares the same data", longest_wait=5):
        assert lock.read_text().startswith(f"process {os.getpid()} on ")


def test_21_the_advice_to_remove_the_lock_works(tmp_path: Path, monkeypatch) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "prepares the same data"):
        monkeypatch.setattr(time, "sleep", lambda _: lock.unlink(missing_ok=True))  # while the other one waits
        with exclusive(lock, "prepares the same data", longest_wait=5):
            assert lock.is_file()


def test_21_a_file_system_without_locks(tmp_path: Path, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=r"no file locks .*No locks available.*file_locks=false"):
        prepare(given_rows(), tmp_path, 0)
    assert prepare(given_rows(), tmp_path, 0, lock=False).cardinalities == [4, 4]


def test_21_without_locks_nobody_takes_the_files_of_a_build_that_runs(tmp_path: Path, monkeypatch) -> None:
    build = store_module.build

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def meanwhile(*args: Any) -> dict:
        monkeypatch.setattr(store_module, "build", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(given_rows(), tmp_path, 0, lock=False)
        return build(*args)

    monkeypatch.setattr(store_module, "build", meanwhile)
    assert prepare(given_rows(), tmp_path, 0, lock=False).cardinalities == [4, 4]


def test_22_the_process_does_not_matter(tmp_path: Path) -> None:
    """Ties, quotes, line ends inside values and lines to leave out, in two blocks or one; here and in four others."""
    draws = np.random.default_rng(0).integers(0, 3000, (60_000, 2)).tolist()
    lines = [f'{i % 2},u{a},"v\r{b}",{b / 7}' for i, (a, b) in enumerate(draws)]
    for i in range(5, 60_000, 3000):
        lines[i] = ("1,x", "3,x,y,1", "1,x,y,abc", "3,x,y,abc", '1,x"y,"z"a,2')[i // 3000 % 5]
    options = {"bad_lines": "quarantine", "buckets": {"n": "quantile:7"}, "hashed_cardinality": 2000}
    first = prepare(table(tmp_path / "t.csv", "y,a,b,n\n" + "\n".join(lines), **options), tmp_path / "first", 0).path
    assert (tmp_path / "t.csv").stat().st_size > 3 << 19
    code = (
        "import sys; from pathlib import Path; from recsys_collapse.dataset.table import Table; "
        "from recsys_collapse.dataset.store import prepare; "
        f"options = {options} | dict(name='t', label='y', path=sys.argv[1], block_mib=int(sys.argv[3])); "
        "prepare(Table(**options), Path(sys.argv[2]), 0)"
    )
    for seed, threads, block in [("0", "1", "1"), ("1", "2", "16"), ("12", "2", "1"), ("9", "1", "16")]:
        environment = os.environ | {"PYTHONHASHSEED": seed, "POLARS_MAX_THREADS": threads}
        command = [sys.executable, "-c", code, tmp_path / "t.csv", tmp_path / seed, block]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=120)
        assert digests(tmp_path / seed / first.name) == digests(first)
    bad = pl.read_ndjson(first / "bad_lines.jsonl")["line"].to_list()
    assert bad == sorted(set(bad)) and len(bad) == 20
