"""The command: `python -m recsys_collapse.diagnose CHECKPOINT`. `--help` lists what else it takes."""

import argparse
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from recsys_collapse.diagnose.options import check_options, parser, read_ranks

if TYPE_CHECKING:  # torch takes a second
    from torch import Tensor

    from recsys_collapse.diagnose.diagnosis import Checkpoint


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
    from recsys_collapse.dataset.progress import progress_bar, wants_bar
    from recsys_collapse.diagnose.diagnosis import Options, check_fields, diagnose, read
    from recsys_collapse.diagnose.fields import read_cardinalities
    from recsys_collapse.diagnose.page import write_page
    from recsys_collapse.diagnose.terminal import shown
    from recsys_collapse.runs.durable import write_json

    check_options(options)
    ranks = None if options.ranks is None else read_ranks(options.ranks)
    sizes = None if options.cardinalities is None else read_cardinalities(options.cardinalities)
    found = Options(options.tables, sizes, options.sets, options.state, options.skip_objects)
    main_path, *others = options.run or [options.checkpoint]
    own = main_path.absolute().resolve()
    folder = options.output or Path("diagnosis") / (own.name if own.is_dir() else main_path.stem)
    checkpoint = read(main_path, found)
    against = [read(path, found) for path in [*options.against, *others]]
    check_fields(checkpoint, against, options.fields or [])
    weights = _weights_of_rows(options, [checkpoint, *against])
    new_folders = _make_place(folder, checkpoint.path)
    try:
        truncation = _truncation(options, ranks, checkpoint)
        with progress_bar(wants_bar(None)) as progress:
            diagnosis = diagnose(checkpoint, against, truncation, progress, weights)
        diagnosis["made_by"] = _made_by(words)
        write_json(folder / "diagnosis.json", diagnosis)
        write_page(diagnosis, folder / "diagnosis.html")
    finally:
        for made in new_folders:
            with suppress(OSError):  # it is not empty: all went well
                made.rmdir()
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(shown(diagnosis, console.width))
    print(f"\npage     {folder / 'diagnosis.html'}\nnumbers  {folder / 'diagnosis.json'}")


def _weights_of_rows(options: argparse.Namespace, checkpoints: Sequence["Checkpoint"]) -> "dict[str, Tensor] | None":
    from recsys_collapse.diagnose.seen import read_seen

    if options.counts is None:
        return None
    rows: dict[str, int] = {}
    for one in checkpoints:
        for table in one.tables:
            size = len(table.rows(one.tensors))
            if rows.setdefault(table.name, size) != size:
                raise ValueError(
                    f"--counts: field {table.name} has {size:,} rows in {one.path} and {rows[table.name]:,} in another "
                    "checkpoint: counts are of the ids of one vocabulary; diagnose them one by one"
                )
    return read_seen(options.counts, rows, options.frequency)


def _truncation(options: argparse.Namespace, ranks: list[int] | None, checkpoint: "Checkpoint") -> list[dict[str, Any]]:
    """Truncation curves of every run, or of the user's own model; none if neither is given."""
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


def _make_place(folder: Path, checkpoint: Path) -> list[Path]:
    """Make the folder, before any long work; what was not there yet, innermost first.

    A diagnosis replaces only an earlier one of the same checkpoint.

    Raises:
        ValueError: there is another one, or something else of that name.
        OSError: nothing can be written there.
    """
    path = folder / "diagnosis.json"
    if path.exists():
        try:
            before = Path(json.loads(path.read_bytes())["checkpoint"]["path"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is there, and no diagnosis: choose another folder by --output") from error
        if before != checkpoint:
            raise ValueError(f"{path}: is that of {before}: choose another folder by --output")
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return new


def _made_by(words: Sequence[str]) -> dict[str, Any]:
    """The command and the versions behind the numbers."""
    import torch

    from recsys_collapse import __version__

    command = ["python -m recsys_collapse.diagnose", *map(shlex.quote, words)]
    return {"command": " ".join(command), "recsys_collapse": __version__, "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())
