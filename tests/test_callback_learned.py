"""What is learned of a known answer, in small trainings, against scikit-learn and plain regressions.

Shapes: B rows, M embedding sets, H width of h, T components.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recsys_collapse.callback.figures import learned_figure
from recsys_collapse.callback.learned import SCHEMAS, KnownRows, Learned, known_rows, of_logit, of_sets, readable
from recsys_collapse.dataset.batches import Batches
from recsys_collapse.dataset.store import Store
from recsys_collapse.train import build_module
from tests.test_callback_contract import (
    COEFFICIENTS,
    Collected,
    KnownStore,
    Snapshots,
    config,
    read,
    small_store,
    train,
    words_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

ROWS = 40  # of 46 validation rows
MODELS = ["dcnv2 ME", "dcnv2 SE", "dnn ME", "ffm"]


def store_of_many_validation_rows() -> Store:
    store = small_store()
    parts = torch.randperm(64, generator=torch.Generator().manual_seed(1)).split([16, 46, 2])
    return replace(store, splits=dict(zip(store.splits, parts, strict=True)))


def of_rows(store: Store, rows: int = ROWS) -> tuple[Tensor, np.ndarray]:
    """Ids (B, N) and components (B, T) of the first validation rows."""
    row_B = store.splits["valid"][:rows]
    assert store.truth is not None
    return store.ids[row_B], store.truth[row_B, 1:].double().numpy()


def adjusted(x_BH: np.ndarray, y_B: np.ndarray) -> float:
    """R^2 of scikit-learn's fit on what is not collinear, corrected for how many columns that is."""
    rank = np.linalg.matrix_rank(x_BH - x_BH.mean(axis=0), tol=1e-6)
    r2, last = LinearRegression().fit(x_BH, y_B).score(x_BH, y_B), len(x_BH) - 1
    return float(1 - (1 - r2) * last / (last - rank))


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshots, Collected]:
    folder, snapshots, logger = tmp_path_factory.mktemp("run"), Snapshots(), Collected()
    store = store_of_many_validation_rows()
    train(folder, words_of(request.param), Learned(rows=ROWS), snapshots, loggers=[logger], store=store)
    return folder, snapshots, logger


def test_logit_is_that_of_two_regressions(run: tuple[Path, Snapshots, Collected]) -> None:
    """With the component and without it: what share of what is left it explains."""
    folder, snapshots, logger = run
    frame = read(folder, "learned")
    assert frame.schema == pl.Schema(SCHEMAS["learned"]) and len(frame) == 3 * len(COEFFICIENTS)
    assert frame["reason"].null_count() == len(frame)
    x_BN, component_BT = of_rows(store_of_many_validation_rows())
    for epoch, backbone in snapshots.of_epoch.items():
        logit_B = backbone.eval()(x_BN).numpy()
        fit_ = LinearRegression().fit(component_BT, logit_B)
        left = np.square(logit_B - fit_.predict(component_BT)).sum()
        for t, (name, true) in enumerate(COEFFICIENTS.items()):
            others_BT = np.delete(component_BT, t, axis=1)
            without = np.square(logit_B - LinearRegression().fit(others_BT, logit_B).predict(others_BT)).sum()
            row = frame.row(by_predicate=(pl.col("epoch") == epoch) & (pl.col("component") == name), named=True)
            assert row["r2"] == pytest.approx(1 - left / without, abs=1e-4)
            assert row["slope"] == pytest.approx(fit_.coef_[t] / true, rel=1e-3, abs=1e-5)
            assert logger.at_epoch(epoch)[f"learned/{name}"] == row["r2"]


