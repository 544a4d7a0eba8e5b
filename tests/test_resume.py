"""A run that was interrupted anywhere and goes on ends as one that was not, bit for bit; what it finds is checked.

Here in one process and with tiny data; `tests/faults.py` kills real commands.
"""

import errno
import hashlib
import json
import logging
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from recsys_collapse import cost
from recsys_collapse import train as train_module
from recsys_collapse.callback.checkpoint import Checkpoints
from recsys_collapse.launch.job import DISK_FULL, FAILED, FINISHED, run_job
from recsys_collapse.launch.plan import Job, make_plan
from recsys_collapse.module import CTRModule
from recsys_collapse.runs import durable, table
from recsys_collapse.runs.checkpoint import misfit, read_checkpoint, write_checkpoint
from recsys_collapse.runs.records import read_failure, read_result, write_result
from recsys_collapse.score import Score, SplitScore
from recsys_collapse.train import train
from tests.cli import ROOT, python_path, rows
from tests.faults import equal, results

EPOCHS = 3
CALLBACKS = "callback=[activation_rank,gradient_spectrum,learned,pair_norm,set_similarity,spectrum,sub_embedding]"
TINY = [
    *("model=dcnv2", "trainer.accelerator=cpu", "trainer.batch_size=32", "trainer.progress_bar=false", "logger=local"),
    *(
        *rows(128, 16, 16),
        "dataset.num_fields=3",
        "dataset.max_cardinality=12",
        "model.base_size=2",
        "optimizer.lr=0.05",
    ),
    *(f"trainer.max_epochs={EPOCHS}", "trainer.patience=9", "callback=[]"),
]
ME = ["scale=2", "embed=me"]
FIRST, LAST = "before", "after"  # the checkpoint


class Killed(BaseException):
    """Stands for the end of the process: nothing handles it."""


