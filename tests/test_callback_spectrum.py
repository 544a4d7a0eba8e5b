"""The spectrum callback in trainings of this package and of a user's own module: files, loggers, and no harm done."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_collapse.callback import spectrum as room
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.callback.spectrum import COLLAPSE, SPECTRA, Spectrum, spectra_figure
from recsys_collapse.dataset.batches import train_counts
from recsys_collapse.dataset.store import Store
from recsys_collapse.module import CTRModule
from recsys_collapse.spectrum import METRICS
from recsys_collapse.train import build_module, fit
from tests.cli import ROOT
from tests.test_module import SMALL, config
from tests.training import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*")
CARDINALITIES = {"a": 9, "b": 5, "constant": 1, "c": 3}
DEFAULT = ["", "@centred", "@seen", "@seen+centred", "@unit_norm"]
FEW = ["model.backbone.hidden_sizes=[4,4]", "model.backbone.num_cross_layers=2", "model.base_size=4"]
SHORT = [*SMALL, *FEW, "trainer.max_epochs=2"]
TWO_SETS = [*SHORT, "scale=2", "embed=me"]


@pytest.fixture(scope="module")
def store() -> Store:
    """60 rows, 48 of them for training, 6 batches; the last id of every field but one occurs in no row."""
    generator = torch.Generator().manual_seed(0)
    known = [max(1, cardinality - 1) for cardinality in CARDINALITIES.values()]
    ids = torch.stack([torch.randint(n, (60,), generator=generator, dtype=torch.int32) for n in known], dim=1)
    labels = (torch.arange(60) % 2).to(torch.uint8)
    splits = dict(zip(("train", "valid", "test"), torch.arange(60).split([48, 6, 6]), strict=True))
    return Store(Path("memory"), "f", [*CARDINALITIES], [*CARDINALITIES.values()], ids, labels, splits)


def train(
    store: Store,
    folder: Path,
    *overrides: str,
    before: Callable[[CTRModule], object] = lambda module: None,
    loggers: tuple[Any, ...] = (),
) -> tuple[CTRModule, EpochRecords]:
    cfg = config(*(overrides or SHORT))
    module, records = build_module(cfg, store), EpochRecords(48)
    before(module)
    fit(make_trainer(cfg, folder, [records], list(loggers)), module, store, cfg)
    return module, records


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == room.__name__]


@pytest.fixture(scope="module")
def two_sets(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CTRModule]:
    """A run of two epochs of 6 steps with two embedding sets, measured every 4 steps too."""
    folder = tmp_path_factory.mktemp("two_sets")
    module, _ = train(store, folder, *TWO_SETS, "callback.spectrum.every_n_steps=4")
    return folder, module


# The files


def test_columns_are_those_of_the_contract(two_sets: tuple[Path, CTRModule]) -> None:
    """Other tools read them; the first names are those of the first version."""
    spectra, collapse = (read(two_sets[0], name) for name in ("spectra", "collapse"))
    assert spectra.columns == ["epoch", "field", "embedding_set", "index", "singular_value"]
    assert collapse.columns[:7] == [
        *["epoch", "field", "embedding_set", "cardinality", "metric", "value", "random_value"]
    ]
    assert collapse.columns[7:] == ["reason"]
    assert spectra.schema == pl.Schema(SPECTRA) and collapse.schema == pl.Schema(COLLAPSE)
    for name, of_epochs in (("spectra_steps", spectra), ("collapse_steps", collapse)):
        assert read(two_sets[0], name).columns == ["step", *of_epochs.columns]


def test_one_row_for_every_epoch_field_set_and_metric(two_sets: tuple[Path, CTRModule]) -> None:
    found = read(two_sets[0], "collapse").select("epoch", "field", "embedding_set", "metric").rows()
    names = {m: [v for v in DEFAULT if m is None or v != "@unit_norm"] for m in (None, 0, 1)}
    expected = [
        (epoch, field, m, metric + variant)
        for epoch, field, m, metric in product((-1, 0, 1), CARDINALITIES, (None, 0, 1), METRICS)
        for variant in names[m]
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    indices = read(two_sets[0], "spectra").select("epoch", "field", "embedding_set", "index").rows()
    expected = [
        (epoch, field, m, index)
        for epoch, (field, rows), m in product((-1, 0, 1), CARDINALITIES.items(), (None, 0, 1))
        for index in range(min(rows, 8 if m is None else 4))
    ]
    assert sorted(indices, key=str) == sorted(expected, key=str)


def test_values_are_numpys(two_sets: tuple[Path, CTRModule], store: Store) -> None:
    """At the last epoch; a name without suffix is all rows as they are."""
    folder, module = two_sets
    table, counts = module.backbone.embedding.weight.detach().double().numpy(), train_counts(store).numpy()
    spectra, collapse = (read(folder, name).filter(epoch=1) for name in ("spectra", "collapse"))
    start = 0
    for field, rows in CARDINALITIES.items():
        own = slice(start, start := start + rows)
        for m, columns in ((None, slice(None)), (0, slice(0, 4)), (1, slice(4, 8))):
            e = table[own, columns]
            seen = e[counts[own] > 0]
            matrices = {"": e, "@centred": e - e.mean(0), "@seen": seen, "@seen+centred": seen - seen.mean(0)}
            if m is None:
                matrices["@unit_norm"] = np.hstack([half / np.linalg.norm(half) for half in np.split(e, 2, axis=1)])
            of_set = (pl.col("field") == field) & pl.col("embedding_set").eq_missing(m)
            found = spectra.filter(of_set).sort("index")["singular_value"].to_numpy()
            np.testing.assert_allclose(found, np.linalg.svd(e, compute_uv=False), rtol=1e-6)
            named = {row["metric"]: row for row in collapse.filter(of_set).iter_rows(named=True)}
            for suffix, matrix in matrices.items():
                row = named[f"information_abundance{suffix}"]
                assert row["cardinality"] == len(matrix)
                sigma = np.linalg.svd(matrix, compute_uv=False)
                if len(matrix) == 1 and "centred" in suffix:
                    assert (row["value"], row["random_value"]) == (None, None) and "one row" in row["reason"]
                    continue
                assert row["value"] == pytest.approx(sigma.sum() / sigma[0], rel=1e-6) and row["reason"] is None
                assert 1 <= row["random_value"] <= min(matrix.shape)
                energy = (sigma**2).sum() / sigma[0] ** 2
                assert named[f"stable_rank{suffix}"]["value"] == pytest.approx(energy, rel=1e-6)


def test_without_several_sets_only_the_whole_is_written(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, *SHORT, "trainer.max_epochs=1")
    collapse = read(tmp_path, "collapse")
    assert collapse["embedding_set"].is_null().all() and read(tmp_path, "spectra")["embedding_set"].is_null().all()
    assert {metric.partition("@")[2] for metric in collapse["metric"]} == {"", "centred", "seen", "seen+centred"}
    assert not (tmp_path / "spectra_steps.parquet").exists()


def test_steps_have_files_of_their_own(two_sets: tuple[Path, CTRModule]) -> None:
    """Of 12 steps in two epochs of 6."""
    for name in ("spectra", "collapse"):
        steps = read(two_sets[0], f"{name}_steps")
        assert steps.select("step", "epoch").unique(maintain_order=True).rows() == [(4, 0), (8, 1), (12, 1)]
        assert set(read(two_sets[0], name)["epoch"]) == {-1, 0, 1}
    key = ["field", "embedding_set", "metric", "value"]
    assert steps.select("step", *key[:3]).is_unique().all()
    last = read(two_sets[0], "collapse").filter(epoch=1)
    assert steps.filter(step=12).select(key).equals(last.select(key)), "step 12 is the last of epoch 1"


def test_the_figure_is_that_of_the_best_epoch(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[pl.DataFrame] = []
    monkeypatch.setattr(room, "spectra_figure", lambda frame: drawn.append(frame) or spectra_figure(frame))
    _, records = train(store, tmp_path)
    best = max(records.records[1:], key=lambda record: record["val_auc"])["epoch"]
    assert [set(frame["epoch"]) for frame in drawn] == [{best}]
    assert (tmp_path / "figures" / "spectra.png").read_bytes().startswith(b"\x89PNG")


SPECTRA_ROWS = [  # a collapsed field with D=2 < K=3; a zero table and one without a value
    (0, "C1", None, 0, 4.0),
    (0, "C1", None, 1, 1.0),
    (0, "C1", 0, 0, 7.0),
    (0, "C2", None, 0, 0.0),
    (0, "C3", None, 0, None),
    (0, "C4", None, 0, 8.0),
    (0, "C4", None, 1, 4.0),
    (0, "C4", None, 2, 2.0),
]


@pytest.mark.filterwarnings("error")
def test_the_figure_is_normalised_per_field() -> None:
    frame = pl.DataFrame(SPECTRA_ROWS, schema=SPECTRA, orient="row").reverse()
    figure = spectra_figure(frame)
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata().T for line in axes.lines}
    assert list(drawn) == ["C4", "C1"]  # as in the frame
    np.testing.assert_allclose(drawn["C1"], ([0.5, 1], [1, 0.25]))
    np.testing.assert_allclose(drawn["C4"], ([1 / 3, 2 / 3, 1], [1, 0.5, 0.25]))
    assert axes.get_yscale() == "log" and len({line.get_color() for line in axes.lines}) == 2
    figure.canvas.draw()
    assert not spectra_figure(frame.clear()).axes[0].lines


# Training is left alone


def test_training_is_the_same_bit_for_bit(store: Store, tmp_path: Path) -> None:
    words = [*TWO_SETS, "model.backbone.dropout=0.3"]
    measured = [*words, "callback.spectrum.every_n_steps=1", "callback.spectrum.variants=[all,frequency+centred]"]
    runs = [train(store, tmp_path / name, *of) for name, of in (("with", measured), ("no", [*words, "callback=[]"]))]
    states = [module.state_dict() for module, _ in runs]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    records = [
        [{key: record[key] for key in ("train_loss", "val_auc", "val_logloss", "lr")} for record in found.records]
        for _, found in runs
    ]
    assert records[0] == records[1]
    assert not list((tmp_path / "no").glob("*.parquet"))


def test_the_records_have_the_mean_over_fields(store: Store, tmp_path: Path) -> None:
    _, records = train(store, tmp_path, *TWO_SETS)
    collapse = read(tmp_path, "collapse").filter(
        pl.col("embedding_set").is_null(), pl.col("metric") == "information_abundance"
    )
    for record in records.records:
        own = collapse.filter(epoch=record["epoch"])
        assert record["ia_relative"] == pytest.approx((own["value"] / own["random_value"]).mean(), rel=1e-12)


class Fake(Logger):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int | None, dict[str, Any]]] = []

    name = version = "fake"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.sent.append((step, dict(metrics)))


def test_what_the_loggers_get(store: Store, tmp_path: Path) -> None:
    logger = Fake()
    train(store, tmp_path, *TWO_SETS, "callback.spectrum.every_n_steps=4", loggers=(logger,))
    sent = [(step, metrics) for step, metrics in logger.sent if "ia/a" in metrics]
    assert [(step, metrics["epoch"]) for step, metrics in sent] == [
        *[(0, -1), (4, 0), (6, 0), (8, 1), (12, 1), (12, 1)]
    ]
    names = {f"{group}/{field}" for group in ("ia", "ia_set0", "ia_set1") for field in CARDINALITIES}
    names |= {f"relative/{metric}{variant}" for metric in METRICS for variant in DEFAULT}
    assert all(set(metrics) - {"epoch"} == names for _, metrics in sent)
    last, collapse = sent[-1][1], read(tmp_path, "collapse").filter(epoch=1)
    of_sets = collapse.filter(metric="information_abundance")
    for field, m, value in of_sets.select("field", "embedding_set", "value").rows():
        assert last[f"ia/{field}" if m is None else f"ia_set{m}/{field}"] == value
    whole = collapse.filter(pl.col("embedding_set").is_null()).with_columns(
        ratio=pl.col("value") / pl.col("random_value")
    )
    for metric in ("information_abundance", "stable_rank@seen+centred", "k90@unit_norm"):
        assert last[f"relative/{metric}"] == pytest.approx(whole.filter(metric=metric)["ratio"].mean(), rel=1e-12)
    assert math.isnan(last["relative/spectrum_slope"]), "no field has 16 singular values"
    assert any("ia/relative" in metrics for _, metrics in logger.sent)


# Tables without a value


def break_rows(value: float, rows: slice) -> Callable[[CTRModule], object]:
    """Rows that no training sample has: the loss stays finite."""
    return lambda module: module.backbone.embedding.weight.data.__setitem__(rows, value)


FIELD_A, UNSEEN_OF_A = slice(0, 9), slice(8, 9)


@pytest.mark.parametrize(
    ("words", "before", "field", "metric", "reason"),
    [
        ([], break_rows(math.nan, UNSEEN_OF_A), "a", "information_abundance", "an entry is not finite"),
        ([], break_rows(math.inf, UNSEEN_OF_A), "a", "effective_rank@centred", "an entry is not finite"),
        (["optimizer.lr=0"], break_rows(0.0, FIELD_A), "a", "information_abundance", "all zero"),
        ([], None, "constant", "information_abundance@centred", "no spread: one row or none"),
        ([], None, "a", "spectrum_slope", "4 singular values, a slope needs 16"),
        (
            ["callback.spectrum.variants=[all,min_count:99]"],
            None,
            "a",
            "k90@min_count:99",
            "no spread: one row or none",
        ),
    ],
)
def test_a_table_without_a_value_ends_nothing(
    store: Store, tmp_path: Path, words: list[str], before: Any, field: str, metric: str, reason: str
) -> None:
    """Null, with the reason; the others have theirs."""
    train(store, tmp_path, *SHORT, *words, before=before or (lambda module: None))
    found = read(tmp_path, "collapse").filter(metric=metric)
    own = found.filter(field=field)
    assert own.select("epoch", "value", "reason").rows() == [(epoch, None, reason) for epoch in (-1, 0, 1)]
    if "slope" not in metric and "99" not in metric:
        assert found.filter(field="b")["value"].is_not_null().all()
    if reason == "an entry is not finite":
        assert read(tmp_path, "spectra").filter(field=field)["singular_value"].is_null().all()
    assert (tmp_path / "figures" / "spectra.png").is_file()


def test_one_column_is_a_table_too(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, *SMALL, "model=fm", "model.base_size=1", "trainer.max_epochs=1")
    found = read(tmp_path, "collapse").filter(metric="information_abundance")
    assert len(found) == 2 * 4 and found["value"].to_list() == pytest.approx([1.0] * 8)


def test_a_measurement_that_fails_is_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second of three; training goes on."""
    calls, real = [], room.spectra_of_table

    def sometimes(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise torch.linalg.LinAlgError("no convergence")
        return real(*args)

    monkeypatch.setattr(room, "spectra_of_table", sometimes)
    _, records = train(store, tmp_path)
    (warning,) = warnings(caplog)
    assert "nothing measured in epoch 0" in warning and "no convergence" in warning
    for name in ("spectra", "collapse"):
        assert set(read(tmp_path, name)["epoch"]) == {-1, 1}
    assert [record["ia_relative"] is None for record in records.records] == [False, True, False]


# In a user's own training


class Own(lightning.LightningModule):
    """No part of this package: two tables, a loss, an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.tags = nn.Embedding(10, 4), nn.EmbeddingBag(6, 3, padding_idx=0)
        self.dense = nn.Linear(7, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        user_B, tags_BT, y_B = batch
        logit_B = self.dense(torch.cat([self.user(user_B), self.tags(tags_BT)], dim=1)).squeeze(1)
        return bce(logit_B, y_B)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class ByHand(Own):
    """Two optimizers: Lightning counts two steps per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.user, self.tags)]


