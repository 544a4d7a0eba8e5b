"""The built-in data: what is planted is what its options say, rows do not depend on each other, the truth is kept."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from recsys_collapse.config import config_dir
from recsys_collapse.dataset.calibrate import expected_auc, scale_and_bias
from recsys_collapse.dataset.planted import BLOCK, Planted
from recsys_collapse.dataset.source import PARTS, Rows, Source
from recsys_collapse.dataset.store import DamagedStoreError, Store, open_store, prepare
from recsys_collapse.dataset.synthetic import Synthetic
from recsys_collapse.prepare import truth_lines

DEFAULTS = {
    str(key): value
    for key, value in OmegaConf.load(config_dir() / "dataset" / "synthetic.yaml").items()
    if key != "_target_"
}
PRESETS = ("tiny", "mini", "criteo39", "avazu22")


def source(**changes) -> Synthetic:
    """As configured by default, but smaller."""
    small = {"train_rows": 4000, "valid_rows": 500, "test_rows": 500, "num_fields": 6, "max_cardinality": 100}
    return Synthetic(**(DEFAULTS | small | {"fields_per_pattern": 4} | changes))


def whole(made: Synthetic, part: str | None = None) -> Rows:
    """All rows of a source, or of one part."""
    pieces = [rows for rows in made.read() if part in (None, rows.part)]
    truths = [rows.truth for rows in pieces if rows.truth is not None]
    labels = np.concatenate([rows.labels for rows in pieces])
    return Rows(pl.concat([rows.features for rows in pieces]), labels, truth=pl.concat(truths))


def naive_pattern(planted: Planted, number: int, row: np.ndarray) -> float:
    """Sum of A_ij <u_i, u_j> over pairs, by the book."""
    pattern, found = planted.patterns[number], 0.0
    for (a, i), (b, j) in combinations(enumerate(pattern.fields_S), 2):
        u, v = pattern.latents[a][row[i]], pattern.latents[b][row[j]]
        found += pattern.weight_SS[a, b] * sum(x * y for x, y in zip(u, v, strict=True))
    return found


def naive_third(planted: Planted, row: np.ndarray) -> float:
    assert planted.third is not None
    third, found = planted.third, 0.0
    for trio in combinations(range(len(third.fields_S)), 3):
        weight = math.prod(third.weight_SS[a, a] for a in trio)
        rows = [third.latents[a][row[third.fields_S[a]]] for a in trio]
        found += weight * sum(math.prod(numbers) for numbers in zip(*rows, strict=True))
    return found


# The planted model


def test_components_are_the_formulas() -> None:
    planted = source(third_order_share=0.2, spurious_fields=1).planted
    values_nN = planted.values("here")[:40]
    expected_nT = [
        [
            sum(effect_D1[row[i], 0] for i, effect_D1 in planted.effects.items()),
            *(naive_pattern(planted, p, row) for p in range(4)),
            naive_third(planted, row),
        ]
        for row in values_nN
    ]
    found_nT = planted.components(values_nN) * planted._sd_T + planted._mean_T
    np.testing.assert_allclose(found_nT, expected_nT, rtol=1e-10, atol=1e-10)
    assert list(planted.coefficients) == ["linear", *(f"pattern{p}" for p in (1, 2, 3, 4)), "third_order"]
    logit_n = planted.bias + sum(
        found_nT_ * coefficient
        for found_nT_, coefficient in zip(planted.components(values_nN).T, planted.coefficients.values(), strict=True)
    )
    np.testing.assert_allclose(planted.logits(planted.components(values_nN)), logit_n, rtol=1e-12)


def test_shares_are_those_of_the_variance() -> None:
    planted = source(linear_share=0.3, third_order_share=0.1, num_patterns=3).planted
    squares = np.square(list(planted.coefficients.values()))
    np.testing.assert_allclose(squares / squares.sum(), [0.3, 0.2, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("dependence", [0.0, 0.3])
def test_effects_and_latents_have_mean_0_and_length_1(dependence: float) -> None:
    planted = source(dependence=dependence, third_order_share=0.1).planted
    assert planted.third is not None
    matrices = list(planted.effects.items())
    for pattern in (*planted.patterns, planted.third):
        matrices += list(zip(pattern.fields_S, pattern.latents, strict=True))
    assert len(matrices) > 10
    for i, matrix_Dr in matrices:
        frequency_D = planted.fields[i].frequency_D
        assert frequency_D.sum() == pytest.approx(1)
        np.testing.assert_allclose(frequency_D @ matrix_Dr, 0, atol=1e-12)
        assert frequency_D @ (matrix_Dr**2).sum(axis=1) == pytest.approx(1)


def test_components_have_mean_0_and_variance_1_and_different_orders_are_uncorrelated() -> None:
    planted = source(third_order_share=0.2).planted
    found_nT = np.concatenate([planted.components(planted.values("fresh", b)) for b in range(12)])
    error = 5 / math.sqrt(len(found_nT))
    np.testing.assert_allclose(found_nT.mean(axis=0), 0, atol=error)
    np.testing.assert_allclose(found_nT.std(axis=0), 1, atol=0.04)  # their tails are heavier than a normal's
    correlation_TT = np.corrcoef(found_nT.T)
    np.testing.assert_allclose(correlation_TT[[0, 5]], np.eye(6)[[0, 5]], atol=3 * error)
    assert abs(correlation_TT[1:5, 1:5] - np.eye(4)).max() < 0.2  # patterns share pairs of fields with few values


def test_the_variance_of_a_pattern_is_the_exact_one() -> None:
    """Of independent fields: sum of A_ij^2 tr(C_i C_j), with C_i the covariance of the latents of field i."""
    planted = source().planted
    for number, pattern in enumerate(planted.patterns):
        covariances = [
            latent.T @ (planted.fields[i].frequency_D[:, None] * latent)
            for i, latent in zip(pattern.fields_S, pattern.latents, strict=True)
        ]
        exact = sum(
            pattern.weight_SS[a, b] ** 2 * np.trace(covariances[a] @ covariances[b])
            for a, b in combinations(range(len(covariances)), 2)
        )
        assert planted._sd_T[1 + number] ** 2 == pytest.approx(exact, rel=0.03)
        assert planted._mean_T[1 + number] == pytest.approx(0, abs=0.02 * math.sqrt(exact))


@given(
    cardinalities=st.lists(st.integers(2, 40), min_size=3, max_size=6),
    rank=st.integers(1, 4),
    num_patterns=st.integers(1, 4),
    seed=st.integers(0, 5),
)
@settings(max_examples=10, deadline=None)
def test_the_planted_rank_is_recovered(cardinalities: list[int], rank: int, num_patterns: int, seed: int) -> None:
    """From the latents by the generator, and from what a pair adds to the logit by numpy's SVD here."""
    more = {"num_fields": len(cardinalities), "rank": rank, "num_patterns": num_patterns, "data_seed": seed}
    planted = source(cardinalities=cardinalities, own_share=0.5, bayes_auc=0.6, **more).planted
    for i, found in enumerate(planted.field_ranks()):
        patterns = sum(i in pattern.fields_S for pattern in planted.patterns)
        assert found == min(cardinalities[i] - 1, rank * patterns)  # one direction less: the mean is 0
    for i, j in combinations(range(len(cardinalities)), 2):
        matrix_DD = np.zeros((cardinalities[i], cardinalities[j]))
        for pattern in planted.patterns:
            places = [np.flatnonzero(pattern.fields_S == field) for field in (i, j)]
            if all(len(place) for place in places):
                a, b = (int(place[0]) for place in places)
                matrix_DD += pattern.weight_SS[a, b] * pattern.latents[a] @ pattern.latents[b].T
        shared = sum(i in pattern.fields_S and j in pattern.fields_S for pattern in planted.patterns)
        assert np.linalg.matrix_rank(matrix_DD) == min(cardinalities[i] - 1, cardinalities[j] - 1, rank * shared)


