"""One suite for every backbone: each conf/model/*.yaml, built as a run builds it, against `tests/reference.py`.

A new backbone needs its YAML, a reference there and, below, the parameter counts of the official code (or None).
"""

from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_collapse.build import build
from recsys_collapse.config import config_dir, register
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.spectrum import field_grams, set_grams
from tests import reference
from tests.reference import REFERENCES, Reference, pairs

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
CARDINALITIES = [7, 1, 30, 4, 12]
BATCH = 32
# The official code's counts by (model, fields): (embedding at scale 1, dense of SE, dense of ME) at SCALES; it has them
# for 39 fields with 5343 ids (Criteo) and 22 with 1705 (Avazu). None for a backbone that it does not have.
SCALES = (1, 2, 3, 4, 10)
SUM_CARDINALITIES = {39: 5343, 22: 1705}
OFFICIAL: dict[tuple[str, int], tuple[int, tuple[int, ...], tuple[int, ...]] | None] = {
    ("dcnv2", 39): (
        53430,
        (928761, 2911521, 6111081, 10527441, 62578401),
        (928761, 1695921, 2463081, 3230241, 7833201),
    ),
    ("dcnv2", 22): (
        17050,
        (445281, 1114961, 2171841, 3615921, 20411601),
        (445281, 728961, 1012641, 1296321, 2998401),
    ),
    ("dnn", 39): (53430, (318801, 474801, 630801, 786801, 1722801), (318801, 476001, 633201, 790401, 1733601)),
    ("dnn", 22): (17050, (250801, 338801, 426801, 514801, 1042801), (250801, 340001, 429201, 518401, 1053601)),
}

register()
every_model = pytest.mark.parametrize("name", MODELS)
every_count = pytest.mark.parametrize("num_sets", [1, 3])


def compose(name: str, embed: str = "se", scale: int = 1) -> DictConfig:
    """The part of a run's config that decides the backbone."""
    folder = config_dir()
    config = OmegaConf.create({"scale": scale})
    config.model = OmegaConf.load(folder / "model" / f"{name}.yaml")
    config.embed = OmegaConf.load(folder / "embed" / f"{embed}.yaml")
    return config


def node_of(name: str, **changed: Any) -> DictConfig:
    node = compose(name).model.backbone
    return OmegaConf.merge(node, {key: value for key, value in changed.items() if key in node})


