"""The fault harness: every durable operation of a small run is made to fail in turn, until one passes untouched.

For n = 1, 2, ... the nth operation on the disk fails in one of four ways; then the same command runs again without
faults. Counted: runs that are not finished after it, epochs that were begun more than twice, and results that differ
from those of a command that nothing happened to.

    python -m tests.faults                      everything (make test-faults)
    python -m tests.faults --every 9            each ninth operation
    python -m tests.faults --points 12          twelve, all kinds, evenly spread
    python -m tests.faults --points 1 --sabotage seed restart believe
                                                with one promise of the package broken at a time: it must be noticed

Every trial is a fork of this process, which has imported everything and has used nothing of it: a second each.
"""

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", POLARS_MAX_THREADS="1")

import polars as pl
import torch

from recsys_collapse import run, train
from recsys_collapse.callback.checkpoint import Checkpoints
from recsys_collapse.launch import job
from recsys_collapse.runs import durable, figure
from tests.cli import rows

KINDS = ("kill", "enospc", "eio", "short")
OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "makedirs")
COMMAND = [
    *("model=dcnv2", "scale=2", "embed=me", "protocol=bars"),
    *("trainer.max_epochs=9", "trainer.patience=1", "trainer.batch_size=512", "trainer.progress_bar=false"),
    *(*rows(1600, 200, 200), "dataset.num_fields=3", "dataset.max_cardinality=40", "dataset.bayes_auc=0.9"),
    "model.backbone.hidden_sizes=[8,8]",
    *("optimizer.lr=0.02", "logger=local"),
]
VOLATILE = (
    "wall_seconds",
    "samples_per_second",
    "attempts",
    "checksum",
    "environment",
    "code_version",
    "train_seconds",
)


class FaultyOS:
    """The module `os` for `durable`, whose nth operation fails."""

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind, self.done = number, kind, 0

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if name not in OPERATIONS:
            return original

        def operation(*args: Any, **options: Any) -> Any:
            self.done += 1
            due = self.done == self.number
            if self.kind == "short":  # the next write
                due = self.done >= self.number and name == "write"
            if not due:
                return original(*args, **options)
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "short":
                original(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            code = errno.EIO if self.kind == "eio" else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(args[0]))

        return operation


def break_seed() -> None:
    """Dropout goes on where the process's generator stands."""
    torch.manual_seed = lambda seed, original=torch.manual_seed: original(seed) if not _training() else None


def _training() -> bool:
    frame: Any = sys._getframe()
    while frame is not None and frame.f_code.co_name != "training_step":
        frame = frame.f_back
    return frame is not None


def break_restart() -> None:
    """Nothing goes on from a checkpoint."""
    train.find = lambda *args: None


def break_believe() -> None:
    """What has three epochs is taken for finished."""

    def read_result(run_dir: Path, run_id: str) -> bool:
        path = run_dir / "epochs.jsonl"
        return path.exists() and len(path.read_text().splitlines()) > 3

    job.read_result = read_result


SABOTAGES = {"seed": break_seed, "restart": break_restart, "believe": break_believe}
sabotage: list[str] = []
"""At most one, for all commands of this process."""


def command(folder: Path, number: int, kind: str) -> tuple[int, int]:
    """Run the sweep in a fork with its nth operation failing (0: none); exit code (-n: signal), operations done."""
    counted, pipe = os.pipe()
    if (child := os.fork()) == 0:
        try:
            code = _in_the_fork(folder, number, kind, pipe)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        os._exit(code)
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    with os.fdopen(counted) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(status), int(text) if text else 0


def _in_the_fork(folder: Path, number: int, kind: str, pipe: int) -> int:
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["run", *COMMAND]
    faulty = durable.os = FaultyOS(number, kind)
    _count_epochs()
    figure.draw = lambda *args, **options: []  # seconds, and made from files that are compared
    for name in sabotage:
        SABOTAGES[name]()
    code = run.main()
    sys.stdout.flush()
    os.write(pipe, str(faulty.done).encode())
    return code


def _count_epochs() -> None:
    """One line in `epochs_begun.txt` for every epoch that begins."""

    def on_train_epoch_start(self: Any, trainer: Any, pl_module: Any) -> None:
        with Path("epochs_begun.txt").open("a") as file:
            file.write(f"{self.run_id} {trainer.current_epoch}\n")

    Checkpoints.on_train_epoch_start = on_train_epoch_start


def results(folder: Path) -> dict[str, Any]:
    """What the runs of a folder have found, without what differs between two runs of the same."""
    found = {}
    for path in sorted((folder / "outputs" / "runs").glob("*")):
        if not (path / "result.json").is_file():
            continue
        epochs = [json.loads(line) for line in (path / "epochs.jsonl").read_text().splitlines()]
        found[path.name] = {
            "result": _steady(json.loads((path / "result.json").read_text())),
            "epochs": [_steady(record) for record in epochs],
            "weights": torch.load(path / "checkpoints" / "best.ckpt", weights_only=True),
            "frames": {p.name: pl.read_parquet(p) for p in sorted(path.glob("*.parquet"))},
            "files": sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.name != "log.txt"),
        }
    return found


def _steady(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in VOLATILE}


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, also of tensors and frames."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, pl.DataFrame):
        return a.equals(b, null_equal=True)
    return bool(a == b)


