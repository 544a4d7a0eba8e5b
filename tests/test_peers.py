"""The peers of the benchmark are what it says: the same numbers as ours on shared weights, with the same parameters.

Those that need a library are skipped without it: `make bench-peers` installs both and runs this file first.
"""

import argparse
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import peer_models, peers
from benchmarks.peer_models import PEERS, copy_weights, parameter_counts, peer
from recsys_collapse import cost
from recsys_collapse.build import build
from recsys_collapse.config import config_dir
from recsys_collapse.dropout import ReLUDropout
from recsys_collapse.model.backbone import Backbone

CARDINALITIES, SIZE, ROWS = [7, 40, 3, 11], 5, 32
UNUSED = {"embedding": sum(CARDINALITIES), "dense": 1}  # RecBole's first order
MORE_THAN_OURS = {"dcnv2": UNUSED, "xdeepfm": {"embedding": 0, "dense": -1}}


# Not importorskip: DeepCTR-Torch asks PyPI when it is imported, unless `peer` imports it.
every_peer = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed"))
        for name, library in PEERS.items()
    ],
)


def ours(name: str) -> Backbone:
    """One set of size 5, with numbers at which no part of it is silent."""
    node: Any = OmegaConf.load(config_dir() / "model" / f"{name}.yaml")
    torch.manual_seed(0)
    backbone = build(node.backbone, "model.backbone", cardinalities=CARDINALITIES, num_sets=1, embed_size=SIZE)
    for tensor in [*backbone.parameters(), *backbone.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand_like(tensor)
    return backbone


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_BN = torch.rand(ROWS, len(CARDINALITIES), generator=generator) * torch.tensor(CARDINALITIES)
    return x_BN.to(torch.int32), torch.randint(2, (ROWS,), generator=generator).float()


@every_peer
def test_same_numbers_on_shared_weights(name: str) -> None:
    """In evaluation, and in training but for dropout, whose random numbers are not shared: logits and gradients."""
    mine, theirs = ours(name), peer(name, CARDINALITIES, SIZE)
    copy_weights(mine, theirs)
    x_BN, y_B = data()
    expected_B = mine.eval()(x_BN)
    assert expected_B.std() > 0.01
    torch.testing.assert_close(theirs.eval()(x_BN), expected_B, rtol=1e-4, atol=1e-5)
    for model in (mine.train(), theirs.train()):
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout | ReLUDropout):
                layer.p = 0.0
        torch.nn.functional.binary_cross_entropy_with_logits(model(x_BN), y_B).backward()
    gradient_DK = torch.cat([table.weight.grad for table in theirs.tables()])
    torch.testing.assert_close(gradient_DK, mine.embedding.weight.grad, rtol=1e-3, atol=1e-6)


@every_peer
def test_same_number_of_parameters_but_for_what_is_said(name: str) -> None:
    more = MORE_THAN_OURS.get(name, {"embedding": 0, "dense": 0})
    theirs = peer(name, CARDINALITIES, SIZE)
    expected = {kind: number + more[kind] for kind, number in cost.parameter_counts(ours(name)).items()}
    assert parameter_counts(theirs) == expected
    theirs(data()[0]).sum().backward()
    unused = sum(p.numel() for p in theirs.parameters() if p.grad is None)
    assert unused == (sum(UNUSED.values()) if name == "dcnv2" else 0)


@every_peer
@pytest.mark.parametrize("trained", peers.TRAINED)
def test_a_step_trains_every_used_parameter(name: str, trained: str) -> None:
    """As configured: dropout in training only, and at our rate."""
    theirs = peer(name, CARDINALITIES, SIZE)
    copy_weights(ours(name), theirs)
    assert {layer.p for layer in theirs.modules() if isinstance(layer, torch.nn.Dropout)} <= {0.2}
    before = [parameter.clone() for parameter in theirs.parameters()]
    peers.peer_step(theirs, trained)(*data())
    unmoved = sum(a.numel() for a, b in zip(before, theirs.parameters(), strict=True) if torch.equal(a, b))
    assert unmoved == (sum(UNUSED.values()) if name == "dcnv2" else 0)


def test_ours_is_what_the_configs_build() -> None:
    module = peers.our_module("dnn", 4, CARDINALITIES)
    assert (module.backbone.embedding.num_sets, module.backbone.embedding.embed_size) == (1, 40)
    before = module.backbone.embedding.weight.clone()
    peers.on_new_batches(peers.our_step(module), CARDINALITIES)()
    assert not torch.equal(before, module.backbone.embedding.weight)


def test_every_step_sees_another_batch() -> None:
    seen: list[torch.Tensor] = []
    action = peers.on_new_batches(lambda x_BN, y_B: seen.append(x_BN), CARDINALITIES)
    assert isinstance(action(), float) and isinstance(action(), float)
    assert not torch.equal(*seen)


def test_what_cannot_be_compared_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nfwfm: no library has the same architecture; expected one of dnn"):
        peer("nfwfm", CARDINALITIES, SIZE)
    with pytest.raises(ValueError, match="DeepCTR-Torch tells 16777216 apart"):
        peer("dnn", [2**24 + 1], SIZE)
    monkeypatch.setitem(sys.modules, peer_models.DEEPCTR, None)
    monkeypatch.setitem(sys.modules, f"{peer_models.DEEPCTR}.inputs", None)
    with pytest.raises(ImportError, match="make bench-peers"):
        peer("dnn", CARDINALITIES, SIZE)
    with pytest.raises(argparse.ArgumentTypeError, match="expected <backbone>:<scale>"):
        peers.case("nfwfm:4")
