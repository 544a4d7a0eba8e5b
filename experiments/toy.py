"""The toy experiment of the paper (Figure 4, Appendix "Details of Toy Experiment"), and controls that it lacks.

Three fields, D_1 = D_2 = 100, a sample for each of the 10^4 pairs (x_1, x_2), x_3 and the label y drawn at random. Only
E_1 is trained, by full-batch SGD on binary cross-entropy, with the factorization machine itself as the logit:

    h = e_1 . e_2 + e_1 . e_3 + e_2 . e_3

The last term does not depend on E_1: it is a constant offset of each sample. The paper gives neither K nor the loss nor
its reduction; what was chosen, and why, stands in conf/toy.yaml.

All conditions of a seed share E_1 (at the start), E_2 and y; those with the same D_3 also share x_3. They run side by
side; every seed and D_3 is a batch of its own, so that no number depends on how many seeds run.

Shapes: S conditions in parallel, A = 100 values of x_1, B = 100 values of x_2, D = D_3 values of x_3, K embedding size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys_collapse.seeding import derive
from recsys_collapse.spectrum import information_abundance, singular_spectrum

ROWS = 100  # D_1 and D_2
SMALL_SIZE, LARGE_SIZE = 3, 100  # D_3 in the paper's two cases
EPSILON = 1e-9  # a singular value below so much of the largest is zero


@dataclass(frozen=True)
class Condition:
    """What field 3 is like. The first two fields are always the same."""

    name: str
    cardinality: int
    """D_3."""
    label: str
    present: bool = True
    """Without field 3, E_3 is zero."""
    offset: bool = True
    """Whether the logit has its constant term e_2 . e_3."""
    centred: bool = False
    """The mean row of E_3 is taken off; its norm stays."""
    rank: int | None = None
    """Rows of E_3 are random mixtures of so many vectors: those of a field of that cardinality; its norm stays."""
    mean: float = 0.0
    """A common vector is added to all rows of E_3, of this norm times sqrt(K)."""


SMALL = Condition("small", SMALL_SIZE, "$D_3=3$")
LARGE = Condition("large", LARGE_SIZE, "$D_3=100$")
SMALL_NO_OFFSET = Condition("small_no_offset", SMALL_SIZE, "$D_3=3$, no offset", offset=False)
LARGE_NO_OFFSET = Condition("large_no_offset", LARGE_SIZE, "$D_3=100$, no offset", offset=False)
SMALL_CENTRED = Condition("small_centred", SMALL_SIZE, "$D_3=3$, $E_3$ centred", centred=True)
LOW_RANK = Condition("low_rank", LARGE_SIZE, "$D_3=100$, $E_3$ of rank 3", rank=SMALL_SIZE)
COMMON_MEAN = Condition("common_mean", LARGE_SIZE, "$D_3=100$, $E_3$ + mean", mean=1.15)
COMMON_MEAN_NO_OFFSET = Condition(
    "common_mean_no_offset", LARGE_SIZE, "$D_3=100$, $E_3$ + mean, no offset", offset=False, mean=1.15
)
ABSENT = Condition("absent", SMALL_SIZE, "no field 3", present=False)
CONDITIONS = (
    *(SMALL, LARGE, SMALL_CENTRED, LOW_RANK, COMMON_MEAN),
    *(SMALL_NO_OFFSET, LARGE_NO_OFFSET, COMMON_MEAN_NO_OFFSET, ABSENT),
)
"""The paper's two, then the controls. A common mean of 1.15 makes IA(E_3) about 6.6 at K = 50."""


@dataclass(frozen=True)
class Training:
    """How E_1 is trained, and how often it is looked at."""

    iterations: int = 5000
    lr: float = 1.0
    reduction: str = "mean"
    """Of the loss over the 10^4 samples."""
    every: int = 50
    """Iterations between two records."""
    dtype: torch.dtype = torch.float32


class World(NamedTuple):
    """What the conditions of a batch (one seed, one D_3) are trained on."""

    e1_SAK: Tensor
    """At the start; the same for all."""
    e2_BK: Tensor
    e3_SDK: Tensor
    x3_AB: Tensor
    y_AB: Tensor
    offset_SAB: Tensor
    """e_2 . e_3, or zero."""


