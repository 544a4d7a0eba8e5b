"""Optimizers against plain loops in float64, and what each recipe of `conf/optimizer` does to rows it does not see."""

import copy
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from recsys_collapse.config import config_dir
from recsys_collapse.optimizer import adam as adam_module
from recsys_collapse.optimizer.adam import Adam
from recsys_collapse.optimizer.rowwise_adagrad import RowwiseAdagrad
from recsys_collapse.optimizer.split import Split

D, M, K = 12, 3, 4
SPARSE = ["sparse_adam", "adagrad", "rowwise_adagrad"]
every_count = pytest.mark.parametrize("num_sets", [1, 3])
every_layout = pytest.mark.parametrize("sparse", [True, False])
every_split = pytest.mark.parametrize("name", SPARSE)
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Tiny(nn.Module):
    """A table and a head, as few parameters as have both kinds: ids (B, N) -> logits (B,)."""

    def __init__(self, sparse: bool, rows: int = D) -> None:
        super().__init__()
        self.sparse = sparse
        self.table = nn.Parameter(torch.empty(rows, M * K).uniform_(-2e-3, 2e-3))
        self.head = nn.Linear(M * K, 1)

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.head(F.embedding(x_BN, self.table, sparse=self.sparse).sum(1)).squeeze(1)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.table], "num_sets": M}, {"params": list(self.head.parameters())}]


def recipe(name: str) -> tuple[Any, dict[str, Any]]:
    """`conf/optimizer/<name>.yaml` as groups -> optimizer, and its labels."""
    options = OmegaConf.load(Path(config_dir()) / "optimizer" / f"{name}.yaml")
    labels = {label: options.pop(label, None) for label in ("name", "bytes_per_weight", "sparse_gradients")}
    return instantiate(options, _convert_="all"), labels


def started(name: str, rows: int = D) -> tuple[Tiny, torch.optim.Optimizer]:
    make, labels = recipe(name)
    torch.manual_seed(0)
    model = Tiny(bool(labels["sparse_gradients"]), rows)
    return model, make(model.groups())


