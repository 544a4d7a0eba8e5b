"""Similarity of embedding sets in small trainings, against the tables themselves in numpy.

Shapes: D rows, M embedding sets, K columns of one set.
"""

import math
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys_collapse.callback.figures import set_similarity_figure
from recsys_collapse.callback.set_similarity import SCHEMAS, SetSimilarity
from recsys_collapse.dataset.batches import train_counts
from recsys_collapse.module import CTRModule
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

FIELDS, VALUES = [*CARDINALITIES], ["cka", "cka_null", "cka_adjusted", "overlap", "overlap_null"]
PAIRS = [*combinations(range(3), 2)]


@pytest.fixture(scope="module", params=["centred", "seen+centred"])
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Snapshots, Collected]:
    folder, snapshots, logger = tmp_path_factory.mktemp("run"), Snapshots(), Collected()
    callback = SetSimilarity(variant=request.param, energy=0.6)
    train(folder, words_of("dcnv2 ME"), callback, snapshots, loggers=[logger])
    return request.param, folder, snapshots, logger


def values_of(a: np.ndarray, b: np.ndarray, energy: float) -> list[float]:
    """Of centred sets, (D, K)."""
    rows, size = a.shape
    if rows < 2:
        return [math.nan] * 5
    norms = np.linalg.norm(a @ a.T) * np.linalg.norm(b @ b.T)
    cka, null = np.vdot(a @ a.T, b @ b.T) / norms, (a**2).sum() * (b**2).sum() / ((rows - 1) * norms)
    if rows - 1 <= size:
        return [cka, null, *[math.nan] * 3]
    spaces = []
    for part in (a, b):
        u, sigma, _ = np.linalg.svd(part, full_matrices=False)
        spaces.append(u[:, : 1 + int((np.cumsum(sigma**2) < energy * (sigma**2).sum()).sum())])
    ranks = [space.shape[1] for space in spaces]
    overlap = np.linalg.norm(spaces[0].T @ spaces[1]) ** 2 / min(ranks)
    return [cka, null, (cka - null) / (1 - null), overlap, max(ranks) / (rows - 1)]


def test_values_are_those_of_the_tables(run: tuple[str, Path, Snapshots, Collected]) -> None:
    variant, folder, snapshots, _ = run
    frame, counts = read(folder, "set_similarity"), train_counts(small_store()).numpy()
    assert frame.schema == pl.Schema(SCHEMAS["set_similarity"])
    keys = frame.select("epoch", "field", "set_a", "set_b").rows()
    assert keys == [(epoch, field, a, b) for epoch, field, (a, b) in product((-1, 0, 1), FIELDS, PAIRS)]
    for row in frame.iter_rows(named=True):
        i = FIELDS.index(row["field"])
        e = table_of_sets(snapshots.of_epoch[row["epoch"]], i).numpy()
        start = sum([*CARDINALITIES.values()][:i])
        e = e[counts[start : start + len(e)] > 0] if "seen" in variant else e
        e = e - e.mean(axis=0)
        expected = values_of(e[:, row["set_a"]], e[:, row["set_b"]], 0.6)
        found = [math.nan if row[name] is None else row[name] for name in VALUES]
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
        if row["field"] == "one":
            assert row["reason"] == "no spread: one row or none"
        elif row["field"] == "few":
            assert row["reason"] == "cka_adjusted and overlap: 3 rows, they need more than 3"
        else:
            assert row["reason"] is None


def test_loggers_get_means_over_fields_and_pairs(run: tuple[str, Path, Snapshots, Collected]) -> None:
    _, folder, _, logger = run
    for epoch in (-1, 0, 1):
        frame = read(folder, "set_similarity").filter(epoch=epoch)
        for name in ("cka_adjusted", "overlap"):
            values = [value for value in frame[name].to_list() if value is not None]
            assert len(values) == 2 * 3
            assert logger.at_epoch(epoch)[f"set_similarity/{name}"] == pytest.approx(np.mean(values), rel=1e-12)


