"""What training takes, told from an outline: the live tensors of real steps, and limits that are there."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from recsys_collapse import train as train_module
from recsys_collapse.config import config_dir, register
from recsys_collapse.cost import outline
from recsys_collapse.dataset.store import Store
from recsys_collapse.launch.plan import make_plan
from recsys_collapse.memory import Memory, check_memory, free, memory_of, need, needed
from recsys_collapse.memory.live import Live
from recsys_collapse.module import CTRModule
from recsys_collapse.train import build_module
from tests.cli import SMALL, SMALL_SYNTHETIC

CARDINALITIES = [300, 40, 5]
MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
ROWS = {"train": 64, "valid": 16, "test": 16}
IDS, LABELS, SPLITS = (
    torch.zeros(64, 3, dtype=torch.int32),
    torch.zeros(64, dtype=torch.uint8),
    {"train": torch.arange(64)},
)
STORE = Store(Path("memory"), "f", ["a", "b", "c"], CARDINALITIES, IDS, LABELS, SPLITS)


@cache
def config(*words: str) -> DictConfig:
    """Shared: not to be changed."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", ["trainer.batch_size=32", "trainer.eval_batch_size=16", *words])


# The tracker


def test_a_storage_counts_as_long_as_a_tensor_has_it() -> None:
    there = torch.ones(1000)
    with Live() as live:
        assert live.now == 0
        made = there * 2
        view = made[:10]
        there.add_(1)  # was there before
        assert live.now == live.peak == 4000
        del made
        assert live.now == 4000 and len(view) == 10
        del view
        assert live.now == 0 and live.peak == 4000


def test_what_autograd_keeps_counts() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.exp())
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * ctx.saved_tensors[0]

    for device in ("cpu", "meta"):
        x = torch.zeros(1000, device=device, requires_grad=True)
        with Live() as live:
            y = Own.apply(x)
            assert live.now == 8000
            loss = y.sum()
            del y
            assert live.now == 4004
            loss.backward()
            del loss
            assert live.now == 4000  # the gradient
            assert 8000 <= live.peak <= 8010


def test_a_sparse_gradient_has_values_and_row_numbers() -> None:
    weight, x = torch.zeros(50, 10, requires_grad=True), torch.zeros(7, dtype=torch.int64)
    with Live() as live:
        torch.nn.functional.embedding(x, weight, sparse=True).sum().backward()
        assert weight.grad is not None and weight.grad.is_sparse
        assert live.now == 7 * (10 * 4 + 8)


# The estimate


def steps_as_they_are(module: CTRModule, sparse: bool) -> int:
    """The most that steps with real tensors have, beside parameters and dense gradients."""
    backbone, regularizer = module.backbone.train(), module.regularizer
    tables = [table.weight for table in backbone.tables()]
    with Live() as live:
        for _ in range(2):
            held = sum(p.grad.nbytes for p in tables if p.grad is not None and not p.grad.is_sparse)
            if sparse:
                held = sum(p.grad._values().nbytes + p.grad._indices().nbytes for p in tables if p.grad is not None)
            before, live.peak = live.now - held, live.now
            stages = backbone.stages(torch.zeros(32, 3, dtype=torch.int32))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(stages.logit_B, torch.zeros(32))
            loss = loss if regularizer is None else loss + regularizer(backbone, stages)
            del stages
            backbone.zero_grad()
            loss.backward()
            del loss
    return live.peak - before


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_outline_has_the_peak_of_a_real_step(model: str, sparse: bool) -> None:
    """Without dropout: on a CPU it may keep less than torch's own, which the outline has."""
    embed = "se" if model in ("fm", "ffm") else "me"
    options = ["model.backbone.dropout=0.0"] if "dropout" in config(f"model={model}").model.backbone else []
    cfg = config(f"model={model}", "scale=3", f"embed={embed}", *options)
    module = build_module(cfg, STORE)
    for table in module.backbone.tables():
        table.sparse = sparse
    actual = steps_as_they_are(module, sparse)
    told = need.step_bytes(outline(cfg, CARDINALITIES).train(), 32, sparse)
    assert told == pytest.approx(actual, rel=0.03)
    with Live() as live, torch.no_grad():
        module.backbone.eval()(torch.zeros(32, 3, dtype=torch.int32) + 0)
    assert need.forward_bytes(outline(cfg, CARDINALITIES), 32) == pytest.approx(live.peak, rel=0.03)


@pytest.mark.parametrize(
    "name", ["logdet", "decorrelation", "space_similarity", "unitary", "norm_align", "singular_value"]
)
def test_regularizers_count(name: str) -> None:
    base = ["model=dcnv2", "scale=2", "embed=me"]
    without, own = (
        needed(cfg, outline(cfg, CARDINALITIES), ROWS) for cfg in (config(*base), config(*base, f"regularizer={name}"))
    )
    assert own.left_out == "" and own.activations >= without.activations
    assert own.activations > without.activations or name == "norm_align"  # small, and not there at the peak


def told(backbone: Any, optimizer: dict[str, Any], **trainer: Any) -> Memory:
    return memory_of(backbone, optimizer, {"batch_size": 32, "eval_batch_size": 16, **trainer}, ROWS, process=7)


