"""What differs from the paper is said, word for word, and `protocol=bars` trains as it says."""

import json
import logging
import math
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_collapse import module as module_module
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.store import Store
from recsys_collapse.launch.plan import compose_jobs, make_plan
from recsys_collapse.module import CTRModule
from recsys_collapse.protocol import PAPER_MODELS, differences
from recsys_collapse.score import Score, SplitScore
from recsys_collapse.train import build_module, fit
from recsys_collapse.train import train as train_job
from tests.cli import SMALL_SYNTHETIC
from tests.training import make_trainer

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
BARS = ["trainer.accelerator=cpu", "trainer.batch_size=8", "trainer.progress_bar=false", "protocol=bars"]


def config(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [*overrides])


# What differs


def test_the_models_of_the_paper_are_here() -> None:
    assert set(PAPER_MODELS) <= set(MODELS)


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_nothing_differs_by_default(model: str) -> None:
    assert differences(config(f"model={model}")) == []


@pytest.mark.parametrize(
    "words",
    [
        "embed=me scale=4",
        "embed=se scale=10",
        "seed=7",
        "dataset=criteo_x4 dataset.dir=anywhere",
        "dataset=table dataset.label=y dataset.path=y.csv dataset.min_count=9",
        "dataset.train_rows=17",
        "trainer.accelerator=cpu trainer.threads=1 trainer.progress_bar=true trainer.eval_batch_size=3",
        "logger=local",
        "logger=wandb logger.project=p logger.tags=[a]",
        "optimizer.bytes_per_weight=16",
        "optimizer.lr=1e-3 model.backbone.dropout=2e-1",
        "output_dir=there save_scores=false file_locks=false group=mine",
        "protocol=paper optimizer=adam regularizer=none trainer=default init=xavier_table",
        "callback=[]",
    ],
)
def test_what_is_no_protocol_does_not_differ(words: str) -> None:
    assert differences(config(*words.split())) == []


DIFFER = {
    "protocol=bars": [
        "init: normal instead of xavier_table",
        "trainer.gradient_clip: 10.0 instead of none",
        "trainer.lr_plateau: 0.1 instead of none",
        "trainer.patience: 2 instead of 3",
    ],
    "protocol=bars trainer.patience=3 init=xavier_field": [
        "init: xavier_field instead of xavier_table",
        "trainer.gradient_clip: 10.0 instead of none",
        "trainer.lr_plateau: 0.1 instead of none",
    ],
    "optimizer.lr=0.01": ["optimizer.lr: 0.01 instead of 0.001"],
    "optimizer=adam_no_decay": ["optimizer.weight_decay: 0.0 instead of 1e-06"],
    "optimizer=adamw": [
        "optimizer.decoupled_weight_decay: True instead of False",
        "optimizer.weight_decay: 0.01 instead of 1e-06",
    ],
    "optimizer=sparse_adam": ["optimizer: sparse_adam instead of adam"],
    "optimizer=sparse_adam optimizer.table.lr=0.5": [
        "optimizer: sparse_adam instead of adam",
        "optimizer.table.lr: 0.5 instead of 0.001",
    ],
    "optimizer._target_=torch.optim.SGD": [
        "optimizer._target_: torch.optim.SGD instead of recsys_collapse.optimizer.adam.Adam"
    ],
    "optimizer=sparse_adam ~optimizer.name": ["optimizer: recsys_collapse.optimizer.split.Split instead of adam"],
    "+optimizer.amsgrad=true": ["optimizer.amsgrad: True instead of none"],
    "~optimizer.weight_decay": ["optimizer.weight_decay: none instead of 1e-06"],
    "regularizer=unitary": ["regularizer: unitary instead of none"],
    "regularizer=unitary regularizer.weight=0.5": [
        "regularizer: unitary instead of none",
        "regularizer.weight: 0.5 instead of 1e-05",
    ],
    "model.backbone.dropout=0.5": ["model.backbone.dropout: 0.5 instead of 0.2"],
    "model=dnn model.backbone.hidden_sizes=[400]": ["model.backbone.hidden_sizes: [400] instead of [400, 400]"],
    "model=nfwfm model.base_size=10": ["model.base_size: 10 instead of 50"],
    "model=ipnn model.backbone.linear_signal=false": ["model.backbone.linear_signal: False instead of True"],
    "model=dnn model.backbone._target_=mine.DNN": [
        "model.backbone._target_: mine.DNN instead of recsys_collapse.model.dnn.DNN"
    ],
    "model.name=mine": ["model: mine instead of one of the paper"],
    "model.name=mine model.backbone.dropout=0.5 optimizer.lr=0.01": [
        "model: mine instead of one of the paper",
        "optimizer.lr: 0.01 instead of 0.001",
    ],
    "trainer.batch_size=64 trainer.evaluations_per_epoch=2": [
        "trainer.batch_size: 64 instead of 2048",
        "trainer.evaluations_per_epoch: 2 instead of 1",
    ],
    "split_seed=3": ["split_seed: 3 instead of 0"],
    "embed=me scale=3 embed.num_sets=2": ["embed.num_sets: 2 instead of 3"],
    "embed=me scale=3 embed.embed_size=7": ["embed.embed_size: 7 instead of 10"],
    "model=nfwfm scale=3 embed.embed_size=30": ["embed.embed_size: 30 instead of 150"],
    "+callback.mine._target_=my.Own callback.spectrum.measures_only=false": [
        "callback.mine: present instead of none",
        "callback.spectrum: present instead of none",
    ],
    "trainer.precision=bf16-mixed": ["trainer.precision: bf16-mixed instead of 32-true"],
}