def train(model: Tiny, optimizer: torch.optim.Optimizer, steps: range, below: int = D, batch: int = 6) -> None:
    """Batches of ids (batch, 2) under `below`, with repetitions; step t is a function of t alone."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x_BN = torch.randint(below, (batch, 2), generator=generator)
        optimizer.zero_grad()
        F.softplus(model(x_BN) * torch.randn(batch, generator=generator)).sum().backward()
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def all_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def batches(steps: int, columns: int) -> list[tuple[Tensor, Tensor]]:
    """Row numbers (9,) with repetitions, never the last two rows, and gradients (9, C) of very different sizes."""
    ids = [torch.randint(D - 2, (9,)) for _ in range(steps)]
    return [(row_n, torch.randn(9, columns, dtype=torch.float64) * 10.0 ** -torch.randint(8, (9, 1))) for row_n in ids]


def gradient(row_n: Tensor, grad_nC: Tensor, sparse: bool) -> Tensor:
    found = torch.sparse_coo_tensor(row_n.unsqueeze(0), grad_nC, (D, grad_nC.shape[1]), check_invariants=True)
    assert not found.is_coalesced()
    return found if sparse else found.to_dense()


def descend(optimizer: torch.optim.Optimizer, hits: list[tuple[Tensor, Tensor]], sparse: bool) -> Tensor:
    """The weight (D, C) after steps with these gradients."""
    (weight_DC,) = optimizer.param_groups[0]["params"]
    for row_n, grad_nC in hits:
        weight_DC.grad = gradient(row_n, grad_nC.to(weight_DC.dtype), sparse)
        optimizer.step()
    return weight_DC.detach()


def rowwise_by_loops(
    weight_DC: Tensor, num_sets: int, hits: list[tuple[Tensor, Tensor]], lr: float, eps: float, start: float
) -> Tensor:
    """One number at a time."""
    rows, size = len(weight_DC), weight_DC.shape[1] // num_sets
    weight = weight_DC.tolist()
    acc = [[start] * num_sets for _ in range(rows)]
    for row_n, grad_nC in hits:
        for d in set(row_n.tolist()):
            for m in range(num_sets):
                columns = range(m * size, m * size + size)
                g = {c: sum(grad_nC[i, c].item() for i in range(len(row_n)) if row_n[i] == d) for c in columns}
                acc[d][m] += sum(value * value for value in g.values()) / size
                for c in columns:
                    weight[d][c] -= lr * g[c] / (acc[d][m] ** 0.5 + eps)
    return torch.tensor(weight, dtype=torch.float64)


@every_count
@every_layout
@pytest.mark.parametrize("options", [(0.01, 1e-10, 0.0), (0.5, 1e-3, 0.1)])
def test_rowwise_adagrad(num_sets: int, sparse: bool, options: tuple[float, float, float]) -> None:
    weight_DC, hits = torch.randn(D, num_sets * K, dtype=torch.float64), batches(5, num_sets * K)
    slow = rowwise_by_loops(weight_DC, num_sets, hits, *options)
    lr, eps, start = options
    group = {"params": [nn.Parameter(weight_DC.clone())], "num_sets": num_sets}
    optimizer = RowwiseAdagrad([group], lr=lr, eps=eps, initial_accumulator_value=start)
    fast = descend(optimizer, hits, sparse)
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-12)
    assert torch.equal(fast[-2:], weight_DC[-2:]) and (fast[:-2] != weight_DC[:-2]).any(1).sum() > 5
    assert optimizer.state[group["params"][0]]["sum"].shape == (D, num_sets)


@every_layout
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_rowwise_adagrad_with_one_column_per_set_is_adagrad(sparse: bool, start: float) -> None:
    weight_DC, hits = torch.randn(D, M * K, dtype=torch.float64), batches(5, M * K)
    options = {"lr": 0.1, "eps": 1e-6, "initial_accumulator_value": start}
    ours = RowwiseAdagrad([{"params": [nn.Parameter(weight_DC.clone())], "num_sets": M * K}], **options)
    theirs = torch.optim.Adagrad([nn.Parameter(weight_DC.clone())], **options)
    torch.testing.assert_close(descend(ours, hits, sparse), descend(theirs, hits, sparse), rtol=1e-12, atol=1e-13)


def test_rowwise_adagrad_without_num_sets_takes_the_whole_row() -> None:
    weight_DC, hits = torch.randn(D, M * K, dtype=torch.float64), batches(3, M * K)
    whole, one, three = (
        RowwiseAdagrad([{"params": [nn.Parameter(weight_DC.clone())], **group}])
        for group in ({}, {"num_sets": 1}, {"num_sets": 3})
    )
    found = descend(whole, hits, sparse=True)
    assert torch.equal(found, descend(one, hits, sparse=True))
    assert not torch.equal(found, descend(three, hits, sparse=True))


@settings(max_examples=60, deadline=None)
@given(
    row_lists=st.lists(st.lists(st.integers(0, D - 1), max_size=8), min_size=1, max_size=4),
    num_sets=st.integers(1, 4),
    size=st.integers(1, 5),
    lr=st.floats(0, 10),
    exponent=st.integers(-30, 10),
    number=st.integers(0, 1000),
)
def test_rowwise_adagrad_is_the_same_for_sparse_and_dense_gradients(
    row_lists: list[list[int]], num_sets: int, size: int, lr: float, exponent: int, number: int
) -> None:
    """Of any size, with rows that get a gradient of zero and with batches that have no row at all; in float32."""
    torch.manual_seed(number)
    weight_DC, ends = torch.randn(D, num_sets * size), []
    grads = [torch.randn(len(rows), num_sets * size) * 10.0**exponent for rows in row_lists]
    for sparse in (True, False):
        weight = nn.Parameter(weight_DC.clone())
        optimizer = RowwiseAdagrad([{"params": [weight], "num_sets": num_sets}], lr=lr)
        for rows, grad_nC in zip(row_lists, grads, strict=True):
            index = torch.tensor([rows], dtype=torch.int64)
            values = grad_nC.where(torch.arange(len(rows)).unsqueeze(1) != 1, 0)
            grad = torch.sparse_coo_tensor(index, values, weight.shape, check_invariants=True)
            weight.grad = grad if sparse else grad.to_dense()
            optimizer.step()
        ends.append(weight.detach())
    assert ends[0].isfinite().all()
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-5 * lr)
    unseen = sorted(set(range(D)) - {row for rows in row_lists for row in rows})
    assert all(torch.equal(end[unseen], weight_DC[unseen]) for end in ends)


class Largest(TorchDispatchMode):
    """Number of values of the largest tensor that an operation makes."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known, self.numel = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for made in found if isinstance(found, tuple | list) else [found]:
            if isinstance(made, Tensor):
                values = made._values() if made.is_sparse else made
                if values.untyped_storage().data_ptr() not in self.known:
                    self.numel = max(self.numel, values.numel())
        return found