@pytest.fixture(autouse=True)
def figures_that_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"a figure"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is prepared, once."""
    return tmp_path_factory.mktemp("stores")


@cache
def planned(words: tuple[str, ...]) -> Job:
    found = make_plan([*words])
    assert found is not None
    (job,) = found.jobs
    return job


def job_of(stores: Path, folder: Path, *words: str) -> Job:
    """One job in its own folder; whose plan is made once for the same words."""
    replaced = {word.partition("=")[0] for word in words}
    kept = [word for word in TINY if word.partition("=")[0] not in replaced]
    hidden = [] if {"model=ffm", "model=fm"} & {*words} else ["model.backbone.hidden_sizes=[6,5]"]
    if {"optimizer=adagrad", "optimizer=sparse_adam", "optimizer=rowwise_adagrad"} & {*words}:
        kept = [word for word in kept if not word.startswith("optimizer.lr")]
    job = planned((*kept, *hidden, *words, f"output_dir={stores}/outputs", f"store_dir={stores}"))
    return Job(job.config, job.run_id, folder / "outputs" / "runs" / job.name)


@contextmanager
def killed(when: str, epoch: int) -> Iterator[None]:
    """The process ends `before` or `after` the checkpoint of an epoch."""
    save = Checkpoints.on_train_epoch_end

    def on_train_epoch_end(self: Any, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == epoch and when == FIRST:
            raise Killed
        save(self, trainer, pl_module)
        if trainer.current_epoch == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "on_train_epoch_end", on_train_epoch_end)
        yield


@contextmanager
def rows_seen() -> Iterator[list[tuple[int, str]]]:
    """(epoch, hash of its training rows in their order) of all that is trained."""
    seen: list[tuple[int, Any]] = []
    step = CTRModule.training_step

    def training_step(self: CTRModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            seen.append((self.current_epoch, hashlib.sha256()))
        seen[-1][1].update(batch[0].numpy().tobytes() + batch[1].numpy().tobytes())
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CTRModule, "training_step", training_step)
        yield (found := [])
        found += [(epoch, digest.hexdigest()) for epoch, digest in seen]


def left(folder: Path, ignore: str = " ") -> dict[str, Any]:
    """What the runs of a folder have found; of the names of files those without `ignore`."""
    found = results(folder)
    for of_run in found.values():
        of_run["files"] = [
            name for name in of_run["files"] if ignore not in name and name not in (".lock", ".heartbeat")
        ]
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() and len(expected) == 1
    for name, of_run in expected.items():
        assert [part for part in of_run if not equal(found[name][part], of_run[part])] == []


# Bit for bit

EVERY_MODEL = ["dcnv2", "dnn", "ffm", "finalmlp", "fm", "ipnn", "nfwfm", "xdeepfm"]
CASES: dict[str, list[str]] = {
    **{f"{name} SE": [f"model={name}", "scale=2", "embed=se"] for name in EVERY_MODEL},
    **{f"{name} ME": [f"model={name}", *ME] for name in EVERY_MODEL if name not in ("ffm", "fm")},
    **{name: [f"optimizer={name}", *ME] for name in ("adagrad", "sparse_adam", "rowwise_adagrad", "adamw")},
    "unitary": ["regularizer=unitary", "regularizer.weight=0.1", *ME],
    "decorrelation": ["regularizer=decorrelation", *ME],
    "bars": ["protocol=bars", "trainer.lr_plateau=0.5", *ME],
    "pieces": ["trainer.evaluations_per_epoch=3", "trainer.max_epochs=1", *ME],
    "bf16": ["trainer.precision=bf16-mixed", "scale=2"],
    "bf16-true": ["trainer.precision=bf16-true", *ME],
    "float64": ["trainer.precision=64-true", "trainer.gradient_clip=0.1", "scale=2"],
    "measured": [CALLBACKS, *ME],
}
SHORT = [(LAST, 0), (FIRST, 2)]
EVERYWHERE = [(when, epoch) for epoch in range(EPOCHS) for when in (FIRST, LAST)]


def test_every_model_is_tried() -> None:
    assert sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")) == EVERY_MODEL


@pytest.mark.parametrize("case", CASES)
def test_interrupted_is_as_not_interrupted(case: str, stores: Path, tmp_path: Path) -> None:
    """Weights, metrics, records, frames, and the rows of every epoch in their order; no epoch more than twice."""
    words = CASES[case]
    with rows_seen() as rows:
        train(job_of(stores, tmp_path / "whole", *words))
    expected = left(tmp_path / "whole")
    (of_run,) = expected.values()
    assert [record["epoch"] for record in of_run["epochs"]] == [-1, 0, 1, 2]
    assert len({digest for _, digest in rows}) == len(rows) == EPOCHS
    job = job_of(stores, tmp_path / "parts", *words)
    with rows_seen() as again:
        for when, epoch in EVERYWHERE if case in ("dcnv2 ME", "bars", "pieces") else SHORT:
            with killed(when, epoch):
                train(job)
        train(job)
    assert_equal(left(tmp_path / "parts"), expected)
    assert set(again) == set(rows)
    assert max(sum(epoch == e for e, _ in again) for epoch in range(EPOCHS)) == 2


def test_dropout_is_in_it(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seed of the epoch the tests above would notice."""
    original = torch.manual_seed
    inside: list[int] = []
    step = CTRModule.training_step

    def training_step(self: CTRModule, *args: Any) -> Any:
        inside.append(1)
        try:
            return step(self, *args)
        finally:
            inside.pop()

    monkeypatch.setattr(CTRModule, "training_step", training_step)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None if inside else original(seed))
    train(job_of(stores, tmp_path / "whole"))
    job = job_of(stores, tmp_path / "parts")
    with killed(LAST, 1):
        train(job)
    train(job)
    whole, parts = left(tmp_path / "whole")[job.name], left(tmp_path / "parts")[job.name]
    assert whole["epochs"][:2] == parts["epochs"][:2] and whole["epochs"][3] != parts["epochs"][3]


def test_the_files_of_callbacks_are_drawn_too(stores: Path, tmp_path: Path) -> None:
    """Also when nothing is left to train."""
    job = job_of(stores, tmp_path, CALLBACKS, *ME)
    with killed(LAST, EPOCHS - 1):
        train(job)
    assert not list(job.run_dir.glob("figures/*"))
    train(job)
    names = {path.stem for path in job.run_dir.glob("figures/*")}
    assert names == {
        "activation_rank",
        "gradient_spectrum",
        "learned",
        "pair_norm",
        "set_similarity",
        "spectra",
        "sub_embedding",
    }