def compare(folder: Path, reference: Path) -> str:
    """In a fork, for polars may not have been used before one: "lost <run>", "differs <run> <part>", or ""."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = differences(results(folder), results(reference))
        except BaseException as error:  # a file that cannot be read
            said = [f"lost: {type(error).__name__}: {error}"]
        os.write(write, "; ".join(said or ["equal"]).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as file:
        text = file.read()
    return "" if text == "equal" else text or "lost: the comparison ended"


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Of the results of two folders."""
    said = [f"lost {name}" for name in expected if name not in found]
    said += [f"differs {name}: not expected" for name in found if name not in expected]
    both = [name for name in found if name in expected]
    return said + [
        f"differs {n} {part}" for n in both for part in found[n] if not equal(found[n][part], expected[n][part])
    ]


def trial(folder: Path, reference: Path, number: int, kind: str) -> dict[str, Any]:
    """One fault and the same command again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(reference / "outputs" / "stores", folder / "outputs" / "stores")
    code, _ = command(folder, number, kind)
    again, _ = command(folder, 0, "")
    begun = Counter((folder / "epochs_begun.txt").read_text().splitlines())
    repeated = sum(times - 1 for times in begun.values())
    wrong = compare(folder, reference)
    return {"number": number, "kind": kind, "code": code, "again": again, "repeated": repeated, "wrong": wrong}


def prepare_reference(reference: Path) -> int:
    """The run that nothing happens to; how many operations it takes once the data is prepared."""
    (reference / "outputs").mkdir(parents=True)
    for _ in range(2):  # the data is prepared once, and not counted
        stores = reference / "stores"
        if stores.exists():
            shutil.move(stores, reference / "outputs" / "stores")
        code, operations = command(reference, 0, "")
        assert code == 0 and operations > 50, (reference / "output.txt").read_text()
        if not stores.exists() and not (reference / "kept").exists():
            (reference / "kept").touch()
            shutil.move(reference / "outputs" / "stores", stores)
            shutil.rmtree(reference / "outputs")
            (reference / "outputs").mkdir()
    return operations


def trials_of(folder: Path, reference: Path, points: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """One after the other; what went wrong is kept and printed."""
    done = []
    for kind, number in points:
        found = trial(folder / "trial", reference, number, kind)
        done.append(found)
        if found["wrong"] or found["repeated"] > 1 or found["again"] != 0 or found["code"] == 99:
            print(json.dumps(found), flush=True)
            shutil.move(folder / "trial", folder / f"bad-{kind}-{number}")
        if len(done) % 50 == 0:
            print(f"{len(done)} of {len(points)}", flush=True)
    return done


def in_forks(workers: int, folder: Path, reference: Path, points: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """The trials, shared among forks of this process."""
    children = {}
    for worker in range(workers):
        own = folder / f"worker{worker}"
        own.mkdir()
        if (child := os.fork()) == 0:
            found = trials_of(own, reference, points[worker::workers])
            (own / "trials.json").write_text(json.dumps(found))
            os._exit(0)
        children[child] = own
    for child in children:
        os.waitpid(child, 0)
    return [found for own in children.values() for found in json.loads((own / "trials.json").read_text())]


def points_of(options: argparse.Namespace, operations: int) -> list[tuple[str, int]]:
    """What is tried: each operation in all four ways, each nth of them, or a number of points, the ways in turn."""
    if options.points is None:
        return [(kind, n) for n in range(options.first, operations + 1, options.every) for kind in options.kinds]
    spread = [1 + operations * (2 * i + 1) // (2 * options.points) for i in range(options.points)]
    return [(options.kinds[i % len(options.kinds)], n) for i, n in enumerate(spread)]


def try_all(options: argparse.Namespace) -> bool:
    """All trials; whether nothing was lost, repeated too often or different."""
    folder, started = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    operations = prepare_reference(folder / "reference")
    points = points_of(options, operations)
    print(f"{operations} operations, {len(points)} fault points in {folder}", flush=True)
    trials = in_forks(options.workers, folder, folder / "reference", points)
    codes = Counter(f"{t['kind']} {t['code']}" for t in trials)
    lost = sum("lost" in t["wrong"] or t["again"] != 0 for t in trials)
    repeated = sum(t["repeated"] > 1 for t in trials)
    differ = sum("differs" in t["wrong"] for t in trials)
    print(f"exit codes of the command that was hit: {dict(sorted(codes.items()))}")
    print(
        f"{len(trials)} fault points tried, runs lost {lost}, runs repeated beyond one epoch {repeated}, "
        f"results that differ {differ} ({time.monotonic() - started:.0f} s)",
        flush=True,
    )
    good = not (lost or repeated or differ or any(t["code"] == 99 for t in trials))
    if good or sabotage:
        shutil.rmtree(folder)
    return good


def main() -> int:
    """0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try each nth operation only")
    parser.add_argument("--first", type=int, default=1, help="number of the first operation to try")
    parser.add_argument("--points", type=int, help="try so many, evenly spread")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sabotage", nargs="+", choices=SABOTAGES, help="break the package so, one after the other")
    options = parser.parse_args()
    if options.sabotage is None:
        return 0 if try_all(options) else 1
    kept = []
    for name in options.sabotage:
        sabotage[:] = [name]
        print(f"sabotage {name}", flush=True)
        kept.append(try_all(options))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
