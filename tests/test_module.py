"""The training of the paper: its numbers in the configs, its stopping rule, and a loss that must stay finite.

And what may be added to it: a regularizer, a norm that gradients are clipped to.
"""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.module import CTRModule, DivergedError
from recsys_collapse.regularizer.logdet import LogDet
from recsys_collapse.score import Score, SplitScore
from recsys_collapse.train import build_module, fit
from tests.training import make_trainer

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
    optimizer = {key: cfg.optimizer[key] for key in ("_target_", "lr", "weight_decay")}
    assert optimizer == {"_target_": "recsys_collapse.optimizer.adam.Adam", "lr": 1e-3, "weight_decay": 1e-6}
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
        losses += bce(logit_B, y_B.float(), reduction="none").tolist()
    assert len(losses) == 30
    assert records.records[-1]["train_loss"] == pytest.approx(sum(losses) / 30, rel=1e-5)


def test_initialisation_is_measured_too(store: Store, tmp_path: Path) -> None:
    _, records = train(config(*SMALL, "trainer.max_epochs=1"), store, tmp_path)
    assert records.records[0]["epoch"] == -1 and records.records[0]["ia_relative"] > 0.5


# A regularizer

ONE_STEP = ["trainer.max_epochs=1", "trainer.batch_size=30", "model.backbone.dropout=0.0"]
OF_ADAM = ["~optimizer.betas", "~optimizer.eps", "~optimizer.decoupled_weight_decay"]
# A step is as large as the gradient; Adam's is not.
SGD = ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "optimizer.sparse_gradients=false", *OF_ADAM]
TINY = ["model.base_size=2", "model.backbone.hidden_sizes=[4,4]", "model.backbone.num_cross_layers=2"]
TWO_SETS = [*SMALL, *TINY, "scale=2", "embed=me"]


def all_rows(store: Store) -> tuple[Tensor, Tensor]:
    rows = store.splits["train"][shuffled(0, lambda: 0)(30).long()]
    return store.ids[rows], store.labels[rows].double()


def unitary_by_loops(module: CTRModule, size: int) -> Tensor:
    """Sum of ||W^T W - lambda I||^2 over layers, sets and pairs of the two fields."""
    terms = []
    for number, layer in enumerate(module.backbone.cross.layers):
        for m, i, j in product(range(len(layer.weight)), range(2), range(2)):
            w = layer.weight[m, size * j : size * j + size, size * i : size * i + size]
            terms.append((w.T @ w - module.regularizer.factor[number, m, i, j] * torch.eye(size)).square().sum())
    return torch.stack(terms).sum()