# Stopping


def aucs(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Validation AUC of each epoch, whichever process trains it."""
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(values[running[-1]], 0.5))
    running: list[int] = [0]
    step = CTRModule.training_step

    def training_step(self: CTRModule, *args: Any) -> Any:
        running.append(self.current_epoch)
        return step(self, *args)

    monkeypatch.setattr(CTRModule, "training_step", training_step)


def trained_in_parts(job: Job, *ends: tuple[str, int]) -> list[int]:
    """The epochs that were trained, interrupted at some."""
    with rows_seen() as rows:
        for when, epoch in ends:
            with killed(when, epoch):
                train(job)
        train(job)
    return [epoch for epoch, _ in rows]


STALLS = (0.5, 0.7, 0.6, 0.7, 0.65, 0.9, 0.9)


@pytest.mark.parametrize(
    ("ends", "epochs"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([(LAST, 4)], [0, 1, 2, 3, 4]),  # stalled, and killed before the result
        ([(FIRST, 4)], [0, 1, 2, 3, 4, 4]),
        ([(LAST, 2), (LAST, 3)], [0, 1, 2, 3, 4]),  # patience counts on
        ([(FIRST, 1), (LAST, 1), (FIRST, 3)], [0, 1, 1, 2, 3, 3, 4]),
    ],
)
def test_it_stops_where_it_would_have(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[str, int]], epochs: list[int]
) -> None:
    aucs(monkeypatch, *STALLS)
    job = job_of(stores, tmp_path, "trainer.patience=3", "trainer.max_epochs=7")
    assert trained_in_parts(job, *ends) == epochs
    result = read_result(job.run_dir, job.run_id)
    assert result is not None and (result["best_epoch"], result["num_epochs"]) == (1, 5)
    starts = [0, *(epoch + (when == LAST) for when, epoch in ends)]
    assert [one["first_epoch"] for one in result["attempts"]] == sorted(
        {*starts} - ({0} if ends[:1] == [(FIRST, 0)] else set())
    )


@pytest.mark.parametrize("ends", [[(LAST, 2)], [(FIRST, 2), (LAST, 2), (LAST, 1)][:2]])
def test_nothing_is_trained_beyond_the_last_epoch(stores: Path, tmp_path: Path, ends: list[tuple[str, int]]) -> None:
    job = job_of(stores, tmp_path)
    assert trained_in_parts(job, *ends) == [0, 1, 2, *[2 for when, _ in ends if when == FIRST]]
    result = read_result(job.run_dir, job.run_id)
    assert result is not None and result["num_epochs"] == 3
    assert [one["first_epoch"] for one in result["attempts"]][-1] == 3


# What is found is checked


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A whole and valid file with other content."""

    def apply(path: Path) -> None:
        content = read_checkpoint(path)
        write_checkpoint(path, change(content) or content)

    return apply


def edited(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(edit(path.read_bytes()))

    return apply


def flipped(place: float) -> Callable[[Path], None]:
    def edit(whole: bytes) -> bytes:
        damaged = bytearray(whole)
        damaged[int(place * (len(whole) - 1))] ^= 4
        return bytes(damaged)

    return edited(edit)


def with_code(path: Path) -> None:
    write_checkpoint(path, read_checkpoint(path) | {"more": Malicious(path.with_name("marker"))})


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(path.with_name("marker"))))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": edited(lambda whole: b""),
    "zeros": edited(lambda whole: bytes(len(whole))),
    "longer": edited(lambda whole: whole + b"x"),
    **{f"cut at {part}": edited(lambda whole, p=part: whole[: int(len(whole) * p)]) for part in (0.001, 0.5, 0.99)},
    "last byte missing": edited(lambda whole: whole[:-1]),
    **{f"flipped at {place}": flipped(place) for place in (0, 0.02, 0.3, 0.5, 0.8, 0.95, 0.99, 1)},
    "another run": changed(lambda content: content | {"run_id": "another"}),
    "no run": changed(lambda content: {key: value for key, value in content.items() if key != "run_id"}),
    "older": changed(lambda content: {key: value for key, value in content.items() if key != "layout"}),
    "newer": changed(lambda content: content | {"layout": 2}),
    **{
        f"without {key}": changed(lambda content, key=key: {k: v for k, v in content.items() if k != key})
        for key in ("epoch", "state_dict", "optimizer_states", "loops", "callbacks")
    },
    "no records": changed(lambda content: content | {"callbacks": {}}),
    "other records": changed(lambda content: content | {"callbacks": [1, 2]}),
    "a list": changed(lambda content: [content]),
    "code": with_code,
    "a pickle": a_pickle,
}
AUCS = {"a new best": (0.5, 0.7, 0.6), "no new best": (0.7, 0.5, 0.6)}


