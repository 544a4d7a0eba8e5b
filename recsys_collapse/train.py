"""One run from its config to its result: build, fit, test once with the best weights, record."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.plugins.io import CheckpointIO

from recsys_collapse.build import build
from recsys_collapse.callback.checkpoint import Checkpoints, DurableIO, best_so_far
from recsys_collapse.callback.heartbeat import Heartbeat
from recsys_collapse.callback.measuring import Measuring
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import plain
from recsys_collapse.cost import check_disk, outline
from recsys_collapse.data import load_data
from recsys_collapse.dataset.batches import Batches, resident, resident_bytes, shuffled, train_counts
from recsys_collapse.dataset.progress import wants_bar
from recsys_collapse.dataset.report import remarks
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.store import Store
from recsys_collapse.describe import about_attempts, describe
from recsys_collapse.heap import keep_freed_memory
from recsys_collapse.launch.frozen import own_code
from recsys_collapse.launch.plan import Job
from recsys_collapse.logger.wandb import make_loggers
from recsys_collapse.memory import check_memory, free_memory, needed
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.module import CTRModule
from recsys_collapse.protocol import differences
from recsys_collapse.runs.checkpoint import find, misfit, set_aside
from recsys_collapse.runs.durable import write_text
from recsys_collapse.runs.environment import environment
from recsys_collapse.runs.identity import embed_name, run_id
from recsys_collapse.runs.records import clear, tidy, write_result
from recsys_collapse.runs.secrets import scrub_tree
from recsys_collapse.runs.version import code_version
from recsys_collapse.seeding import derive

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its notes on devices come once per trainer
warnings.filterwarnings("ignore", message=".*LeafSpec.*|.*does not have many workers.*", module="pytorch_lightning")
torch.sparse.check_sparse_tensor_invariants.disable()  # explicitly: the default is the same, but warns
DEFAULT_THREADS = torch.get_num_threads()
_told: set[Path] = set()  # stores about which everything was said


def train(job: Job) -> dict[str, Any]:
    """Train, test and record the run; returns what `result.json` says.

    Raises:
        ValueError: the data cannot be used, or the loss is not finite (`DivergedError`).
    """
    started, config = time.perf_counter(), job.config
    keep_freed_memory()
    torch.set_num_threads(config.trainer.threads or DEFAULT_THREADS)
    source, store = load_checked(job)  # before a checkpoint is loaded: it asks for free memory
    checkpoint, content = find(job.run_dir, job.run_id, best_so_far) or (None, None)
    module, records = build_module(config, store), EpochRecords(len(store.splits["train"]))
    if content is not None and (why := misfit(content, module)):
        set_aside(job.run_dir, why)
        checkpoint = content = None
    if content is not None:
        log.info(f"{job.name}: goes on after epoch {content['epoch']} ({checkpoint})")
    clear(job.run_dir, keep_checkpoints=content is not None)
    before, files = attempts_before(content), DurableIO(content)
    del content  # as large as the model; `files` forgets it too once it is used
    write_text(job.run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(scrub_tree(plain(config)))))
    checkpoints = Checkpoints(job.run_id, records, config.trainer.patience, started)
    mirror = before[0]["mirror"] if before else uuid4().hex[:8]
    loggers = start_loggers(job, f"{job.run_id}-{mirror}")
    exit_code = 1
    try:
        trainer = make_trainer(config, job.run_dir, [Heartbeat(), records, checkpoints], loggers, files)
        if config.trainer.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
            raise ValueError("trainer.precision=16-mixed: a CPU has bf16-mixed only; use that, or a GPU")
        now = {"code_version": code_version(), "own_code": own_code(config)}
        now["environment"] = environment(trainer.strategy.root_device)
        checkpoints.attempts[-1] |= {"mirror": mirror, **now}
        if any({key: attempt.get(key) for key in now} != now for attempt in before):
            log.warning(f"{job.name}: began with other code or on another machine; its result says mixed_environment")
        store = resident(store, trainer.strategy.root_device, source.device_resident)
        fit(trainer, module, store, config, checkpoint)
        result = describe(job, trainer, module, store, records)
        result |= about_attempts(checkpoints.state_dict()["attempts"])
        finish(job, trainer, result)
        exit_code = 0
    finally:
        for logger in loggers:  # before the next run begins, or it would be written into this one
            logger.finish(exit_code)
    return result


def load_checked(job: Job) -> tuple[Source, Store]:
    """The data, as it was when the job was planned, and room for the model.

    Raises:
        ValueError: the data cannot be used or has changed, or the model does not fit into memory.
        OSError: its checkpoints do not fit on the disk.
    """
    source, store = load_data(job.config)
    if run_id(job.config, store.fingerprint) != job.run_id:
        raise ValueError(f"dataset ({source.name}): its files changed after this was planned: run the command again")
    say_once(source, store)
    log.info(f"differs from the paper: {', '.join(differences(job.config)) or 'nothing'}")
    outlined, accelerator = outline(job.config, store.cardinalities), job.config.trainer.accelerator
    on_gpu = resident_bytes(store, accelerator, source.device_resident, free_memory(accelerator))
    memory = needed(job.config, outlined, {part: len(rows) for part, rows in store.splits.items()}, on_gpu)
    free = free_memory(accelerator, memory.peak - memory.process)
    log.info(memory.words() if free is None else f"{memory.words()}; {free / 1e9:.1f} GB are free")
    check_memory(outlined, store.fields, memory, free)
    check_disk(outlined, job.config.optimizer, job.run_dir)
    return source, store


def finish(job: Job, trainer: lightning.Trainer, result: dict[str, Any]) -> None:
    """Write what is not yet written, the result last; then only what a finished run keeps is left.

    Raises:
        OSError: the disk is full, for example; what a callback could not write after an epoch is an error now.
    """
    for logger in trainer.loggers:
        logger.log_summary(result)  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Measuring):
            callback.write(trainer)
    write_result(job.run_dir, result)
    tidy(job.run_dir)


def attempts_before(content: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a checkpoint knows of the processes that trained the run until then."""
    return [] if content is None else content["callbacks"][Checkpoints.__qualname__]["attempts"]


