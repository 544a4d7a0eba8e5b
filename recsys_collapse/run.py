"""The command: `python -m recsys_collapse.run [-m] group=option key=value ...`.

Plans and checks every job, starts them as `launch=` says, then shows the table and the figure of the sweep.
Finished runs are skipped; running the same command again does what is missing.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from recsys_collapse.config import config_dir, register
from recsys_collapse.launch import in_process
from recsys_collapse.launch.check import check_callbacks, check_data, check_devices, check_targets, not_measured
from recsys_collapse.launch.compose import show_help
from recsys_collapse.launch.job import DISK_FULL, EXIT
from recsys_collapse.launch.plan import Job, Plan, differences_of, make_plan
from recsys_collapse.launch.signals import Interrupted, end_on_signals
from recsys_collapse.launch.status import Status
from recsys_collapse.runs.records import kind_of, read_failure, read_result, tidy
from recsys_collapse.runs.secrets import scrub

log = logging.getLogger(__name__)
register()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def main() -> int:
    """Run the command line; its exit code (`guarded`)."""
    return guarded("recsys_collapse.run", lambda: command(sys.argv[1:]))


def command(argv: list[str]) -> int:
    """Run a command line without the program's name; see `guarded` for what it raises."""
    gc.disable()  # configs and modules are many objects and no garbage: to look for it takes a tenth of the time
    try:
        plan = make_plan(argv)
        if plan is None:
            if not show_help("run", argv):
                answer()
            return 0
        missing = check(plan)
    finally:
        gc.enable()
    return run_plan(plan, missing)


def guarded(name: str, work: Callable[[], int]) -> int:
    """Do the work of a command that runs jobs, and tell the user in words if it cannot be done.

    Returns 0 if every job is finished, 1 if one failed, 2 if the command is wrong, 75 if the disk is full, 128 + n if
    it was ended by signal n.
    """
    # Before torch is loaded: threads that wait by spinning make training several times slower as soon as anything else
    # runs on the machine, such as a second job of the sweep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    end_on_signals()
    try:
        return work()
    except ValueError as error:
        print(scrub(f"{name}: {error}"), file=sys.stderr)
        return 2
    except OSError as error:  # the sweep's own files; those of runs are their jobs' failures
        print(scrub(f"{name}: {error}"), file=sys.stderr)
        return EXIT[DISK_FULL] if kind_of(error) == "disk_full" else 1
    except Interrupted as stop:
        said = "Finished runs are kept, the others go on from their last epoch: run the same command again."
        print(f"\nStopped. {said}", file=sys.stderr)
        return int(str(stop.code))


def check(plan: Plan) -> list[Job]:
    """Check what can be checked before the first job starts; the jobs that are not finished yet.

    Raises:
        ValueError: names the config key, or the file and line of the data.
    """
    missing = [job for job in plan.jobs if read_result(job.run_dir, job.run_id) is None]
    check_callbacks([job for job in plan.jobs if job in missing or not_measured(job)])
    if plan.hydra.launcher._target_.endswith("BasicLauncher"):  # elsewhere there may be others
        check_devices(missing)
    check_targets(missing)
    check_data(missing)
    return missing


def run_plan(plan: Plan, missing: list[Job]) -> int:
    """Start the jobs that are missing, and show how the sweep stands after them; the exit code."""
    configure_log(plan.hydra.job_logging, plan.hydra.verbose)
    shared = f" ({plan.cells} cells of the grid)" if plan.cells > len(plan.jobs) else ""
    print(f"{plan.sweep}: {len(plan.jobs)} runs{shared}, {len(plan.jobs) - len(missing)} finished before", flush=True)
    for job in plan.jobs:
        if job not in missing and (unmeasured := not_measured(job)):
            names = ", ".join(unmeasured)
            log.warning(f"{job.name}: not measured then: {names}; remove {job.run_dir} to run it again")
    for job in plan.jobs:
        if job not in missing:
            tidy(job.run_dir)  # it may have ended between its result and that
    status = Status(len(plan.jobs), len(plan.jobs) - len(missing), plan.folder / "status.json")
    if missing:
        from recsys_collapse.runs import fields, figure, table, truth  # noqa: F401 (later they may have been edited)

        start(plan, missing, status)
    code = conclude(plan)
    return EXIT[DISK_FULL] if status.disk_full else code


