"""Hydra's launcher plugins (joblib, submitit) as starters of our jobs: on this machine or on a cluster.

The plugin decides where and when; there, every job is watched in a process of its own, as with `launch=subprocess`. So
a job that dies takes neither the worker nor the other jobs with it, and all run the frozen plan with the frozen code:
a plugin asks for the config of a job when the job starts, and is given the name of one in the plan instead.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from recsys_collapse.launch.frozen import Frozen, load_job
from recsys_collapse.launch.plan import Job
from recsys_collapse.launch.status import Status
from recsys_collapse.launch.subprocess import launch as launch_here
from recsys_collapse.launch.subprocess import make_slots

log = logging.getLogger(__name__)


def launch(jobs: list[Job], status: Status, frozen: Frozen, hydra: DictConfig, folder: Path, options: Any) -> None:
    """Run the jobs where the plugin of `hydra.launcher` starts them; `folder` is the sweep's, `options` `launch`."""
    told = {"plan": str(frozen.plan), "code": str(frozen.code), "allow": list(frozen.allow)}
    config = OmegaConf.create({"hydra": hydra, "supervised": told | {"job": "", "options": dict(options)}})
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = config.hydra.run.dir = str(folder)
        config.hydra.sweep.subdir = "."
        config.hydra.overrides.hydra = config.hydra.overrides.task = []  # where a secret may stand, which submitit
        config.hydra.job.override_dirname = ""  # would keep in a file
    context = HydraContext(config_loader=FrozenConfigs(), callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=supervise, config=config)
    with status.followed(jobs):
        try:
            launcher.launch([[job.name] for job in jobs], initial_job_idx=0)
        except Exception as error:  # such as a worker that was killed: what is finished is finished
            log.error(f"{type(launcher).__name__} ended early: {type(error).__name__}: {error}")


def supervise(config: DictConfig) -> str:
    """In the plugin's worker: start one job and watch it; says how it ended."""
    told = config.supervised
    frozen = Frozen(Path(told.plan), Path(told.code), tuple(told.allow))
    job = load_job(frozen.plan, told.job, frozen.allow)
    status = Status(1, 0, None)
    slots = make_slots(told.options, job.config.trainer.accelerator)[:1] if told.options.cores_per_job else [{}]
    launch_here([job], status, frozen, slots, told.options, with_parent=True)
    return status.failed.get(job.name, "finished")


class FrozenConfigs(ConfigLoader):
    """Gives a job the name of its config in the plan, where Hydra would compose it from files as they are then."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The sweep's config with the job's name; `sweep_overrides` has nothing else."""
        config = master_config.copy()
        with read_write(config), open_dict(config):
            (config.supervised.job,) = sweep_overrides
        return config

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        raise NotImplementedError

    def get_search_path(self) -> Any:
        raise NotImplementedError

    def get_sources(self) -> list[Any]:
        return []

    def list_groups(self, parent_name: str) -> list[str]:
        return []

    def get_group_options(self, group_name: str, *args: Any, **kwargs: Any) -> list[str]:
        return []

    def compute_defaults_list(self, config_name: str | None, overrides: Sequence[str], run_mode: Any) -> Any:
        raise NotImplementedError
