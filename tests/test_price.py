"""What a plan takes: estimates grow with scale, finished runs correct them, and what cannot fit is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import price as module
from experiments import speed
from experiments.found import Cell
from experiments.price import Price, price, show_price, summary
from experiments.speed import Known, Machine
from recsys_collapse.launch.plan import Plan, make_plan
from tests.cli import SMALL_SYNTHETIC

MACHINE = Machine(flops=1e10, values=1e9, free=64_000_000_000, device="cpu", threads=1)
WORDS = ["dataset=tiny", "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.batch_size=32", "logger=local"]
WORDS += ["trainer.progress_bar=false", *SMALL_SYNTHETIC]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same speed every time, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "measured", lambda threads, accelerator, gpu: MACHINE._replace(threads=threads))


def plan(*words: str) -> Plan:
    found = make_plan(["-m", *WORDS, *words])
    assert found is not None
    return found


def finished(cell: Cell, ratio: float | None, epochs: int, limits: tuple[int, int] = (2, 3)) -> Known:
    return Known(cell, limits, epochs, ratio)


def test_it_grows_with_scale() -> None:
    asked = plan("model=dnn,fm", "scale=1,100", "seed=0,1", "callback=[]")
    found = price(asked, asked.jobs)
    assert [(cell, len(runs)) for cell, runs in found.cells.items()] == [
        (Cell(model, "se", scale, "none"), 2) for model in ("dnn", "fm") for scale in (1, 100)
    ]
    for model in ("dnn", "fm"):
        small, large = (found.cells[Cell(model, "se", scale, "none")][0] for scale in (1, 100))
        assert large.seconds > 1.5 * small.seconds > 0
        assert large.memory > small.memory > module.PROCESS
        assert large.kept > 5 * small.kept and large.checkpoints > 5 * small.checkpoints
    assert found.seconds == pytest.approx(sum(run.seconds for run in found.missing))  # one after the other
    assert not (Path("outputs") / "runs").exists()


def test_the_time_of_an_epoch() -> None:
    (job,) = plan("model=fm", "scale=2", "trainer.evaluations_per_epoch=2").jobs
    shape = speed.Shape(flops=1000, written=500, touched=1e6, measuring=2e9, weights=0, checkpoints=0)
    rows = {"train": 640, "valid": 8192}
    each = 3 * 1000 / 1e10 + 8 * 500 / 1e9
    expected = 320 * each + 10 * (8 * 1e6 / 1e9 + 0.003) + 8192 * each / 3 + 0.003 + 0.2
    assert speed.epoch_seconds(shape, job.config.trainer, rows, MACHINE) == pytest.approx(expected)


def test_a_shape_is_that_of_the_model() -> None:
    (job,) = plan("model=fm", "scale=2", "model.base_size=3").jobs
    dense = speed.shape_of(module.plain(job.config), [50, 7])
    assert dense.weights == dense.touched == 57 * 6 + 1
    assert dense.written >= 2 * 6  # the embeddings alone
    (job,) = plan("model=fm", "scale=2", "model.base_size=3", "optimizer=rowwise_adagrad").jobs
    sparse = speed.shape_of(module.plain(job.config), [50, 7])
    assert sparse.touched == pytest.approx((32 + 7) * 6 + 1)  # a batch has 32 ids of a field


def test_finished_runs_of_the_most_alike_correct_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan("model=dnn,fm", "scale=1,2", "callback=[]", "launch=subprocess", "launch.at_once=2")
    before = price(asked, asked.jobs)
    assert {run.basis for run in before.missing} == {"test"} and {run.epochs for run in before.missing} == {2}
    known = [
        finished(Cell("dnn", "se", 1), 2.0, 4),
        finished(Cell("dnn", "se", 1), 3.0, 5),
        finished(Cell("dnn", "se", 1), 10.0, 6),
        finished(Cell("dnn", "me", 2), None, 9, limits=(100, 3)),  # made elsewhere, for longer
    ]
    monkeypatch.setattr(module, "known_runs", lambda *args: known)
    after = price(asked, asked.jobs)
    for old, new in zip(before.missing, after.missing, strict=True):
        assert new.epochs == 5 and new.epochs_known
        assert new.seconds - module.START == pytest.approx((old.seconds - module.START) * 3.0 * 5 / 2)
    assert [run.basis for run in after.missing] == ["own", "own", "others", "others"]
    assert summary(after).startswith("4 runs: 0 there, 4 missing, about ")
    assert "(from 3 finished runs, of others for fm: may be off by a factor of 3)" in summary(after)
    assert after.seconds == pytest.approx(sum(run.seconds for run in after.missing) / 2)


def test_nearest() -> None:
    runs = [finished(Cell(*cell), 1.0, 1) for cell in [("a", "se", 1), ("a", "me", 2), ("a", "me", 4), ("b", "se", 1)]]
    assert speed.nearest(runs, Cell("a", "me", 2)) == runs[1:2]
    assert speed.nearest(runs, Cell("a", "me", 10)) == runs[1:3]
    assert speed.nearest(runs, Cell("a", "se", 1, "unitary")) == runs[:3]
    assert speed.nearest(runs, Cell("c", "se", 1)) == runs and speed.nearest([], Cell("c", "se", 1)) == []


def test_finished_runs_are_found_by_data_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are made up; only their shape is that of a real run."""
    (job,) = plan("model=dnn", "scale=2", "embed=me").jobs
    own = module.plain(job.config)
    data = speed.Data("here", [20, 5], {"train": 640, "valid": 64, "test": 64}, 0)
    each = speed.epoch_seconds(speed.shape_of(own, [20, 5]), own["trainer"], data.rows, MACHINE)
    run = {"model": "dnn", "embed": "me", "scale": 2, "regularizer": "none", "run_name": "a", "identity": own}
    run |= {"data_fingerprint": "here", "num_epochs": 4, "wall_seconds": 10 * each}
    run |= {"environment": {"device": "cpu", "threads": 1}}
    slow = run | {"environment": {"device": "cpu", "threads": 8}}
    monkeypatch.setattr(speed, "scan", lambda folder: [run, slow, run | {"data_fingerprint": "other"}])
    known = speed.known_runs(Path(), data, MACHINE)
    assert known == [
        Known(Cell("dnn", "me", 2), (2, 3), 4, pytest.approx(2.5)),
        Known(Cell("dnn", "me", 2), (2, 3), 4, None),
    ]
    foreign = run | {"identity": own | {"model": {"backbone": {"_target_": "os.system"}}}}
    monkeypatch.setattr(speed, "scan", lambda folder: [foreign])
    with pytest.raises(ValueError, match=r"os\.system"):
        speed.known_runs(Path(), data, MACHINE)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan("model=dnn", "scale=1,2,100000", "launch=subprocess", "launch.at_once=3", "callback=[]")
    monkeypatch.setattr(module, "measured", lambda *args: MACHINE._replace(free=1_800_000_000))
    with pytest.raises(ValueError, match=r"1\.8 GB of memory are free, and 3 at once would take: ") as refused:
        price(asked, asked.jobs)
    said = str(refused.value)
    assert "dnn se 100000x" in said and "dnn se 1x" not in said
    assert "leave the scale out (scale=1,2)" in said and "optimizer=rowwise_adagrad" in said
    assert "launch.at_once=" not in said  # one alone is too large already
    monkeypatch.setattr(module, "measured", lambda *args: MACHINE._replace(free=1_300_000_000))
    small = plan("model=dnn", "scale=1,2", "seed=0,1", "launch=subprocess", "launch.at_once=3", "callback=[]")
    with pytest.raises(ValueError, match=r"launch\.at_once=2, "):
        price(small, small.jobs)
    monkeypatch.setattr(module, "measured", lambda *args: MACHINE._replace(free=None))
    assert len(price(small, small.jobs).missing) == 4


def test_too_little_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan("model=dnn", "scale=1,1000", "seed=0,1", "callback=[]")
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ValueError, match=r"output_dir=outputs: 0\.00 GB are free, and 4 runs need ") as refused:
        price(asked, asked.jobs)
    assert "dnn se 1000x" in str(refused.value).partition("most of it: ")[2]


def test_the_words_are_honest(capsys: pytest.CaptureFixture) -> None:
    asked = plan("model=dnn", "scale=1,2", "seed=0,1,2", "callback=[]")
    found = price(asked, asked.jobs[:4])
    show_price(found)
    printed = capsys.readouterr().out
    assert "6 runs: 2 there, 4 missing, about " in printed and ", 1 at once" in printed
    assert "(from a speed test of this machine; may be off by a factor of 3)" in printed
    assert "epochs with ? are a guess, patience + 2 or max_epochs" in printed and "2?" in printed
    away = replace(found, elsewhere="slurm")
    assert "but launch=slurm decides" in summary(away) and isinstance(away, Price)


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in (False, True):  # the process of its own that a GPU is asked by
        found = speed.measured(1, "cpu", gpu)
        assert 1e8 < found.flops < 1e15 and 1e7 < found.values < 1e13
        assert (found.device, found.threads) == ("cpu", 1)
