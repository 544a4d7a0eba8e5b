"""One suite for every regularizer: each conf/regularizer/*.yaml but `none`, built as a run builds it, against `TWINS`.

A new one needs its YAML and, in `TWINS`, the same number by plain loops in numpy. Field 1 has a single id and field 2
fewer ids than columns, so that every gradient below is also one of constant columns and of a rank below K.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, L cross layers.
"""

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from recsys_collapse.build import build
from recsys_collapse.config import config_dir
from recsys_collapse.model.backbone import Backbone, Stages
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.model.dnn import DNN

NAMES = sorted({path.stem for path in (config_dir() / "regularizer").glob("*.yaml")} - {"none"})
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("unitary", {"form": "official"}),
    ("unitary", {"layers": [1]}),
    ("unitary", {"form": "official", "layers": [2, 0]}),
    ("norm_align", {"squared": False}),
    ("decorrelation", {"of": "correlation"}),
    ("logdet", {"epsilon": 0.1}),
]
OF_PROJECTIONS = ("unitary", "norm_align")  # the others look at the embeddings
LEAST_SETS = {"norm_align": 2, "space_similarity": 2}
CARDINALITIES = [5, 1, 2, 12]
SIZE, LAYERS, BATCH = 3, 3, 12

every_variant = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=lambda value: value if isinstance(value, str) else "".join(map(str, value.values())),
)
every_name = pytest.mark.parametrize("name", NAMES)
of_embeddings = pytest.mark.parametrize(
    ("name", "options"), [variant for variant in VARIANTS if variant[0] not in OF_PROJECTIONS]
)


def empty(num_sets: int, size: int = SIZE, model: type[Backbone] = DCNv2, **options: Any) -> Backbone:
    return model(CARDINALITIES, num_sets, size, hidden_sizes=(4, 3), **options)


def backbone_of(num_sets: int) -> DCNv2:
    """Entries near 1, in float64: no two parts of a penalty differ by orders of magnitude."""
    torch.manual_seed(0)
    backbone = empty(num_sets, num_cross_layers=LAYERS).double()
    with torch.no_grad():
        for tensor in (backbone.embedding.weight, *(layer.weight for layer in backbone.cross.layers)):
            tensor.normal_()
    return backbone


def build_plain(name: str, backbone: Backbone, **options: Any) -> nn.Module:
    node = OmegaConf.load(config_dir() / "regularizer" / f"{name}.yaml")
    return build(OmegaConf.merge(node, options), "regularizer", backbone=backbone)


def regularizer_of(name: str, backbone: Backbone, **options: Any) -> nn.Module:
    """Its own parameters away from their initial values of 1."""
    made = build_plain(name, backbone, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(0.5 + torch.rand(tensor.shape, dtype=torch.float64, generator=generator))
    return made


def make(name: str, num_sets: int = 3, **options: Any) -> tuple[DCNv2, nn.Module]:
    backbone = backbone_of(num_sets)
    return backbone, regularizer_of(name, backbone, **options)


def ids() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randint(size, (BATCH,), generator=generator) for size in CARDINALITIES], dim=1)


def stages_of(e_BMNK: Tensor) -> Stages:
    return Stages(e_BMNK, e_BMNK.new_zeros(*e_BMNK.shape[:2], 1), e_BMNK.new_zeros(len(e_BMNK)))


def penalty(backbone: Backbone, regularizer: nn.Module, e_BMNK: Tensor | None = None) -> Tensor:
    return regularizer(backbone, stages_of(backbone.embedding(ids()) if e_BMNK is None else e_BMNK))


def learned(backbone: DCNv2, regularizer: nn.Module) -> dict[str, Tensor]:
    """What a regularizer may move: the table, every W and its own parameters."""
    weights = {f"W{number}": layer.weight for number, layer in enumerate(backbone.cross.layers)}
    return {"table": backbone.embedding.weight, **weights, **dict(regularizer.named_parameters())}


def gradients(value: Tensor, of: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(of.values()), allow_unused=True)
    return {name: grad for name, grad in zip(of, found, strict=True) if grad is not None and (grad != 0).any()}


# The same numbers by loops. `e` is (B, M, N, K), W_{i->j} is cut from the weight of a layer by hand.


