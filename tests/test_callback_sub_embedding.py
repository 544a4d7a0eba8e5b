"""IA of sub-embeddings in small trainings, against the sub-embeddings themselves: E_i W^T, columns of ffm's table.

Shapes: M embedding sets, N fields, K columns of one set.
"""

import math
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr

from recsys_collapse.callback.figures import sub_embedding_figure
from recsys_collapse.callback.sub_embedding import SCHEMAS, SubEmbedding
from recsys_collapse.dataset.batches import train_counts
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.train import build_module
from tests.test_callback_contract import (
    CARDINALITIES,
    Collected,
    Snapshots,
    config,
    read,
    small_store,
    table_of_sets,
    train,
    words_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

FIELDS, VARIANTS = [*CARDINALITIES], ["all", "centred", "seen", "seen+centred"]
MODELS = ["dcnv2 ME", "dcnv2 SE", "ffm"]
every_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshots, Collected]:
    folder, snapshots, logger = tmp_path_factory.mktemp("run"), Snapshots(), Collected()
    train(folder, words_of(request.param), SubEmbedding(), snapshots, loggers=[logger])
    return folder, snapshots, logger


def abundance(matrix: np.ndarray) -> float:
    sigma = np.linalg.svd(matrix, compute_uv=False)
    return sigma.sum() / sigma[0] if len(matrix) and sigma[0] > 1e-12 else math.nan


def rows_of(matrix: np.ndarray, field: int, variant: str) -> np.ndarray:
    """Rows that count, and without their mean."""
    if variant.startswith("seen"):
        start = sum([*CARDINALITIES.values()][:field])
        matrix = matrix[train_counts(small_store()).numpy()[start : start + len(matrix)] > 0]
    return matrix - matrix.mean(axis=0) if "centred" in variant and len(matrix) else matrix


def sub_embedding(backbone: Backbone, m: int, i: int, j: int) -> np.ndarray | None:
    """E_i^{->j} itself, (D_i, K)."""
    e = table_of_sets(backbone, i)[:, m].numpy()
    if hasattr(backbone, "cross"):
        size = e.shape[1]
        w = backbone.cross.layers[0].weight[m].numpy()[j * size : (j + 1) * size, i * size : (i + 1) * size]
        return e @ w.T
    others = [other for other in range(len(FIELDS)) if other != i]
    return np.split(e, len(others), axis=1)[others.index(j)] if j != i else None


def near(value: float | None, expected: float) -> bool:
    """Null for NaN."""
    return value is None if math.isnan(expected) else value == pytest.approx(expected, rel=1e-9)