def test_a_spurious_field_has_no_effect() -> None:
    made = source(spurious_fields=2, third_order_share=0.1)
    planted, values_nN = made.planted, made.planted.values("here")[:200]
    before_nT = planted.components(values_nN)
    assert len(planted.spurious) == 2
    for i in range(6):
        changed_nN = values_nN.copy()
        changed_nN[:, i] = (changed_nN[:, i] + 1) % planted.cardinalities[i]
        assert np.array_equal(planted.components(changed_nN), before_nT) == (i in planted.spurious)
    assert made.answer()["spurious"] == [made.field_names()[i] for i in planted.spurious]
    assert [made.answer()["planted_rank"][name] for name in made.answer()["spurious"]] == [0, 0]


def test_cardinalities() -> None:
    sizes = [4, 8, 14, 28, 53, 100]
    assert source().planted.cardinalities == sizes == [round(4 * 25 ** (i / 5)) for i in range(6)]
    shuffled = source(cardinality_order="shuffled").planted.cardinalities
    assert shuffled != sizes and sorted(shuffled) == sizes
    assert source(cardinalities=[3, 9, 2, 2, 2, 2]).planted.cardinalities == [3, 9, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("zipf", "shift", "dependence"), [(0.0, 0, 0.0), (1.05, 0, 0.0), (1.3, 5, 0.0), (1.05, 0, 0.5)]
)
def test_values_follow_the_law(zipf: float, shift: float, dependence: float) -> None:
    made = source(zipf=zipf, zipf_shift=shift, dependence=dependence)
    value_n = np.concatenate([made.planted.values("here", b)[:, 5] for b in range(4)])
    law_D = np.array([(v + shift) ** -zipf for v in range(1, 101)])
    law_D /= law_D.sum()
    if dependence:
        starts = made.planted.fields[5].start_C
        shifted_D = np.mean([[law_D[(v - start) % 100] for v in range(100)] for start in starts], axis=0)
        law_D = (1 - dependence) * law_D + dependence * shifted_D
    count_D = np.bincount(value_n, minlength=100)
    chi_squared = ((count_D - len(value_n) * law_D) ** 2 / (len(value_n) * law_D)).sum()
    assert chi_squared < 99 + 5 * math.sqrt(2 * 99)  # 99 degrees of freedom