def own_data() -> Any:
    """24 rows in 6 batches; user 9 and tag 5 occur in none."""
    rng = torch.Generator().manual_seed(0)
    user_B, tags_BT = torch.randint(9, (24,), generator=rng), torch.randint(5, (24, 2), generator=rng)
    rows = torch.utils.data.TensorDataset(user_B, tags_BT, (torch.arange(24) % 2).float())
    return torch.utils.data.DataLoader(rows, batch_size=4)


QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def own_training(
    folder: Path, *callbacks: Spectrum, module: Any = None, ckpt_path: Path | None = None, **options: Any
) -> lightning.Trainer:
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "default_root_dir": folder} | options
    trainer = lightning.Trainer(callbacks=[*callbacks], **QUIET, **options)
    trainer.fit(module or Own(), own_data(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.filterwarnings("ignore:.*checkpoint.*")
def test_three_lines_in_a_users_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = lightning.Trainer(callbacks=[Spectrum()], max_epochs=2, logger=CSVLogger("logs"), **QUIET)
    trainer.fit(module := Own(), own_data())
    folder = Path(trainer.log_dir)
    assert folder == Path("logs/lightning_logs/version_0")
    collapse = read(folder, "collapse")
    assert set(collapse.select("epoch", "field").rows()) == set(product((-1, 0, 1), ("user", "tags")))
    assert {metric.partition("@")[2] for metric in collapse["metric"]} == {"", "centred"}
    found = dict(
        collapse.filter(epoch=1, metric="information_abundance")
        .select("field", "value", "cardinality")
        .rows_by_key("field", unique=True)
    )
    for field, table, rows in (("user", module.user, slice(None)), ("tags", module.tags, slice(1, None))):
        sigma = np.linalg.svd(table.weight.detach().double().numpy()[rows], compute_uv=False)
        assert found[field] == (pytest.approx(sigma.sum() / sigma[0], rel=1e-6), len(table.weight[rows]))
    assert (folder / "figures" / "spectra.png").is_file()
    assert {"ia/user", "ia/tags", "relative/stable_rank@centred"} <= set(pl.read_csv(folder / "metrics.csv").columns)


def test_files_lie_in_the_trainers_folder_without_a_logger(tmp_path: Path) -> None:
    trainer = own_training(tmp_path / "root", Spectrum())
    assert {"spectra.parquet", "collapse.parquet", "figures"} == {path.name for path in (tmp_path / "root").iterdir()}
    assert trainer.callback_metrics["ia/relative"] > 0


def test_counts_and_fields_of_a_users_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {"user": torch.tensor([4, 0, 2, 1, 3, 0, 5, 1, 2, 0]), "tags": torch.tensor([9, 1, 0, 2, 1, 0])}
    callback = Spectrum(variants=["all", "seen"], counts=counts, fields={"user": {"man": 6, "woman": 4}})
    own_training(tmp_path, callback)
    assert warnings(caplog) == []
    collapse = read(tmp_path, "collapse").filter(epoch=1)
    rows = dict(collapse.filter(metric="k90").select("field", "cardinality").rows())
    seen = dict(collapse.filter(metric="k90@seen").select("field", "cardinality").rows())
    assert (rows, seen) == ({"man": 6, "woman": 4, "tags": 5}, {"man": 4, "woman": 3, "tags": 3})


def test_without_counts_it_says_what_to_give(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = Spectrum(variants=["all", "seen", "frequency+centred"], counts={"user": torch.arange(10)})
    own_training(tmp_path, callback)
    (warning,) = warnings(caplog)
    assert "seen, frequency+centred left out for tags:" in warning and "counts={table: tensor of one count" in warning
    metrics = read(tmp_path, "collapse").filter(pl.col("metric").str.starts_with("k90"), epoch=1)
    assert sorted(metrics.select("field", "metric").rows()) == [
        ("tags", "k90"),
        ("user", "k90"),
        ("user", "k90@frequency+centred"),
        ("user", "k90@seen"),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"counts": {"users": torch.ones(10)}}, "no table named users.*user, tags"),
        ({"fields": {"user": {"a": 3}}}, r"fields\['user'\]"),
        ({"variants": ["seen"], "counts": {"user": torch.ones(9)}}, r"table user.*shape \(9,\).*10 counts"),
    ],
)
def test_what_does_not_fit_the_module_is_said_at_the_start(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        own_training(tmp_path, Spectrum(**arguments))
    assert not tmp_path.exists() or not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variants": ["all", "sen"]}, "variant 'sen'"),
        ({"metrics": ["k90", "k95", "rank"]}, "k95, rank unknown; expected some of information_abundance"),
        ({"every_n_steps": 0}, "every_n_steps=0: expected 1 or more"),
        ({"every_n_steps": -3}, "every_n_steps=-3"),
    ],
)
def test_wrong_options(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Spectrum(**arguments)


def test_chosen_metrics_and_variants_alone_are_written(tmp_path: Path) -> None:
    own_training(tmp_path, Spectrum(variants=["centred", "all", "centred"], metrics=["k99", "stable_rank"]))
    found = read(tmp_path, "collapse")
    assert set(found["metric"]) == {"k99", "stable_rank", "k99@centred", "stable_rank@centred"}
    assert len(found) == 3 * 2 * 4


def test_chosen_metrics_alone_are_logged(tmp_path: Path, store: Store) -> None:
    """And information abundance, by which runs are compared."""
    logger = Fake()
    options = ("callback.spectrum.variants=[all]", "callback.spectrum.metrics=[k99]")
    train(store, tmp_path, *SHORT, *options, loggers=(logger,))
    keys = {key for _, values in logger.sent for key in values if key.startswith("relative/")}
    assert keys == {"relative/k99", "relative/information_abundance"}


def test_without_all_rows_there_are_no_singular_values(tmp_path: Path) -> None:
    own_training(tmp_path, Spectrum(variants=["centred"]))
    assert read(tmp_path, "spectra").is_empty() and read(tmp_path, "spectra").columns == list(SPECTRA)
    assert {metric.partition("@")[2] for metric in read(tmp_path, "collapse")["metric"]} == {"centred"}
    assert not (tmp_path / "figures").exists()


def test_a_second_fit_starts_afresh(tmp_path: Path) -> None:
    callback = Spectrum(every_n_steps=1)
    own_training(tmp_path / "one", callback, max_epochs=3)
    own_training(tmp_path / "two", callback, max_epochs=1)
    assert set(read(tmp_path / "one", "collapse")["epoch"]) == {-1, 0, 1, 2}
    assert set(read(tmp_path / "two", "collapse")["epoch"]) == {-1, 0}
    steps = [read(tmp_path / name, "collapse_steps")["step"].unique().sort().to_list() for name in ("one", "two")]
    assert steps == [[*range(1, 19)], [*range(1, 7)]]


def test_training_that_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Epochs and steps go on too, and the files have those before."""
    path = tmp_path / "two epochs.ckpt"
    own_training(tmp_path / "one", Spectrum(every_n_steps=5)).save_checkpoint(path)
    own_training(tmp_path / "two", Spectrum(every_n_steps=5), max_epochs=3, ckpt_path=path)
    before, after = (read(tmp_path / name, "collapse") for name in ("one", "two"))
    assert (set(before["epoch"]), set(after["epoch"])) == ({-1, 0, 1}, {-1, 0, 1, 2})
    assert after.filter(pl.col("epoch") < 2).equals(before)
    assert set(read(tmp_path / "two", "collapse_steps")["step"]) == {5, 10, 15}


@pytest.mark.parametrize(
    ("module", "options", "steps"),
    [
        (Own, {"accumulate_grad_batches": 2}, [3, 6]),
        (ByHand, {}, [4, 6, 10, 12, 16, 18, 22, 24]),
        (Own, {"max_steps": 10}, [3, 6, 9]),
    ],
)
def test_steps_are_those_of_the_optimizer(
    tmp_path: Path, module: Any, options: dict[str, Any], steps: list[int]
) -> None:
    """Each once, whatever a batch is: half a step, or two of them."""
    own_training(tmp_path, Spectrum(every_n_steps=3), module=module(), **options)
    found = read(tmp_path, "collapse_steps")
    assert found["step"].unique(maintain_order=True).to_list() == steps
    assert found.select("step", "field", "metric").is_unique().all()


SEVERAL_PROCESSES = """
import sys
from pathlib import Path
from pytorch_lightning.loggers import CSVLogger
from torch.distributed import get_rank
from tests.test_callback_spectrum import Spectrum, own_training, room
real = room.spectra_of_table
room.spectra_of_table = lambda *args: print("measured by", get_rank(), flush=True) or real(*args)
callback = Spectrum(variants=["all", "seen"], every_n_steps=2)
own_training(Path(sys.argv[1]), callback, logger=CSVLogger(sys.argv[1]), strategy="ddp_fork", devices=2)
"""


def test_of_several_processes_one_measures(tmp_path: Path) -> None:
    """And none waits for another that does not come."""
    command = [sys.executable, "-c", SEVERAL_PROCESSES, str(tmp_path)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams) as started:
        try:
            output, errors = started.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # what still waits
    assert started.returncode == 0, errors
    assert "measured by 0" in output and "measured by 1" not in output
    (folder,) = (tmp_path / "lightning_logs").iterdir()
    assert set(read(folder, "collapse")["epoch"]) == {-1, 0, 1}
    assert set(read(folder, "collapse_steps")["step"]) == {2, 4, 6}
    assert read(folder, "collapse").select("epoch", "field", "metric").is_unique().all()
    assert (folder / "figures" / "spectra.png").is_file()