def test_the_parts() -> None:
    """FM with 345 ids and 20 columns, and a bias."""
    backbone, weights = outline(config("model=fm", "scale=2"), CARDINALITIES), 345 * 20
    dense = told(backbone, {})
    assert (dense.process, dense.table, dense.optimizer) == (7, 4 * weights, 8 * weights)
    assert (dense.dense, dense.gradient, dense.copy) == (16, 4 * weights, 4 * weights + 4)
    assert dense.data == 8 * 64 + 8 * 345
    rows = (3 * 32 + 32 + 32 + 5) * (20 * 4 + 8)  # as they come, and the distinct ones: a batch has no more than 32
    sparse = told(backbone, {"sparse_gradients": True, "bytes_per_weight": 5})
    assert (sparse.table, sparse.optimizer, sparse.gradient) == (4 * weights, weights, rows)
    double = told(backbone, {}, precision="64-true")
    assert (double.table, double.optimizer, double.dense) == (8 * weights, 16 * weights, 32)
    assert told(backbone, {}, batch_size=64).activations > dense.activations
    assert (
        memory_of(backbone, {}, {"batch_size": 32, "eval_batch_size": 16}, ROWS | {"test": 10**6}).evaluation == 10**8
    )
    assert backbone.embedding.weight.dtype == torch.float32 and backbone.embedding.weight.grad is None


def test_what_comes_in_turn_counts_once() -> None:
    parts = {"gradient": 2, "activations": 50, "evaluation": 30, "copy": 10}
    memory = Memory(100, 0, 0, 0, 0, **parts)
    assert (memory.resident, memory.step, memory.peak) == (100, 152, 152)
    assert memory._replace(activations=0).peak == 100 + 40
    assert memory._replace(activations=0, copy=0).peak == 100 + 32


def test_a_regularizer_that_needs_numbers_is_left_out_and_said() -> None:
    backbone = outline(config("model=fm"), CARDINALITIES)
    trainer = {"batch_size": 32, "eval_batch_size": 16}
    found = memory_of(
        backbone, {}, trainer, ROWS, lambda backbone, stages: stages.logit_B.sum() * stages.logit_B[0].item()
    )
    assert found.left_out == "the regularizer" and "not counted" in found.words()


def test_what_does_not_fit_says_what_to_change() -> None:
    backbone, names = outline(config("model=fm"), CARDINALITIES), ["a", "b", "c"]
    base = dict.fromkeys(Memory._fields[:-1], 0) | {"process": 10**12}
    for part, word in (
        ("table", "dataset.min_count"), ("gradient", "optimizer=rowwise_adagrad"), ("data", "device_resident=false"),
        ("activations", "trainer.batch_size"), ("evaluation", "trainer.eval_batch_size"), ("dense", "smaller scale"),
    ):  # fmt: skip
        memory = Memory(**{**base, part: 10**11})
        check_memory(backbone, names, memory, 10**11)
        with pytest.raises(ValueError, match=r"takes 100\.0 GB beside its process, 100\.0 GB are free") as refused:
            check_memory(backbone, names, memory, 10**11 - 1)
        said = str(refused.value)
        assert word in said.partition("What to change: ")[2] and f"{part} 100.00" in said
    both = Memory(**{**base, "activations": 10**11, "table": 2 * 10**11})
    with pytest.raises(ValueError, match=r"What to change: the table .*; a step: lower trainer\.batch_size"):
        check_memory(backbone, names, both, 1)


@pytest.mark.parametrize("words", [["model=ffm"], ["model=dnn", "scale=2", "embed=me"]])
def test_a_run_says_it_and_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: list[str]
) -> None:
    base = [f"output_dir={tmp_path}", "trainer.accelerator=cpu", *SMALL, *SMALL_SYNTHETIC, *words]
    base = [word for word in base if not word.startswith("model.backbone.hidden_sizes") or "model=dnn" in words]
    found = make_plan([*base, "optimizer=rowwise_adagrad"])
    assert found is not None
    (job,) = found.jobs
    built, free_bytes = [], 1
    monkeypatch.setattr(train_module, "free_memory", lambda accelerator, wanted=0: free_bytes)
    monkeypatch.setattr(train_module, "build_module", lambda *args: (built.append(1), build_module(*args))[1])
    with pytest.raises(ValueError, match=r"^training takes .* free\. memory: up to ") as refused:
        train_module.train(job)
    assert not built and "Largest fields: " in str(refused.value)
    free_bytes = 10**9
    with caplog.at_level(logging.INFO):
        train_module.train(job)
    assert "; 1.0 GB are free" in caplog.text and built


# What is there


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /proc with 900 kB available and an empty /sys/fs/cgroup."""
    monkeypatch.setattr(free, "PROC", tmp_path / "proc")
    monkeypatch.setattr(free, "GROUPS", tmp_path / "groups")
    group(tmp_path / "proc/self", {"cgroup": "4:memory:/job/7\n1:cpu:/\n0::/slice"})
    group(tmp_path / "proc", {"meminfo": "MemTotal: 5000 kB\nMemAvailable:     900 kB"})
    return tmp_path


def test_free_memory_is_that_of_the_machine_or_of_the_group(system: Path) -> None:
    assert free.free_memory("cpu") == 900 * 1024
    second = system / "groups/slice"
    group(second, {"memory.max": "max", "memory.current": 9, "memory.stat": "inactive_file 1"})
    assert free.free_memory("cpu") == 900 * 1024
    group(second, {"memory.max": 500_000, "memory.current": 200_000, "memory.stat": "anon 5\ninactive_file 50000"})
    assert free.free_memory("cpu") == 350_000  # files that are not in use give way
    stat = "inactive_file 9\ntotal_inactive_file 7"
    first = {"memory.limit_in_bytes": 1000, "memory.usage_in_bytes": 400, "memory.stat": stat}
    group(system / "groups/memory/job", first)  # of a group above
    assert free.free_memory("cpu") == 607
    group(system / "groups/memory/job", {"memory.usage_in_bytes": 5000})
    assert free.free_memory("cpu") == 0


def test_what_the_system_does_not_say_is_not_known(system: Path) -> None:
    (system / "proc/meminfo").unlink()
    assert free.free_memory("cpu") is None
    (system / "proc/self/cgroup").unlink()
    assert free.free_memory("cpu") is None