def measured(tmp_path: Path, change: Any, **options: Any) -> dict[tuple[str, int, int], dict[str, Any]]:
    """At initialisation, after a change of the table (D, M, K)."""
    module: CTRModule = build_module(config(*words_of("dcnv2 ME")), small_store()).double()
    with torch.no_grad():
        change(module.backbone.embedding.weight.unflatten(1, (3, 2)))
    trainer = SimpleNamespace(is_global_zero=True, loggers=(), global_step=0, default_root_dir=str(tmp_path))
    SetSimilarity(**options)._measure(trainer, module, -1)  # type: ignore[arg-type]
    rows = read(tmp_path, "set_similarity").iter_rows(named=True)
    return {(row["field"], row["set_a"], row["set_b"]): row for row in rows}


def test_same_sets_up_to_rotation_scale_and_shift(tmp_path: Path) -> None:
    def change(table_DMK: torch.Tensor) -> None:
        turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
        table_DMK[:, 2] = 3 * table_DMK[:, 0] @ turn + 5

    found = measured(tmp_path, change, energy=1.0)
    for field in ("a", "b"):
        assert [found[field, 0, 2][name] for name in ("cka", "cka_adjusted", "overlap")] == pytest.approx(
            [1, 1, 1], abs=1e-9
        )
        assert found[field, 0, 1]["cka"] < 0.9


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.0, "no spread: all rows of a set are equal"),
        (0.3, "no spread: all rows of a set are equal"),
        (math.nan, "an entry is not finite"),
    ],
)
def test_a_set_without_directions(value: float, reason: str, tmp_path: Path) -> None:
    """Of field a in set 1: all zero, all rows equal (rounding leaves something), not finite."""

    def change(table_DMK: torch.Tensor) -> None:
        table_DMK[:12, 1] = torch.tensor([value, value / 3], dtype=torch.float64)

    found = measured(tmp_path, change)
    for row in (found["a", 0, 1], found["a", 1, 2]):
        assert [row[name] for name in VALUES] == [None] * 5 and row["reason"] == reason
    assert found["a", 0, 2]["reason"] is None and found["a", 0, 2]["overlap"] is not None
    assert found["b", 0, 1]["reason"] is None


def test_one_set_or_no_counts_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(tmp_path, words_of("ffm"), SetSimilarity())
    assert caplog.text.count("set_similarity: nothing to measure: a single embedding set") == 1
    module = build_module(config(*words_of("dnn ME")), small_store())
    module.train_count_D = None
    train(tmp_path, words_of("dnn ME"), SetSimilarity(variant="seen+centred"), module=module)
    assert caplog.text.count("nothing to measure: seen+centred: how often ids occur is not known") == 1
    assert not list(tmp_path.glob("*.parquet"))


def test_figure_shows_means() -> None:
    rows = [
        (3, field, a, b, 0.5, 0.1, None if field == "z" else base + 0.1 * (a + b), 0.5 + base, 0.25, None)
        for field, base in (("x", 0.1), ("y", 0.3), ("z", 0.0))
        for a, b in PAIRS
    ]
    figure = set_similarity_figure(pl.DataFrame(rows, schema=SCHEMAS["set_similarity"], orient="row"))
    cka, overlap, strip = figure.axes[:3]
    expected = [[np.nan, 0.3, 0.4], [0.3, np.nan, 0.5], [0.4, 0.5, np.nan]]
    np.testing.assert_allclose(cka.images[0].get_array().filled(np.nan), expected)
    assert (
        overlap.images[0].get_array()[0, 1] == pytest.approx(0.5 + 0.4 / 3) and "unrelated: 0.25" in overlap.get_title()
    )
    np.testing.assert_allclose(
        strip.images[0].get_array().filled(np.nan), [[0.3, 0.5, np.nan], [0.6, 0.8, 0.5], [0.25, 0.25, 0.25]]
    )
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["x", "y", "z"]
    assert all(image.get_clim() == (0, 1) for axes in (cka, overlap, strip) for image in axes.images)
    assert "epoch 3" in figure.get_suptitle()


@pytest.mark.parametrize(
    "options", [{"variant": "all"}, {"variant": "frequency+centred"}, {"variant": "centred+unit_norm"}, {"energy": 0.0}]
)
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SetSimilarity(**options)
