"""One run from its config to its result: build, fit, test once with the best weights, record."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch import Tensor

from recsys_collapse.build import build
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import plain
from recsys_collapse.cost import check_memory, cost, free_memory, outline
from recsys_collapse.data import load_data
from recsys_collapse.dataset.batches import Batches, resident, shuffled, train_counts
from recsys_collapse.dataset.progress import wants_bar
from recsys_collapse.dataset.report import remarks
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.store import Store
from recsys_collapse.launch.plan import Job
from recsys_collapse.logger.wandb import make_loggers
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.module import CTRModule
from recsys_collapse.protocol import differences
from recsys_collapse.runs.durable import write_json, write_parquet, write_text
from recsys_collapse.runs.environment import code_version, environment
from recsys_collapse.runs.identity import embed_name, identity
from recsys_collapse.runs.records import SCHEMA, clear
from recsys_collapse.score import Score, score
from recsys_collapse.seeding import derive
from recsys_collapse.spectrum import abundance_of_fields

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
    torch.set_num_threads(config.trainer.threads or DEFAULT_THREADS)
    clear(job.run_dir)
    write_text(job.run_dir / "config.yaml", OmegaConf.to_yaml(config))
    source, store = load_data(config)
    say_once(source, store)
    log.info(f"differs from the paper: {', '.join(differences(config)) or 'nothing'}")
    free = free_memory(config.trainer.accelerator)
    check_memory(outline(config, store.cardinalities), store.fields, config.optimizer, free)
    module = build_module(config, store)
    tags = [config.model.name, embed_name(config), f"{config.scale}x", config.dataset.name, *config.logger.tags]
    loggers = make_loggers(
        config.logger,
        run_dir=job.run_dir,
        name=job.name,
        group=config.sweep,
        tags=[tag[:64] for tag in tags],  # W&B takes no longer ones
        resolved=plain(config),
    )
    exit_code = 1
    try:
        records = EpochRecords(len(store.splits["train"]))
        trainer = make_trainer(config, job.run_dir, [records], loggers)
        if config.trainer.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
            raise ValueError("trainer.precision=16-mixed: a CPU has bf16-mixed only; use that, or a GPU")
        store = resident(store, trainer.strategy.root_device, source.device_resident)
        fit(trainer, module, store, config)
        result = conclude(job, trainer, module, store, records)
        result["wall_seconds"] = time.perf_counter() - started
        for logger in loggers:
            logger.log_summary(result)
        write_json(job.run_dir / "result.json", result)
        exit_code = 0
    finally:
        for logger in loggers:  # before the next run begins, or it would be written into this one
            logger.finish(exit_code)
    return result


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
    config: DictConfig, run_dir: Path, always: list[lightning.Callback], loggers: list[Any]
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
        callbacks=[
            *measuring,  # before the records, which write down what they log
            *always,
            EarlyStopping("val/auc", mode="max", patience=config.trainer.patience, min_delta=0.0),
            ModelCheckpoint(
                run_dir / "checkpoints",
                filename="best",
                monitor="val/auc",
                mode="max",
                save_weights_only=True,
                enable_version_counter=False,
            ),
            *([TQDMProgressBar(leave=False)] if show_bar else []),
        ],
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
    )


def fit(trainer: lightning.Trainer, module: CTRModule, store: Store, config: DictConfig) -> None:
    """Train until early stopping; the order of the rows is a function of (seed, pass over the data).

    With n `evaluations_per_epoch`, an epoch is the n-th part of a pass, to Lightning and in all records.
    """
    pieces = config.trainer.evaluations_per_epoch
    order = shuffled(config.seed, lambda: trainer.current_epoch // pieces)
    trainer.fit(
        module,
        Batches(store, "train", config.trainer.batch_size, order, pieces, lambda: trainer.current_epoch % pieces),
        Batches(store, "valid", config.trainer.eval_batch_size),
    )


def conclude(
    job: Job, trainer: lightning.Trainer, module: CTRModule, store: Store, records: EpochRecords
) -> dict[str, Any]:
    """Score validation and test rows with the best weights, once, and describe the run."""
    config, best = job.config, job.run_dir / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    scores = {}
    for part in ("valid", "test"):
        batches = Batches(store, part, config.trainer.eval_batch_size)
        logit_n = torch.cat(trainer.predict(module, batches)).float().cpu()  # type: ignore[arg-type]
        row_n = store.splits[part].cpu()
        label_n = store.labels.index_select(0, store.splits[part]).cpu()
        scores[part] = score(logit_n, label_n)
        if config.save_scores:
            write_scores(job.run_dir / f"{part}_scores.parquet", row_n.long(), label_n, logit_n)
    embedding, count_D = module.backbone.embedding, module.train_count_D
    assert count_D is not None
    return {
        "schema": SCHEMA,
        "run_id": job.run_id,
        "run_name": job.name,
        "identity": identity(config, store.fingerprint),
        "sweep": config.sweep,
        "model": config.model.name,
        "embed": embed_name(config),
        "scale": config.scale,
        "num_sets": embedding.num_sets,
        "embed_size": embedding.embed_size,
        "dataset": config.dataset.name,
        "data_fingerprint": store.fingerprint,
        "seed": config.seed,
        "split_seed": config.split_seed,
        "optimizer": config.optimizer.get("name") or config.optimizer._target_,
        "regularizer": config.regularizer.get("name") or config.regularizer._target_,
        "protocol": config.protocol,
        "differs_from_paper": differences(config),
        "init": config.init.name,
        "match": config.match.name,
        **_scores(scores),
        "best_epoch": checkpoint["epoch"],
        "num_epochs": len(records.records) - 1,
        "evaluations_per_epoch": config.trainer.evaluations_per_epoch,
        **cost(config, store.cardinalities),
        "information_abundance": abundance_of_fields(
            embedding.weight,
            embedding.field_slices,
            embedding.num_sets,
            store.fields,
            count_D > 0,
            embedding.entries,
        ),
        "samples_per_second": records.samples_per_second,
        "code_version": code_version(),
        "environment": environment(trainer.strategy.root_device),
    }


def write_scores(path: Path, row_id_n: Tensor, label_n: Tensor, logit_n: Tensor) -> None:
    """`row_id` (row in file order), `label` and `logit`, in split order."""
    columns = {"row_id": row_id_n, "label": label_n, "logit": logit_n}
    write_parquet(path, pl.DataFrame({name: column.numpy() for name, column in columns.items()}))


def _scores(scores: dict[str, Score]) -> dict[str, Any]:
    reasons = {}
    if scores["test"].auc is None:
        reasons["test_auc"] = "the test rows have one class only"
    return {
        "val_auc": scores["valid"].auc,
        "test_auc": scores["test"].auc,
        "val_logloss": scores["valid"].logloss,
        "test_logloss": scores["test"].logloss,
        "null_reasons": reasons,
    }