def draw_world(conditions: Sequence[Condition], embed_size: int, seed: int) -> World:
    """All random numbers of conditions that share D_3, float64."""
    (cardinality,) = {condition.cardinality for condition in conditions}
    e2_BK = _normal(seed, "e2", ROWS, embed_size)
    e3_SDK = torch.stack([draw_e3(condition, embed_size, seed) for condition in conditions])
    x3_AB = torch.randint(cardinality, (ROWS, ROWS), generator=_generator(seed, "x3", cardinality))
    y_AB = torch.randint(2, (ROWS, ROWS), generator=_generator(seed, "y")).double()
    has_offset_S = torch.tensor([float(condition.offset) for condition in conditions]).double()
    offset_SAB = _pick(has_offset_S[:, None, None] * (e2_BK @ e3_SDK.mT), x3_AB)
    e1_SAK = _normal(seed, "e1", ROWS, embed_size).repeat(len(conditions), 1, 1)
    return World(e1_SAK, e2_BK, e3_SDK, x3_AB, y_AB, offset_SAB)


def draw_e3(condition: Condition, embed_size: int, seed: int) -> Tensor:
    """E_3 of a condition, (D, K) float64."""
    e3_DK = _normal(seed, "e3", condition.cardinality, embed_size)
    norm = e3_DK.norm()
    if condition.rank is not None:
        mixture_DR = _normal(seed, "mixture", condition.cardinality, condition.rank)
        e3_DK = mixture_DR @ _normal(seed, "e3", condition.rank, embed_size)
    if condition.centred:
        e3_DK = e3_DK - e3_DK.mean(0)
    e3_DK = e3_DK * (norm / e3_DK.norm())
    if condition.mean:
        direction_1K = _normal(seed, "mean", 1, embed_size)
        e3_DK = e3_DK + condition.mean * math.sqrt(embed_size) * direction_1K / direction_1K.norm()
    return e3_DK if condition.present else torch.zeros_like(e3_DK)


def gradient(world: World, e1_SAK: Tensor, x3_SAB: Tensor) -> Tensor:
    """d(sum of the losses)/dE_1, (S, A, K), by hand: sum over samples of (sigmoid(h) - y) (e_2 + e_3)."""
    h_SAB = e1_SAK @ world.e2_BK.T  # e_1 . e_2
    h_SAB += (e1_SAK @ world.e3_SDK.mT).gather(2, x3_SAB)  # e_1 . e_3
    h_SAB += world.offset_SAB  # e_2 . e_3
    error_SAB = h_SAB.sigmoid_().sub_(world.y_AB)
    by_x3_SAD = error_SAB.new_zeros(*e1_SAK.shape[:2], world.e3_SDK.shape[1]).scatter_add_(2, x3_SAB, error_SAB)
    return (error_SAB @ world.e2_BK).baddbmm_(by_x3_SAD, world.e3_SDK)


def train(world: World, training: Training) -> Iterator[tuple[int, Tensor]]:
    """Train E_1; yield (iteration, E_1), at the start, then every so many iterations, and at the end.

    What is yielded is overwritten by the next iteration.
    """
    world = World(*(tensor if tensor is world.x3_AB else tensor.to(training.dtype) for tensor in world))
    e1_SAK, x3_SAB = world.e1_SAK.clone(), world.x3_AB.repeat(len(world.e1_SAK), 1, 1)
    step = training.lr / (ROWS * ROWS if training.reduction == "mean" else 1)
    yield 0, e1_SAK
    for iteration in range(1, training.iterations + 1):
        e1_SAK.sub_(gradient(world, e1_SAK, x3_SAB), alpha=step)
        if iteration % training.every == 0 or iteration == training.iterations:
            yield iteration, e1_SAK


def abundance(e_SAK: Tensor, centred: bool = False) -> Tensor:
    """Information abundance of tables (..., A, K) -> (...), if asked for after their mean row is taken off."""
    e_SAK = e_SAK.double()
    if centred:
        e_SAK = e_SAK - e_SAK.mean(-2, keepdim=True)
    return information_abundance(singular_spectrum(e_SAK.mT @ e_SAK, rank=min(e_SAK.shape[-2:])))