def test_the_penalty_is_added_to_the_loss(store: Store, tmp_path: Path) -> None:
    """One step in float64, against one made by hand."""
    words = [*TWO_SETS, *ONE_STEP, *SGD, "trainer.precision=64-true"]
    cfg = config(*words, "regularizer=unitary", "regularizer.weight=0.03")
    module, records = train(cfg, store, tmp_path)
    slow = build_module(cfg, store).double().train()
    x_BN, y_B = all_rows(store)
    loss, penalty = bce(slow.backbone(x_BN), y_B), 0.03 * unitary_by_loops(slow, 2)
    (loss + penalty).backward()
    for (name, ours), theirs in zip(module.named_parameters(), slow.parameters(), strict=True):
        expected = theirs.detach() - 0.1 * (theirs.grad + 1e-6 * theirs.detach())
        torch.testing.assert_close(
            ours.detach(), expected, rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert module.regularizer.factor.dtype == torch.float64 and (module.regularizer.factor - 1).abs().min() > 1e-4
    record = records.records[-1]
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert record["train_penalty"] == pytest.approx(penalty.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["singular_value", "logdet", "norm_align"])
def test_penalty_is_recorded_beside_the_loss(store: Store, tmp_path: Path, name: str) -> None:
    """Both are means over rows: batches of 8, 8, 8 and 6; without learning."""
    words = [*TWO_SETS, "optimizer.lr=0.0", "trainer.max_epochs=1", "model.backbone.dropout=0"]
    _, plain = train(config(*words), store, tmp_path / "plain")
    module, records = train(config(*words, f"regularizer={name}", "regularizer.weight=2.0"), store, tmp_path / name)
    penalties = []
    for x_BN, _ in Batches(store, "train", 8, shuffled(0, lambda: 0)):
        value = module.regularizer(module.backbone, module.train().backbone.stages(x_BN)).item()
        penalties += [value] * len(x_BN)
    first, last = records.records
    assert first["train_penalty"] is None and plain.records[-1]["train_penalty"] is None
    assert last["train_loss"] == plain.records[-1]["train_loss"]
    assert last["train_penalty"] == pytest.approx(sum(penalties) / 30, rel=1e-5) and abs(last["train_penalty"]) > 1e-3


@pytest.mark.parametrize(
    "name", ["unitary", "norm_align", "singular_value", "space_similarity", "decorrelation", "logdet"]
)
def test_a_weight_of_zero_is_no_regularizer(store: Store, tmp_path: Path, name: str) -> None:
    """Bit for bit, with dropout and over two epochs."""
    words = [*TWO_SETS, "trainer.max_epochs=2", "optimizer.lr=0.01"]
    ends = []
    for weight in (None, 0.0, 1000.0):
        regularizer = [] if weight is None else [f"regularizer={name}", f"regularizer.weight={weight}"]
        module, _ = train(config(*words, *regularizer), store, tmp_path / str(weight))
        ends.append(module.backbone.state_dict())
    none, zero, large = ends
    assert all(torch.equal(none[key], zero[key]) for key in none)
    assert not all(torch.equal(none[key], large[key]) for key in none), "nor is a large one"


def test_factors_are_learned(store: Store, tmp_path: Path) -> None:
    """One for each layer, set and pair of fields. Without decay, which would move them too."""
    words = [*TWO_SETS, "trainer.max_epochs=2", "optimizer.lr=0.05", "optimizer.weight_decay=0"]
    module, _ = train(config(*words, "regularizer=unitary", "regularizer.weight=1.0"), store, tmp_path)
    factor = module.regularizer.factor.detach()
    assert factor.shape == (2, 2, 2, 2)
    assert (factor != 1).all() and len(factor.unique()) == 16
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert best["regularizer.factor"].shape == factor.shape


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", [0, 2, 5])
def test_a_penalty_that_is_not_finite_ends_the_run(
    store: Store, tmp_path: Path, monkeypatch, value: float, broken: int
) -> None:
    """Although the loss is finite."""
    steps: Iterator[int] = iter(range(100))
    cfg = config(*SMALL, "regularizer=logdet", "optimizer.lr=0.02")
    forward = LogDet.forward

    def breaks(self: LogDet, *args: Any) -> Tensor:
        return forward(self, *args) * (value if next(steps) == broken else 1)

    monkeypatch.setattr(LogDet, "forward", breaks)
    with pytest.raises(DivergedError, match=rf"not finite at step {broken} with learning rate 0\.02") as stop:
        train(cfg, store, tmp_path)
    assert (stop.value.step, stop.value.lr) == (broken, 0.02)
    assert (tmp_path / "checkpoints" / "best.ckpt").exists() == (broken > 3)


# Which parameters are whose


@pytest.mark.parametrize(
    ("words", "sets"),
    [
        (["model=dcnv2", "scale=3", "embed=me"], [3]),
        (["model=dcnv2", "scale=3", "embed=se", "regularizer=unitary"], [1]),
        (["model=ffm"], [1, 1]),
        (["model=ffm", "model.backbone.first_order=false"], [1]),
        (["model=fm", "model.backbone.first_order=true"], [1, 1]),
    ],
)
def test_every_parameter_is_in_one_group(store: Store, words: list[str], sets: list[int]) -> None:
    """Every table in its own, the regularizer's parameters with the others."""
    module = build_module(config(*words), store)
    *tables, others = module.parameter_groups()
    assert [group["num_sets"] for group in tables] == sets
    assert [group["params"] for group in tables] == [[table.weight] for table in module.backbone.tables()]
    assert tables[0]["params"][0] is module.backbone.embedding.weight
    assert list(others) == ["params"]
    grouped = [parameter for group in (*tables, others) for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, module.parameters()))
    made = module.make_optimizer(module.parameter_groups())
    assert [len(group["params"]) for group in made.param_groups] == [1] * len(sets) + [len(others["params"])]
    if "regularizer=unitary" in words:
        assert any(parameter is module.regularizer.factor for parameter in others["params"])