def start(plan: Plan, jobs: list[Job], status: Status) -> None:
    """The jobs, by the launcher of `launch=` or of `hydra/launcher=`."""
    from recsys_collapse.launch.frozen import freeze, frozen

    options = plan.config.launch
    if not plan.hydra.launcher._target_.endswith("BasicLauncher"):
        from recsys_collapse.launch import plugin

        with frozen(plan, elsewhere=True) as copy:
            plugin.launch(jobs, status, copy, plan.hydra, plan.folder, options)
    elif options.name == "in_process":
        freeze(plan)
        in_process.launch(jobs, status)
    else:
        from recsys_collapse.launch import subprocess

        slots = subprocess.make_slots(options, plan.config.trainer.accelerator)
        with frozen(plan, elsewhere=False) as copy:
            subprocess.launch(jobs, status, copy, slots, options)


def conclude(plan: Plan) -> int:
    """Rebuild the results table, show the sweep's table, figure and failures; the exit code."""
    from recsys_collapse.runs import shown
    from recsys_collapse.runs.durable import write_json

    found = [(job, read_result(job.run_dir, job.run_id)) for job in plan.jobs]
    results = [result for _, result in found if result is not None]
    kept = plan.folder / shown.KEPT
    try:
        sources = shown.sources([result["run_name"] for result in results], plan.output_dir)
    except OSError:  # a file that cannot be read, or that another sweep has just replaced: made anew, not kept
        sources = None
    if sources is None or not shown.show_again(kept, sources, plan.output_dir):
        from recsys_collapse.runs import table

        complete = table.rebuild(plan.output_dir, plan.config.file_locks)
        if results:
            with shown.listening() as said:
                made = show(plan, results)
            if complete and sources is not None:  # else it is to be said again what is left out
                shown.keep(kept, sources, said.text, made, plan.output_dir)
    write_json(plan.folder / "runs.json", [job.name for job, _ in found])
    return 1 if tell_failures(plan.jobs) else 0


def show(plan: Plan, results: list[dict[str, Any]]) -> list[Path]:
    """Print the tables of finished runs, draw their figure; the files made, and those of all results."""
    from recsys_collapse.runs import fields, figure, table, truth

    folder, all_results = plan.folder, [plan.output_dir / f"results.{kind}" for kind in ("csv", "parquet")]
    table.show(table.sweep_table(results, title=plan.sweep), folder / "table.txt")
    field_paths = fields.show_fields(results, plan.output_dir, folder)
    truth_paths = truth.show_truth(results, folder)
    figure_paths = figure.draw(results, plan.output_dir, folder / "auc_and_spectra")
    print(f"results  {all_results[0]}")
    if len(field_paths) > 1:  # the first is the frame from which the tables are made
        print(f"fields   {folder / 'fields*.txt'} {field_paths[0]}")
    if truth_paths:
        print(f"truth    {' '.join(map(str, truth_paths))}")
    print(f"figure   {' '.join(str(path) for path in figure_paths)}")
    for name, versions in made_by(results).items():
        if len(versions) > 1:
            print(f"code     these runs were made by {len(versions)} versions of {name}: {', '.join(sorted(versions))}")
    return [folder / "table.txt", *field_paths, *truth_paths, *figure_paths, *all_results]


def tell_failures(jobs: list[Job]) -> int:
    """Print which of these jobs are not finished, and why; how many."""
    failed = [job for job in jobs if read_result(job.run_dir, job.run_id) is None]
    which = differences_of(jobs)
    for job in failed:
        failure, job_log = read_failure(job.run_dir), job.run_dir / "log.txt"
        reason = failure["reason"] if failure else "not finished" if job_log.exists() else "not started"
        where = f"\n         {job_log}" if job_log.exists() else ""
        print(f"failed   {job.name}{which[job.name]}: {reason}{where}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", file=sys.stderr)
    return len(failed)


def made_by(results: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The versions of this package, and of every package of the user's, that results came from."""
    found: dict[str, set[str]] = {}
    for attempt in [attempt for result in results for attempt in result.get("attempts", [result])]:
        for name, version in {"recsys_collapse": attempt["code_version"], **attempt.get("own_code", {})}.items():
            found.setdefault(name, set()).add(version)
    return found


if __name__ == "__main__":
    sys.exit(main())