def test_sets_are_those_of_a_fit_on_each(run: tuple[Path, Snapshots, Collected]) -> None:
    folder, snapshots, logger = run
    frame, num_sets = read(folder, "learned_sets"), snapshots.of_epoch[0].embedding.num_sets
    assert frame.schema == pl.Schema(SCHEMAS["learned_sets"]) and frame["reason"].null_count() == len(frame)
    sets: list[int | None] = [*(range(num_sets) if num_sets > 1 else ()), None]
    x_BN, component_BT = of_rows(store_of_many_validation_rows())
    for epoch, backbone in snapshots.of_epoch.items():
        h_BMH = backbone.eval().stages(x_BN).h_BMH.numpy()
        own = frame.filter(epoch=epoch)
        assert own.select("embedding_set", "component").rows() == [(m, name) for m in sets for name in COEFFICIENTS]
        expected = [
            adjusted(h_BMH.mean(axis=1) if m is None else h_BMH[:, m], component_BT[:, t])
            for m in sets
            for t in range(len(COEFFICIENTS))
        ]
        assert own["r2"].to_list() == pytest.approx(expected, abs=1e-4) and max(map(abs, expected)) > 0.01
        sent = logger.at_epoch(epoch)
        if num_sets > 1:
            of_sets_MT = np.array(expected).reshape(-1, len(COEFFICIENTS))[:-1]
            assert sent["learned_sets/spread"] == pytest.approx(of_sets_MT.std(axis=0).mean(), abs=1e-4)
        else:
            assert "learned_sets/spread" not in sent


def known(rows: int, *names: str, seed: int = 0) -> KnownRows:
    """Random components, with coefficient 2 each."""
    component_BT = torch.randn(rows, len(names), generator=torch.Generator().manual_seed(seed))
    return KnownRows(torch.empty(rows, 0), component_BT, dict.fromkeys(names, 2.0))


def relu_features(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(7)).relu()


def test_units_that_are_dead_equal_or_of_another_scale_change_nothing() -> None:
    component_BT = known(300, "a", "b").component_BT
    h_BH = relu_features(300, 12) + torch.cat([component_BT, torch.zeros(300, 10)], dim=1)
    more_BH = torch.cat([h_BH, torch.zeros(300, 3), torch.full((300, 2), 0.7), h_BH[:, :4], h_BH.sum(1, True)], dim=1)
    scale_H = torch.logspace(-12, 12, more_BH.shape[1])
    expected = [adjusted(h_BH.double().numpy(), y_B.numpy()) for y_B in component_BT.double().T]
    for one_BH in (h_BH, more_BH, more_BH * scale_H, more_BH.double() + 1000):
        r2_T, rank = readable(one_BH, component_BT)
        assert rank == 12 and r2_T.tolist() == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_read_is_0_in_the_mean() -> None:
    """Over orders of the rows, exactly; here over 2000 of them, within 4 of its errors."""
    generator = torch.Generator().manual_seed(0)
    heavy_B = torch.randn(30, generator=generator) ** 5
    order_BT = torch.stack([heavy_B[torch.randperm(30, generator=generator)] for _ in range(2000)], dim=1)
    h_BH = torch.cat([relu_features(30, 20), torch.zeros(30, 50)], dim=1)
    r2_T, rank = readable(h_BH, order_BT)
    assert rank == 20 and abs(r2_T.mean()) < 4 * r2_T.std() / 2000**0.5 < 0.1


class OwnField(nn.Module):
    """h^(m) is the embedding of field m in set m: (B, M, N, 1) -> (B, M, 1)."""

    def forward(self, e_BMNK: Tensor) -> Tensor:
        return torch.stack([e_BMNK[:, m, m] for m in range(e_BMNK.shape[1])], dim=1)


def test_sets_that_hold_a_component_each(tmp_path: Path) -> None:
    """Set m holds component m and nothing else, so that the heat map is the identity; F takes their mean."""
    words = [*words_of("dnn ME"), "model.base_size=1", "optimizer.lr=0.0", "trainer.max_epochs=1"]
    ids = torch.cartesian_prod(*(torch.arange(n, dtype=torch.int32) for n in (12, 8, 1, 3)))
    splits = {"train": torch.arange(48), "valid": torch.arange(len(ids)), "test": torch.arange(2)}
    effects = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (12, 8)]
    component_BT = torch.stack([effect[ids[:, m].long()] for m, effect in enumerate(effects)], dim=1)
    truth = torch.cat([component_BT @ torch.tensor([[0.5], [0.25]]), component_BT], dim=1)
    labels = (torch.arange(len(ids)) % 2).to(torch.uint8)
    small = small_store()
    store = KnownStore(small.path, "f", small.fields, small.cardinalities, ids, labels, splits, truth)
    module = build_module(config(*words), store)
    backbone: Any = module.backbone
    backbone.interaction, backbone.head = OwnField(), nn.Flatten(0)
    with torch.no_grad():
        backbone.embedding.weight.zero_()
        for m, effect in enumerate(effects):
            backbone.embedding.weight[backbone.embedding.field_slices[m], m] = effect
    logger = Collected()
    train(tmp_path, words, Learned(), module=module, store=store, loggers=[logger])
    for epoch in (-1, 0):
        r2_MT = read(tmp_path, "learned_sets").filter(epoch=epoch)["r2"].to_numpy().reshape(3, 2)
        np.testing.assert_allclose(r2_MT[:2], np.eye(2), atol=0.01)
        h_B = component_BT.mean(dim=1, keepdim=True).double().numpy()
        np.testing.assert_allclose(r2_MT[2], [adjusted(h_B, y_B.double().numpy()) for y_B in component_BT.T], atol=1e-5)
        assert logger.at_epoch(epoch)["learned_sets/spread"] == pytest.approx(0.5, abs=0.01)
        logit = read(tmp_path, "learned").filter(epoch=epoch)
        assert logit["r2"].to_list() == pytest.approx([1, 1]) and logit["slope"].to_list() == pytest.approx([1, 2])