@pytest.mark.parametrize("words", DIFFER)
def test_what_differs_is_said_in_these_words(words: str) -> None:
    assert differences(config(*words.split())) == DIFFER[words]


def test_a_model_of_ones_own_differs_by_its_name(tmp_path: Path, monkeypatch) -> None:
    """Its options have nothing to be compared with."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "their_conf" / "model" / "tiny.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: tiny\nbase_size: 3\nbackbone:\n  _target_: their_package.Tiny\n  width: 5\n")
    found = compose_jobs(["--config-dir", "their_conf", "model=tiny", "scale=2"])
    assert found is not None
    assert [differences(one) for one in found] == [["model: tiny instead of one of the paper"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (
            ["optimizer=sparse_adam", "init=normal"],
            ["init: normal instead of xavier_table", DIFFER["optimizer=sparse_adam"][0]],
        ),
    ],
)
def test_the_result_and_the_log_say_what_differs(
    tmp_path: Path, monkeypatch, caplog, words: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(0.5, 0.7))  # stops after four epochs
    caplog.set_level(logging.INFO, "recsys_collapse")
    runtime = ["trainer.accelerator=cpu", "trainer.progress_bar=false", "logger=local"]
    found = make_plan(["model=fm", *runtime, *SMALL_SYNTHETIC, *words])
    assert found is not None
    (job,) = found.jobs
    train_job(job)
    assert json.loads((job.run_dir / "result.json").read_text())["differs_from_paper"] == expected
    said = [record.getMessage() for record in caplog.records if "differs from the paper" in record.getMessage()]
    assert said == [f"differs from the paper: {', '.join(expected) or 'nothing'}"]


# The protocol of BARS


def random_store() -> Store:
    """Labels that nothing tells: the validation AUC goes up and down."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (120, 3), generator=generator, dtype=torch.int32)
    labels = torch.randint(2, (120,), generator=generator).to(torch.uint8)
    splits = dict(zip(("train", "valid", "test"), torch.arange(120).split([60, 40, 20]), strict=True))
    return Store(Path("memory"), "f", ["a", "b", "c"], [20, 20, 20], ids, labels, splits)


def train(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """The records of the epochs."""
    small = ["model=dnn", "model.backbone.hidden_sizes=[8,8]", "callback=[]"]
    cfg, store = config(*BARS, *small, *overrides), random_store()
    records = EpochRecords(len(store.splits["train"]))
    fit(make_trainer(cfg, folder, [records], []), build_module(cfg, store), store, cfg)
    return records.records[1:]


def rates(aucs: list[float], lr: float) -> list[float]:
    """Learning rate of every epoch, by a loop; one more than there are values."""
    found, best = [lr], -math.inf
    for auc in aucs:
        lr = lr if auc > best else max(lr / 10, 1e-6)
        best = max(best, auc)
        found.append(lr)
    return found


def misses(aucs: list[float]) -> list[bool]:
    """Whether each epoch is no better than all before it."""
    return [any(auc <= before for before in aucs[:i]) for i, auc in enumerate(aucs)]


@pytest.mark.parametrize(
    ("start", "aucs", "expected"),
    [
        (0.001, [0.5, 0.6, 0.6, 0.7, 0.65, 0.71, 0.7, 0.7], [1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6]),
        (5e-5, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.8, 0.1, 0.1], [5e-5, 5e-5, 5e-6, 5e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6]),
        (0.001, [0.5, 0.5, 0.5, 0.9], [1e-3, 1e-3, 1e-4]),
    ],
)
def test_the_rate_falls_after_every_epoch_without_a_better_auc(
    tmp_path: Path, monkeypatch, start: float, aucs: list[float], expected: list[float]
) -> None:
    """And two such epochs in a row are the last."""
    assert rates(aucs, start)[: len(expected)] == pytest.approx(expected)
    values = iter(aucs)
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(next(values), 0.5))
    records = train(tmp_path, f"optimizer.lr={start}")
    assert [record["val_auc"] for record in records] == aucs[: len(expected)]
    assert [record["lr"] for record in records] == pytest.approx(expected, rel=1e-9)


