"""What is recorded of a finished training: scores of validation and test rows with the best weights, the result."""

from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.cost import cost
from recsys_collapse.dataset.batches import Batches
from recsys_collapse.dataset.store import Store
from recsys_collapse.launch.frozen import own_code
from recsys_collapse.launch.plan import Job
from recsys_collapse.module import CTRModule
from recsys_collapse.protocol import differences
from recsys_collapse.runs.checkpoint import read_best
from recsys_collapse.runs.durable import write_parquet
from recsys_collapse.runs.environment import environment
from recsys_collapse.runs.identity import embed_name, identity
from recsys_collapse.runs.records import SCHEMA
from recsys_collapse.runs.version import code_version
from recsys_collapse.score import Score, score
from recsys_collapse.spectrum import abundance_of_fields
from recsys_collapse.truth import against_truth


def describe(
    job: Job, trainer: lightning.Trainer, module: CTRModule, store: Store, records: EpochRecords
) -> dict[str, Any]:
    """Score validation and test rows with the best weights, once, and describe the run."""
    config, checkpoint = job.config, read_best(job.run_dir, job.run_id)
    module.load_state_dict(checkpoint["state_dict"])
    scores, truth = {}, {}
    for part in ("valid", "test"):
        batches = Batches(store, part, config.trainer.eval_batch_size)
        logit_n = torch.cat(trainer.predict(module, batches)).float().cpu()  # type: ignore[arg-type]
        row_n = store.splits[part].cpu()
        label_n = store.labels.index_select(0, store.splits[part]).cpu()
        scores[part] = score(logit_n, label_n)
        if store.truth is not None:
            truth_nT = store.truth.index_select(0, row_n)
            truth[part] = against_truth(logit_n, label_n, truth_nT, store.manifest()["answer"]["coefficients"])
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
        **_scores(scores, truth),
        **({"truth": truth} if truth else {}),
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
        "own_code": own_code(config),
        "environment": environment(trainer.strategy.root_device),
    }


def write_scores(path: Path, row_id_n: Tensor, label_n: Tensor, logit_n: Tensor) -> None:
    """`row_id` (row in file order), `label` and `logit`, in split order."""
    columns = {"row_id": row_id_n, "label": label_n, "logit": logit_n}
    write_parquet(path, pl.DataFrame({name: column.numpy() for name, column in columns.items()}))


def _scores(scores: dict[str, Score], truth: dict[str, Any]) -> dict[str, Any]:
    reasons = {}
    if scores["test"].auc is None:
        unknown = ["test_auc", *(["truth.test.bayes_auc"] if truth else [])]
        reasons = dict.fromkeys(unknown, "the test rows have one class only")
    return {
        "val_auc": scores["valid"].auc,
        "test_auc": scores["test"].auc,
        "val_logloss": scores["valid"].logloss,
        "test_logloss": scores["test"].logloss,
        "null_reasons": reasons,
    }


def about_attempts(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """What to know of the processes that trained a run, of which all but the last were interrupted."""
    versions = {str([one["code_version"], one.get("own_code"), one["environment"]]) for one in attempts}
    seconds = sum(one["seconds"] for one in attempts)
    return {"attempts": attempts, "mixed_environment": len(versions) > 1, "wall_seconds": seconds}