@pytest.fixture(scope="module")
def halves(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For both ways in which AUC may go: a folder with a run that was killed after epoch 1, and the whole results."""
    found = {}
    for name, values in AUCS.items():
        folder = tmp_path_factory.mktemp("halves")
        with pytest.MonkeyPatch.context() as patch:
            aucs(patch, *values)
            train(job_of(stores, folder / "whole"))
            with killed(LAST, 1):
                train(job_of(stores, folder / "half"))
        found[name] = (folder / "half", left(folder / "whole"))
    return found


def go_on(stores: Path, folder: Path, expected: dict[str, Any]) -> list[int]:
    """Run the job again to its end, which is as expected; the epochs that were trained."""
    job = job_of(stores, folder)
    with rows_seen() as rows:
        assert run_job(job) == FINISHED
    found = left(folder, ignore=".damaged-")
    for of_run in found.values():
        of_run["files"] = [name for name in of_run["files"] if name != "checkpoints/marker"]
    assert_equal(found, expected)
    return [epoch for epoch, _ in rows]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(
    stores: Path, tmp_path: Path, halves: Any, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """Training goes on from the one before; nothing in it is run."""
    half, expected = halves["no new best"]
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    aucs(monkeypatch, *AUCS["no new best"])
    folder = job_of(stores, tmp_path).run_dir / "checkpoints"
    DAMAGES[damage](folder / "last.ckpt")
    wrong = (folder / "last.ckpt").read_bytes()
    assert go_on(stores, tmp_path, expected) == [1, 2]
    assert (folder / "last.ckpt.damaged-1").read_bytes() == wrong
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(folder / "last.ckpt") in said and said.endswith("set aside as last.ckpt.damaged-1")
    assert "last.ckpt.damaged-1" in (folder.parent / "log.txt").read_text()
    assert not (folder / "marker").exists()


def later(path: Path) -> None:
    write_checkpoint(path, read_checkpoint(path) | {"epoch": 2})


STATES: dict[str, Callable[[Path], None]] = {
    "good": lambda path: None,
    "damaged": flipped(0.4),
    "missing": lambda path: path.unlink(),
    "later": later,
    "another run": DAMAGES["another run"],
}


@pytest.mark.parametrize(
    ("way", "best"), [*product(["no new best"], STATES), ("a new best", "missing"), ("a new best", "later")]
)
def test_any_of_three_checkpoints_may_be_damaged(
    stores: Path, tmp_path: Path, halves: Any, way: str, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be used is: one is, if the weights of its best epoch are there or are its own."""
    half, expected = halves[way]
    aucs(monkeypatch, *AUCS[way])
    best_of_last = 1 if way == "a new best" else 0
    for last, previous in product(("good", "damaged", "missing"), repeat=2):
        folder = tmp_path / f"{last} {previous}"
        shutil.copytree(half, folder)
        checkpoints = job_of(stores, folder).run_dir / "checkpoints"
        for name, state in (("last", last), ("previous", previous), ("best", best)):
            STATES[state](checkpoints / f"{name}.ckpt")
        start = 0
        if previous == "good":
            start = 1  # whose own weights were the best
        if last == "good" and (best == "good" or best_of_last == 1):
            start = 2
        assert go_on(stores, folder, expected) == [*range(start, EPOCHS)], (last, previous)


def test_what_is_damaged_again_is_set_aside_beside_it(
    stores: Path, tmp_path: Path, halves: Any, monkeypatch: Any
) -> None:
    half, expected = halves["no new best"]
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    aucs(monkeypatch, *AUCS["no new best"])
    job = job_of(stores, tmp_path)
    folder = job.run_dir / "checkpoints"
    for number in (1, 2):
        (folder / "last.ckpt").write_text(f"damage {number}")
        with killed(LAST, 1):
            run_job(job)
    assert go_on(stores, tmp_path, expected) == [2]
    assert [(folder / f"last.ckpt.damaged-{n}").read_text() for n in (1, 2)] == ["damage 1", "damage 2"]


def test_no_memory_is_no_damage(stores: Path, tmp_path: Path, halves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that could not be read this time is kept."""
    half, _ = halves["no new best"]
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    job = job_of(stores, tmp_path)
    before = sorted(path.name for path in (job.run_dir / "checkpoints").iterdir())
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(errno.EIO, "I/O")):

        def load(*args: Any, error: Exception = error, **options: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(torch, "load", load)
            assert run_job(job) == FAILED
        assert sorted(path.name for path in (job.run_dir / "checkpoints").iterdir()) == before


# Results


@pytest.fixture(scope="module")
def finished(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert run_job(job_of(stores, folder)) == FINISHED
    return folder


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_result_that_changed_is_none(finished: Path, data: st.DataObject) -> None:
    """Any byte replaced, or its end missing. Another spelling of the same numbers is the same result."""
    (path,) = finished.glob("outputs/runs/*/result.json")
    whole = path.read_bytes()
    try:
        expected = read_result(path.parent)
        place = data.draw(st.integers(0, len(whole) - 1))
        byte = data.draw(st.sampled_from(b'e9-. \n\x00\xff"{}[]') | st.integers(0, 255))
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        found = read_result(path.parent)
        assert found is None or found == expected
        if found is None:
            assert table.scan(finished / "outputs") == []
        path.write_bytes(whole[:place])
        assert (read_result(path.parent) is None) == (place < len(whole.rstrip()))
    finally:
        path.write_bytes(whole)


BAD_RESULTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "another AUC": lambda whole: re.sub(rb'"test_auc": 0\.\d', b'"test_auc": 0.9', whole, count=1),
    "no number": lambda whole: re.sub(rb'"seed": 0', b'"seed": 1e999', whole, count=1),
    "nested": lambda whole: b'{"checksum": ' + b"[" * 100_000,
    "no text": lambda whole: b"\xff" + whole,
}


@pytest.mark.parametrize("wrong", [*BAD_RESULTS, "another run", "another schema"])
def test_a_result_that_cannot_be_trusted_is_made_again(
    stores: Path, tmp_path: Path, finished: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    job, expected = job_of(stores, tmp_path), left(finished)
    path = job.run_dir / "result.json"
    if wrong in BAD_RESULTS:
        path.write_bytes(BAD_RESULTS[wrong](path.read_bytes()))
    else:
        more = {"run_id": "another"} if wrong == "another run" else {"schema": 99}
        write_result(job.run_dir, json.loads(path.read_text()) | more)
    damaged = path.read_bytes()
    assert len(table.scan(tmp_path / "outputs")) == (wrong == "another run")
    assert (f"left out of the results: {path}" in caplog.text) == (wrong != "another run")
    assert go_on(stores, tmp_path, expected) == [0, 1, 2]
    assert path.with_name("result.json.damaged-1").read_bytes() == damaged
    assert f"{path}: " in caplog.text and "set aside as result.json.damaged-1" in caplog.text
    with rows_seen() as rows:
        assert run_job(job) == FINISHED
    assert rows == []


# A full disk


class FullDisk:
    """The module `os` for `durable`: an operation on files of a name fails from the nth time on."""

    def __init__(self, name: str, operation: str, first: int, last: int = 10**6) -> None:
        self.name, self.operation, self.first, self.last = name, operation, first, last
        self.seen, self.descriptors = 0, set[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _fail(self, operation: str) -> None:
        if operation == self.operation and self.first <= self.seen <= self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)

    def open(self, path: Any, *args: Any) -> int:
        ours = Path(path).name.startswith(f".{self.name}-")
        self.seen += ours
        if ours:
            self._fail("open")
        descriptor = os.open(path, *args)
        (self.descriptors.add if ours else self.descriptors.discard)(descriptor)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        if descriptor in self.descriptors:
            self._fail("write")
            return os.write(descriptor, data[: (len(data) + 1) // 2])  # a system may write less
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if descriptor in self.descriptors:
            self._fail("fsync")
        os.fsync(descriptor)

    def replace(self, path: Any, new: Any) -> None:
        if Path(path).name.startswith(f".{self.name}-"):
            self._fail("replace")
        os.replace(path, new)  # noqa: PTH105


def no_unfinished_files(folder: Path) -> bool:
    return list(folder.rglob(".*-????????")) == []


@pytest.mark.parametrize(
    ("name", "operation", "first", "trained"),
    [
        ("config.yaml", "open", 1, [0, 1, 2]),
        ("epochs.jsonl", "write", 1, [0, 1, 2]),
        ("epochs.jsonl", "fsync", 3, [0, 1, 1, 2]),
        ("last.ckpt", "open", 1, [0, 0, 1, 2]),
        ("last.ckpt", "write", 2, [0, 1, 1, 2]),
        ("last.ckpt", "replace", 3, [0, 1, 2, 2]),
        ("best.ckpt", "write", 1, [0, 1, 2]),
        ("valid_scores.parquet", "write", 1, [0, 1, 2]),
        ("test_scores.parquet", "fsync", 1, [0, 1, 2]),
        ("result.json", "write", 1, [0, 1, 2]),
        ("result.json", "replace", 1, [0, 1, 2]),
    ],
)
def test_a_full_disk_ends_the_run_and_loses_nothing(
    stores: Path, tmp_path: Path, finished: Path, monkeypatch: Any, name: str, operation: str, first: int, trained: list
) -> None:
    job, expected = job_of(stores, tmp_path), left(finished)
    with rows_seen() as rows, monkeypatch.context() as patch:
        patch.setattr(durable, "os", FullDisk(name, operation, first))
        assert run_job(job) == DISK_FULL
    failure = read_failure(job.run_dir)
    assert failure is not None and failure["kind"] == "disk_full" and "No space left on device" in failure["reason"]
    assert name in failure["reason"] and no_unfinished_files(job.run_dir)
    assert not (job.run_dir / "result.json").exists()
    for path in job.run_dir.glob("checkpoints/*.ckpt"):
        assert read_checkpoint(path, job.run_id)["run_id"] == job.run_id
    again = go_on(stores, tmp_path, expected)
    assert [epoch for epoch, _ in rows] + again == trained
    assert read_failure(job.run_dir) is None


@pytest.mark.parametrize("frees_itself", [True, False])
def test_a_full_disk_costs_no_measurement(
    stores: Path, tmp_path: Path, monkeypatch: Any, frees_itself: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """While it trains a warning; at its end the files are complete, or the run is not finished."""
    train(job_of(stores, tmp_path / "whole", CALLBACKS, *ME))
    job = job_of(stores, tmp_path / "full", CALLBACKS, *ME)
    with rows_seen() as rows, monkeypatch.context() as patch:
        patch.setattr(durable, "os", FullDisk("spectra.parquet", "write", 2, 4 if frees_itself else 10**6))
        assert run_job(job) == (FINISHED if frees_itself else DISK_FULL)
        assert "spectra.parquet is not written (OSError" in caplog.text
        if not frees_itself:
            assert pl.read_parquet(job.run_dir / "spectra.parquet")["epoch"].unique().to_list() == [-1]
            assert not (job.run_dir / "result.json").exists()
    assert run_job(job) == FINISHED
    assert [epoch for epoch, _ in rows] == [0, 1, 2]
    assert_equal(left(tmp_path / "full"), left(tmp_path / "whole"))


def test_a_disk_that_is_too_small_is_said_first(stores: Path, tmp_path: Path, monkeypatch: Any) -> None:
    job = job_of(stores, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(cost, "parameter_counts", lambda *args: {"embedding": 312_500_000, "dense": 0})
    monkeypatch.setattr(train_module, "check_memory", lambda *args: None)
    with rows_seen() as rows:
        assert run_job(job) == DISK_FULL
    failure = read_failure(job.run_dir)
    assert failure is not None and failure["kind"] == "disk_full" and rows == []
    assert "needs up to 8.75 GB for its checkpoints, 0.00 GB are free: make room" in failure["reason"]


# What is not finite


@contextmanager
def nan_at(where: str, number: int) -> Iterator[None]:
    """Of the loss, or of all gradients, in one step."""

    def not_a_number(self: CTRModule, *args: Any) -> None:
        if self.global_step == number:
            for parameter in self.parameters():
                parameter.grad = torch.full_like(parameter, torch.nan)

    stages, name = CTRModule.training_step, "on_before_optimizer_step"
    with pytest.MonkeyPatch.context() as patch:
        if where == "gradient":
            patch.setattr(CTRModule, name, not_a_number)
        else:

            def training_step(self: CTRModule, batch: Any, batch_idx: int) -> Any:
                if self.global_step == number:
                    with torch.no_grad():
                        self.backbone.embedding.weight.fill_(torch.nan)
                return stages(self, batch, batch_idx)

            patch.setattr(CTRModule, "training_step", training_step)
        yield


@pytest.mark.parametrize(
    ("where", "number"), [("gradient", 4), ("gradient", 7), ("gradient", 11), ("loss", 6), ("loss", 0)]
)
def test_nothing_is_saved_of_what_is_not_finite(
    stores: Path, tmp_path: Path, finished: Path, where: str, number: int
) -> None:
    """Four steps an epoch. It is no best epoch, fails again in the same step, and goes on once the reason is gone."""
    job, expected, broken = job_of(stores, tmp_path), left(finished), number // 4
    for start in (0, broken):
        with nan_at(where, number), rows_seen() as rows:
            assert run_job(job) == FAILED
        assert [epoch for epoch, _ in rows] == [*range(start, broken + 1)]
        failure = read_failure(job.run_dir)
        assert failure is not None and failure["kind"] == "diverged"
        assert failure["step"] == number + (where == "gradient") and failure["lr"] == 0.05
        records = [json.loads(line) for line in (job.run_dir / "epochs.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records] == [*range(-1, broken)]
        for path in job.run_dir.glob("checkpoints/*.ckpt"):
            content = read_checkpoint(path, job.run_id)
            assert content["epoch"] < broken
            assert all(t.isfinite().all() for t in content["state_dict"].values())
        assert len([*job.run_dir.glob("checkpoints/*.ckpt")]) == min(broken, 1) + min(broken, 2)
    assert go_on(stores, tmp_path, expected) == [*range(broken, EPOCHS)]
    assert read_failure(job.run_dir) is None


# What is said of the processes


def attempts(job: Job, *codes: str) -> dict[str, Any]:
    """The result of a run in as many processes as there are versions of the code, each but the last with one epoch."""
    for number, code in enumerate(codes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_module, "code_version", lambda code=code: code)
            if number < len(codes) - 1:
                with killed(LAST, number):
                    train(job)
            else:
                train(job)
    result = read_result(job.run_dir, job.run_id)
    assert result is not None
    return result


def test_seconds_and_versions_of_all_attempts(stores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = time.perf_counter()
    found = attempts(job_of(stores, tmp_path / "a"), "1", "1", "1", "1")
    took = time.perf_counter() - started
    assert [one["first_epoch"] for one in found["attempts"]] == [0, 1, 2, 3]
    seconds = [one["seconds"] for one in found["attempts"]]
    assert min(seconds) > 0 and found["wall_seconds"] == sum(seconds) < took
    assert [one["code_version"] for one in found["attempts"]] == ["1"] * 4 and found["mixed_environment"] is False
    assert len({one["mirror"] for one in found["attempts"]}) == 1 and "began with other code" not in caplog.text


def test_other_code_in_between_is_said(stores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = attempts(job_of(stores, tmp_path), "1", "2", "1")
    assert [one["code_version"] for one in found["attempts"]] == ["1", "2", "1"]
    assert found["mixed_environment"] is True
    assert "began with other code or on another machine; its result says mixed_environment" in caplog.text
    assert attempts(job_of(stores, tmp_path / "whole"), "3")["mixed_environment"] is False


# Real ends


@pytest.mark.slow
def test_killed_at_any_time(tmp_path: Path) -> None:
    """Three commands, each of them killed at three random times, and then run to its end."""
    words = ["trainer.accelerator=cpu", "trainer.max_epochs=12", "trainer.patience=12", "trainer.batch_size=16", *ME]
    words += [word for word in TINY if word.partition("=")[0] not in {word.partition("=")[0] for word in words}]
    command = [
        sys.executable,
        "-m",
        "recsys_collapse.run",
        *words,
        "model.backbone.hidden_sizes=[6,5]",
        "callback=[spectrum]",
    ]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    began = time.monotonic()
    assert start(tmp_path / "whole").wait(timeout=300) == 0
    took, draw = time.monotonic() - began, random.Random(7)
    expected, codes = left(tmp_path / "whole"), []
    for number in range(3):
        folder = tmp_path / str(number)
        for _ in range(3):
            process = start(folder)
            time.sleep(took * draw.uniform(0.4, 1))
            process.send_signal(signal.SIGKILL)
            codes.append(process.wait(timeout=60))
        assert start(folder).wait(timeout=300) == 0
        assert_equal(left(folder), expected)
    assert codes.count(-signal.SIGKILL) > 4


def test_a_model_whose_code_has_changed_begins_anew(
    stores: Path, tmp_path: Path, halves: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's identity has the options of a class and not its code: weights of another shape are set aside."""
    half, expected = halves["no new best"]
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    aucs(monkeypatch, *AUCS["no new best"])
    folder = job_of(stores, tmp_path).run_dir / "checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        content = read_checkpoint(folder / name)
        key = next(iter(content["state_dict"]))
        content["state_dict"][key] = torch.zeros(1, 2)
        write_checkpoint(folder / name, content)
    assert go_on(stores, tmp_path, expected) == [0, 1, 2]
    assert f"{key} is (1, 2) there, the model has (" in caplog.text and "its code has changed" in caplog.text
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt.damaged-1", "previous.ckpt.damaged-1"}


def test_weights_fit_if_names_and_shapes_do() -> None:
    content = {"state_dict": torch.nn.Linear(2, 3).state_dict()}
    assert misfit(content, torch.nn.Linear(2, 3)) is None
    assert "weight is (3, 2) there, the model has (3, 4)" in str(misfit(content, torch.nn.Linear(4, 3)))
    assert "bias is (3,) there, the model has None" in str(misfit(content, torch.nn.Linear(2, 3, bias=False)))


def test_a_folder_in_the_place_of_a_checkpoint_is_set_aside(
    stores: Path, tmp_path: Path, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, expected = halves["no new best"]
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    aucs(monkeypatch, *AUCS["no new best"])
    last = job_of(stores, tmp_path).run_dir / "checkpoints" / "last.ckpt"
    last.unlink()
    last.mkdir()
    assert go_on(stores, tmp_path, expected) == [1, 2]
    assert last.with_name("last.ckpt.damaged-1").is_dir()


def test_memory_is_asked_for_before_a_checkpoint_takes_it(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that fitted would not fit when it goes on."""
    order: list[str] = []
    for name in ("check_memory", "check_disk", "find"):
        original = getattr(train_module, name)
        monkeypatch.setattr(train_module, name, lambda *a, name=name, f=original: (order.append(name), f(*a))[1])
    train(job_of(stores, tmp_path))
    assert order == ["check_memory", "check_disk", "find"]


def test_a_figure_that_could_not_be_written_is_written_at_the_end(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends no training, and the run's files are complete all the same, or the run is not finished."""
    original, failures = durable.os.open, iter([True, False])

    def fails_once(path: Any, *args: Any, **options: Any) -> int:
        if "spectra.png" in str(path) and next(failures, False):
            raise OSError(errno.EIO, "I/O error", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(durable.os, "open", fails_once)
    job = job_of(stores, tmp_path, "callback=[spectrum]")
    assert run_job(job) == FINISHED
    assert "spectra.png is not written (OSError: " in caplog.text
    assert (job.run_dir / "figures" / "spectra.png").is_file()