def blocks(backbone: DCNv2, num_sets: int) -> dict[tuple[int, int, int, int], np.ndarray]:
    """W_{i->j}^(m) of layer l by (l, m, i, j)."""
    found = {}
    fields = range(len(CARDINALITIES))
    for number, m, i, j in product(range(LAYERS), range(num_sets), fields, fields):
        w = backbone.cross.layers[number].weight.detach().numpy()[m]
        found[number, m, i, j] = w[SIZE * j : SIZE * j + SIZE, SIZE * i : SIZE * i + SIZE]
    return found


def slow_unitary(
    backbone: DCNv2, regularizer: nn.Module, e: np.ndarray, form: str = "paper", layers: Any = None
) -> float:
    total, one = 0.0, np.eye(SIZE)
    factor = regularizer.factor.detach().numpy()
    for (number, m, i, j), w in blocks(backbone, e.shape[1]).items():
        if layers is None or number in layers:
            own = factor[number if layers is None else layers.index(number), m, i, j]
            rest = w.T @ w - own * one if form == "paper" else one - w @ w.T / own**2
            total += np.linalg.norm(rest) ** 2
    return total


def slow_norm_align(backbone: DCNv2, regularizer: nn.Module, e: np.ndarray, squared: bool = True) -> float:
    num_sets, found = e.shape[1], blocks(backbone, e.shape[1])
    norms = {key: math.sqrt(sum(x**2 for x in w.flat)) ** (2 if squared else 1) for key, w in found.items()}
    pairs = {(number, i, j) for number, _, i, j in norms}
    return np.mean([np.var([norms[number, m, i, j] for m in range(num_sets)]) for number, i, j in pairs])


def slow_singular_value(backbone: DCNv2, regularizer: nn.Module, e: np.ndarray) -> float:
    values = []
    for m, i in product(range(e.shape[1]), range(e.shape[2])):
        sigma = np.linalg.svd(e[:, m, i], compute_uv=False)
        values.append(np.var(sigma / sigma.mean(), ddof=1))
    return np.mean(values)


def slow_space_similarity(backbone: DCNv2, regularizer: nn.Module, e: np.ndarray) -> float:
    values = []
    for m, other in combinations(range(e.shape[1]), 2):
        fields = [np.linalg.svd(e[:, m, i].T @ e[:, other, i], compute_uv=False) for i in range(e.shape[2])]
        values.append(np.mean(fields, axis=0) ** 2)
    return np.mean(values)


def slow_decorrelation(backbone: DCNv2, regularizer: nn.Module, e: np.ndarray, of: str = "covariance") -> float:
    values = []
    for m, i in product(range(e.shape[1]), range(e.shape[2])):
        c = np.cov(e[:, m, i], rowvar=False)
        constant = np.ptp(e[:, m, i], axis=0) == 0
        for a, b in product(range(SIZE), range(SIZE)):
            if a != b and not constant[a] and not constant[b]:
                values.append(c[a, b] ** 2 / (1 if of == "covariance" else c[a, a] * c[b, b]))
    return sum(values) / SIZE / (e.shape[1] * e.shape[2])


def slow_logdet(backbone: DCNv2, regularizer: nn.Module, e: np.ndarray, epsilon: float = 0.5) -> float:
    values = []
    for m, i in product(range(e.shape[1]), range(e.shape[2])):
        c = e[:, m, i].T @ e[:, m, i]
        sign, log = np.linalg.slogdet(np.eye(SIZE) + c / (epsilon**2 * np.linalg.eigvalsh(c).mean()))
        assert sign == 1
        values.append(-log / (2 * SIZE))
    return np.mean(values)


TWINS: dict[str, Callable[..., float]] = {
    "unitary": slow_unitary,
    "norm_align": slow_norm_align,
    "singular_value": slow_singular_value,
    "space_similarity": slow_space_similarity,
    "decorrelation": slow_decorrelation,
    "logdet": slow_logdet,
}


@pytest.mark.parametrize(
    ("name", "options", "num_sets"),
    [(*variant, num_sets) for variant in VARIANTS for num_sets in (1, 3) if num_sets >= LEAST_SETS.get(variant[0], 1)],
)
def test_equals_the_loop(name: str, options: dict[str, Any], num_sets: int) -> None:
    assert name in TWINS, f"write the loops that conf/regularizer/{name}.yaml equals, and add them to TWINS"
    backbone, regularizer = make(name, num_sets, **options)
    value = penalty(backbone, regularizer)
    e = backbone.embedding(ids()).detach().numpy()
    expected = regularizer.weight * TWINS[name](backbone, regularizer, e, **options)
    assert value.shape == () and value.requires_grad
    assert value.item() == pytest.approx(expected, rel=1e-10) and abs(expected) > 1e-6