def test_too_few_rows_have_a_reason() -> None:
    """h of 6 units that 7 rows span: nothing is left to judge the fit by; with a dead unit there is."""
    h_BMH = relu_features(7, 24).reshape(7, 2, 12)[:, :, :6] + torch.randn(
        7, 2, 6, generator=torch.Generator().manual_seed(0)
    )
    h_BMH[:, 1, 0] = 0
    rows = list(of_sets(h_BMH, known(7, "a", "b")))
    few = "7 rows, it needs more than 1 + 6, the rank of h"
    assert [(m, name, reason) for m, name, _, reason in rows if m != 1] == [
        (m, name, few) for m in (0, None) for name in "ab"
    ]
    values = {m: [r2 for n, _, r2, _ in rows if n == m] for m in (0, 1, None)}
    assert all(np.isnan(values[0])) and all(np.isnan(values[None])) and all(np.isfinite(values[1]))
    assert [row[-1] for row in rows if row[0] == 1] == [None, None]
    for count, reason in ((3, "3 rows, it needs more than 3"), (4, None)):
        two = known(count, "a", "b")
        assert [row[-1] for row in of_logit(torch.randn(count), two)] == [reason] * 2


def test_values_that_are_not_finite_have_a_reason() -> None:
    """In the set that has them and in the mean of the sets."""
    h_BMH = relu_features(20, 6).reshape(20, 2, 3)
    h_BMH[3, 1, 2] = torch.nan
    rows = list(of_sets(h_BMH, known(20, "a")))
    assert [(m, r2 is None, reason) for m, _, r2, reason in rows] == [
        (0, False, None),
        *((m, True, "an entry of h is not finite") for m in (1, None)),
    ]
    logit_B = torch.full((20,), torch.inf)
    assert list(of_logit(logit_B, known(20, "a"))) == [("a", None, None, "a logit is not finite")]


def test_no_spread_has_a_reason_and_a_dead_h_holds_nothing() -> None:
    constant = known(20, "a", "b")
    tenth_B = torch.full((20,), 0.1)
    tenth_B[::3] = tenth_B[::3].nextafter(torch.ones(7))  # the same up to rounding
    constant.component_BT[:, 0] = tenth_B
    why = "no spread: the component is the same in all rows"
    (a, *values), b = of_logit(torch.randn(20, generator=torch.Generator().manual_seed(0)), constant)
    assert (a, values) == ("a", [None, None, why]) and b[0] == "b" and None not in b[1:3] and b[3] is None
    assert {reason for *_, reason in of_logit(tenth_B, constant)} == {
        "no spread: all logits are equal",
    }
    (_, _, first, reason), second = of_sets(torch.zeros(20, 1, 5), constant)
    assert np.isnan(first) and reason == why and second == (None, "b", 0.0, None)


def test_a_component_that_is_not_in_the_logit_has_no_slope() -> None:
    rows = KnownRows(torch.empty(9, 0), known(9, "a", "b").component_BT, {"a": 0.0, "b": 2.0})
    a, b = of_logit(rows.component_BT.sum(dim=1), rows)
    assert a == ("a", pytest.approx(1), None, "slope: the true one is 0")
    assert b == ("b", pytest.approx(1), pytest.approx(0.5), None)