# Clipping


def dense_gradients(module: CTRModule) -> list[Tensor]:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [grad.to_dense() if grad.is_sparse else grad.clone() for grad in grads]


def clipped(store: Store, folder: Path, monkeypatch, clip: float | None, sparse: bool, *words: str) -> tuple[Any, Any]:
    """Weights after training, and the norm of the gradient in every step; each is clipped as torch clips dense ones."""
    norms: list[float] = []
    clip_gradients = CTRModule.configure_gradient_clipping

    def watched(module: CTRModule, *args: Any, **kwargs: Any) -> None:
        expected = dense_gradients(module)
        wanted = [torch.nn.Parameter(grad) for grad in expected]
        for one, grad in zip(wanted, expected, strict=True):
            one.grad = grad
        norms.append(torch.nn.utils.clip_grad_norm_(wanted, clip or math.inf).item())
        assert module.backbone.embedding.weight.grad.is_sparse == sparse
        clip_gradients(module, *args, **kwargs)
        assert module.backbone.embedding.weight.grad.is_sparse == sparse
        torch.testing.assert_close(dense_gradients(module), expected, rtol=1e-9, atol=1e-12)

    with monkeypatch.context() as patch:
        patch.setattr(CTRModule, "configure_gradient_clipping", watched)
        options = [*SMALL, "optimizer=adagrad", "optimizer.table.lr=0.1", "trainer.precision=64-true"]
        gradients = [f"trainer.gradient_clip={clip or 'null'}", f"optimizer.sparse_gradients={sparse}"]
        module, _ = train(config(*options, "trainer.max_epochs=3", *gradients, *words), store, folder)
    return module.backbone.state_dict(), norms


@pytest.mark.parametrize(
    ("words", "clip"),
    [
        (["model=dcnv2", "model.backbone.hidden_sizes=[4,4]", "model.backbone.dropout=0"], 0.5),
        (["model=ffm"], 0.3),
        (["model=dcnv2", "scale=2", "embed=me", "regularizer=unitary", "regularizer.weight=0.1"], 7.0),
    ],
)
def test_sparse_gradients_are_clipped_as_dense_ones(
    store: Store, tmp_path: Path, monkeypatch, words: list[str], clip: float
) -> None:
    """To a norm of all parameters together; some steps have more and others less."""
    dense, dense_norms = clipped(store, tmp_path / "dense", monkeypatch, clip, False, *words)
    sparse, norms = clipped(store, tmp_path / "sparse", monkeypatch, clip, True, *words)
    free, _ = clipped(store, tmp_path / "free", monkeypatch, None, True, *words)
    assert len(norms) == 12 and norms == pytest.approx(dense_norms, rel=1e-6)
    assert min(norms) < clip < max(norms)
    for name, expected in dense.items():
        torch.testing.assert_close(sparse[name], expected, rtol=1e-6, atol=1e-9)
    weight = "embedding.weight"
    assert (free[weight] - dense[weight]).abs().max() > 1e-4, "the clip does not act"


def test_clipping_is_that_of_torch(store: Store) -> None:
    words = ("model=dnn", "seed=3", "optimizer.sparse_gradients=false")
    module, twin = (build_module(config(*words), store) for _ in range(2))
    x_BN, y_B = store.ids[:20], store.labels[:20].float()
    for one in (module, twin):
        (100 * bce(one.backbone(x_BN), y_B)).backward()
    for own, other in zip(module.parameters(), twin.parameters(), strict=True):
        other.grad.copy_(own.grad)  # dropout drew other masks
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    assert norm > 1
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters()), 0.5, "norm")
    for own, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_a_fused_optimizer_is_clipped_in_mixed_precision(store: Store, tmp_path: Path) -> None:
    """Lightning refuses to, though bfloat16 has no scaled gradients."""
    words = (
        "trainer.precision=bf16-mixed",
        "trainer.gradient_clip=1e-3",
        "trainer.max_epochs=1",
        "trainer.batch_size=8",
    )
    cfg = config("model=dnn", "trainer.accelerator=cpu", *words)
    assert isinstance(build_module(cfg, store).configure_optimizers(), torch.optim.Adam)
    module, records = train(cfg, store, tmp_path)
    assert module.global_step == 4 and len(records.records) == 2
