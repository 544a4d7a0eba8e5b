"""Ranks of activations in small trainings, against a forward pass written out for each set on its own.

Shapes: B rows, M embedding sets, N fields, K embedding size, H width of h.
"""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recsys_collapse.callback.activation_rank import METRICS, SCHEMAS, ActivationRank, first_rows, layers_of
from recsys_collapse.callback.figures import activation_rank_figure
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.dataset.batches import Batches
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.train import build_module
from tests.test_callback_contract import (
    SHORT,
    Collected,
    Snapshots,
    config,
    not_blank,
    read,
    small_store,
    table_of_sets,
    train,
    words_of,
)
from tests.training import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

Activations = dict[tuple[str, int | None], Tensor]
MODELS = ["dcnv2 ME", "dcnv2 SE", "dnn ME", "ffm"]
ROWS = 9  # of 14 validation rows, and of two validation batches


def normed(x_BH: Tensor, norm: nn.Module, columns: slice = slice(None)) -> Tensor:
    mean, var = norm.running_mean[columns], norm.running_var[columns]
    return (x_BH - mean) / (var + norm.eps).sqrt() * norm.weight[columns] + norm.bias[columns]


def activations_of(backbone: Backbone, x_BN: Tensor) -> Activations:
    """Of dcnv2, dnn and ffm, in eval mode: every layer in the order of the forward pass, each set on its own."""
    found: Activations = {}
    num_sets, h = backbone.embedding.num_sets, []
    sets = range(num_sets) if num_sets > 1 else [None]
    for m in sets:
        tables = [table_of_sets(backbone, i)[:, m or 0] for i in range(x_BN.shape[1])]
        x0 = x = torch.cat([table[x_BN[:, i].long()] for i, table in enumerate(tables)], dim=1)
        found["embedding", m] = x
        place = 1
        if hasattr(backbone, "cross"):
            for number, layer in enumerate(backbone.cross.layers):
                y = x @ layer.weight[m or 0].T + layer.bias[m or 0]
                found[f"interaction.1.layers.{number}", m] = y
                x = x0 * y + x
            found["interaction.1", m] = x
            place = 2
        if not hasattr(backbone.head, "mlp"):  # ffm
            continue
        linear, grouped_norm, *_ = backbone.interaction[place]
        x = x @ linear.weight[m or 0].T + linear.bias[m or 0]
        found[f"interaction.{place}.0", m] = x
        width = x.shape[1]
        x = normed(x, grouped_norm.norm, slice(width * (m or 0), width * (m or 0) + width))
        found[f"interaction.{place}.1.norm", m] = x
        x = x.relu()
        found[f"interaction.{place}.2", m] = x
        if m is not None:
            found["h^(m)", m] = x
        h.append(x)
    if not h:
        found["h", None] = backbone.stages(x_BN).h_BMH[:, 0]
        return found
    x = found["h", None] = torch.stack(h).mean(dim=0)
    linear, norm, *_ = backbone.head.mlp
    x = found["head.mlp.0", None] = x @ linear.weight.T + linear.bias
    x = found["head.mlp.1", None] = normed(x, norm)
    found["head.mlp.2", None] = x.relu()
    return found


def metrics_of(x: Tensor) -> dict[str, float]:
    sigma = np.linalg.svd((x - x.mean(dim=0)).numpy(), compute_uv=False)[: len(x) - 1]
    share = sigma[sigma > 0] / sigma.sum()
    values = (sigma.sum() / sigma[0], math.exp(-(share * np.log(share)).sum()), (sigma**2).sum() / sigma[0] ** 2)
    return dict(zip(METRICS, values, strict=True))


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshots, Collected]:
    folder, snapshots, logger = tmp_path_factory.mktemp("run"), Snapshots(), Collected()
    words = [*words_of(request.param), "trainer.eval_batch_size=5"]
    train(folder, words, ActivationRank(rows=ROWS), snapshots, loggers=[logger])
    return folder, snapshots, logger


