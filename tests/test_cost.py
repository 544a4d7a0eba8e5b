"""Costs told without building: those of the built model, and of formulas written down by hand.

In the formulas: M embedding sets, N fields, K embedding size per set, P = N(N-1)/2 pairs. Only
matrix products count, and a multiply-add is two operations.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from recsys_collapse.build import build
from recsys_collapse.config import config_dir, register
from recsys_collapse.cost import checkpoint_bytes, cost, flops_per_sample, outline, training_bytes
from recsys_collapse.model.backbone import Backbone

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
LINEAR = ("ffm", "fm")
FIELDS = [[3, 5], [7, 1, 30, 4, 12], [2] * 11]
CASES = [(model, embed, scale) for model in MODELS for embed, scale in (("se", 1), ("se", 3), ("me", 1), ("me", 3))]
CASES = [(model, embed, scale) for model, embed, scale in CASES if embed == "se" or model not in LINEAR]
every_case = pytest.mark.parametrize(("model", "embed", "scale"), CASES)
every_size = pytest.mark.parametrize("cardinalities", FIELDS, ids=len)


@cache
def config(*overrides: str) -> DictConfig:
    """Shared: not to be changed."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [*overrides])


def built(config: DictConfig, cardinalities: list[int]) -> Backbone:
    """On the CPU, with numbers."""
    sizes = {"num_sets": config.embed.num_sets, "embed_size": config.embed.embed_size}
    return build(config.model.backbone, "model.backbone", cardinalities=cardinalities, **sizes)