@every_variant
def test_gradients_are_derivatives(name: str, options: dict[str, Any]) -> None:
    """Of everything that it may move; `gradcheck` moves the parameters in place."""
    backbone, regularizer = make(name, 2, weight=1.0, **options)
    inputs = tuple(learned(backbone, regularizer).values())
    assert torch.autograd.gradcheck(lambda *_: penalty(backbone, regularizer), inputs, rtol=1e-4)


@every_variant
def test_moves_what_it_should(name: str, options: dict[str, Any]) -> None:
    backbone, regularizer = make(name, **options)
    parts = learned(backbone, regularizer)
    found = gradients(penalty(backbone, regularizer), parts)
    if name in OF_PROJECTIONS:
        own = {"factor"} if name == "unitary" else set()
        assert set(found) == own | {f"W{number}" for number in options.get("layers", range(LAYERS))}
        for grad in found.values():
            assert (grad != 0).all()
    else:
        assert set(found) == {"table"}
        rows_BN = ids() + backbone.embedding.offset_N
        size_D = found["table"].abs().amin(dim=1)
        assert (size_D[rows_BN[:, [0, 3]]] > 1e-12).all()  # in every set; a field with one id may have nothing to gain
        unused = sorted(set(range(sum(CARDINALITIES))) - set(rows_BN.flatten().tolist()))
        assert unused and (found["table"][unused] == 0).all()


@every_name
def test_owns_nothing_of_the_backbone(name: str) -> None:
    backbone, regularizer = make(name)
    model = nn.ModuleList([backbone, regularizer])
    assert [key for key, _ in regularizer.named_parameters()] == (["factor"] if name == "unitary" else [])
    assert not set(backbone.modules()) & set(regularizer.modules())
    keys = [key for key, _ in model.named_parameters(remove_duplicate=False)]
    assert len(keys) == len(list(backbone.parameters())) + len(list(regularizer.parameters()))
    assert set(regularizer.state_dict()) == {key for key, _ in regularizer.named_parameters()}


@every_variant
def test_weight_is_a_factor(name: str, options: dict[str, Any]) -> None:
    values = [penalty(*make(name, weight=weight, **options)).item() for weight in (1.0, 2.0, 0.0)]
    assert values == [values[0], pytest.approx(2 * values[0], rel=1e-12), 0] and values[0] != 0


@every_variant
def test_order_of_sets_does_not_matter(name: str, options: dict[str, Any]) -> None:
    backbone, regularizer = make(name, **options)
    before = penalty(backbone, regularizer).item()
    order, sizes = [2, 0, 1], backbone.embedding.weight.unflatten(1, (3, SIZE))
    with torch.no_grad():
        backbone.embedding.weight.copy_(sizes[:, order].flatten(1))
        for weight in (layer.weight for layer in backbone.cross.layers):
            weight.copy_(weight[order])
        if name == "unitary":
            regularizer.factor.copy_(regularizer.factor[:, order])
    assert penalty(backbone, regularizer).item() == pytest.approx(before, rel=1e-12)


@every_variant
def test_repeats_itself(name: str, options: dict[str, Any]) -> None:
    runs = []
    for _ in range(2):
        backbone, regularizer = make(name, **options)
        value = penalty(backbone, regularizer)
        runs.append([value.detach(), *gradients(value, learned(backbone, regularizer)).values()])
    assert all(torch.equal(*both) for both in zip(*runs, strict=True))


@every_variant
@pytest.mark.parametrize("autocast", [False, True])
def test_float32(name: str, options: dict[str, Any], autocast: bool) -> None:
    """As it trains, also under bf16-mixed: float32 in, float32 out, and no more than float32 lost."""
    backbone, regularizer = make(name, **options)
    exact = penalty(backbone, regularizer).item()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = penalty(backbone.float(), regularizer.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=2e-6)


@every_name
def test_builds_from_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        backbone = empty(2)
        parameters = list(build_plain(name, backbone).parameters())
    assert all(tensor.is_meta for tensor in parameters)
    assert [tensor.shape for tensor in build_plain(name, backbone).parameters()] == [t.shape for t in parameters]


