"""The training of the paper: its numbers in the configs, its stopping rule, and a loss that must stay finite."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.module import CTRModule, DivergedError
from recsys_collapse.score import Score, SplitScore
from recsys_collapse.train import build_module, fit, make_trainer

SMALL = ["trainer.accelerator=cpu", "trainer.batch_size=8", "trainer.progress_bar=false"]


def config(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [*overrides])


@pytest.fixture
def store() -> Store:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (50, 2), generator=generator, dtype=torch.int32)
    labels = (torch.arange(50) % 2).to(torch.uint8)
    splits = dict(zip(("train", "valid", "test"), torch.arange(50).split([30, 10, 10]), strict=True))
    return Store(Path("memory"), "f", ["a", "b"], [3, 3], ids, labels, splits)


def train(cfg: DictConfig, store: Store, folder: Path) -> tuple[CTRModule, EpochRecords]:
    module, records = build_module(cfg, store), EpochRecords(30)
    fit(make_trainer(cfg, folder, [records], []), module, store, cfg)
    return module, records


def test_defaults_are_those_of_the_paper() -> None:
    """Appendix "Hyperparameters" and the official code; see notes in the YAML files."""
    cfg = config()
    optimizer = {key: cfg.optimizer[key] for key in ("_target_", "lr", "weight_decay", "fused")}
    assert optimizer == {"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-6, "fused": True}
    assert (cfg.trainer.batch_size, cfg.trainer.patience, cfg.trainer.precision) == (2048, 3, "32-true")
    assert (cfg.model.base_size, cfg.model.backbone.num_cross_layers) == (10, 4)
    for model in ("dcnv2", "dnn"):
        backbone = config(f"model={model}").model.backbone
        assert (list(backbone.hidden_sizes), backbone.dropout) == ([400, 400], 0.2)
    assert (cfg.seed, cfg.split_seed, cfg.scale, cfg.embed.num_sets) == (0, 0, 1, 1)


def test_stops_after_three_epochs_without_a_better_auc(store: Store, tmp_path: Path, monkeypatch) -> None:
    aucs = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])  # the second 0.7 is no improvement
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(next(aucs), 0.5))
    _, records = train(config(*SMALL), store, tmp_path)
    assert [record["val_auc"] for record in records.records] == [None, 0.5, 0.7, 0.6, 0.7, 0.65]
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 1


def test_weights_that_break_in_the_last_step_are_noticed(store: Store, tmp_path: Path, monkeypatch) -> None:
    def break_weights(module: CTRModule) -> None:
        with torch.no_grad():
            module.backbone.embedding.weight.fill_(torch.nan)

    monkeypatch.setattr(CTRModule, "on_validation_epoch_start", break_weights)
    with pytest.raises(DivergedError, match=r"learning rate 0\.001"):
        train(config(*SMALL), store, tmp_path)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_train_loss_is_the_mean_over_rows(store: Store, tmp_path: Path) -> None:
    """Batches of 8, 8, 8 and 6 rows; without learning and dropout it is the loss of all rows in training mode."""
    cfg = config(*SMALL, "optimizer.lr=0.0", "trainer.max_epochs=1", "model.backbone.dropout=0.0")
    module, records = train(cfg, store, tmp_path)
    losses = []
    for x_BN, y_B in Batches(store, "train", 8, shuffled(0, lambda: 0)):
        logit_B = module.train().backbone(x_BN)
        losses += torch.nn.functional.binary_cross_entropy_with_logits(logit_B, y_B.float(), reduction="none").tolist()
    assert len(losses) == 30
    assert records.records[-1]["train_loss"] == pytest.approx(sum(losses) / 30, rel=1e-5)


def test_initialisation_is_measured_too(store: Store, tmp_path: Path) -> None:
    _, records = train(config(*SMALL, "trainer.max_epochs=1"), store, tmp_path)
    assert records.records[0]["epoch"] == -1 and records.records[0]["ia_relative"] > 0.5