def test_values_are_those_of_the_sub_embeddings(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, snapshots, _ = run
    frame = read(folder, "sub_embedding")
    num_sets = snapshots.of_epoch[0].embedding.num_sets
    sets = range(num_sets) if num_sets > 1 else [None]
    assert frame.schema == pl.Schema(SCHEMAS["sub_embedding"])
    keys = frame.select("epoch", "variant", "embedding_set", "field", "towards").rows()
    assert keys == [*product((-1, 0, 1), VARIANTS, sets, FIELDS, FIELDS)]
    seen = 0
    for row in frame.iter_rows(named=True):
        backbone, m, variant = snapshots.of_epoch[row["epoch"]], row["embedding_set"] or 0, row["variant"]
        i, j = FIELDS.index(row["field"]), FIELDS.index(row["towards"])
        own = table_of_sets(backbone, j)[:, m].numpy()
        sub = sub_embedding(backbone, m, i, j)
        expected = math.nan if sub is None else abundance(rows_of(sub, i, variant))
        towards = abundance(rows_of(own, j, variant))
        assert near(row["towards_abundance"], towards) and near(row["information_abundance"], expected)
        if row["field"] == "one" and "centred" in variant:
            assert row["reason"] == "no spread: one row or none" and row["random_value"] is None
        elif sub is None:
            assert row["reason"] == "the model has no such sub-embedding"
        else:
            assert row["reason"] is None
            seen += 1
    assert seen > 100


def test_random_value_is_that_of_matrices_of_the_same_shape(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, snapshots, _ = run
    backbone, rng = snapshots.of_epoch[0], np.random.default_rng(0)
    frame = read(folder, "sub_embedding").filter(pl.col("epoch") == 0)
    for i, j, variant in ((0, 1, "all"), (1, 0, "centred"), (0, 3, "seen"), (3, 1, "seen+centred"), (2, 0, "all")):
        shape = rows_of(sub_embedding(backbone, 0, i, j), i, variant).shape
        drawn = rng.uniform(-1, 1, (2000, *shape))
        drawn = drawn - drawn.mean(axis=1, keepdims=True) if "centred" in variant else drawn
        row = frame.filter(field=FIELDS[i], towards=FIELDS[j], variant=variant).row(0, named=True)
        assert row["random_value"] == pytest.approx(np.mean([abundance(one) for one in drawn]), rel=0.02)


def mean_rho(ia_NN: np.ndarray, ia_N: np.ndarray) -> float:
    """Mean of Spearman's rho over j != i; fields without are left out."""
    found = []
    for i in range(len(ia_N)):
        other = [j for j in range(len(ia_N)) if j != i]
        if np.isfinite(ia_NN[i, other]).all() and len({*ia_NN[i, other].round(9)}) > 1:
            found.append(spearmanr(ia_NN[i, other], ia_N[other]).statistic)
    return np.nanmean(found)


def test_law_is_that_of_the_written_values(run: tuple[Path, Snapshots, Collected]) -> None:
    """With four fields all orders are tried."""
    folder, _, logger = run
    laws, sub = read(folder, "collapse_law"), read(folder, "sub_embedding")
    assert laws.schema == pl.Schema(SCHEMAS["collapse_law"])
    assert len(laws) == 3 * 4 * max(1, sub["embedding_set"].n_unique())
    for law in laws.iter_rows(named=True):
        own = sub.filter(
            pl.col("embedding_set").eq_missing(law["embedding_set"]), epoch=law["epoch"], variant=law["variant"]
        )
        ia_NN = own["information_abundance"].to_numpy().reshape(4, 4)
        ia_N = own["towards_abundance"].to_numpy()[:4]
        kept = np.flatnonzero(np.isfinite(ia_N))
        ia_NN, ia_N = ia_NN[np.ix_(kept, kept)], ia_N[kept]
        observed = mean_rho(ia_NN, ia_N)
        assert law["fields"] == len(kept) == (3 if "centred" in law["variant"] else 4)
        assert law["mean_rho"] == pytest.approx(observed, abs=1e-9)
        orders = [mean_rho(ia_NN, ia_N[list(order)]) for order in permutations(range(len(kept)))]
        assert law["p_value"] == pytest.approx(np.mean([not rho < observed - 1e-9 for rho in orders]))
        suffix = "" if law["embedding_set"] is None else f"_set{law['embedding_set']}"
        suffix += "" if law["variant"] == "all" else f"@{law['variant']}"
        sent = logger.at_epoch(law["epoch"])
        assert sent[f"collapse_law/mean_rho{suffix}"] == law["mean_rho"]
        assert sent[f"collapse_law/p_value{suffix}"] == law["p_value"]


def test_figure_is_sorted_by_the_fields_own_abundance() -> None:
    """i down, j to the right, and the sums without the diagonal; of the first set."""
    ia = {"a": [9.0, 3, 4], "b": [2, 9, 1], "c": [6, 5, 9]}
    rows = [
        (0, m, i, j, "all", ia[i][k] + 50 * m, 10.0, own, None)
        for m, i in product((0, 1), ia)
        for k, (j, own) in enumerate(zip(ia, (3.0, 1.0, 2.0), strict=True))
    ]
    sub = pl.DataFrame(rows, schema=SCHEMAS["sub_embedding"], orient="row")
    laws = [(0, m, "all", 0.5 - m, 0.25, 6, 3) for m in (0, 1)]
    heat, of_field, towards, _ = sub_embedding_figure(
        sub, pl.DataFrame(laws, schema=SCHEMAS["collapse_law"], orient="row")
    ).axes
    names = [[tick.get_text() for tick in ticks] for ticks in (heat.get_yticklabels(), heat.get_xticklabels())]
    assert names == [["b", "c", "a"]] * 2
    np.testing.assert_array_equal(heat.images[0].get_array(), [[9, 1, 2], [5, 9, 6], [3, 4, 9]])
    assert heat.get_title() == "IA of E_i→j, all, set 0, epoch 0\ncollapse law: mean rho 0.50, p = 0.25"
    assert (heat.get_xlabel(), heat.get_ylabel()) == ("towards field j", "field i")
    assert of_field.lines[0].get_ydata().tolist() == [3, 11, 7] and "over j" in of_field.get_title()
    assert towards.lines[0].get_ydata().tolist() == [-1, 0, 1] and "over i" in towards.get_title()


def test_without_counts_their_variants_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store, words = small_store(), words_of("dcnv2 ME")
    module = build_module(config(*words), store)
    module.train_count_D = None
    train(tmp_path, words, SubEmbedding(), module=module, store=store)
    assert read(tmp_path, "sub_embedding")["variant"].unique().sort().to_list() == ["all", "centred"]
    assert caplog.text.count("seen, seen+centred left out") == 1


def test_a_model_without_sub_embeddings_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(tmp_path, words_of("dnn ME"), SubEmbedding())
    assert caplog.text.count("nothing to measure: DNN has no sub-embeddings") == 1
    assert not list(tmp_path.glob("*.parquet"))


@every_model
def test_reasons(model: str, tmp_path: Path) -> None:
    """Field b all zero, one entry of a not finite; the others are measured."""
    store, words = small_store(), [*words_of(model), "trainer.max_epochs=1"]
    module = build_module(config(*words), store)
    embedding = module.backbone.embedding
    with torch.no_grad():
        embedding.weight[embedding.field_slices[1]] = 0
        embedding.weight[11, 0] = math.nan  # of the first pair of ffm only
    callback = SubEmbedding(variants=["all"])
    callback.on_fit_start(trainer_of(tmp_path), module)
    callback._measure(trainer_of(tmp_path), module, -1)
    frame = read(tmp_path, "sub_embedding").filter(pl.col("embedding_set").fill_null(0) == 0)
    reasons = {(row["field"], row["towards"]): row["reason"] for row in frame.iter_rows(named=True)}
    of_pair = "the model has no such sub-embedding"
    assert {reasons["b", j] for j in "ab"} == ({"all zero", of_pair} if model == "ffm" else {"all zero"})
    expected = None if model == "ffm" else "an entry is not finite"
    assert reasons["a", "b"] == "an entry is not finite" and reasons["a", "few"] == expected
    assert reasons["few", "a"] is None and reasons["one", "few"] is None
    law = read(tmp_path, "collapse_law").row(0, named=True)
    assert law["fields"] == 2 and law["mean_rho"] is None and law["p_value"] is None


def trainer_of(folder: Path) -> Any:
    """What is used of a trainer."""

    class Trainer:
        is_global_zero, loggers, global_step, default_root_dir = True, (), 0, str(folder)

    return Trainer()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["all", "sen"]}, "unknown word 'sen'"),
        ({"variants": ["unit_norm"]}, "unit_norm changes no information abundance within a set"),
        ({"permutations": 0}, "permutations=0: expected 1 or more"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubEmbedding(**options)


def test_weighted_rows_have_the_reference_of_their_weights(tmp_path: Path) -> None:
    module = build_module(config(*words_of("dcnv2 SE")), small_store())
    SubEmbedding(variants=["frequency"])._measure(trainer_of(tmp_path), module, -1)
    row = read(tmp_path, "sub_embedding").filter(field="a", towards="few").row(0, named=True)
    root = np.sqrt(train_counts(small_store()).numpy()[:12])[:, None]
    sub = sub_embedding(module.backbone.double().requires_grad_(False), 0, 0, 3)
    assert row["information_abundance"] == pytest.approx(abundance(root * sub), rel=1e-6)
    drawn = np.random.default_rng(0).uniform(-1, 1, (4000, *sub.shape))
    assert row["random_value"] == pytest.approx(np.mean([abundance(root * one) for one in drawn]), rel=0.015)