def randomise(backbone: Backbone) -> Backbone:
    """Away from the initial values: biases of 0 and BatchNorm weights of 1 would hide an exchange."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*backbone.parameters(), *backbone.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
                tensor.copy_(0.5 + noise if tensor.dim() == 1 else tensor + 0.2 * (noise - 0.5))
    return backbone


def make(name: str, num_sets: int, embed_size: int = 6, dropout: float = 0.0) -> Backbone:
    torch.manual_seed(0)
    sizes = {"cardinalities": CARDINALITIES, "num_sets": num_sets, "embed_size": embed_size}
    return randomise(build(node_of(name, dropout=dropout), "model.backbone", **sizes).double())


def make_empty(name: str, embed: str, scale: int, cardinalities: list[int]) -> Backbone:
    """Shapes only, as a run with these three words builds it: the largest would take 250 MB."""
    config = compose(name, embed, scale)
    sizes = {"num_sets": config.embed.num_sets, "embed_size": config.embed.embed_size}
    with torch.device("meta"):
        return build(config.model.backbone, "model.backbone", cardinalities=cardinalities, **sizes)


def make_both(name: str, num_sets: int, embed_size: int = 6, dropout: float = 0.0) -> tuple[Backbone, Reference]:
    """A backbone and its reference with the same weights, float64 so that only rounding of 1e-16 is between them."""
    if name not in REFERENCES:
        pytest.fail(
            f"conf/model/{name}.yaml has no reference: write its naive per-set loop in tests/reference.py and add it "
            f"to REFERENCES, which has {', '.join(sorted(REFERENCES))}"
        )
    backbone = make(name, num_sets, embed_size, dropout)
    options = {key: value for key, value in node_of(name, dropout=dropout).items() if not key.startswith("_")}
    slow = REFERENCES[name](CARDINALITIES, num_sets, embed_size, **options).double()
    reference.copy_weights(backbone, slow)
    return backbone, slow


def batch(dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x_NB = [torch.randint(size, (BATCH,), generator=generator, dtype=dtype) for size in CARDINALITIES]
    return torch.stack(x_NB, dim=1), torch.randint(2, (BATCH,), generator=generator).double()


def assert_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=lambda text: f"{what}: {text}")


def assert_same_numbers(backbone: Backbone, slow: Reference, gradients: bool) -> None:
    for pair in pairs(backbone, slow):
        what = f"set {pair.embedding_set}, {pair.name}"
        assert_same(pair.ours[pair.index], pair.theirs, what)
        if gradients and pair.theirs.requires_grad:
            assert_same(pair.ours.grad[pair.index], pair.theirs.grad, f"gradient of {what}")


@every_model
@every_count
def test_every_number_has_its_twin(name: str, num_sets: int) -> None:
    """Else the comparisons below would leave something out."""
    backbone, slow = make_both(name, num_sets)
    seen = {key: torch.zeros_like(value, dtype=torch.int64) for key, value in reference.tensors(backbone)}
    by_tensor = {id(value): key for key, value in reference.tensors(backbone)}
    twins = [id(pair.theirs) for pair in pairs(backbone, slow)]
    for pair in pairs(backbone, slow):
        seen[by_tensor[id(pair.ours)]][pair.index] += 1
    seen.pop("embedding.offset_N")
    counts = {key: value for key, value in seen.items() if not key.endswith("num_batches_tracked")}
    assert all((count == 1).all() for count in counts.values()), f"not exactly once: {counts}"
    assert sorted(twins) == sorted(id(value) for _, value in reference.tensors(slow))


@every_model
@every_count
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_loop(name: str, num_sets: int, training: bool) -> None:
    backbone, slow = make_both(name, num_sets)
    x_BN, y_B = batch()
    for model in (backbone.train(training), slow.train(training)):
        binary_cross_entropy_with_logits(model(x_BN), y_B).backward()
    assert_same_numbers(backbone, slow, gradients=True)  # the BatchNorm statistics of this step included
    stages = backbone.stages(x_BN)
    assert stages.logit_B.shape == (BATCH,) and stages.logit_B.isfinite().all()
    assert_same(stages.h_BMH, torch.stack(slow.h(x_BN), dim=1), "h")
    assert_same(stages.logit_B, slow(x_BN), "logit")
    assert_same(stages.logit_B, backbone(x_BN), "forward against stages")


@every_model
@every_count
def test_adam_keeps_it_equal(name: str, num_sets: int) -> None:
    backbone, slow = make_both(name, num_sets)
    before = deepcopy(backbone.state_dict())
    x_BN, y_B = batch()
    options = {"lr": 1e-3, "weight_decay": 1e-6}
    for model, fused in ((backbone, True), (slow, False)):
        optimizer = torch.optim.Adam(model.train().parameters(), fused=fused, **options)
        binary_cross_entropy_with_logits(model(x_BN), y_B).backward()
        optimizer.step()
    assert_same_numbers(backbone, slow, gradients=False)
    assert all((before[key] != value).any() for key, value in backbone.named_parameters()), "a parameter did not move"


@every_model
@every_count
def test_gradients_reach_every_parameter_of_every_set(name: str, num_sets: int) -> None:
    backbone, slow = make_both(name, num_sets)
    x_BN, y_B = batch()
    # Evaluation mode: in training, BatchNorm takes the gradient of a bias before it away.
    binary_cross_entropy_with_logits(backbone.eval()(x_BN), y_B).backward()
    for pair in pairs(backbone, slow):
        if pair.ours.requires_grad:
            assert pair.ours.grad[pair.index].abs().max() > 1e-12, f"set {pair.embedding_set}, {pair.name}"


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_one_set_stays_in_it(name: str, training: bool) -> None:
    backbone, slow = make_both(name, num_sets=3)
    backbone.train(training)
    generator = torch.Generator().manual_seed(3)
    for m in range(3):
        backbone.zero_grad()
        h_BH = backbone.stages(batch()[0]).h_BMH[:, m]
        (h_BH * torch.randn(h_BH.shape, dtype=h_BH.dtype, generator=generator)).sum().backward()
        for pair in pairs(backbone, slow):
            if not pair.ours.requires_grad:
                continue
            if pair.embedding_set is None:
                assert pair.ours.grad is None, f"h of set {m} reaches {pair.name}"
            elif pair.embedding_set != m:
                assert (pair.ours.grad[pair.index] == 0).all(), f"set {m} reaches set {pair.embedding_set}, {pair.name}"
            elif not training:
                assert (pair.ours.grad[pair.index] != 0).any(), f"h of set {m} does not reach its own {pair.name}"


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_order_of_the_sets_does_not_matter(name: str, training: bool) -> None:
    backbone, slow = make_both(name, num_sets=3)
    permuted, order = deepcopy(backbone), [2, 0, 1]
    from_set = {(pair.embedding_set, pair.name): pair for pair in pairs(backbone, slow)}
    with torch.no_grad():
        for to in pairs(permuted, slow):
            if to.embedding_set is not None:
                source = from_set[order[to.embedding_set], to.name]
                to.ours[to.index] = source.ours[source.index]
    x_BN, _ = batch()
    before, after = backbone.train(training).stages(x_BN), permuted.train(training).stages(x_BN)
    assert not torch.allclose(before.h_BMH, after.h_BMH, rtol=1e-3), "the sets are equal, so this test says nothing"
    assert_same(before.h_BMH[:, order], after.h_BMH, "h")
    assert_same(before.logit_B, after.logit_B, "logit")


@every_model
def test_id_types_agree(name: str) -> None:
    backbone = make(name, num_sets=2).eval()
    assert torch.equal(backbone(batch(torch.int32)[0]), backbone(batch(torch.int64)[0]))


@every_model
@pytest.mark.parametrize("part", ["interaction", "head"])
def test_dropout_is_where_the_reference_has_it(name: str, part: str) -> None:
    """And in training only."""
    backbone, slow = make_both(name, num_sets=2, dropout=0.5)
    x_BN, _ = batch()
    assert torch.equal(backbone.eval()(x_BN), backbone(x_BN))
    getattr(backbone, part).train()
    getattr(slow.eval(), {"interaction": "interactions"}.get(part, part)).train()
    assert torch.equal(backbone(x_BN), backbone(x_BN)) == torch.equal(slow(x_BN), slow(x_BN))


@every_model
@pytest.mark.parametrize("scale", SCALES)
def test_both_ways_to_embed_own_the_same_table(name: str, scale: int) -> None:
    shapes = [tuple(make_empty(name, embed, scale, CARDINALITIES).embedding.weight.shape) for embed in ("se", "me")]
    assert shapes == [(sum(CARDINALITIES), scale * compose(name).model.base_size)] * 2


@every_model
@pytest.mark.parametrize("num_fields", sorted(SUM_CARDINALITIES))
@pytest.mark.parametrize("embed", ["se", "me"])
def test_parameter_counts_are_the_official_ones(name: str, num_fields: int, embed: str) -> None:
    assert (name, num_fields) in OFFICIAL, f"add the official parameter counts of {name}, or None, to OFFICIAL"
    if (official := OFFICIAL[name, num_fields]) is None:
        pytest.skip("the official code does not have this backbone")
    cardinalities = [SUM_CARDINALITIES[num_fields] - num_fields + 1] + [1] * (num_fields - 1)
    counts = []
    for scale in SCALES:
        backbone = make_empty(name, embed, scale, cardinalities)
        table = backbone.embedding.weight.numel()
        counts.append((table, sum(parameter.numel() for parameter in backbone.parameters()) - table))
    dense = official[1] if embed == "se" else official[2]
    assert counts == [(official[0] * scale, count) for scale, count in zip(SCALES, dense, strict=True)]


def test_dcnv2_pair_projections() -> None:
    backbone, slow = make_both("dcnv2", num_sets=3, embed_size=4)
    expected = reference.pair_projections(slow, len(CARDINALITIES), 4)
    assert_same(backbone.pair_projections(), expected, "[l, m, i, j]")


def test_dcnv2_sub_gram() -> None:
    backbone, slow = make_both("dcnv2", num_sets=3, embed_size=4)
    slices = backbone.embedding.field_slices
    found = backbone.sub_gram(set_grams(field_grams(backbone.embedding.weight, slices), 3))
    assert found.shape == (3, len(slices), len(slices), 4, 4)
    for m, i, j in product(range(3), range(len(slices)), range(len(slices))):
        sub_DK = reference.sub_embedding(slow, slices[i], m, i, j, 4)
        assert_same(found[m, i, j], sub_DK.T @ sub_DK, f"[{m}, {i}, {j}]")