def geometry(e1_SAK: Tensor, world: World) -> dict[str, Tensor]:
    """How E_1 lies to its mean row, to span(E_3) and to the offset; (S,) each.

    `cosine`: of the first right singular vector v of E_1 with the mean row of E_1, without its sign. `direction_in_e3`:
    share of v inside span(E_3), `energy_in_e3`: share of all of E_1 (squared lengths of the projections). Of a random
    direction, both shares are rank(E_3) / K. `cosine_offset`: of the mean row with the vector that, as e_1 of all x_1,
    would come nearest to cancelling the offset.
    """
    e1_SAK, e3_SDK = e1_SAK.double(), world.e3_SDK
    mean_SK, against_SK = e1_SAK.mean(1), cancelling(world)
    v_SK = torch.linalg.svd(e1_SAK, full_matrices=False).Vh[:, 0]
    _, sigma_SR, basis_SRK = torch.linalg.svd(e3_SDK, full_matrices=False)
    basis_SRK = basis_SRK * (sigma_SR > EPSILON * sigma_SR[:, :1]).unsqueeze(2)
    return {
        "cosine": torch.nn.functional.cosine_similarity(v_SK, mean_SK, dim=1).abs(),
        "cosine_offset": torch.nn.functional.cosine_similarity(against_SK, mean_SK, dim=1),
        "direction_in_e3": (basis_SRK @ v_SK.unsqueeze(2)).square().sum((1, 2)),
        "energy_in_e3": (e1_SAK @ basis_SRK.mT).square().sum((1, 2)) / e1_SAK.square().sum((1, 2)),
    }


def cancelling(world: World) -> Tensor:
    """The w (S, K) that minimises the sum over samples of (w . (e_2 + e_3) + e_2 . e_3)^2: least squares."""
    input_SNK = (world.e2_BK + world.e3_SDK[:, world.x3_AB]).flatten(1, 2)
    target_SN1 = -world.offset_SAB.flatten(1).unsqueeze(2)
    gram_SKK, moment_SK1 = input_SNK.mT @ input_SNK, input_SNK.mT @ target_SN1
    return torch.linalg.lstsq(gram_SKK, moment_SK1, driver="gelsd").solution.squeeze(2)


def simulate(
    conditions: Sequence[Condition],
    embed_size: int,
    seed: int,
    training: Training,
    stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Train conditions that share D_3: a row for each and recorded iteration; of the last one, with `geometry`.

    `stopped` is asked at every record whether the rest is not wanted any more.

    Raises:
        ValueError: E_1 overflows.
    """
    world = draw_world(conditions, embed_size, seed)
    ia_e3_S = abundance(world.e3_SDK)
    rows: list[dict[str, Any]] = []
    for iteration, e1_SAK in train(world, training):
        if stopped():
            break
        if not e1_SAK.isfinite().all():
            step = f"lr={training.lr}, reduction={training.reduction}"
            raise ValueError(f"{step}: E_1 overflows; expected smaller steps, such as the paper's lr=1 on the mean")
        columns = {"ia": abundance(e1_SAK), "ia_centred": abundance(e1_SAK, centred=True), "ia_e3": ia_e3_S}
        if iteration == training.iterations:
            columns |= geometry(e1_SAK, world)
        for place, condition in enumerate(conditions):
            about = {"embed_size": embed_size, "seed": seed, "condition": condition.name, "iteration": iteration}
            rows.append({**about, **{name: value_S[place].item() for name, value_S in columns.items()}})
    return rows


def batches(conditions: Sequence[Condition]) -> list[list[Condition]]:
    """Conditions that can run side by side."""
    sizes = dict.fromkeys(condition.cardinality for condition in conditions)
    return [[condition for condition in conditions if condition.cardinality == size] for size in sizes]


def _pick(values_SBD: Tensor, x3_AB: Tensor) -> Tensor:
    """values[s, b, x3[a, b]] as (S, A, B)."""
    columns_B = torch.arange(x3_AB.shape[1])
    return values_SBD[:, columns_B, x3_AB]


def _normal(seed: int, purpose: str, rows: int, columns: int) -> Tensor:
    generator = _generator(seed, purpose, rows, columns)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def _generator(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "toy", *purpose))
