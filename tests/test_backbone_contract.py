"""One suite for every backbone: each conf/model/*.yaml, built as a run builds it, against `tests/reference.py`.

A new backbone needs its YAML and a reference there; `tests/official.py` has the parameter counts of the official code.
"""

from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_collapse.build import build
from recsys_collapse.config import config_dir, register
from recsys_collapse.cost import parameter_counts
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.spectrum import field_grams, set_grams
from tests import reference
from tests.official import BASE_SIZES, DENSE, SCALES, SUM_CARDINALITIES
from tests.reference import REFERENCES, Reference, pairs

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
CARDINALITIES = [7, 1, 30, 4, 12]
BATCH = 32
LINEAR = ("ffm", "fm")
"""Backbones that refuse more than one set: their interaction is linear in it."""
VARIANTS: dict[str, dict[str, Any]] = {
    "ipnn:no_linear_signal": {"linear_signal": False},
    "nfwfm:upper": {"pairs": "upper"},
    "fm:first_order": {"first_order": True},
    "ffm:no_first_order": {"first_order": False},
    "xdeepfm:three_maps": {"maps": [3, 2, 5]},
    "finalmlp:three_layers": {"hidden_sizes": [5, 7, 3]},
}
"""Options other than the YAML's that change the architecture, by backbone:name."""
NAMES = sorted([*MODELS, *VARIANTS])


def has_sets(name: str) -> bool:
    return name.partition(":")[0] not in LINEAR


register()
every_model = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize(
    ("name", "num_sets"), [(n, m) for n in NAMES for m in (1, 3) if m == 1 or has_sets(n)]
)
every_model_with_sets = pytest.mark.parametrize("name", [n for n in NAMES if has_sets(n)])


def compose(name: str, embed: str = "se", scale: int = 1) -> DictConfig:
    """The part of a run's config that decides the backbone."""
    folder = config_dir()
    config = OmegaConf.create({"scale": scale})
    config.model = OmegaConf.load(folder / "model" / f"{name.partition(':')[0]}.yaml")
    config.model.backbone.update(VARIANTS.get(name, {}))
    config.embed = OmegaConf.load(folder / "embed" / f"{embed}.yaml")
    return config


def node_of(name: str, **changed: Any) -> DictConfig:
    node = compose(name).model.backbone
    return OmegaConf.merge(node, {key: value for key, value in changed.items() if key in node})