def test_the_rate_is_never_below_that_of_fuxictr(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(0.5, 0.5))
    records = train(tmp_path, "trainer.patience=6")
    assert [record["lr"] for record in records] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-6, 1e-6], rel=1e-9)


@pytest.mark.parametrize("words", [[], ["optimizer=adagrad"], ["trainer.evaluations_per_epoch=2"]])
def test_rates_follow_the_aucs_of_a_run(tmp_path: Path, words: list[str]) -> None:
    """With aucs as they come; a rate of the tables' own falls with that of all else."""
    start = 0.01 if "optimizer=adagrad" in words else 0.001
    seen: set[bool] = set()
    for seed in range(4):
        records = train(tmp_path / str(seed), f"seed={seed}", "trainer.max_epochs=30", *words)
        aucs = [record["val_auc"] for record in records]
        missed = misses(aucs)
        assert missed[-2:] == [True, True] and (True, True) not in pairwise(missed[:-1])
        assert [record["lr"] for record in records] == pytest.approx(rates(aucs, start)[:-1], rel=1e-9)
        assert [record["lr_dense"] for record in records] == pytest.approx(rates(aucs, 1e-3)[:-1], rel=1e-9)
        seen |= set(missed[1:])
    assert seen == {True, False}, "nothing to see"


def test_a_rate_is_constant_without_a_schedule(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(0.5, 0.5))
    records = train(tmp_path, "trainer.lr_plateau=null")
    assert [record["lr"] for record in records] == [1e-3] * 3


def test_embeddings_start_as_normal() -> None:
    ids, train = torch.zeros(1, 2, dtype=torch.int32), torch.arange(1)
    store = Store(Path(), "", ["a", "b"], [300, 700], ids, torch.zeros(1), {"train": train})
    weight_DC = build_module(config(*BARS, "scale=2", "embed=me"), store).backbone.embedding.weight.detach()
    assert weight_DC.shape == (1000, 20)
    # 20,000 draws: five standard errors.
    assert weight_DC.std().item() == pytest.approx(1e-4, rel=0.025)
    assert abs(weight_DC.mean()) < 5 * 1e-4 / math.sqrt(20_000)


def gradient_norm(module: CTRModule) -> float:
    """Of all parameters together, in float64."""
    grads: list[Tensor] = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    dense = [grad.to_dense() if grad.is_sparse else grad for grad in grads]
    return math.sqrt(sum(grad.double().square().sum().item() for grad in dense))


@pytest.mark.parametrize("optimizer", ["adam", "sparse_adam"])
def test_the_optimizer_sees_a_gradient_of_norm_10_at_most(tmp_path: Path, monkeypatch, optimizer: str) -> None:
    """Of losses that are small and large by turns."""
    before: list[float] = []
    after: list[float] = []
    factors = cycle([0.001, 10])
    monkeypatch.setattr(module_module, "binary_cross_entropy_with_logits", lambda *args: next(factors) * bce(*args))
    monkeypatch.setattr(CTRModule, "on_before_optimizer_step", lambda self, _: before.append(gradient_norm(self)))
    configure = CTRModule.configure_optimizers

    def configure_and_watch(module: CTRModule) -> Any:
        found = configure(module)
        found.register_step_post_hook(lambda *_: after.append(gradient_norm(module)))
        return found

    monkeypatch.setattr(CTRModule, "configure_optimizers", configure_and_watch)
    train(tmp_path, "trainer.max_epochs=2", "model=dcnv2", f"optimizer={optimizer}")
    assert len(before) == len(after) == 16
    assert max(before[::2]) < 10 < 50 < min(before[1::2])
    assert after[::2] == pytest.approx(before[::2], rel=1e-6)
    assert after[1::2] == pytest.approx([10] * 8, rel=1e-5)
