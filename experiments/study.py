"""From words to figures: which runs an artefact of the paper needs, what they cost, those that are missing, drawing.

`python -m experiments.<name> [key=value ...]`: words are those of `recsys_collapse.run`, and win over
`conf/experiment/<name>.yaml`. Finished runs are read and not made again. Files go to
`<output_dir>/paper/<dataset>/<name>.*`: figures as PDF, SVG and PNG, the data behind each as CSV, and
`<name>.json` with the claims, from which RESULTS.md is made (`experiments/results.py`).
"""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.claims import Claim, claim_table, decided
from experiments.drawing import save, save_data
from experiments.found import Runs
from recsys_collapse.launch.plan import Plan, make_plan
from recsys_collapse.launch.status import Status
from recsys_collapse.run import check, guarded, start, tell_failures
from recsys_collapse.runs.durable import write_json
from recsys_collapse.runs.records import read_result
from recsys_collapse.runs.table import rebuild
from recsys_collapse.runs.version import code_version

Words = dict[str, str]
PLAN_ONLY = "--plan"
HELP = """{doc}

    python -m experiments.{name} [--plan] [key=value ...]

--plan          show which runs are there, which are missing and what they would take, and stop
key=value       as for recsys_collapse.run (dataset=, seed=0,1,2, output_dir=, launch=subprocess, ...); default values
                are those of conf/experiment/{name}.yaml
"""


@dataclass
class Output:
    """Where an artefact leaves what it found."""

    folder: Path
    artefact: str
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences for RESULTS.md."""
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else 150))

    def figure(self, figure: Any, data: pl.DataFrame, name: str = "") -> None:
        """Keep a figure and the data behind it; `name`, if not that of the artefact."""
        paths = save(figure, data, self.folder, name or self.artefact)
        self.figures.append(name or self.artefact)
        self.console.print(f"figure   {paths[0].with_suffix('')}.pdf .svg .png .csv", highlight=False, soft_wrap=True)

    def table(self, table: Table, data: pl.DataFrame, name: str = "") -> None:
        """Print a table, and keep its data."""
        path = save_data(data, self.folder, name or self.artefact)
        self.tables.append(name or self.artefact)
        self.console.print(table)
        self.console.print(f"table    {path}", highlight=False, soft_wrap=True)

    def data(self, data: pl.DataFrame, name: str) -> None:
        """Keep more data behind the artefact's figure."""
        save_data(data, self.folder, name)

    def claim(self, claims: Sequence[Claim]) -> None:
        """Decide claims that belong together, and keep them."""
        self.claims += [replace(claim, artefact=self.artefact) for claim in decided(claims)]

    def write(self, **about: Any) -> None:
        """Print the verdicts, and write `<name>.json`."""
        if self.claims:
            self.console.print(claim_table(self.claims, title=self.artefact))
        for note in self.notes:
            self.console.print(note, highlight=False)
        content = {
            "artefact": self.artefact,
            "figures": self.figures,
            "tables": self.tables,
            "notes": self.notes,
            "claims": [claim.row() for claim in self.claims],
            "code_version": code_version(),
            **about,
        }
        write_json(self.folder / f"{self.artefact}.json", content)


@dataclass(frozen=True)
class Artefact:
    """A figure or table of the paper that is made from runs."""

    name: str
    """Of the script, and of `conf/experiment/<name>.yaml`."""
    draw: Callable[[Runs, Output], None]
    grids: Callable[[Words], list[Words]] = lambda words: [words]
    """From the user's words to those of every grid of runs."""
    any_model: bool = False
    """Whether `experiments.paper model=...` chooses its models; the others are about DCNv2, FFM or DNN."""
    own_scale: bool = False
    """Whether `experiments.paper scale=...` leaves its size as it is."""


def enlarged(words: Words) -> list[Words]:
    """One grid, at the largest of the scales that the user gives."""
    if "scale" not in words:
        return [words]
    return [{**words, "scale": str(max(numbers(words["scale"])))}]