@of_embeddings
def test_stays_on_the_device(name: str, options: dict[str, Any]) -> None:
    """Mixing devices is an error, on "meta" as on a GPU."""
    backbone, regularizer = make(name, **options)
    value = penalty(backbone, regularizer, torch.empty(BATCH, 3, len(CARDINALITIES), SIZE, device="meta"))
    assert value.is_meta and value.shape == ()


@every_variant
def test_zeros_have_gradients(name: str, options: dict[str, Any]) -> None:
    """Everything 0: the tables and every W."""
    backbone, regularizer = make(name, **options)
    with torch.no_grad():
        for tensor in (backbone.embedding.weight, *(layer.weight for layer in backbone.cross.layers)):
            tensor.zero_()
    value = penalty(backbone, regularizer)
    found = gradients(value, learned(backbone, regularizer))
    assert value.isfinite() and (value == 0 or name == "unitary")
    assert set(found) <= {"factor"} and all(grad.isfinite().all() for grad in found.values())


@of_embeddings
def test_a_zero_field_counts_as_zero(name: str, options: dict[str, Any]) -> None:
    """But for space_similarity, where S is averaged before it is squared: half the fields, a quarter."""
    backbone, regularizer = make(name, **options)
    e_BMNK = backbone.embedding(ids()).detach()[:, :, [0, 3]]
    full = torch.cat([e_BMNK, torch.zeros_like(e_BMNK)], dim=2).requires_grad_()
    value = penalty(backbone, regularizer, full)
    (grad,) = torch.autograd.grad(value, full)
    share = 4 if name == "space_similarity" else 2
    assert value.item() == pytest.approx(penalty(backbone, regularizer, e_BMNK).item() / share, rel=1e-12)
    assert grad.isfinite().all() and (grad[:, :, 2:] == 0).all() and (grad[:, :, :2] != 0).any()


@of_embeddings
@pytest.mark.parametrize("batch", [1, 2])
def test_fewer_rows_than_columns(name: str, options: dict[str, Any], batch: int) -> None:
    backbone, regularizer = make(name, weight=1.0, **options)
    e_BMNK = torch.randn(batch, 3, 4, SIZE, generator=torch.Generator().manual_seed(3)).requires_grad_()
    value = penalty(backbone, regularizer, e_BMNK)
    (grad,) = torch.autograd.grad(value, e_BMNK)
    assert value.isfinite() and grad.isfinite().all() and grad.abs().max() < 100
    assert (value == 0) == (name == "decorrelation" and batch == 1)


@every_variant
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_and_no_exception(name: str, options: dict[str, Any], bad: float) -> None:
    """So that the run ends with the message on the loss and not with one of linear algebra."""
    backbone, regularizer = make(name, **options)
    with torch.no_grad():
        backbone.embedding.weight[0] = bad
        for layer in backbone.cross.layers:
            layer.weight[0, 0, 0] = bad
    value = penalty(backbone, regularizer)
    assert not value.isfinite()
    value.backward()


# Known values


