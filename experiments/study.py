"""From words to figures: which runs an artefact of the paper needs, what they cost, those that are missing, drawing.

`python -m experiments.<name> [key=value ...]`: words are those of `recsys_collapse.run`, and win over
`conf/experiment/<name>.yaml`. Finished runs are read and not made again. Files go to
`<output_dir>/paper/<dataset>/<name>.*`: figures as PDF, SVG and PNG, the data behind each as CSV, and
`<name>.json` with the claims, from which RESULTS.md is made (`experiments/results.py`).
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import needs
from experiments.found import Runs
from experiments.output import Output
from experiments.words import PLAN_ONLY, Words, arguments, parse, said
from recsys_collapse.launch.plan import Plan, make_plan
from recsys_collapse.launch.status import Status
from recsys_collapse.run import check, guarded, start, tell_failures
from recsys_collapse.runs.durable import remove
from recsys_collapse.runs.records import read_result
from recsys_collapse.runs.table import rebuild

HELP = """{doc}

    python -m experiments.{name} [--plan] [key=value ...]

--config-dir X  a folder with configs of your own, as for recsys_collapse.run
--plan          show which runs are there, which are missing and what they would take, and stop
key=value       as for recsys_collapse.run (dataset=, seed=0,1,2, output_dir=, launch=subprocess, ...); default values
                are those of conf/experiment/{name}.yaml
"""


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
    check: needs.Check = lambda jobs: None
    """Of what its runs must be like, beyond `needs.comparable`."""
    own_scale: bool = False
    """Whether `experiments.paper scale=...` leaves its size as it is."""


def plan_of(artefact: Artefact, words: Words) -> Plan:
    """All runs that an artefact needs.

    Raises:
        ValueError: a word is wrong.
    """
    default = {"group": artefact.name}
    plans = [
        make_plan(["-m", f"experiment={artefact.name}", *arguments({**default, **grid})])
        for grid in artefact.grids(words)
    ]
    plan = union([plan for plan in plans if plan is not None])
    needs.comparable(plan.jobs)
    artefact.check(plan.jobs)
    return plan


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


def draw(artefact: Artefact, plan: Plan, words: Words) -> Output:
    """Draw an artefact from finished runs, and write what was found."""
    runs = runs_of(plan)
    output = Output(folder_of(plan), artefact.name)
    remove(output.path)  # an older one does not belong to the figures of this one
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