@every_size
@every_case
def test_costs_are_those_of_the_built_model(model: str, embed: str, scale: int, cardinalities: list[int]) -> None:
    cfg = config(f"model={model}", f"embed={embed}", f"scale={scale}")
    backbone, rows = built(cfg, cardinalities), 4
    tables = {id(table.weight): table.weight.numel() for table in backbone.tables()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.eval()(torch.zeros(rows, len(cardinalities), dtype=torch.int64))
    flops, rest = divmod(counter.get_total_flops(), rows)
    assert rest == 0
    assert cost(cfg, cardinalities) == {
        "parameters": {
            "embedding": sum(tables.values()),
            "dense": sum(p.numel() for p in backbone.parameters() if id(p) not in tables),
        },
        "flops_per_sample": flops,
    }


# The same numbers by hand


def mlp(M: int, inputs: int, hidden: list[int]) -> int:
    """The first layer once per set, then the others and the logit."""
    first, second = hidden
    return 2 * (M * inputs * first + first * second + second)


def dnn(M: int, N: int, K: int, options: Any) -> int:
    return mlp(M, N * K, options.hidden_sizes)


def dcnv2(M: int, N: int, K: int, options: Any) -> int:
    """W x in every cross layer; the products with x_0 are element by element."""
    return M * options.num_cross_layers * 2 * (N * K) ** 2 + mlp(M, N * K, options.hidden_sizes)


def ipnn(M: int, N: int, K: int, options: Any) -> int:
    """The whole Gram matrix, of which the paper's model needs the P products above the diagonal."""
    return 2 * M * N * N * K + mlp(M, N * K + N * (N - 1) // 2, options.hidden_sizes)


def nfwfm(M: int, N: int, K: int, options: Any) -> int:
    """R e; the products with e are element by element, and K numbers are left."""
    return 2 * M * N * N * K + mlp(M, K, options.hidden_sizes)


def xdeepfm(M: int, N: int, K: int, options: Any) -> int:
    """W_o x for each of K dimensions and O maps; the products with x_0 are element by element; a linear part, a DNN."""
    cin, inputs = 0, N
    for outputs in options.maps:
        cin += 2 * M * K * outputs * N * inputs
        inputs = outputs
    return cin + 2 * sum(options.maps) + mlp(M, N * K, options.hidden_sizes)


def finalmlp(M: int, N: int, K: int, options: Any) -> int:
    """Two MLPs, all of them once per set; then w_x x, w_y y and x W, whose product with y is element by element."""
    first, second = options.hidden_sizes
    return 2 * 2 * M * (N * K * first + first * second) + 2 * (2 * second + second * second)


def fm(M: int, N: int, K: int, options: Any) -> int:
    """|sum of all embeddings|^2 and the sum of their squares: linear in N."""
    return 2 * K + 2 * N * K


def ffm(M: int, N: int, K: int, options: Any) -> int:
    """An inner product for each of the P pairs; the first order is a sum."""
    return 2 * (N * (N - 1) // 2) * K


BY_HAND: dict[str, Callable[[int, int, int, Any], int]] = {
    "dcnv2": dcnv2, "dnn": dnn, "ffm": ffm, "finalmlp": finalmlp, "fm": fm, "ipnn": ipnn, "nfwfm": nfwfm,
    "xdeepfm": xdeepfm,
}  # fmt: skip


def test_every_model_is_counted_by_hand() -> None:
    assert sorted(BY_HAND) == MODELS


@every_size
@every_case
def test_operations_are_those_of_the_formula(model: str, embed: str, scale: int, cardinalities: list[int]) -> None:
    cfg = config(f"model={model}", f"embed={embed}", f"scale={scale}")
    K0 = {"ffm": 8, "nfwfm": 50}.get(model, 10)
    M, K = (scale, K0) if embed == "me" else (1, scale * K0)
    expected = BY_HAND[model](M, len(cardinalities), K, cfg.model.backbone)
    assert cost(cfg, cardinalities)["flops_per_sample"] == expected


@pytest.mark.parametrize("words", ["hidden_sizes=[7,5]", "num_cross_layers=2", "maps=[3,5,2]", "first_order=true"])
def test_operations_follow_the_options(words: str) -> None:
    """The YAML's layers are all equally wide, which would hide an exchange."""
    with_option = [model for model in MODELS if words.partition("=")[0] in config(f"model={model}").model.backbone]
    assert with_option
    for model in with_option:
        cfg = config(f"model={model}", f"model.backbone.{words}", "embed=se", "scale=2")
        K = 2 * cfg.model.base_size
        assert cost(cfg, [3, 4, 5])["flops_per_sample"] == BY_HAND[model](1, 3, K, cfg.model.backbone)


def test_parameters_of_the_factorisation_machines() -> None:
    """`tests/official.py` does not have them. FFM: an embedding for each of the other fields, and a first order."""
    parameters = {model: cost(config(f"model={model}", "scale=2"), [3, 4, 5])["parameters"] for model in LINEAR}
    assert parameters == {
        "fm": {"embedding": 12 * 20, "dense": 1},
        "ffm": {"embedding": 12 * 2 * 16 + 12, "dense": 1},
    }


def test_counting_leaves_the_model_as_it_was() -> None:
    cfg = config("model=dnn")
    backbone = built(cfg, [3, 4])
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for training in (True, False):
        assert flops_per_sample(backbone.train(training)) == cost(cfg, [3, 4])["flops_per_sample"]
        assert backbone.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


# Before anything is allocated


@pytest.mark.parametrize("model", MODELS)
def test_an_outline_takes_no_memory(model: str) -> None:
    """A field of 1e8 ids among 39, at 10x: 40 GB and more."""
    cfg = config(f"model={model}", "scale=10", f"embed={'se' if model in LINEAR else 'me'}")
    large = [10**8, *[3] * 38]
    for cardinalities in ([2] * 39, large):
        backbone = outline(cfg, cardinalities)
        assert {tensor.device.type for tensor in (*backbone.parameters(), *backbone.buffers())} == {"meta"}
    columns = 10 * cfg.model.base_size
    columns = columns * 38 + 1 if model == "ffm" else columns
    found = cost(cfg, large)
    assert found["parameters"]["embedding"] == sum(large) * columns
    assert found["flops_per_sample"] == cost(cfg, [2] * 39)["flops_per_sample"]


def test_bytes_of_parameters_and_checkpoints() -> None:
    """62,578,401 dense parameters with weight, gradient and two moments; a checkpoint has no gradients."""
    backbone = outline(config("model=dcnv2", "scale=10"), [1] * 39)
    dense, table = 62_578_401, 39 * 100
    assert training_bytes(backbone, {}) == {"embedding": 16 * table, "dense": 16 * dense}
    assert checkpoint_bytes(backbone, {}) == 2 * 12 * (table + dense)
    sparse = {"bytes_per_weight": 5, "sparse_gradients": True}
    assert training_bytes(backbone, sparse) == {"embedding": 5 * table, "dense": 16 * dense}
    assert checkpoint_bytes(backbone, sparse) == 2 * (5 * table + 12 * dense)