def valid_rows(rows: int = ROWS) -> Tensor:
    return small_store().ids[small_store().splits["valid"][:rows]]


def test_values_are_those_of_the_activations(run: tuple[Path, Snapshots, Collected]) -> None:
    """Some layers have fewer columns than rows and some more."""
    folder, snapshots, _ = run
    frame = read(folder, "activation_rank")
    assert frame.schema == pl.Schema(SCHEMAS["activation_rank"])
    for epoch, backbone in snapshots.of_epoch.items():
        own, expected = frame.filter(epoch=epoch), activations_of(backbone.eval(), valid_rows())
        keys = own.filter(metric=METRICS[0]).select("layer", "embedding_set").rows()
        assert sorted(keys, key=str) == sorted(expected, key=str) and len(own) == len(METRICS) * len(keys)
        if epoch >= 0:
            widths = set(own["width"])
            assert min(widths) < ROWS and (max(widths) > ROWS or backbone.embedding.num_sets > 1)
        for row in own.iter_rows(named=True):
            x = expected[row["layer"], row["embedding_set"]]
            assert (row["rows"], row["width"]) == tuple(x.shape)
            spread = (x - x.mean(dim=0)).norm() / x.norm()
            assert row["value"] is not None and row["reason"] is None and spread > 1e-4
            assert row["value"] == pytest.approx(metrics_of(x)[row["metric"]], rel=1e-3 if spread < 0.1 else 1e-4)


