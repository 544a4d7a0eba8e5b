"""All jobs of a command, composed and checked before the first one starts.

The plan is what runs: a wrong value stops a sweep at once, later edits of configs change no queued job, a finished run
is skipped in the same breath, and the table at the end knows which runs belong to it.
"""

import argparse
import errno
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys_collapse.build import build
from recsys_collapse.config import plain, register, validate
from recsys_collapse.dataset.source import MEMO
from recsys_collapse.launch.compose import Composer, without_hydra
from recsys_collapse.launch.explain import explain
from recsys_collapse.runs.identity import flatten, run_id, run_name

LARGE = 2_000_000_000  # bytes of a file that takes seconds to hash


@dataclass(frozen=True)
class Job:
    """One run: its resolved config and where it leaves its files."""

    config: DictConfig
    run_id: str
    run_dir: Path

    @property
    def name(self) -> str:
        """The run's name, that of its directory."""
        return self.run_dir.name


@dataclass(frozen=True)
class Plan:
    """What a command asks for. `jobs` has every run once, in the order of the sweep."""

    sweep: str
    output_dir: Path
    jobs: list[Job]
    hydra: DictConfig
    """Hydra's own node: its launcher, its logging."""
    cells: int = 1
    """Of the grid; some may be the same run."""

    @property
    def config(self) -> DictConfig:
        """The first job's config, for what a sweep has in common."""
        return self.jobs[0].config

    @property
    def folder(self) -> Path:
        """Where the sweep's own files lie."""
        return self.output_dir / "sweeps" / self.sweep


def differences_of(jobs: Sequence[Job]) -> dict[str, str]:
    """What tells jobs apart whose names differ in their hash only: ` optimizer.lr=0.01`, by name; empty for others."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.name.rpartition("-")[0], []).append(job)
    found: dict[str, str] = {}
    for group in alike.values():
        flat = [flatten(plain(job.config)) for job in group]
        keys = sorted({key for values in flat for key in values if len({str(other.get(key)) for other in flat}) > 1})
        found |= {
            job.name: "".join(f" {key}={values.get(key)}" for key in keys)
            for job, values in zip(group, flat, strict=True)
        }
    return found


def plan_job(config: DictConfig, fingerprints: dict[str, str] | None = None) -> Job:
    """The run that a valid config stands for; `fingerprints` of data are remembered from job to job.

    Raises:
        ValueError: an option of the data is wrong, or its files cannot be read.
    """
    for name, node in config.callback.items():
        if node is None:
            raise ValueError(f"callback.{name}=null: expected a section; leave it out with callback=[...]")
    known = {} if fingerprints is None else fingerprints
    data = json.dumps([plain(config.dataset), config.split_seed, config.store_dir])
    if data not in known:
        source = build(config.dataset, "dataset")
        known[data] = source.fingerprint(config.split_seed, Path(config.store_dir) / MEMO, _say_what_takes_long)
    identifier = run_id(config, known[data])
    return Job(config, identifier, Path(config.output_dir) / "runs" / run_name(config, identifier))


def _say_what_takes_long(done: int, total: int) -> None:
    """Called for every block of a file that is hashed."""
    if total > LARGE and done < total:
        _say_once(f"hashing {total / 1e9:.1f} GB of data, once ...")


@lru_cache
def _say_once(text: str) -> None:
    print(text, flush=True)


def make_plan(argv: list[str]) -> Plan | None:
    """The plan of a command line (without the program's name); None where Hydra itself answers, as for `--help`.

    Raises:
        ValueError: the command cannot be run as given; says which key or value is wrong and what it could be.
    """
    composed = _composed(argv)
    if composed is None:
        return None
    configs, hydra = composed
    first = configs[0]
    for key in ("output_dir", "store_dir", "group", "launch.name", "launch", "allow"):
        values = {str(OmegaConf.select(config, key)) for config in configs}
        if len(values) > 1:
            raise ValueError(f"{key}={','.join(sorted(values))}: a sweep has one {key}; run the command once for each")
    sweep = first.group or sweep_name(get_args_parser().parse_args(argv).overrides)
    for config in configs:
        validate(config)
        config.sweep = sweep
    for key in ("output_dir", "store_dir"):
        _try_to_write(key, Path(first[key]))
    known: dict[str, str] = {}
    jobs = {
        job.name: job for job in (plan_job(config, known) for config in configs)
    }  # a run that two cells of the grid share is one job
    return Plan(sweep, Path(first.output_dir), list(jobs.values()), hydra, len(configs))


def _try_to_write(key: str, path: Path) -> None:
    """Permissions say little to root, and on shared disks."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a full disk is no wrong command
            said = f"{nearest} cannot be written ({error.strerror}); choose another {key}"
            raise ValueError(f"{key}={path}: {said}") from error


def compose_jobs(argv: list[str], config_name: str = "config") -> list[DictConfig] | None:
    """The resolved config of every job of a command line, in the order of the sweep; None where Hydra itself answers.

    `config_name` is that of the command's own file in `conf/`.

    Raises:
        ValueError: a word of the command line cannot be applied.
    """
    composed = _composed(argv, config_name)
    return composed and composed[0]


def _composed(argv: list[str], config_name: str = "config") -> tuple[list[DictConfig], DictConfig] | None:
    """The configs, and the node `hydra` of the first."""
    args = get_args_parser().parse_args(argv)
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion or args.experimental_rerun:
        return None
    register()
    try:
        return _compose_all(args, config_name)
    finally:
        GlobalHydra.instance().clear()


def sweep_name(overrides: list[str]) -> str:
    """A readable name and a hash of the override list, the same for the same list in any order."""
    digest = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:8]
    words = [
        o.partition("=")[2] for o in sorted(overrides) if re.match(r"(model|scale|embed|dataset|experiment|seed)=", o)
    ]
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(words))[:60].strip("-")
    return f"{readable}_{digest}" if readable else digest


def _compose_all(args: argparse.Namespace, config_name: str) -> tuple[list[DictConfig], DictConfig]:
    """The config of every job, as Hydra would compose it."""
    composer = Composer(args, config_name)
    try:
        parsed = composer.parse(args.overrides)
        for override in parsed:
            if override.is_sweep_override() and not (
                override.is_discrete_sweep() and [*override.sweep_string_iterator()]
            ):
                raise ValueError(f"{override.input_line}: expected a list of values to sweep over, such as scale=1,2,4")
        words = BasicSweeper.split_arguments(parsed, None)[0]
        first = composer.first(words[0]) if args.multirun else composer.whole(words[0])
        hydra = first.hydra
        if not (args.multirun or hydra.mode == RunMode.MULTIRUN):
            config = first if words == [args.overrides] else composer.whole(args.overrides)
            return [_resolved(without_hydra(config))], hydra
        if not hydra.sweeper._target_.endswith("BasicSweeper"):
            raise ValueError(
                f"hydra/sweeper={hydra.sweeper._target_}: expected the basic sweeper; its jobs are known in advance"
            )
        params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
        words = BasicSweeper.split_arguments(composer.parse(params + args.overrides), None)[0]
        return [_resolved(config) for config in map(composer.job, words)], hydra
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(args.overrides, composer.loader, composer.config_name, error)) from error


def _resolved(config: DictConfig) -> DictConfig:
    """A job's config with its values in place of references, so that a missing value shows now."""
    OmegaConf.resolve(config)
    missing = OmegaConf.missing_keys(config)
    if missing:
        key = min(missing)
        raise ValueError(f"{key} is not set: add {key}=... to the command or to a config")
    return config