@pytest.mark.parametrize("dependence", [0.0, 0.5])
def test_fields_depend_on_each_other_if_asked_to(dependence: float) -> None:
    values_nN = np.concatenate([source(dependence=dependence).planted.values("here", b) for b in range(4)])
    joint_DD = np.histogram2d(values_nN[:, 0], values_nN[:, 1], bins=[np.arange(5), np.arange(9)])[0]
    expected_DD = joint_DD.sum(1, keepdims=True) * joint_DD.sum(0) / joint_DD.sum()
    chi_squared = ((joint_DD - expected_DD) ** 2 / expected_DD).sum()
    limit = 21 + 5 * math.sqrt(2 * 21)  # of 3 x 7 degrees of freedom
    assert (chi_squared > 2 * limit) if dependence else (chi_squared < limit)


# Calibration


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("base_rate", "bayes_auc"), [(0.25, 0.8), (0.03, 0.7), (0.5, 0.95)])
def test_base_rate_and_best_auc_are_those_asked_for(seed: int, base_rate: float, bayes_auc: float) -> None:
    made = source(base_rate=base_rate, bayes_auc=bayes_auc, data_seed=seed, train_rows=8 * BLOCK)
    rows = whole(made, "train")
    count = len(rows.labels)
    assert abs(rows.labels.mean() - base_rate) < 5 * math.sqrt(base_rate * (1 - base_rate) / count)
    positives = base_rate * count  # 5 errors, of the AUC's variance bound auc (1 - auc) / positives
    error = math.sqrt(bayes_auc * (1 - bayes_auc) / positives)
    assert rows.truth is not None
    assert abs(roc_auc_score(rows.labels, rows.truth["logit"].to_numpy()) - bayes_auc) < 5 * error


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=12))
def test_expected_auc_is_that_of_all_labels(probabilities: list[float]) -> None:
    """Over pairs of different rows, each with its chance to be a positive and a negative."""
    p_n = np.sort(probabilities)
    pairs = [(i, j) for i in range(len(p_n)) for j in range(len(p_n)) if i != j]
    wins = sum(p_n[i] * (1 - p_n[j]) * (i > j) for i, j in pairs)
    assert expected_auc(p_n) == pytest.approx(wins / sum(p_n[i] * (1 - p_n[j]) for i, j in pairs))