def orthonormal(*shape: int) -> Tensor:
    """(..., rows, columns) with orthonormal columns of mean 0."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(x - x.mean(dim=-2, keepdim=True))[0]


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize(("size", "expected"), [(10, 0.58), (40, 2.31)])
def test_unitary_starts_as_the_released_code_does(form: str, size: int, expected: float) -> None:
    torch.manual_seed(0)
    backbone = DCNv2([1] * 39, 1, size, num_cross_layers=4, hidden_sizes=(2,))
    with torch.no_grad():
        value = build_plain("unitary", backbone, form=form, weight=1e-5)(
            backbone, stages_of(torch.zeros(1, 1, 39, size))
        )
    assert value.item() == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_multiples_of_unitary_matrices_cost_nothing(form: str) -> None:
    backbone, regularizer = make("unitary", form=form)
    fields = len(CARDINALITIES)
    q_LMijKK = torch.linalg.qr(torch.randn(LAYERS, 3, fields, fields, SIZE, SIZE, dtype=torch.float64))[0]
    root_LMij = regularizer.factor.detach().sqrt() if form == "paper" else regularizer.factor.detach()
    w_LMijKK = root_LMij[..., None, None] * q_LMijKK
    with torch.no_grad():
        for layer, w_MijKK in zip(backbone.cross.layers, w_LMijKK, strict=True):
            layer.weight.copy_(w_MijKK.permute(0, 2, 3, 1, 4).reshape(3, fields * SIZE, fields * SIZE))
    assert penalty(backbone, regularizer).item() < 1e-30
    torch.testing.assert_close(backbone.pair_projections(), w_LMijKK)


def test_unitary_starts_with_factor_one_and_only_the_papers_form_is_content_with_zero() -> None:
    backbone = backbone_of(2)
    num_blocks = LAYERS * 2 * len(CARDINALITIES) ** 2
    for form, expected in (("paper", 0.0), ("official", SIZE * num_blocks)):
        regularizer = build_plain("unitary", backbone, form=form, weight=1.0)
        assert (regularizer.factor == 1).all() and regularizer.factor.numel() == num_blocks
        with torch.no_grad():
            regularizer.factor.fill_(0 if form == "paper" else 0.7)
            for layer in backbone.cross.layers:
                layer.weight.zero_()
        assert penalty(backbone, regularizer).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_equal_norms_cost_nothing(squared: bool) -> None:
    backbone, regularizer = make("norm_align", squared=squared)
    turn = torch.block_diag(*torch.linalg.qr(torch.randn(len(CARDINALITIES), SIZE, SIZE, dtype=torch.float64))[0])
    with torch.no_grad():
        for layer in backbone.cross.layers:
            layer.weight.copy_(torch.stack([layer.weight[0], layer.weight[0] @ turn, -layer.weight[0]]))
    assert penalty(backbone, regularizer).item() < 1e-25
    with torch.no_grad():
        backbone.cross.layers[0].weight[1, 0, 0] += 0.1
    assert penalty(backbone, regularizer).item() > 1e-6


def test_spectrum_penalties_at_their_ends() -> None:
    """All singular values equal, and only one above 0."""
    backbone = backbone_of(2)
    equal_BMNK = 0.01 * orthonormal(2, 4, BATCH, SIZE).permute(2, 0, 1, 3)
    single_BMNK = equal_BMNK[..., :1] * torch.tensor([1.0, 2.0, -0.5])
    spread = regularizer_of("singular_value", backbone, weight=0.5)
    assert penalty(backbone, spread, equal_BMNK).item() == pytest.approx(0, abs=1e-12)
    assert penalty(backbone, spread, single_BMNK).item() == pytest.approx(0.5 * SIZE, rel=1e-9)
    volume = regularizer_of("logdet", backbone, weight=0.5, epsilon=0.3)
    least = -0.5 / 2 * math.log(1 + 1 / 0.3**2)
    assert penalty(backbone, volume, equal_BMNK).item() == pytest.approx(least, rel=1e-12)
    expected = -0.5 / (2 * SIZE) * math.log(1 + SIZE / 0.3**2)
    assert penalty(backbone, volume, single_BMNK).item() == pytest.approx(expected, rel=1e-9)
    assert penalty(backbone, volume).item() > least


def test_small_singular_values_count() -> None:
    """Down to 1e-4 of the largest one, with their gradients; what is cut off lies below 1e-6."""
    backbone, regularizer = make("singular_value", 2, weight=1.0)
    e_BMNK = (orthonormal(2, 4, BATCH, SIZE).permute(2, 0, 1, 3) * torch.tensor([1.0, 0.3, 1e-4])).requires_grad_()
    sigma_MNK = torch.linalg.svdvals(e_BMNK.permute(1, 2, 0, 3))
    expected = (sigma_MNK / sigma_MNK.mean(-1, keepdim=True)).var(-1).mean()
    value = penalty(backbone, regularizer, e_BMNK)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    ours, theirs = (torch.autograd.grad(each, e_BMNK)[0] for each in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_decorrelated_columns_cost_nothing() -> None:
    backbone = backbone_of(2)
    e_BMNK = 3 * orthonormal(2, 4, BATCH, SIZE).permute(2, 0, 1, 3) + 5
    same_BMNK = e_BMNK[..., :1].expand_as(e_BMNK)
    for of, variance in (("covariance", 9 / (BATCH - 1)), ("correlation", 1)):
        regularizer = regularizer_of("decorrelation", backbone, of=of, weight=1.0)
        assert penalty(backbone, regularizer, e_BMNK).item() < 1e-20
        assert penalty(backbone, regularizer, same_BMNK).item() == pytest.approx((SIZE - 1) * variance**2, rel=1e-9)


def test_similarity_of_spaces() -> None:
    """0 for orthogonal column spaces; for the same one with singular values s it is s^4."""
    backbone = backbone_of(2)
    regularizer = regularizer_of("space_similarity", backbone, weight=0.5)
    e_NB2K = 2 * orthonormal(4, BATCH, 2 * SIZE)
    apart_BMNK = e_NB2K.unflatten(2, (2, SIZE)).permute(1, 2, 0, 3)
    assert penalty(backbone, regularizer, apart_BMNK).item() < 1e-25
    same_BMNK = apart_BMNK[:, :1].expand_as(apart_BMNK)
    assert penalty(backbone, regularizer, same_BMNK).item() == pytest.approx(0.5 * 2**4, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "power"),
    [
        ("singular_value", {}, 0),
        ("logdet", {}, 0),
        ("decorrelation", {"of": "correlation"}, 0),
        ("decorrelation", {}, 4),
        ("space_similarity", {}, 4),
    ],
)
def test_scale_of_the_embeddings(name: str, options: dict[str, Any], power: int) -> None:
    backbone, regularizer = make(name, **options)
    e_BMNK = backbone.embedding(ids())
    expected = 1e-9**power * penalty(backbone, regularizer, e_BMNK).item()
    assert penalty(backbone, regularizer, 1e-9 * e_BMNK).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["singular_value", "logdet"])
def test_size_of_the_batch_does_not_matter(name: str) -> None:
    backbone, regularizer = make(name)
    e_BMNK = backbone.embedding(ids())
    doubled = penalty(backbone, regularizer, torch.cat([e_BMNK, e_BMNK])).item()
    assert doubled == pytest.approx(penalty(backbone, regularizer, e_BMNK).item(), rel=1e-12)


# What is needed


@pytest.mark.parametrize(
    ("name", "backbone", "options", "message"),
    [
        ("unitary", lambda: empty(2, model=DNN), {}, "DNN has no pair projections.*dcnv2"),
        ("norm_align", lambda: empty(2, model=DNN), {}, "DNN has no pair projections.*dcnv2"),
        ("unitary", lambda: empty(1), {"form": "code"}, "form=code: expected one of paper, official"),
        ("unitary", lambda: empty(1), {"layers": [4]}, r"layers=\[4\]: expected null.* from 0 to 3"),
        ("unitary", lambda: empty(1), {"layers": [-1]}, r"layers=\[-1\]: expected null.* from 0 to 3"),
        ("unitary", lambda: empty(1), {"layers": [0, 0]}, r"layers=\[0, 0\]: expected null.* distinct"),
        ("unitary", lambda: empty(1), {"layers": []}, r"layers=\[\]: expected null"),
        ("norm_align", lambda: empty(1), {}, "num_sets=1: .*needs 2 or more; use embed=me"),
        ("space_similarity", lambda: empty(1, model=DNN), {}, "num_sets=1: .*need 2 or more; use embed=me"),
        ("singular_value", lambda: empty(2, size=1), {}, "embed_size=1: expected 2 or more.*base_size"),
        ("decorrelation", lambda: empty(2, size=1), {}, "embed_size=1: expected 2 or more.*base_size"),
        ("logdet", lambda: empty(2, size=1), {}, "embed_size=1: expected 2 or more.*base_size"),
        ("decorrelation", lambda: empty(2), {"of": "gram"}, "of=gram: expected one of covariance, correlation"),
        ("logdet", lambda: empty(2), {"epsilon": 0.0}, "epsilon=0.0: expected a number above 0"),
        ("logdet", lambda: empty(2), {"epsilon": math.nan}, "epsilon=nan: expected a number above 0"),
    ],
)
def test_needs(name: str, backbone: Callable[[], Backbone], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^regularizer: {message}"):
        build_plain(name, backbone(), **options)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_PROJECTIONS])
def test_embeddings_are_of_any_backbone(name: str) -> None:
    torch.manual_seed(0)
    backbone = empty(2, model=DNN)
    value = build_plain(name, backbone)(backbone, backbone.stages(ids()))
    value.backward()
    assert backbone.embedding.weight.grad is not None and backbone.embedding.weight.grad.abs().max() > 0
