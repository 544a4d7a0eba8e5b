"""What is checked of all jobs before the first one starts, beyond that they compose."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import plain
from recsys_collapse.launch.plan import Job


def not_measured(job: Job) -> list[str]:
    """Callbacks of a finished run's job with which it was not run then, or not with these options."""
    try:
        text = (job.run_dir / "config.yaml").read_text()
        if _has_section(text, {"callback": plain(job.config.callback)}):
            return []
        then: Any = OmegaConf.create(text)
        measured = then.get("callback") or {}
    except Exception:  # it may be gone, damaged or of somebody else: then nothing is known
        measured = {}
    return [f"callback.{name}" for name, node in job.config.callback.items() if measured.get(name) != node]


def _has_section(text: str, section: dict[str, Any]) -> bool:
    """Whether this section of a config stands in a file as a run writes it; reading the file takes far longer."""
    _, found, rest = f"\n{text}".partition(f"\n{OmegaConf.to_yaml(OmegaConf.create(section))}")
    return bool(found) and not rest.startswith((" ", "-"))


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


def check_devices(jobs: list[Job]) -> None:
    """Check that what is to train is there, on this machine.

    Raises:
        ValueError: names the config key.
    """
    settings = {(job.config.trainer.accelerator, job.config.trainer.precision) for job in jobs}
    if not any(accelerator in ("cuda", "gpu") or precision == "16-mixed" for accelerator, precision in settings):
        return
    from recsys_collapse.launch.subprocess import visible_gpus

    gpus = visible_gpus()
    for accelerator, precision in sorted(settings):
        if accelerator in ("cuda", "gpu") and not gpus:
            raise ValueError(f"trainer.accelerator={accelerator}: no GPU is visible here; use auto or cpu")
        if precision == "16-mixed" and (accelerator == "cpu" or not gpus):
            raise ValueError("trainer.precision=16-mixed: a CPU has bf16-mixed only; use that, or a GPU")


def check_data(jobs: list[Job]) -> None:
    """Read the beginning of all data that is not prepared yet: a column that is not there is an error now.

    Raises:
        ValueError: names file, line or key.
    """
    from recsys_collapse.build import build
    from recsys_collapse.dataset.source import MEMO

    different = {str([job.config.dataset, job.config.split_seed, job.config.store_dir]): job.config for job in jobs}
    for config in different.values():
        source, stores = build(config.dataset, "dataset"), Path(config.store_dir)
        fingerprint = source.fingerprint(config.split_seed, stores / MEMO)
        if not (stores / f"{source.name}-v{source.version}-{fingerprint}").exists():
            source.check()