def test_scale_and_bias_of_a_known_logit() -> None:
    """A normal logit of standard deviation 1.37 and a base rate of a quarter: AUC 0.80 (research notes)."""
    normal_n = np.random.default_rng(0).standard_normal(1 << 18)
    scale, bias = scale_and_bias(normal_n, 0.25, 0.8)
    assert scale == pytest.approx(1.37, abs=0.02)
    assert (1 / (1 + np.exp(-scale * normal_n - bias))).mean() == pytest.approx(0.25, abs=1e-4)


def test_an_auc_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset\.bayes_auc=0\.999: with these fields at most 0\.\d+ can be reached"):
        _ = source(num_fields=2, cardinalities=[2, 2], bayes_auc=0.999).planted


# Rows


def test_rows_depend_on_the_seed_alone() -> None:
    first = whole(source())
    np.random.seed(5)
    again, other = whole(source()), whole(source(data_seed=1))
    assert first.features.equals(again.features) and first.truth.equals(again.truth)  # type: ignore[union-attr, arg-type]
    assert np.array_equal(first.labels, again.labels)
    assert not first.features.equals(other.features)
    assert not np.array_equal(first.labels, other.labels)


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    small, large = source(), source(train_rows=BLOCK + 100, valid_rows=700)
    for part, size in {"train": 4000, "valid": 500, "test": 500}.items():
        one, two = whole(small, part), whole(large, part)
        assert len(two.labels) == {"train": BLOCK + 100, "valid": 700, "test": 500}[part]
        assert one.features.equals(two.features[:size])
        assert np.array_equal(one.labels, two.labels[:size])
        assert one.truth.equals(two.truth[:size])  # type: ignore[union-attr, arg-type]


def test_any_block_can_be_drawn_alone() -> None:
    rows = whole(source(train_rows=3 * BLOCK), "train")
    alone = source(train_rows=10).block("train", 2)
    assert alone.features.equals(rows.features[2 * BLOCK :])
    assert np.array_equal(alone.labels, rows.labels[2 * BLOCK :])


def test_parts_and_blocks_are_different_rows() -> None:
    made = source()
    blocks = [made.block(part, number) for part in PARTS for number in (0, 1)]
    assert len({block.features.hash_rows().sum() for block in blocks}) == 6
    assert len({block.labels.tobytes() for block in blocks}) == 6


def test_a_pattern_is_the_same_among_more() -> None:
    one, four = (source(num_patterns=number).planted for number in (1, 4))
    values_nN = one.values("here")
    assert np.array_equal(values_nN, four.values("here"))
    np.testing.assert_array_equal(one.components(values_nN), four.components(values_nN)[:, :2])


def test_labels_follow_the_true_logits() -> None:
    """Rows by their true probability in ten groups: each has about as many positives as that says."""
    rows = whole(source(train_rows=4 * BLOCK), "train")
    assert rows.truth is not None
    order_n = np.argsort(rows.truth["logit"].to_numpy())
    for group in np.array_split(order_n, 10):
        p_n = 1 / (1 + np.exp(-rows.truth["logit"].to_numpy()[group]))
        assert abs(rows.labels[group].sum() - p_n.sum()) < 5 * math.sqrt((p_n * (1 - p_n)).sum())


def test_labels_of_blocks_are_drawn_independently() -> None:
    """What is left of the labels beside their probability is uncorrelated between blocks and parts."""
    left = []
    for part, number in (("train", 0), ("train", 1), ("test", 0)):
        block = source().block(part, number)
        assert block.truth is not None
        left.append(block.labels - 1 / (1 + np.exp(-block.truth["logit"].to_numpy())))
    assert abs(np.corrcoef(left) - np.eye(3)).max() < 5 / math.sqrt(BLOCK)