def test_positions_are_those_of_the_forward_pass(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, snapshots, _ = run
    frame = read(folder, "activation_rank").filter(epoch=1)
    order = list(dict.fromkeys(name for name, _ in activations_of(snapshots.of_epoch[1].eval(), valid_rows())))
    assert frame.sort("position")["layer"].unique(maintain_order=True).to_list() == order
    assert frame.select("layer", "position").n_unique() == len(order)


def test_random_value_is_that_of_centred_normal_matrices(run: tuple[Path, Snapshots, Collected]) -> None:
    rng = np.random.default_rng(0)
    frame = read(run[0], "activation_rank").filter(epoch=0)
    for width in frame["width"].unique():
        drawn = [metrics_of(torch.tensor(rng.standard_normal((ROWS, width)))) for _ in range(2000)]
        for metric in METRICS:
            values = frame.filter(width=width, metric=metric)["random_value"].unique().to_list()
            assert values == [pytest.approx(np.mean([one[metric] for one in drawn]), rel=0.02)]


def test_loggers_get_means_over_sets(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, _, logger = run
    frame = read(folder, "activation_rank").filter(metric="effective_rank")
    for epoch, layer, value in frame.group_by("epoch", "layer").agg(pl.col("value").mean()).rows():
        assert logger.at_epoch(epoch)[f"activation_rank/{layer}"] == pytest.approx(value, rel=1e-12)


def test_correlation_of_sets(run: tuple[Path, Snapshots, Collected]) -> None:
    """Mean over the units that vary in both."""
    folder, snapshots, logger = run
    num_sets = snapshots.of_epoch[0].embedding.num_sets
    if num_sets == 1:
        assert not (folder / "set_correlation.parquet").exists() and "set_correlation/mean" not in logger.at_epoch(0)
        return
    frame = read(folder, "set_correlation")
    assert frame.select("epoch", "set_a", "set_b").rows() == [
        (epoch, *pair) for epoch in (-1, 0, 1) for pair in combinations(range(num_sets), 2)
    ]
    for epoch, backbone in snapshots.of_epoch.items():
        found = activations_of(backbone.eval(), valid_rows())
        own = frame.filter(epoch=epoch)
        for _, a, b, value in own.rows():
            x, y = (found["h^(m)", m].numpy().T for m in (a, b))
            of_units = [np.corrcoef(u, v)[0, 1] for u, v in zip(x, y, strict=True) if u.std() > 1e-9 and v.std() > 1e-9]
            assert value == pytest.approx(np.mean(of_units), abs=1e-4)
        assert logger.at_epoch(epoch)["set_correlation/mean"] == pytest.approx(own["correlation"].mean(), rel=1e-12)


def module_of(*words: str) -> Any:
    return build_module(config(*SHORT, *words), small_store())


def test_cin_is_measured_set_by_set() -> None:
    """Its layers see (M, B*K, maps): the numbers of a row are its K*O."""
    module = module_of("model=xdeepfm", "embed=me", "scale=3", "model.backbone.maps=[4,3]")
    x_BN = small_store().ids[:7]
    layers, h_BMH = layers_of(module, x_BN)
    widths = {layer.name: layer.width for layer in layers}
    cin = "interaction.streams.0"
    assert [widths[f"{cin}.layers.0"], widths[f"{cin}.layers.1"], widths[cin]] == [2 * 4, 2 * 3, 4 + 3]
    with torch.no_grad():
        e_BMNK = module.backbone.embedding(x_BN).double()
    layer = module.backbone.interaction.streams[0].layers[0]
    for m in range(3):
        w, bias = layer.weight[m].detach().double(), layer.bias[m].detach().double()
        e_BNK = e_BMNK[:, m]
        x_BKO = torch.einsum("bnk,bik,oni->bko", e_BNK, e_BNK, w).add(bias).relu().flatten(1)
        (found,) = [one for one in layers if one.name == f"{cin}.layers.0" and one.embedding_set == m]
        expected = np.linalg.svd((x_BKO - x_BKO.mean(dim=0)).numpy(), compute_uv=False)[:6]
        np.testing.assert_allclose(found.sigma.numpy(), expected, rtol=1e-3, atol=1e-5 * expected[0])
        last = [one for one in layers if one.name == "h^(m)" and one.embedding_set == m]
        assert last[0].width == h_BMH.shape[2]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["model=nfwfm"], ["interaction.0", "interaction.1.norm", "interaction.3.0"]),
        (["model=ipnn"], ["interaction.0.streams.1", "interaction.0", "interaction.1.0"]),
        (["model=finalmlp"], ["interaction.streams.0.1.0", "interaction.streams.1.2.2"]),
    ],
)
def test_layers_of_other_models(words: list[str], names: list[str]) -> None:
    """Once each and set by set; nothing of dropout and what only hands on."""
    module = module_of(*words, "embed=me", "scale=2", "model.backbone.hidden_sizes=[6,5]")
    layers, _ = layers_of(module, small_store().ids[:20])
    found = [(layer.name, layer.embedding_set) for layer in layers]
    assert len(set(found)) == len(found)
    parts = dict(module.backbone.named_modules())
    for name, embedding_set in found:
        of_sets = name.startswith(("interaction", "h^(m)", "embedding"))
        assert (embedding_set is not None) == of_sets
        assert not isinstance(parts.get(name), nn.Dropout | nn.Flatten | nn.Sequential | nn.Identity)
    assert {(name, m) for name in names for m in (0, 1)} <= set(found)
    assert not any(layer.name in ("interaction", "head", "interaction.3.1") for layer in layers)


def test_a_wide_layer_has_the_spectrum_of_its_rows() -> None:
    """Thousands of columns and few rows, by the Gram matrix of the rows."""
    module = module_of("model=dnn", "model.base_size=700", "model.backbone.hidden_sizes=[4]")
    x_BN = small_store().ids[:30]
    layers, _ = layers_of(module, x_BN)
    assert layers[0].name == "embedding" and layers[0].width == 2800
    with torch.no_grad():
        e_BH = module.backbone.embedding(x_BN).flatten(1).double()
    expected = np.linalg.svd((e_BH - e_BH.mean(dim=0)).numpy(), compute_uv=False)
    assert len(layers[0].sigma) == 29
    np.testing.assert_allclose(layers[0].sigma.numpy(), expected[:29], atol=1e-7 * expected[0])


