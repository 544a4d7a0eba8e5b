"""A plan that later edits do not change: `plan-<hash>.json` with every job's resolved config, and a copy of the code.

Both lie in the sweep's folder and are named by their content, so that a second sweep of the same name disturbs no job
of the first. Jobs in processes of their own read the one and import the other.
"""

import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import Config, config_dir, plain
from recsys_collapse.launch.plan import Job, Plan
from recsys_collapse.runs.durable import read_sealed, seal, sync, write_json, write_text
from recsys_collapse.runs.secrets import scrub_tree
from recsys_collapse.runs.version import FROZEN, PACKAGE, code_version, own_package, source_hash
from recsys_collapse.trust import check_trusted, foreign

SCHEMA = 1


@dataclass(frozen=True)
class Frozen:
    """Where a frozen plan lies, and what else a job's process is told."""

    plan: Path
    code: Path
    allow: tuple[str, ...]
    """Prefixes of classes that the plan may name beside those of this package: from the command, not from the file."""


def freeze(plan: Plan, code: bool = True) -> Frozen:
    """Write the plan and, for jobs in processes of their own, copy the code that would run it now."""
    folder = plan.folder
    jobs = {job.name: {"run_id": job.run_id, "config": scrub_tree(plain(job.config))} for job in plan.jobs}
    content = {"schema": SCHEMA, "sweep": plan.sweep, "code_version": code_version(), "jobs": jobs}
    sealed = seal(json.loads(json.dumps(content)))
    path = folder / f"plan-{sealed['checksum'][:8]}.json"
    if not path.exists():
        write_json(path, sealed)
    own = sorted({name for job in plan.jobs for name in own_code(job.config)})
    packages = [package[0] for package in map(own_package, own) if package is not None]
    allow = {name for job in plan.jobs for name in foreign(job.config)}
    copy = _copy_code(folder, [PACKAGE, *packages]) if code else PACKAGE.parent
    return Frozen(path, copy, tuple(sorted(allow | set(plan.config.allow))))


def load_job(path: Path, name: str, allow: Sequence[str]) -> Job:
    """A job of a frozen plan.

    Raises:
        ValueError: the plan has no such job, another format, or names a class that is not in `allow`.
        DamagedError: it is not what was written.
        OSError: it cannot be read.
    """
    content = read_sealed(path)
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


def _copy_code(folder: Path, packages: list[Path]) -> Path:
    """A copy of Python packages (folders) and modules (files), as they are now."""
    digest = hashlib.sha256(code_version().encode())
    for package in packages:
        digest.update(source_hash(package, "*").encode())
    digest.update(source_hash(config_dir(), "*.yaml").encode())
    code = folder / f"code-{digest.hexdigest()[:8]}"
    if code.exists():
        return code
    unfinished = folder / f".{code.name}-{secrets.token_hex(4)}"
    shutil.copytree(config_dir(), unfinished / "conf")  # runs say what differs from it
    for package in packages:
        if package.is_dir():
            also = ["conf"] if package == PACKAGE else []  # which is there already
            ignored = shutil.ignore_patterns("__pycache__", ".*", *also)
            shutil.copytree(package, unfinished / package.name, ignore=ignored)
        else:
            shutil.copy2(package, unfinished)
    write_text(unfinished / FROZEN, code_version())
    try:
        unfinished.rename(code)
    except OSError:  # another sweep was first, with the same files
        shutil.rmtree(unfinished)
    sync(folder)
    return code


def command(frozen: Frozen, name: str) -> list[str]:
    """The command of a process that runs one job of a frozen plan with the frozen code."""
    start = (
        "import sys; sys.path.insert(0, sys.argv[1]); from recsys_collapse.launch.child import main; sys.exit(main())"
    )
    return [sys.executable, "-c", start, str(frozen.code.resolve()), str(frozen.plan), name, *frozen.allow]