def numbers(text: str) -> list[int]:
    """`1,2,4` as integers.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"scale={text}: expected integers such as scale=1,2,4,10") from None


def parse(argv: Sequence[str]) -> Words:
    """The words of a command line by key.

    Raises:
        ValueError: a word is no `key=value`, or a key is there twice.
    """
    words: Words = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or word.startswith("-"):
            raise ValueError(f"{word}: expected key=value, as for recsys_collapse.run, or {PLAN_ONLY}")
        if key in words:
            raise ValueError(f"{key}= is given twice")
        words[key] = value
    return words


def plan_of(artefact: Artefact, words: Words) -> Plan:
    """All runs that an artefact needs.

    Raises:
        ValueError: a word is wrong.
    """
    default = {"group": artefact.name}
    plans = [
        make_plan(["-m", f"experiment={artefact.name}", *(f"{k}={v}" for k, v in {**default, **grid}.items())])
        for grid in artefact.grids(words)
    ]
    return union([plan for plan in plans if plan is not None])


def union(plans: Sequence[Plan]) -> Plan:
    """One plan with every run once."""
    jobs = {job.name: job for plan in plans for job in plan.jobs}
    return replace(plans[0], jobs=list(jobs.values()), cells=sum(plan.cells for plan in plans))


def run_missing(plan: Plan, only_plan: bool) -> bool:
    """Price the plan, start what is missing; whether all runs are there.

    Raises:
        ValueError: something cannot be run as given, or does not fit into memory.
    """
    from experiments.price import price, show_price

    missing = check(plan)
    if missing:
        show_price(price(plan, missing))
    else:
        print(f"all {len(plan.jobs)} runs are there", flush=True)
    if missing and not only_plan:
        status = Status(len(plan.jobs), len(plan.jobs) - len(missing), plan.folder / "status.json")
        start(plan, missing, status)
        rebuild(plan.output_dir, plan.config.file_locks)
    return not only_plan and tell_failures(plan.jobs) == 0


def runs_of(plan: Plan) -> Runs:
    """The finished runs of a plan."""
    found = [read_result(job.run_dir, job.run_id) for job in plan.jobs]
    return Runs(plan.output_dir, tuple(result for result in found if result is not None))


def folder_of(plan: Plan) -> Path:
    """Where the files of a plan's artefacts go."""
    return plan.output_dir / "paper" / plan.config.dataset.name


def said(name: str, words: Mapping[str, str]) -> str:
    """The command line, without the folders of the machine it ran on."""
    local = {
        key: Path(value).name if key.startswith("dataset.") and "/" in value else value for key, value in words.items()
    }
    shown = [f"{key}={value}" for key, value in local.items() if key not in ("output_dir", "store_dir")]
    return shlex.join(["python", "-m", f"experiments.{name}", *(w for w in shown if not w.startswith("launch"))])


def draw(artefact: Artefact, plan: Plan, words: Words) -> Output:
    """Draw an artefact from finished runs, and write what was found."""
    runs = runs_of(plan)
    output = Output(folder_of(plan), artefact.name)
    artefact.draw(runs, output)
    output.write(
        command=said(artefact.name, words),
        dataset=runs.dataset,
        data_fingerprint=runs.results[0]["data_fingerprint"],
        seeds=sorted({run["seed"] for run in runs}),
        runs=sorted(run["run_name"] for run in runs),
        run_versions=sorted({run["code_version"] for run in runs}),
    )
    return output


def main(artefact: Artefact, doc: str) -> int:
    """The command of one artefact; its exit code."""
    argv = sys.argv[1:]
    if {"-h", "--help"} & {*argv}:
        print(HELP.format(doc=doc.strip(), name=artefact.name))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def work() -> int:
        words = parse([word for word in argv if word != PLAN_ONLY])
        plan = plan_of(artefact, words)
        complete = run_missing(plan, PLAN_ONLY in argv)
        if PLAN_ONLY in argv:
            return 0
        if not complete:
            print(f"{artefact.name} is not drawn: it needs all its runs", file=sys.stderr)
            return 1
        draw(artefact, plan, words)
        return 0

    return guarded(f"experiments.{artefact.name}", work)