def test_known_rows_are_the_first_of_the_first_validation_data() -> None:
    store = store_of_many_validation_rows()
    batches, (x_BN, component_BT) = Batches(store, "valid", 5), of_rows(store, 7)
    for loaders in (batches, [batches, None], (batches,)):
        found = known_rows(loaders, 7)
        assert found is not None and torch.equal(found.x_BN, x_BN) and found.coefficients == COEFFICIENTS
        np.testing.assert_array_equal(found.component_BT.numpy(), component_BT.astype(np.float32))
    assert len(known_rows(batches, 99).x_BN) == 46  # type: ignore[union-attr]
    of_theirs = DataLoader(TensorDataset(x_BN, torch.zeros(7)))
    assert known_rows(of_theirs, 7) is known_rows(None, 7) is known_rows([], 7) is None


def test_without_an_answer_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not what a fit before left either."""
    caplog.set_level("INFO")
    callback, logger = Learned(), Collected()
    train(tmp_path / "known", words_of("dnn ME"), callback)
    assert "nothing to measure" not in caplog.text
    train(tmp_path / "table", words_of("dnn ME"), callback, loggers=[logger], store=replace(small_store(), truth=None))
    assert caplog.text.count("learned: nothing to measure: the answer of the validation rows is not known") == 1
    assert not list((tmp_path / "table").rglob("learned*")) and not logger.images
    assert not any(key.startswith("learned") for metrics in logger.metrics for key in metrics)


def test_what_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("it does not converge")

    monkeypatch.setattr("recsys_collapse.callback.learned.readable", fails)
    callback = Learned()
    module = train(tmp_path / "a", words_of("dcnv2 ME"), callback)
    assert caplog.text.count("it does not converge") == 3 and not list((tmp_path / "a").glob("*.parquet"))
    assert module.training, "as after a training without it"
    monkeypatch.setattr(KnownStore, "manifest", fails)
    caplog.clear()
    train(tmp_path / "b", words_of("dcnv2 ME"), callback)
    assert caplog.text.count("learned: nothing to measure (RuntimeError: it does not converge)") == 1
    assert "nothing measured" not in caplog.text, "nor on the rows of the fit before"


def test_rows_go_through_the_model_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same numbers."""
    train(tmp_path / "one", words_of("dcnv2 ME"), Learned())
    monkeypatch.setattr("recsys_collapse.callback.learned.BLOCK", 5)
    train(tmp_path / "many", words_of("dcnv2 ME"), Learned())
    for name in SCHEMAS:
        one, many = (read(tmp_path / folder, name) for folder in ("one", "many"))
        assert one["r2"].to_list() == pytest.approx(many["r2"].to_list(), abs=1e-4)


def test_figure_shows_the_logit_and_the_sets() -> None:
    values = {-1: [[0.2, -0.001], [0.1, None]], 0: [[0.9, 0.3], [0.4, 0.5]], 1: [[0.8, 0.2], [0.3, 0.6]]}
    logit = [(epoch, name, 0.1 * t + 0.2 * epoch, 1.0, None) for epoch in values for t, name in enumerate("ab")]
    sets = [
        (epoch, m, name, r2_MT[i][t], None)
        for epoch, r2_MT in values.items()
        for i, m in enumerate((0, None))
        for t, name in enumerate("ab")
    ]
    frames = (
        pl.DataFrame(rows, schema=schema, orient="row")
        for rows, schema in zip((logit, sets), SCHEMAS.values(), strict=True)
    )
    left, first, best, bar = learned_figure(*frames, best=0).axes
    assert [line.get_label() for line in left.lines[:2]] == ["a", "b"]
    assert left.lines[1].get_xdata().tolist() == [-1, 0, 1]
    assert left.lines[1].get_ydata().tolist() == pytest.approx([-0.1, 0.1, 0.3])
    assert list(left.lines[2].get_xdata()) == [0, 0], "the best epoch"
    assert (first.get_title(), best.get_title()) == ("initialisation", "epoch 0 (best)")
    assert [text.get_text() for text in first.texts] == ["0.20", "0.00", "0.10", ""]
    assert best.images[0].get_array().tolist() == values[0]
    assert [label.get_text() for label in best.get_yticklabels()] == ["set 0", "h"]
    assert [label.get_text() for label in best.get_xticklabels()] == ["a", "b"]
    assert bar.get_ylabel() == "adjusted R2" and best.images[0].get_clim() == (0, 1)


def test_options() -> None:
    with pytest.raises(ValueError, match="rows=1: expected 2 or more"):
        Learned(rows=1)