def start_loggers(job: Job, identifier: str) -> list[Any]:
    """The run's mirrors; one that goes on has the same identifier."""
    config = job.config
    tags = [config.model.name, embed_name(config), f"{config.scale}x", config.dataset.name, *config.logger.tags]
    return make_loggers(
        config.logger,
        run_dir=job.run_dir,
        name=job.name,
        group=config.sweep,
        tags=[tag[:64] for tag in scrub_tree(tags)],  # W&B takes no longer ones
        resolved=plain(config),
        identifier=identifier,
    )


def say_once(source: Source, store: Store) -> None:
    """What is to be said of the data, once in a process."""
    if store.path not in _told:
        _told.add(store.path)
        for line in remarks(store.manifest(), source.published()):
            log.info(f"{source.name}: {line}")


def build_module(config: DictConfig, store: Store) -> CTRModule:
    """The model at initialisation; a function of the config, the cardinalities and the seed."""
    torch.manual_seed(derive(config.seed, "init"))
    backbone = build(
        config.model.backbone,
        "model.backbone",
        cardinalities=store.cardinalities,
        num_sets=config.embed.num_sets,
        embed_size=config.embed.embed_size,
    )
    if config.init.name != "xavier_table":  # drawn again, so that all else starts as with the other
        backbone.embedding.reset_parameters(config.init.name)
    for table in backbone.tables():
        table.sparse = config.optimizer.get("sparse_gradients", False)
    optimizer, plateau = build(config.optimizer, "optimizer"), config.trainer.lr_plateau
    module = CTRModule(backbone, optimizer, config.seed, store.fields, build_regularizer(config, backbone), plateau)
    module.train_count_D = train_counts(store)
    return module


def build_regularizer(config: DictConfig, backbone: Backbone) -> Any:
    """What `regularizer=` says; None if that is nothing.

    Raises:
        ValueError: the backbone does not offer what it needs.
    """
    if "_target_" not in config.regularizer:
        return None
    return build(config.regularizer, "regularizer", backbone=backbone)


def make_trainer(
    config: DictConfig, run_dir: Path, always: list[lightning.Callback], loggers: list[Any], files: CheckpointIO
) -> lightning.Trainer:
    """The Lightning trainer of one run. Records, stopping and checkpoints do not depend on `callback=`."""
    show_bar = wants_bar(config.trainer.progress_bar)
    measuring = [build(node, f"callback.{name}") for name, node in config.callback.items()]
    return lightning.Trainer(
        default_root_dir=run_dir,
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,
        max_epochs=config.trainer.max_epochs * config.trainer.evaluations_per_epoch,
        gradient_clip_val=config.trainer.gradient_clip,
        # Pieces of a pass may differ by one batch, and Lightning asks for the length only when it loads.
        reload_dataloaders_every_n_epochs=int(config.trainer.evaluations_per_epoch > 1),
        logger=loggers,
        plugins=[files],
        callbacks=[
            *measuring,  # before the records, which write down what they log
            *always,
            *([TQDMProgressBar(leave=False)] if show_bar else []),
        ],
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
    )


def fit(
    trainer: lightning.Trainer, module: CTRModule, store: Store, config: DictConfig, checkpoint: Path | None = None
) -> None:
    """Train until it has stalled, from a checkpoint on or from the start.

    The order of the rows is a function of (seed, pass over the data).

    With n `evaluations_per_epoch`, an epoch is the n-th part of a pass, to Lightning and in all records.
    """
    if config.trainer.precision == "64-true":
        module.double()  # Lightning does so too, but only after it has loaded a checkpoint into float32
    pieces = config.trainer.evaluations_per_epoch
    order = shuffled(config.seed, lambda: trainer.current_epoch // pieces)
    trainer.fit(
        module,
        Batches(store, "train", config.trainer.batch_size, order, pieces, lambda: trainer.current_epoch % pieces),
        Batches(store, "valid", config.trainer.eval_batch_size),
        ckpt_path=checkpoint,
    )
