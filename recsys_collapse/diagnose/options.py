"""The options of the command, and which of them go together."""

import argparse
from pathlib import Path

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


def check_options(options: argparse.Namespace) -> None:
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
    if (options.allow or options.store_dir) and not options.run:
        raise ValueError("--allow, --store-dir: only with --run")
    if options.tolerance is not None and not options.tolerance >= 0:
        raise ValueError(f"--tolerance {options.tolerance}: expected an AUC difference of 0 or more, such as 0.001")
    if options.rows is not None and options.rows < 1:
        raise ValueError(f"--rows {options.rows}: expected how many rows to score, 1 or more")
    if options.score and (options.rows is not None or options.split):
        raise ValueError("--rows, --split: the function of --score chooses its rows: leave them out")


def read_ranks(words: str) -> list[int]:
    """Ranks as `--ranks` gives them.

    Raises:
        ValueError: no such numbers.
    """
    if not words.replace(",", "").isdecimal():
        raise ValueError(f"--ranks {words}: expected integers of 0 or more, such as 0,1,2,4,8")
    return [int(word) for word in words.split(",") if word]
