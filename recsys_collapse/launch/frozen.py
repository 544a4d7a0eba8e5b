"""A plan that later edits do not change: `plan-<checksum>.json` with every job's resolved config; a copy of the code.

Both lie in the sweep's folder; a second sweep of the same name disturbs no job of the first. Jobs in processes of their
own read the one and import the other, which is there until the last of them has ended.
"""

import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import Config, config_dir, plain
from recsys_collapse.launch.plan import Job, Plan
from recsys_collapse.launch.signals import Interrupted
from recsys_collapse.runs.durable import DamagedError, quarantine, read_sealed, seal, write_json, write_text
from recsys_collapse.runs.secrets import scrub_tree
from recsys_collapse.runs.version import FROZEN, PACKAGE, code_version, own_package, source_files
from recsys_collapse.trust import check_trusted, foreign

SCHEMA = 1


@dataclass(frozen=True)
class Frozen:
    """Where a frozen plan lies, and what else a job's process is told."""

    plan: Path
    code: Path
    allow: tuple[str, ...]
    """Prefixes of classes that the plan may name beside those of this package: from the command, not from the file."""


def freeze(plan: Plan) -> Path:
    """Write the plan; one of the same name that is not what it should be is set aside."""
    jobs = {job.name: {"run_id": job.run_id, "config": scrub_tree(plain(job.config))} for job in plan.jobs}
    content = {"schema": SCHEMA, "sweep": plan.sweep, "code_version": code_version(), "jobs": jobs}
    sealed = seal(json.loads(json.dumps(content)))
    path = plan.folder / f"plan-{sealed['checksum']}.json"
    if path.exists():
        try:
            if read_sealed(path) == sealed:
                return path
            raise DamagedError(f"{path}: is not this plan")
        except (DamagedError, OSError) as error:
            quarantine(path, error)
    write_json(path, sealed)
    return path


@contextmanager
def frozen(plan: Plan, elsewhere: bool) -> Iterator[Frozen]:
    """Plan and code for jobs in processes of their own; the copy of the code goes when they have ended.

    `elsewhere`: jobs may outlive an interruption, in the queue of a cluster; their code then stays.
    """
    path, code = freeze(plan), _copy_code(plan)
    ended = True
    try:
        yield Frozen(
            path, code, tuple(sorted({*plan.config.allow, *(n for j in plan.jobs for n in foreign(j.config))}))
        )
    except Interrupted:
        ended = not elsewhere
        raise
    finally:
        if ended:
            shutil.rmtree(code, ignore_errors=True)


def load_job(path: Path, name: str, allow: Sequence[str]) -> Job:
    """A job of a frozen plan.

    Raises:
        ValueError: the plan has no such job, another format, or names a class that is not in `allow`.
        DamagedError: it is not what was written.
        OSError: it cannot be read.
    """
    content = read_sealed(path)
    if content["checksum"] not in path.name:
        raise DamagedError(f"{path}: is not the plan of that name")
    if content.get("schema") != SCHEMA or name not in content["jobs"]:
        raise ValueError(f"{path}: no job {name} in it, or not of schema {SCHEMA}: run the command again")
    found = content["jobs"][name]
    check_trusted(found["config"], allow, str(path))
    config = OmegaConf.merge(OmegaConf.structured(Config), found["config"])
    assert isinstance(config, DictConfig)
    OmegaConf.resolve(config)
    return Job(config, found["run_id"], Path(config.output_dir) / "runs" / name)


def targets(node: Any) -> list[str]:
    """Every `_target_` of a config."""
    if isinstance(node, dict):
        own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        return own + [target for value in node.values() for target in targets(value)]
    return [target for value in node for target in targets(value)] if isinstance(node, list) else []


def own_code(config: Any) -> dict[str, str]:
    """The user's own packages that classes of a config come from, each with a hash of its sources."""
    found = {
        name: own_package(name) for name in sorted({target.partition(".")[0] for target in targets(plain(config))})
    }
    return {name: package[1] for name, package in found.items() if package is not None}


def _copy_code(plan: Plan) -> Path:
    """A copy of this package and of the user's own, as they are now, in a new folder: what was there is not believed.

    Raises:
        OSError: the disk is full, for example; then nothing is left.
    """
    names = sorted({name for job in plan.jobs for name in own_code(job.config)})
    packages = [PACKAGE, *(package[0] for package in map(own_package, names) if package is not None)]
    code = plan.folder / f"code-{secrets.token_hex(8)}"
    try:
        for source in packages:
            for path in source_files(source):
                _copy(path, code / source.name / path.relative_to(source) if source.is_dir() else code / source.name)
        for path in config_dir().rglob("*.yaml"):  # runs say what differs from it
            _copy(path, code / "conf" / path.relative_to(config_dir()))
        write_text(code / FROZEN, code_version())
    except BaseException:
        shutil.rmtree(code, ignore_errors=True)
        raise
    return code


def _copy(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)


def command(frozen: Frozen, name: str) -> list[str]:
    """The command of a process that runs one job of a frozen plan with the frozen code."""
    start = (
        "import sys; sys.path.insert(0, sys.argv[1]); from recsys_collapse.launch.child import main; sys.exit(main())"
    )
    return [sys.executable, "-c", start, str(frozen.code.resolve()), str(frozen.plan), name, *frozen.allow]
