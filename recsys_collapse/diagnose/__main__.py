"""The command: `python -m recsys_collapse.diagnose CHECKPOINT`. `--help` lists what else it takes."""

import argparse
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:  # torch takes a second
    from torch import Tensor

    from recsys_collapse.diagnose.diagnosis import Checkpoint

DESCRIPTION = """\
Show the collapse of embedding tables in a checkpoint: .ckpt, .pt, .safetensors, or the directory of a run.
Nothing in the file is executed. Tables of FuxiCTR, DeepCTR-Torch, TorchRec, RecBole, torchfm (the official code) and of
this project are recognised by their names; --tables names those of anything else.
"""
EXAMPLES = """\
examples:
  python -m recsys_collapse.diagnose model.pt
  python -m recsys_collapse.diagnose model.pt --tables '(?P<field>.+)_table\\.weight'
  python -m recsys_collapse.diagnose official.pt --cardinalities 1461,558,335378
  python -m recsys_collapse.diagnose epoch9.ckpt --against epoch0.ckpt epoch3.ckpt epoch6.ckpt
  python -m recsys_collapse.diagnose --run outputs/runs/RUN            # also: does truncation cost AUC?
  python -m recsys_collapse.diagnose model.pt --score my_package.scoring:score
"""


def parser() -> argparse.ArgumentParser:
    """All options."""
    own = argparse.ArgumentParser(
        "python -m recsys_collapse.diagnose",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("checkpoint", nargs="?", type=Path, help="a file, or the directory of a run of this project")
    own.add_argument("--against", nargs="+", type=Path, default=[], metavar="CHECKPOINT", help="compare with these")
    own.add_argument("--output", type=Path, metavar="FOLDER", help="for the page and the JSON (diagnosis/<name>)")
    find = own.add_argument_group("where the tables are")
    find.add_argument("--tables", metavar="REGEX", help="whole names; groups (?P<field>...), (?P<set>\\d+) if you like")
    find.add_argument(
        "--cardinalities",
        metavar="SIZES",
        help="rows of each field of a table that holds several: 7,40,3, or a JSON file (list or {field: rows}); "
        "whole: measure it as one",
    )
    find.add_argument(
        "--counts",
        type=Path,
        metavar="FILE",
        help="CSV or Parquet with columns field, id, count: only rows that training has seen count",
    )
    find.add_argument("--frequency", action="store_true", help="with --counts: rows count as often as they were seen")
    find.add_argument("--sets", type=int, metavar="M", help="embedding sets side by side in one tensor (1)")
    find.add_argument("--state", metavar="KEY", help="the key of the file that holds the tensors, such as model.net")
    find.add_argument(
        "--skip-objects", action="store_true", help="read a file that holds other objects than tensors, without them"
    )
    cut = own.add_argument_group("does truncation of the tables cost AUC (functional collapse)?")
    cut.add_argument("--run", nargs="+", type=Path, default=[], metavar="RUN", help="runs of this project, to compare")
    cut.add_argument(
        "--score", metavar="MODULE:FUNCTION", help="{name: tensor} -> (scores, labels), for your own model"
    )
    cut.add_argument("--ranks", metavar="R,R", help="0,1,2,4,... up to the number of columns, unless given")
    cut.add_argument("--fields", nargs="*", metavar="FIELD", help="truncate only these alone; none: only all at once")
    cut.add_argument("--rows", type=int, help="of the split of a run, at most (20000)")
    cut.add_argument("--split", choices=["valid", "test"], help="of the runs (valid)")
    cut.add_argument("--tolerance", type=float, help="AUC that may be lost (0.001)")
    cut.add_argument("--store-dir", type=Path, metavar="FOLDER", help="of the runs' prepared data, if it was moved")
    cut.add_argument("--allow", nargs="*", default=[], metavar="PREFIX", help="classes a run may build from as well")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and write the page; 0, or 2 if something cannot be used."""
    words = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _act(options, words)
    except (ValueError, OSError) as error:
        from recsys_collapse.diagnose.terminal import plain

        lines = [plain(line) for line in str(error).splitlines()]  # names in it may be anybody's
        print("recsys_collapse.diagnose:", *lines, sep="\n" if len(lines) > 1 else " ", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def _act(options: argparse.Namespace, words: Sequence[str]) -> None:
    from recsys_collapse.diagnose.diagnosis import Options, check_fields, diagnose, read
    from recsys_collapse.diagnose.fields import read_cardinalities
    from recsys_collapse.diagnose.page import write_page
    from recsys_collapse.diagnose.terminal import shown
    from recsys_collapse.runs.durable import write_json

    _check_options(options)
    sizes = None if options.cardinalities is None else read_cardinalities(options.cardinalities)
    found = Options(options.tables, sizes, options.sets, options.state, options.skip_objects)
    main_path, *others = options.run or [options.checkpoint]
    own = main_path.absolute().resolve()
    folder = options.output or Path("diagnosis") / (own.name if own.is_dir() else main_path.stem)
    checkpoint = read(main_path, found)
    against = [read(path, found) for path in [*options.against, *others]]
    check_fields(checkpoint, against)
    weights = _weights_of_rows(options, [checkpoint, *against])
    is_new = _make_place(folder, checkpoint.path)
    try:
        truncation = _truncation(options, checkpoint)
        with _progress([checkpoint, *against]) as progress:
            diagnosis = diagnose(checkpoint, against, truncation, progress, weights)
        diagnosis["made_by"] = _made_by(words)
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(shown(diagnosis, console.width))
        write_json(folder / "diagnosis.json", diagnosis)
        write_page(diagnosis, folder / "diagnosis.html")
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty: all went well
                folder.rmdir()
    print(f"\npage     {folder / 'diagnosis.html'}\nnumbers  {folder / 'diagnosis.json'}")


def _weights_of_rows(options: argparse.Namespace, checkpoints: Sequence["Checkpoint"]) -> "dict[str, Tensor] | None":
    from recsys_collapse.diagnose.seen import read_seen

    if options.counts is None:
        return None
    rows = {table.name: len(table.rows(one.tensors)) for one in checkpoints for table in one.tables}
    return read_seen(options.counts, rows, options.frequency)


def _check_options(options: argparse.Namespace) -> None:
    """Options that do not go together.

    Raises:
        ValueError: names them.
    """
    if (options.checkpoint is None) == (not options.run):
        raise ValueError("expected a CHECKPOINT, or --run RUN for a run with its truncation curves; see --help")
    if options.run and options.score:
        raise ValueError("--run scores with the model of the run: leave --score out")
    if options.sets is not None and options.sets < 1:
        raise ValueError(f"--sets {options.sets}: expected the number of embedding sets, 1 or more")
    if options.frequency and not options.counts:
        raise ValueError("--frequency: only with --counts, which says how often rows were seen")
    of_truncation = ("fields", "ranks", "rows", "split", "tolerance")
    given = [f"--{name}" for name in of_truncation if getattr(options, name) is not None]
    if given and not (options.run or options.score):
        raise ValueError(f"{', '.join(given)}: only with truncation, which --run or --score asks for")
    if options.score and (options.rows is not None or options.split):
        raise ValueError("--rows, --split: the function of --score chooses its rows: leave them out")


def _truncation(options: argparse.Namespace, checkpoint: "Checkpoint") -> list[dict[str, Any]]:
    """Truncation curves of every run, or of the user's own model; none if neither is given."""
    ranks = None if options.ranks is None else _ranks(options.ranks)
    common: dict[str, Any] = {"ranks": ranks, "alone": options.fields}
    common |= {} if options.tolerance is None else {"tolerance": options.tolerance}
    rows = {name: value for name in ("rows", "split") if (value := getattr(options, name)) is not None}
    found = []
    if options.score:
        from recsys_collapse.diagnose.truncation.of_function import load_score, truncate_tables

        score = load_score(options.score)
        found.append(truncate_tables(checkpoint.tables, checkpoint.tensors, score, checkpoint.label, **common))
    for path in options.run:
        from recsys_collapse.diagnose.truncation.of_run import truncate_run
        from recsys_collapse.load import load_run

        run = load_run(path, options.allow, options.store_dir)
        found.append(truncate_run(run, path.absolute().name, **rows, **common))
    return [asdict(one) for one in found]


def _ranks(words: str) -> list[int]:
    if not words.replace(",", "").isdecimal():
        raise ValueError(f"--ranks {words}: expected integers of 0 or more, such as 0,1,2,4,8")
    return [int(word) for word in words.split(",") if word]


def _make_place(folder: Path, checkpoint: Path) -> bool:
    """Make the folder, before any long work; whether it was not there.

    A diagnosis replaces only an earlier one of the same checkpoint.

    Raises:
        ValueError: there is another one, or something else of that name.
        OSError: nothing can be written there.
    """
    path = folder / "diagnosis.json"
    if path.exists():
        try:
            before = json.loads(path.read_bytes())["checkpoint"]["path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is there, and no diagnosis: choose another folder by --output") from error
        if Path(before) != checkpoint:
            raise ValueError(f"{path}: is that of {before}: choose another folder by --output")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return is_new


@contextmanager
def _progress(checkpoints: Sequence["Checkpoint"]) -> Iterator[Callable[[str, int], None]]:
    """A bar over the rows of all tables, on a terminal only."""
    from recsys_collapse.diagnose.terminal import plain

    total = sum(len(table.rows(one.tensors)) for one in checkpoints for table in one.tables)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task, before = bar.add_task("reading", total=total), 0

        def told(field: str, rows: int) -> None:
            nonlocal before
            bar.update(task, description=plain(field)[:40], advance=before)
            before = rows

        yield told


def _made_by(words: Sequence[str]) -> dict[str, Any]:
    """The command and the versions behind the numbers."""
    import torch

    from recsys_collapse import __version__

    command = ["python -m recsys_collapse.diagnose", *map(shlex.quote, words)]
    return {"command": " ".join(command), "recsys_collapse": __version__, "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())