def test_these_are_the_rows_of_version_2() -> None:
    """Stores and runs are found by options and version: raise `Synthetic.version` with the numbers here."""
    made = source(dependence=0.3, third_order_share=0.1, spurious_fields=1, train_rows=BLOCK + 10)
    rows = whole(made)
    text = f"{rows.features.to_numpy().tolist()} {rows.labels.tolist()}"
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (Synthetic.version, found) == (2, "2182349d014fb21a")


# The store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(source(), tmp_path_factory.mktemp("stores"), 0)


def test_the_store_keeps_the_truth_in_file_order(store: Store) -> None:
    rows = whole(source())
    assert rows.truth is not None and store.truth is not None
    assert store.manifest()["truth"] == rows.truth.columns
    np.testing.assert_array_equal(store.truth.numpy(), rows.truth.to_numpy().astype(np.float32))
    sizes = {"train": range(4000), "valid": range(4000, 4500), "test": range(4500, 5000)}
    assert {part: store.splits[part].tolist() for part in PARTS} == {part: list(r) for part, r in sizes.items()}


def test_the_store_knows_the_answer(store: Store) -> None:
    answer = store.manifest()["answer"]
    assert store.truth is not None
    logit_n = answer["bias"] + store.truth[:, 1:] @ torch.tensor(list(answer["coefficients"].values()))
    torch.testing.assert_close(logit_n, store.truth[:, 0], rtol=1e-4, atol=1e-5)
    assert answer["values"] == dict(zip(store.fields, source().planted.cardinalities, strict=True))


def test_a_damaged_truth_is_seen(tmp_path: Path) -> None:
    path = prepare(source(), tmp_path, 0).path
    data = bytearray((path / "truth.bin").read_bytes())
    data[100] ^= 1
    (path / "truth.bin").write_bytes(data)
    from recsys_collapse.dataset import store as room

    room._verified.discard(path)
    with pytest.raises(DamagedStoreError, match=r"truth\.bin: the content has changed"):
        open_store(path)


def test_pieces_with_and_without_a_truth_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Synthetic.read
    monkeypatch.setattr(Synthetic, "read", lambda self: (
        rows._replace(truth=None) if rows.part == "test" else rows for rows in read(self)
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"a piece with truth None: expected \['logit', 'linear'"):
        prepare(source(), tmp_path, 0)


@dataclass(kw_only=True)
class Shuffled(Source):
    """Rows with a truth, split at random by the store."""

    columns: tuple[str, ...] = ("logit", "linear")
    known: Any = "linear"
    value: float = 0.5

    def files(self) -> list[Path]:
        return []

    def recipe(self) -> dict[str, Any]:
        return {"columns": [*self.columns]}

    def read(self) -> Iterator[Rows]:
        for start in (0, 30):
            row_n = np.arange(start, start + 30)
            truth = pl.DataFrame({name: row_n + i * self.value for i, name in enumerate(self.columns)})
            features = pl.DataFrame({"a": row_n % 7, "b": row_n % 5})
            yield Rows(features, (row_n % 2).astype(np.uint8), truth=truth, done=(start + 30) / 60)

    def answer(self) -> dict[str, Any] | None:
        return self.known and {"coefficients": {self.known: 1.0}}


def test_a_truth_stays_with_its_rows_when_they_are_split_at_random(tmp_path: Path) -> None:
    store = prepare(Shuffled(name="s"), tmp_path, 0)
    assert store.truth is not None
    assert store.truth[:, 0].tolist() == list(range(60)) and store.truth[:, 1].tolist() == [r + 0.5 for r in range(60)]
    assert store.splits["train"].tolist() != sorted(store.splits["train"].tolist())
    assert [line.split()[0] for line in truth_lines(store)] == ["base", "best"], "of an answer with coefficients alone"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"known": None}, r"expected logit, then the components that Shuffled\.answer\(\) has coefficients of: \[\]"),
        ({"known": "other"}, r"columns \['logit', 'linear'\]: expected logit, .* of: \['other'\]"),
        ({"columns": ("linear", "logit")}, "expected logit, then"),
        ({"value": math.nan}, "a truth that is not finite"),
    ],
)
def test_a_truth_that_could_not_be_used_after_the_training(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepare(Shuffled(name="s", **options), tmp_path, 0)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_fields": 6, "cardinalities": [2] * 6, "centroids": 1, "own_share": 0.0}, "pattern1 is the same for all"),
        ({"third_order_share": 0.2, "fields_per_pattern": 2}, "expected 3 fields or more in a pattern, found 2"),
        ({"third_order_share": 0.2, "spurious_fields": 4}, "expected 3 fields or more in a pattern, found 2"),
    ],
)
def test_a_component_that_would_be_rounding_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _ = source(**options).planted