def randomise(backbone: Backbone) -> Backbone:
    """Away from the initial values: biases of 0 and BatchNorm weights of 1 would hide an exchange."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in reference.tensors(backbone):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
                tensor.copy_(
                    0.5 + noise if tensor.dim() == 1 or name.endswith("bias") else tensor + 0.2 * (noise - 0.5)
                )
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
    base = name.partition(":")[0]
    if base not in REFERENCES:
        pytest.fail(
            f"conf/model/{base}.yaml has no reference: write its naive per-set loop in tests/reference.py and add it "
            f"to REFERENCES, which has {', '.join(sorted(REFERENCES))}"
        )
    backbone = make(name, num_sets, embed_size, dropout)
    options = {key: value for key, value in node_of(name, dropout=dropout).items() if not key.startswith("_")}
    slow = REFERENCES[base](CARDINALITIES, num_sets, embed_size, **options).double()
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
        assert_same(pair.of(pair.ours), pair.theirs, what)
        if gradients and pair.theirs.requires_grad:
            assert_same(pair.of(pair.ours.grad), pair.theirs.grad, f"gradient of {what}")


@every_case
def test_every_number_has_its_twin(name: str, num_sets: int) -> None:
    """Else the comparisons below would leave something out."""
    backbone, slow = make_both(name, num_sets)
    seen = {key: torch.zeros_like(value, dtype=torch.int64) for key, value in reference.tensors(backbone)}
    by_tensor = {id(value): key for key, value in reference.tensors(backbone)}
    twins = [id(pair.theirs) for pair in pairs(backbone, slow)]
    for pair in pairs(backbone, slow):
        seen[by_tensor[id(pair.ours)]][pair.index] += 1
    kept = backbone.state_dict()  # without buffers that are constants, such as the fields' offsets
    counts = {key: value for key, value in seen.items() if key in kept and not key.endswith("num_batches_tracked")}
    assert all((count == 1).all() for count in counts.values()), f"not exactly once: {counts}"
    assert sorted(twins) == sorted(id(value) for _, value in reference.tensors(slow))


@every_case
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


@every_case
def test_adam_keeps_it_equal(name: str, num_sets: int) -> None:
    backbone, slow = make_both(name, num_sets)
    before = deepcopy(backbone.state_dict())
    x_BN, y_B = batch()
    options = {
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "eps": 1e-6,
    }  # a smaller eps turns rounding of tiny gradients into steps
    for model, fused in ((backbone, True), (slow, False)):
        optimizer = torch.optim.Adam(model.train().parameters(), fused=fused, **options)
        binary_cross_entropy_with_logits(model(x_BN), y_B).backward()
        optimizer.step()
    assert_same_numbers(backbone, slow, gradients=False)
    assert all((before[key] != value).any() for key, value in backbone.named_parameters()), "a parameter did not move"


@every_case
def test_gradients_reach_every_parameter_of_every_set(name: str, num_sets: int) -> None:
    backbone, slow = make_both(name, num_sets)
    x_BN, y_B = batch()
    # Evaluation mode: in training, BatchNorm takes the gradient of a bias before it away.
    binary_cross_entropy_with_logits(backbone.eval()(x_BN), y_B).backward()
    for pair in pairs(backbone, slow):
        if pair.ours.requires_grad:
            assert pair.ours.grad[pair.index].abs().max() > 1e-12, f"set {pair.embedding_set}, {pair.name}"


@every_model_with_sets
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


@every_model_with_sets
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
    backbone = make(name, num_sets=2 if has_sets(name) else 1).eval()
    assert torch.equal(backbone(batch(torch.int32)[0]), backbone(batch(torch.int64)[0]))


@every_model
@pytest.mark.parametrize("part", ["interaction", "head"])
def test_dropout_is_where_the_reference_has_it(name: str, part: str) -> None:
    """And in training only."""
    backbone, slow = make_both(name, num_sets=2 if has_sets(name) else 1, dropout=0.5)
    x_BN, _ = batch()
    assert torch.equal(backbone.eval()(x_BN), backbone(x_BN))
    getattr(backbone, part).train()
    getattr(slow.eval(), {"interaction": "interactions"}.get(part, part)).train()
    assert torch.equal(backbone(x_BN), backbone(x_BN)) == torch.equal(slow(x_BN), slow(x_BN))


@every_model
@pytest.mark.parametrize("scale", SCALES)
def test_both_ways_to_embed_own_the_same_table(name: str, scale: int) -> None:
    ways = ("se", "me") if has_sets(name) else ("se",)
    shapes = {tuple(make_empty(name, embed, scale, CARDINALITIES).embedding.weight.shape) for embed in ways}
    parts = len(CARDINALITIES) - 1 if name.startswith("ffm") else 1
    assert shapes == {(sum(CARDINALITIES), parts * scale * compose(name).model.base_size)}


@pytest.mark.parametrize("name", [name for name in NAMES if not has_sets(name)])
def test_linear_interactions_refuse_several_sets(name: str) -> None:
    with pytest.raises(ValueError, match=r"2 embedding sets: without a non-linearity .* use embed=se"):
        make(name, num_sets=2)


@pytest.mark.parametrize("name", ["ffm", "fm", "fm:first_order", "ipnn", "nfwfm"])
def test_pairs_need_two_fields(name: str) -> None:
    with pytest.raises(ValueError, match=r"1 field: .* model=dnn"):
        make_empty(name, "se", 1, [5])


@pytest.mark.parametrize(("model", "num_fields", "embed"), DENSE)
def test_parameter_counts_are_the_official_ones(model: str, num_fields: int, embed: str) -> None:
    name = {"ipnn_no_linear": "ipnn:no_linear_signal"}.get(model, model)
    cardinalities = [SUM_CARDINALITIES[num_fields] - num_fields + 1] + [1] * (num_fields - 1)
    counts = [parameter_counts(make_empty(name, embed, scale, cardinalities)) for scale in SCALES]
    tables = [SUM_CARDINALITIES[num_fields] * scale * BASE_SIZES.get(model, 10) for scale in SCALES]
    expected = [{"embedding": t, "dense": d} for t, d in zip(tables, DENSE[model, num_fields, embed], strict=True)]
    assert counts == expected


def test_every_backbone_of_the_official_code_is_counted() -> None:
    assert {model for model, _, _ in DENSE} - {"ipnn_no_linear"} == set(MODELS) - set(LINEAR)


@every_case
def test_gradients_are_derivatives(name: str, num_sets: int) -> None:
    """Of the whole model at its table and every other parameter, in evaluation mode, on a tiny instance."""
    torch.manual_seed(0)
    small = {"hidden_sizes": [3, 2], "dropout": 0.0, "maps": [2, 2], "num_cross_layers": 2}
    options = {**small, **VARIANTS.get(name, {})} | ({"hidden_sizes": [3, 2]} if has_sets(name) else {})
    sizes = {"cardinalities": [2, 3, 2], "num_sets": num_sets, "embed_size": 2}
    backbone = randomise(build(node_of(name, **options), "model.backbone", **sizes).double()).eval()
    x_BN = torch.tensor([[0, 2, 1], [1, 0, 1]])
    names, parameters = zip(*backbone.named_parameters(), strict=True)

    def logits(*values: Tensor) -> Tensor:
        return functional_call(backbone, dict(zip(names, values, strict=True)), x_BN)

    assert torch.autograd.gradcheck(logits, parameters)


def test_ffm_sub_gram() -> None:
    """E_i^{->j} are columns of E_i; there is none for i = j."""
    backbone, slow = make_both("ffm", num_sets=1, embed_size=2)
    slices, fields = backbone.embedding.field_slices, len(CARDINALITIES)
    found = backbone.sub_gram(set_grams(field_grams(backbone.embedding.weight, slices), 1))
    assert found.shape == (1, fields, fields, 2, 2)
    for i, j in product(range(fields), repeat=2):
        if i == j:
            assert found[0, i, j].isnan().all()
            continue
        others = [other for other in range(fields) if other != i]
        start = 2 * others.index(j)
        sub_DK = slow.embeddings[0].table.weight[slices[i], start : start + 2]
        assert_same(found[0, i, j], sub_DK.T @ sub_DK, f"[{i}, {j}]")


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