@every_layout
def test_a_sparse_step_of_rowwise_adagrad_makes_nothing_of_the_size_of_the_table(sparse: bool) -> None:
    hits = batches(2, M * K)
    weight_DC = nn.Parameter(torch.zeros(D, M * K, dtype=torch.float64))
    optimizer = RowwiseAdagrad([{"params": [weight_DC], "num_sets": M}])
    descend(optimizer, hits[:1], sparse)
    weight_DC.grad = gradient(*hits[1], sparse)
    with Largest([weight_DC, optimizer.state[weight_DC]["sum"]]) as largest:
        optimizer.step()
    assert 0 < largest.numel <= 9 * M * K if sparse else largest.numel == D * M * K


@pytest.mark.parametrize(
    ("options", "shape", "num_sets", "named"),
    [
        ({"lr": -0.1}, (2, 6), 3, "lr=-0.1: expected a number of 0 or more"),
        ({"lr": float("nan")}, (2, 6), 3, "lr=nan: expected"),
        ({"eps": 0.0}, (2, 6), 3, "eps=0.0: expected a number above 0"),
        ({"eps": float("inf")}, (2, 6), 3, "eps=inf: expected"),
        ({"initial_accumulator_value": -1.0}, (2, 6), 3, "initial_accumulator_value=-1.0: expected a number of 0"),
        ({}, (2, 6), 4, r"shape \(2, 6\) with num_sets=4: expected an embedding table"),
        ({}, (2, 6), 0, r"shape \(2, 6\) with num_sets=0"),
        ({}, (6,), 1, r"shape \(6,\) with num_sets=1"),
    ],
)
def test_rowwise_adagrad_refuses(options: dict[str, float], shape: tuple[int, ...], num_sets: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RowwiseAdagrad([{"params": [nn.Parameter(torch.zeros(shape))], "num_sets": num_sets}], **options)


@pytest.mark.parametrize(
    "make", [lambda groups: RowwiseAdagrad(groups[:1]), lambda groups: recipe("adagrad")[0](groups)]
)
def test_the_closure_is_called_once_with_gradients(make: Any) -> None:
    model, losses = Tiny(sparse=True), []
    optimizer = make(model.groups())
    before = weights(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses.append(model(torch.tensor([[1, 2], [2, 3]])).sum())
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        result = optimizer.step(closure)
    assert len(losses) == 1 and result is losses[0]
    assert (model.table != before[0]).any(1).tolist() == [False, True, True, True] + (D - 4) * [False]


@pytest.mark.parametrize("name", ["adam", "adamw", "adam_no_decay", *SPARSE])
def test_labels_say_what_is_so(name: str) -> None:
    """Bytes per weight: 4 of its own, 4 of a dense gradient, the state's; all rounded up."""
    labels, (model, optimizer) = recipe(name)[1], started(name)
    train(model, optimizer, range(1))
    kept = [model.table, *optimizer.state[model.table].values()]
    held = [tensor for tensor in (*kept, model.table.grad) if isinstance(tensor, Tensor) and not tensor.is_sparse]
    expected = sum(tensor.nbytes for tensor in held if tensor.ndim) / model.table.numel()
    assert labels == {
        "name": name,
        "bytes_per_weight": math.ceil(expected),
        "sparse_gradients": True,
    }


def test_unseen_rows_vanish_under_coupled_decay() -> None:
    model, optimizer = started("adam")
    before = weights(model)[0][-2:]
    train(model, optimizer, range(300), below=D - 2)
    assert before.abs().max() > 1e-3
    assert model.table[-2:].abs().max() < 1e-6
    assert model.table[:-2].abs().max() > 1e-2


def test_unseen_rows_shrink_by_a_factor_under_decoupled_decay() -> None:
    model, optimizer = started("adamw")
    before = weights(model)[0][-2:]
    train(model, optimizer, range(300), below=D - 2)
    torch.testing.assert_close(model.table[-2:].detach(), before * (1 - 1e-3 * 0.01) ** 300, rtol=2e-5, atol=0)
    assert (model.table[-2:].abs() < before.abs()).all()


@pytest.mark.parametrize("name", ["adam_no_decay", *SPARSE])
def test_unseen_rows_stay_bit_for_bit(name: str) -> None:
    model, optimizer = started(name)
    before = weights(model)
    train(model, optimizer, range(300), below=D - 2)
    assert torch.equal(model.table[-2:], before[0][-2:])
    assert (model.table[:-2] != before[0][:-2]).all()
    assert not torch.equal(model.head.weight, before[1])


@pytest.mark.parametrize(("name", "waits"), [("adam_no_decay", False), *((name, True) for name in SPARSE)])
def test_a_row_between_its_hits(name: str, waits: bool) -> None:
    """Dense moments go on moving a row, lazy rules do not."""
    model, optimizer = started(name)
    train(model, optimizer, range(5))
    before = weights(model)[0][-2:]
    train(model, optimizer, range(5, 10), below=D - 2)
    assert torch.equal(model.table[-2:], before) == waits


@every_split
def test_only_the_rule_of_the_table_differs_from_adam(name: str) -> None:
    """The same gradients give the head the same step as the paper's optimizer does."""
    ends = []
    for each in ("adam", name):
        model, optimizer = started(each)
        train(model, optimizer, range(1))
        ends.append(model.head.weight.detach())
    assert torch.equal(*ends)
    groups = {each: started(each)[1].param_groups[-1] for each in ("adam", name)}
    assert {key: groups[name][key] for key in groups[name] if key != "params"} == {
        key: groups["adam"][key] for key in groups["adam"] if key != "params"
    }


@every_split
def test_a_state_brings_training_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, optimizer = started(name)
    train(model, optimizer, range(10))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = started(name)
    train(*resumed, range(100, 103))  # has a past of its own
    resumed[0].load_state_dict(saved["model"])
    without = copy.deepcopy(resumed)
    resumed[1].load_state_dict(saved["optimizer"])
    for each in ((model, optimizer), resumed, without):
        train(*each, range(10, 20))
    assert all_equal(weights(model), weights(resumed[0]))
    for theirs, ours in zip(weights(model), weights(without[0]), strict=True):
        assert not torch.equal(theirs, ours), "each of both states matters"


@every_split
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copy_trains_on_alike_and_apart(name: str, clone: Any) -> None:
    pair = started(name)
    train(*pair, range(5))
    twin = clone(pair)
    before = weights(pair[0])
    train(*twin, range(5, 10))
    assert all_equal(weights(pair[0]), before)
    train(*pair, range(5, 10))
    assert all_equal(weights(pair[0]), weights(twin[0])) and not all_equal(weights(pair[0]), before)


def shares(optimizer: torch.optim.Optimizer) -> bool:
    """Whether groups and states outside are the objects inside."""
    assert isinstance(optimizer, Split)
    inside = [*optimizer.table.param_groups, *optimizer.dense.param_groups]
    return (
        len(inside) == len(optimizer.param_groups) > 1
        and all(ours is theirs for ours, theirs in zip(optimizer.param_groups, inside, strict=True))
        and optimizer.table.state is optimizer.dense.state is optimizer.state
    )


@every_split
def test_groups_and_state_are_those_of_the_two_inside(name: str) -> None:
    model, optimizer = started(name)
    assert shares(optimizer)
    assert set(optimizer.state) == ({model.table} if name == "adagrad" else set())  # torch's begins with a state
    train(model, optimizer, range(2))
    assert shares(optimizer) and set(optimizer.state) == set(model.parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    assert shares(optimizer) and shares(copy.deepcopy(optimizer))


@every_split
@pytest.mark.parametrize("loaded", [False, True])
def test_a_scheduler_reaches_both(name: str, loaded: bool) -> None:
    model, optimizer = started(name)
    train(model, optimizer, range(2))
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.0, min_lr=0.0, patience=0, eps=0.0)
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    scheduler.step(0.7)
    before = weights(model)
    train(model, optimizer, range(2, 3))
    moved, before = not all_equal(weights(model), before), weights(model)
    scheduler.step(0.6)
    train(model, optimizer, range(3, 4))
    assert moved and all_equal(weights(model), before)


def test_zero_grad_reaches_all() -> None:
    model, optimizer = started("sparse_adam")
    for set_to_none in (False, True):
        model(torch.tensor([[1, 2]])).sum().backward()
        optimizer.zero_grad(set_to_none=set_to_none)
        for parameter in model.parameters():
            assert parameter.grad is None if set_to_none else parameter.grad.to_dense().abs().max() == 0


def test_groups_keep_their_order_and_later_ones_are_trained() -> None:
    model, tables = Tiny(sparse=True), [nn.Parameter(torch.ones(D, 2)) for _ in range(2)]
    optimizer = Split(
        [{"params": [model.head.bias]}, {"params": [tables[0]], "num_sets": 2}, {"params": [model.head.weight]}],
        table=RowwiseAdagrad,
        dense=torch.optim.SGD,
    )
    optimizer.add_param_group({"params": [tables[1]], "num_sets": 1})
    found = [group["params"][0] for group in optimizer.param_groups]
    assert all(
        ours is theirs
        for ours, theirs in zip(found, [model.head.bias, tables[0], model.head.weight, tables[1]], strict=True)
    )
    for parameter in found:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in found]
    optimizer.step()
    assert all((parameter != old).all() for parameter, old in zip(found, before, strict=True))
    assert [optimizer.state[table]["sum"].shape for table in tables] == [(D, 2), (D, 1)]


@pytest.mark.parametrize(
    ("keep", "named"),
    [
        (slice(0, 1), "1 groups with the key num_sets and 0 without, expected at least one of each"),
        (slice(1, 2), "0 groups with the key num_sets and 1 without, expected at least one of each"),
    ],
)
def test_split_refuses_one_kind_alone(keep: slice, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Split(Tiny(sparse=True).groups()[keep], table=RowwiseAdagrad, dense=torch.optim.Adam)


def test_split_refuses_bare_parameters() -> None:
    with pytest.raises(ValueError, match="0 groups with the key num_sets and 1 without"):
        Split(list(Tiny(sparse=True).parameters()), table=RowwiseAdagrad, dense=torch.optim.Adam)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@every_split
def test_two_threads_give_the_same_bits_every_time(name: str, two_threads: None) -> None:
    """On a table and batches large enough that both threads work, with rows that come hundreds of times."""

    def end() -> list[Tensor]:
        model, optimizer = started(name, rows=10_000)
        train(model, optimizer, range(4), below=20, batch=5_000)
        train(model, optimizer, range(4, 8), below=10_000, batch=5_000)
        return weights(model)

    first = end()
    assert all(all_equal(first, end()) for _ in range(3))


class Module(lightning.LightningModule):
    """What `configure_optimizers` may return at most: an optimizer with a scheduler that watches a metric."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.make_optimizer, labels = recipe(name)
        self.model = Tiny(bool(labels["sparse_gradients"]))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model.groups())
        scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "constant"}}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x_BN, y_B = batch
        self.log("constant", 1.0)
        return F.binary_cross_entropy_with_logits(self.model(x_BN), y_B)


def fit(module: Module, epochs: int, folder: Path, resume: Path | None = None) -> lightning.Trainer:
    generator = torch.Generator().manual_seed(1)
    x_BN = torch.randint(D - 2, (40, 2), generator=generator)
    loader = DataLoader(TensorDataset(x_BN, (x_BN[:, 0] % 2).float()), batch_size=8)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=None,
    )
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    return trainer


@every_split
def test_lightning_trains_schedules_and_resumes(name: str, tmp_path: Path) -> None:
    modules = [Module(name) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    before = weights(modules[0])
    whole = fit(modules[0], 6, tmp_path)
    fit(modules[1], 3, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    resumed = Module(name)
    again = fit(resumed, 6, tmp_path, resume=tmp_path / "last.ckpt")
    assert all_equal(weights(modules[0]), weights(resumed)) and not all_equal(weights(modules[0]), weights(modules[1]))
    assert torch.equal(modules[0].model.table[-2:], before[0][-2:])
    for trainer in (whole, again):
        (optimizer,) = trainer.optimizers
        table_lr = 1e-3 if name == "sparse_adam" else 1e-2
        assert [group["lr"] for group in optimizer.param_groups] == [table_lr / 4, 1e-3 / 4]
        assert shares(optimizer)


# Adam without a full-table gradient

RULES = {
    "coupled": {"weight_decay": 1e-2},
    "none": {},
    "decoupled": {"weight_decay": 1e-2, "decoupled_weight_decay": True},
}
every_rule = pytest.mark.parametrize("rule", RULES)


def dense_twin(rule: str) -> tuple[Tiny, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Tiny(sparse=False).double()
    return model, torch.optim.Adam(model.groups(), lr=1e-3, foreach=False, fused=False, **RULES[rule])


def sparse_one(rule: str) -> tuple[Tiny, Adam]:
    torch.manual_seed(0)
    model = Tiny(sparse=True).double()
    return model, Adam(model.groups(), lr=1e-3, **RULES[rule])


@every_rule
@pytest.mark.parametrize("chunk", [1, 5 * M * K, 10**6])
def test_adam_is_the_dense_one_over_hundreds_of_steps(rule: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's plain loop; chunks of a row, of five of the twelve, of all. Two rows are never seen."""
    monkeypatch.setitem(adam_module.CHUNK, "cpu", chunk)
    (own, optimizer), (twin, twins) = sparse_one(rule), dense_twin(rule)
    train(own, optimizer, range(400), below=D - 2)
    train(twin, twins, range(400), below=D - 2)
    for found, expected in zip(weights(own), weights(twin), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    state, wanted = optimizer.state[own.table], twins.state[twin.table]
    assert state.keys() == wanted.keys() and state["step"] == wanted["step"] == 400
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[key], wanted[key], rtol=1e-9, atol=1e-18)


@every_rule
def test_adam_takes_and_leaves_the_state_of_torch(rule: str) -> None:
    """A checkpoint of either goes on with the other, dense gradients and sparse ones."""
    (own, optimizer), (twin, twins) = sparse_one(rule), dense_twin(rule)
    train(twin, twins, range(20))
    own.load_state_dict(twin.state_dict())
    optimizer.load_state_dict(copy.deepcopy(twins.state_dict()))
    for model, rule_of in ((own, optimizer), (twin, twins)):
        train(model, rule_of, range(20, 30))
    own.sparse = False
    for model, rule_of in ((own, optimizer), (twin, twins)):
        train(model, rule_of, range(30, 40))
    for found, expected in zip(weights(own), weights(twin), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_adam_calls_its_closure_once_and_returns_what_it_returns() -> None:
    model, optimizer = sparse_one("none")
    calls = []

    def closure() -> str:
        calls.append(torch.is_grad_enabled())
        model(torch.zeros(2, 2, dtype=torch.long)).sum().backward()
        return "loss"

    assert optimizer.step(closure) == "loss" and calls == [True]
    assert optimizer.state[model.table]["step"] == 1


def test_adam_leaves_what_has_no_gradient() -> None:
    model, optimizer = sparse_one("coupled")
    before = weights(model)
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, weights(model), strict=True)) and not optimizer.state


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1.0}, {"weight_decay": -1.0}])
def test_adam_refuses_what_torch_refuses(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        Adam([nn.Parameter(torch.zeros(2))], **option)
