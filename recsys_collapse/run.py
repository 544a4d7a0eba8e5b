"""The command: `python -m recsys_collapse.run [-m] group=option key=value ...`.

Plans and checks every job, lets Hydra run them one by one, then shows the table and the figure of the sweep.
Finished runs are skipped; running the same command again does what is missing.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import config_dir, register
from recsys_collapse.launch.plan import Job, Plan, make_plan, plan_job
from recsys_collapse.runs.durable import exclusive
from recsys_collapse.runs.records import read_failure, read_result, write_failure

log = logging.getLogger(__name__)
register()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def run_jobs(config: DictConfig) -> float | None:
    """One job: its validation AUC, or None if it failed. A failure is recorded and does not end the sweep."""
    try:
        job = plan_job(config)
        with exclusive(job.run_dir / ".lock", f"runs {job.name}", enabled=config.file_locks):
            return run_job(job)
    except (ValueError, TimeoutError) as error:  # the plan was sound: a file changed since, or the run is locked
        log.error(f"cannot start: {error}")
        return None


def run_job(job: Job) -> float | None:
    """One job that nobody else works on; whatever it fails for is recorded."""
    if result := read_result(job.run_dir, job.run_id):
        log.info(f"{job.name}: finished before, skipped")
        if missing := not_measured(job):
            log.warning(f"{job.name}: not measured then: {', '.join(missing)}; remove {job.run_dir} to run it again")
        return result["val_auc"]
    log.info(f"{job.name}: starts")
    try:
        from recsys_collapse.train import train  # torch and Lightning take seconds: only when something is trained

        result = train(job)
    except Exception as error:  # any reason a job can fail for: the sweep's other jobs are none of its business
        write_failure(job.run_dir, error)
        log.error(f"{job.name}: failed: {error}")
        return None
    test_auc = "none" if result["test_auc"] is None else f"{result['test_auc']:.5f}"
    log.info(f"{job.name}: finished, test AUC {test_auc}, {result['wall_seconds']:.1f} s")
    return result["val_auc"]


def not_measured(job: Job) -> list[str]:
    """Callbacks of a finished run's job with which it was not run then, or not with these options."""
    path = job.run_dir / "config.yaml"
    then: Any = OmegaConf.load(path) if path.is_file() else {}
    measured = then.get("callback") or {}
    return [f"callback.{name}" for name, node in job.config.callback.items() if measured.get(name) != node]


def main() -> int:
    """Run the command line; 0 if every job is finished, 1 if one failed, 2 if the command is wrong."""
    # Before torch is loaded: threads that wait by spinning make training several times slower as soon as anything else
    # runs on the machine, such as a second job of the sweep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        plan = make_plan(sys.argv[1:])
        if plan is not None:
            missing = [job for job in plan.jobs if read_result(job.run_dir, job.run_id) is None]
            check_callbacks([job for job in plan.jobs if job in missing or not_measured(job)])
            check_targets(missing)
            print(f"{plan.sweep}: {len(plan.jobs)} runs, {len(plan.jobs) - len(missing)} finished before")
    except ValueError as error:
        print(f"recsys_collapse.run: {error}", file=sys.stderr)
        return 2
    if plan is None:
        run_jobs()
        return 0
    add_override(sys.argv, f"sweep='{plan.sweep}'")
    try:
        run_jobs()
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into SystemExit(1)
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            return conclude(plan) or 1  # Hydra has printed what went wrong
        print("\nStopped. Finished runs are kept; the same command runs the others from their start.", file=sys.stderr)
        return 130
    return conclude(plan)


def add_override(argv: list[str], override: str) -> None:
    """Put an override beside the others: argparse does not take a second block of them behind an option."""
    last = max(
        (i for i, word in enumerate(argv) if i and "=" in word and not word.startswith("-")), default=len(argv) - 1
    )
    argv.insert(last + 1, override)


def check_callbacks(jobs: list[Job]) -> None:
    """Check the options of callbacks, those of finished runs too: what they ask for may not be there.

    Raises:
        ValueError: names the config key.
    """
    if not jobs:
        return
    from recsys_collapse.build import build, check

    for name, node in {(name, str(node)): node for job in jobs for name, node in job.config.callback.items()}.items():
        own = str(node.get("_target_") if isinstance(node, DictConfig) else "").startswith("recsys_collapse.")
        (build if own else check)(node, f"callback.{name[0]}")


def check_targets(jobs: list[Job]) -> None:
    """Check the options of everything that will be built, before the first job starts.

    Raises:
        ValueError: names the config key.
    """
    if not jobs:
        return
    from recsys_collapse.build import build, check
    from recsys_collapse.cost import flops_per_sample, outline  # torch takes seconds
    from recsys_collapse.optimizer.trial import trial_step

    for config in {str(job.config.optimizer): job.config for job in jobs}.values():
        check(config.optimizer, "optimizer")
        trial_step(build(config.optimizer, "optimizer"), config.optimizer.get("sparse_gradients", False))
    parts = ("model", "embed", "regularizer")
    different = {str([job.config[part] for part in parts]): job.config for job in jobs}
    for config in different.values():
        name = config.model.name
        try:
            backbone = outline(config, [2, 3, 4])  # some fields: what is asked is only whether its options fit together
            flops_per_sample(backbone)  # a forward pass of shapes
        except Exception as error:  # whatever a user's backbone raises
            raise ValueError(f"model.backbone ({name}) cannot be built: {error}") from error
        if str(config.regularizer.get("_target_")).startswith("recsys_collapse."):
            build(config.regularizer, "regularizer", backbone=backbone)
        elif "_target_" in config.regularizer:  # a user's may need the fields as they are
            check(config.regularizer, "regularizer", "backbone")


def conclude(plan: Plan) -> int:
    """Rebuild the results table, show the sweep's table, figure and failures; the exit code."""
    from recsys_collapse.runs import fields, figure, table
    from recsys_collapse.runs.durable import write_json

    table.rebuild(plan.output_dir)
    found = [(job, read_result(job.run_dir, job.run_id)) for job in plan.jobs]
    results = [result for _, result in found if result is not None]
    folder = plan.output_dir / "sweeps" / plan.sweep
    if results:
        table.show(table.sweep_table(results, title=plan.sweep), folder / "table.txt")
        field_paths = fields.show_fields(results, plan.output_dir, folder)
        paths = figure.draw(results, plan.output_dir, folder / "auc_and_spectra")
        print(f"results  {plan.output_dir / 'results.csv'}")
        if len(field_paths) > 1:  # the first is the frame from which the tables are made
            print(f"fields   {folder / 'fields*.txt'} {field_paths[0]}")
        print(f"figure   {' '.join(str(path) for path in paths)}")
    write_json(folder / "runs.json", [job.name for job, _ in found])
    failed = [job for job, result in found if result is None]
    for job in failed:
        failure = read_failure(job.run_dir)
        reason = failure["reason"] if failure else "not finished"
        print(f"failed   {job.name}: {reason}\n         {Path(job.run_dir) / 'failure.json'}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(found)} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
