"""Norms of W_{i->j} in small trainings and how far the sets' patterns diverge, by loops over the blocks in numpy."""

import math
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys_collapse.callback.figures import pair_norm_figure
from recsys_collapse.callback.pair_norm import SCHEMAS, PairNorm
from tests.test_callback_contract import CARDINALITIES, Collected, Snapshots, not_blank, read, train, words_of

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

FIELDS = [*CARDINALITIES]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshots, Collected]:
    folder, snapshots, logger = tmp_path_factory.mktemp("run"), Snapshots(), Collected()
    train(folder, words_of("dcnv2 ME"), PairNorm(layers=[1, 0]), snapshots, loggers=[logger])
    return folder, snapshots, logger


def test_norms_are_those_of_the_blocks(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, snapshots, _ = run
    frame = read(folder, "pair_norm")
    assert frame.schema == pl.Schema(SCHEMAS["pair_norm"])
    keys = frame.select("epoch", "layer", "embedding_set", "field", "towards").rows()
    assert keys == [*product((-1, 0, 1), (1, 0), (0, 1, 2), FIELDS, FIELDS)]
    for row in frame.iter_rows(named=True):
        backbone = snapshots.of_epoch[row["epoch"]]
        i, j, size = FIELDS.index(row["field"]), FIELDS.index(row["towards"]), backbone.embedding.embed_size
        w = backbone.cross.layers[row["layer"]].weight[row["embedding_set"]].numpy()
        block = w[j * size : (j + 1) * size, i * size : (i + 1) * size]
        assert row["norm"] == pytest.approx(np.linalg.norm(block), rel=1e-9)


def test_divergence_is_that_of_the_written_norms(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, _, logger = run
    norms, found = read(folder, "pair_norm"), read(folder, "pattern_divergence")
    assert found.schema == pl.Schema(SCHEMAS["pattern_divergence"])
    assert found.select("epoch", "layer").rows() == [*product((-1, 0, 1), (1, 0))]
    for row in found.iter_rows(named=True):
        own = norms.filter(epoch=row["epoch"], layer=row["layer"])["norm"].to_numpy().reshape(3, -1)
        correlation = np.mean([np.corrcoef(own[a], own[b])[0, 1] for a, b in combinations(range(3), 2)])
        assert row["correlation"] == pytest.approx(correlation, abs=1e-9)
        assert row["divergence"] == pytest.approx(1 - correlation, abs=1e-9)
        assert row["variation"] == pytest.approx((own.std(axis=0) / own.mean(axis=0)).mean(), rel=1e-9)
        assert row["variance"] == pytest.approx((own**2).var(axis=0).mean(), rel=1e-9)
        suffix = "" if row["layer"] == 0 else "_layer1"
        sent = logger.at_epoch(row["epoch"])
        assert sent[f"pattern_divergence/divergence{suffix}"] == row["divergence"]
        assert sent[f"pattern_divergence/variation{suffix}"] == row["variation"]


def test_random_values_are_those_of_new_models(run: tuple[Path, Snapshots, Collected]) -> None:
    """Blocks of 2 x 2 of 4 fields in 3 sets."""
    row = read(run[0], "pattern_divergence").row(0, named=True)
    norm = np.linalg.norm(np.random.default_rng(0).uniform(-1, 1, (2000, 3, 16, 4)), axis=3)
    variation = (norm.std(axis=1) / norm.mean(axis=1)).mean()
    assert row["random_variation"] == pytest.approx(variation, rel=0.05)
    assert row["random_divergence"] == pytest.approx(1, abs=0.15)
    assert row["random_correlation"] == pytest.approx(1 - row["random_divergence"], abs=1e-12)


def test_one_set_has_no_divergence(tmp_path: Path) -> None:
    train(tmp_path, words_of("dcnv2 SE"), PairNorm())
    assert read(tmp_path, "pair_norm")["embedding_set"].unique().to_list() == [None]
    assert not (tmp_path / "pattern_divergence.parquet").exists() and not_blank(tmp_path / "figures" / "pair_norm.png")


def test_layers_that_the_model_has_not_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(tmp_path / "some", words_of("dcnv2 ME"), PairNorm(layers=[3, 1, 2]))
    assert read(tmp_path / "some", "pair_norm")["layer"].unique().to_list() == [1]
    assert caplog.text.count("layers [2, 3] left out: DCNv2 has 2") == 1
    train(tmp_path / "none", words_of("dcnv2 ME"), PairNorm(layers=[2]))
    assert not list((tmp_path / "none").glob("*.parquet"))


def test_a_model_without_projections_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(tmp_path, words_of("ffm"), PairNorm())
    assert caplog.text.count("nothing to measure: FFM has no pair projections") == 1
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_projections_without_a_norm_give_null(value: float, tmp_path: Path) -> None:
    class Break(Snapshots):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                if trainer.current_epoch == 1:  # nothing is trained any more
                    pl_module.backbone.cross.layers[0].weight[:, :2, 2:4] = value  # b towards a, in every set

    train(tmp_path, words_of("dcnv2 ME"), Break(), PairNorm())
    norm = read(tmp_path, "pair_norm").filter(epoch=1, field="b", towards="a")["norm"].to_list()
    assert norm == [None if math.isnan(value) else 0.0] * 3
    row = read(tmp_path, "pattern_divergence").row(-1, named=True)
    assert row["variation"] is None and (row["divergence"] is None) == math.isnan(value)
    assert not_blank(tmp_path / "figures" / "pair_norm.png")


def frame_of(num_sets: int) -> pl.DataFrame:
    """Norm 100 m + 10 i + j."""
    sets = range(num_sets) if num_sets > 1 else [None]
    rows = [
        (4, 2, m, i, j, 100.0 * (m or 0) + 10 * a + b)
        for m in sets
        for (a, i), (b, j) in product(enumerate("xyz"), enumerate("xyz"))
    ]
    return pl.DataFrame(rows, schema=SCHEMAS["pair_norm"], orient="row")


@pytest.mark.parametrize(("num_sets", "rows"), [(1, 1), (3, 1), (7, 2), (12, 2)])
def test_figure_has_a_panel_for_each_set(num_sets: int, rows: int) -> None:
    """Ten at most; with the same colours."""
    values = [(4, 2, 0.25, 0.75, 0.1, 0.1, 0.0, 0.98, 0.1, 0.1)] * (num_sets > 1)
    figure = pair_norm_figure(
        frame_of(num_sets), pl.DataFrame(values, schema=SCHEMAS["pattern_divergence"], orient="row")
    )
    panels = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    assert len(panels) == min(num_sets, 10)
    assert len({axes.get_subplotspec().rowspan.start for axes in panels}) == rows
    for m, axes in enumerate(panels):
        np.testing.assert_array_equal(
            axes.images[0].get_array(), [[100 * m + 10 * i + j for j in range(3)] for i in range(3)]
        )
        assert axes.images[0].get_clim() == (0, 100 * len(panels) - 100 + 22)
        assert axes.get_title() == (f"set {m}" if num_sets > 1 else "")
    title = figure.get_suptitle()
    assert title.startswith("Norm of W_i→j, layer 2, epoch 4") and ("0 to 9 of 12" in title) == (num_sets == 12)
    assert ("divergence 1 - r = 0.750 (a new model: 0.980)" in title) == (num_sets > 1)


@pytest.mark.parametrize("layers", [[], [-1], [0, 0]])
def test_options(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="expected distinct numbers from 0"):
        PairNorm(layers=layers)