def test_equal_rows_have_no_value(tmp_path: Path) -> None:
    """Zeros, with a bias behind them: the same number in every row, whatever rounding makes of the mean."""

    class Break(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.backbone.embedding.weight.zero_()

    words = [*words_of("dnn ME"), "trainer.precision=64-true"]
    train(tmp_path, words, Break(), ActivationRank(rows=11))
    frame = read(tmp_path, "activation_rank").filter(epoch=1)
    assert frame["value"].null_count() == len(frame) and set(frame["reason"]) == {"no spread: all rows are equal"}
    assert read(tmp_path, "set_correlation").filter(epoch=1)["correlation"].to_list() == [None]
    assert not_blank(tmp_path / "figures" / "activation_rank.png")


def test_first_rows_of_any_loader_and_no_generator_moves() -> None:
    data = DataLoader(TensorDataset(torch.arange(20).view(10, 2), torch.zeros(10)), batch_size=4)
    before = torch.get_rng_state()
    for loaders in (data, [data, None], (data,)):
        assert first_rows(loaders, 6).tolist() == torch.arange(12).view(6, 2).tolist()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first_rows(data, 50)) == 10
    assert len(first_rows(None, 6)) == len(first_rows([], 6)) == 0
    assert first_rows(Batches(small_store(), "valid", 5), 7).tolist() == valid_rows(7).tolist()


def test_without_validation_rows_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store, cfg = small_store(), config(*words_of("dnn ME"), "trainer.max_epochs=1")
    module = build_module(cfg, store)
    trainer = make_trainer(cfg, tmp_path, [ActivationRank()], [])
    trainer.callbacks = [c for c in trainer.callbacks if isinstance(c, ActivationRank)]
    trainer.fit(module, Batches(store, "train", 8))
    assert caplog.text.count("no two validation rows") == 2 and not list(tmp_path.glob("*.parquet"))


def test_a_forward_pass_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a user's own")

    monkeypatch.setattr("recsys_collapse.callback.activation_rank.singular_values", fails)
    module = train(tmp_path, words_of("dcnv2 ME"), ActivationRank())
    assert caplog.text.count("a user's own") == 3 and not list(tmp_path.glob("*.parquet"))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert module.training, "as after a training without it"


def test_figure_has_a_line_for_each_set() -> None:
    rows = [
        (epoch, layer, position, m, 9, 4, "effective_rank", 2.0 + epoch + position, 4.0, None)
        for epoch in (-1, 0, 1)
        for position, layer, sets in ((0, "embedding", (0, 1)), (1, "interaction.1.0", (0, 1)), (2, "h", (None,)))
        for m in sets
    ]
    frame = pl.DataFrame(rows, schema=SCHEMAS["activation_rank"], orient="row")
    figure = activation_rank_figure(frame, best=0)
    first, best = figure.axes
    assert (first.get_title(), best.get_title()) == ("initialisation", "epoch 0 (best)")
    assert [line.get_label() for line in best.lines] == ["set 0", "set 1", "h and after it"]
    assert best.lines[0].get_ydata().tolist() == [0.5, 0.75] and first.lines[2].get_ydata().tolist() == [0.75]
    assert [tick.get_text() for tick in best.get_xticklabels()] == ["embedding", "I.1.0", "h"]


def test_options() -> None:
    with pytest.raises(ValueError, match="rows=1: expected 2 or more"):
        ActivationRank(rows=1)


def test_what_it_takes_from_a_loader_is_not_missing_in_the_validation(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [ActivationRank(rows=7)]):
        records, store, cfg = EpochRecords(48), small_store(), config(*words_of("dnn ME"))
        valid = store.splits["valid"]
        data = DataLoader(TensorDataset(store.ids[valid], store.labels[valid]), batch_size=5)
        trainer = make_trainer(cfg, tmp_path / str(len(callbacks)), [*callbacks, records], [])
        trainer.fit(build_module(cfg, store), Batches(store, "train", 8), data)
        ends.append([(record["val_auc"], record["val_logloss"]) for record in records.records])
    assert ends[0] == ends[1] and len(ends[0]) == 3
    assert set(read(tmp_path / "1", "activation_rank")["rows"]) == {7}