def test_values_that_share_everything_have_no_latents() -> None:
    """Some fields of 2 values have both at one centroid: they take no part, and nothing becomes a main effect."""
    planted = source(cardinalities=[2, 2, 2, 50, 90, 100], centroids=4, own_share=0.0, fields_per_pattern=6).planted
    zero = [not latent.any() for pattern in planted.patterns for latent in pattern.latents]
    assert any(zero) and not all(zero)
    values_nN = np.concatenate([planted.values("here", block) for block in range(4)])
    found_nT = planted.components(values_nN)
    for i, size in enumerate(planted.cardinalities):
        sums_DT = np.zeros((size, 5))
        np.add.at(sums_DT, values_nN[:, i], found_nT)
        count_D = np.bincount(values_nN[:, i], minlength=size)
        explained_T = (sums_DT**2 / np.maximum(count_D, 1)[:, None]).sum(axis=0) / len(values_nN)
        assert (explained_T[1:] < 5 * size / len(values_nN) + 0.01).all()  # of the patterns' variance, which is 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_drawn(name: str) -> None:
    preset = OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")
    options = {str(key): value for key, value in preset.items() if key != "defaults"}
    made = Synthetic(**(DEFAULTS | options))
    block = made.block("test", 0)
    assert block.features.shape == (BLOCK, made.num_fields)
    sizes = made.planted.cardinalities
    assert (min(sizes), max(sizes)) == (made.min_cardinality, made.max_cardinality)
    assert block.truth is not None
    error = 5 * math.sqrt(made.bayes_auc * (1 - made.bayes_auc) / (made.base_rate * BLOCK))
    assert abs(roc_auc_score(block.labels, block.truth["logit"].to_numpy()) - made.bayes_auc) < error


def test_mini_is_what_synthetic_is_by_default() -> None:
    mini = OmegaConf.load(config_dir() / "dataset" / "mini.yaml")
    assert {key for key in mini if DEFAULTS.get(str(key)) != mini[key]} == {"defaults", "name"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((f"{part}_rows", 9) for part in PARTS),
        ("num_fields", 1),
        ("min_cardinality", 1),  # a constant
        ("max_cardinality", 3),  # below the smallest, 4
        ("cardinality_order", "falling"),
        ("cardinalities", [4, 5]),  # of 6 fields
        ("cardinalities", [4, 5, 6, 1, 8, 9]),
        ("zipf", -0.5),
        ("zipf", math.nan),
        ("zipf_shift", -1),
        ("dependence", 1.1),
        ("spurious_fields", -1),
        ("spurious_fields", 5),
        ("num_patterns", 0),
        ("fields_per_pattern", 1),
        ("rank", 0),
        ("centroids", 0),
        ("own_share", -0.1),
        ("linear_share", 1.5),
        ("third_order_share", 0.7),  # with 0.4 linear
        ("base_rate", 0.0),
        ("base_rate", 1.0),
        ("bayes_auc", 0.5),
        ("bayes_auc", 1.0),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"dataset\.{option}=.*: expected"):
        source(**{option: value})
