"""Spectra of embedding gradients in small trainings, against the gradients of the sampled steps below each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch

from recsys_collapse.callback.figures import gradient_spectrum_figure
from recsys_collapse.callback.gradient_spectrum import METRICS, SCHEMAS, GradientSpectrum, moved_rows
from recsys_collapse.train import build_module
from tests.test_callback_contract import CARDINALITIES, Collected, config, not_blank, read, small_store, train, words_of

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

FIELDS = [*CARDINALITIES]


class Gradients(lightning.Callback):
    """The table's gradient (D, C) of every step, by epoch; as it is before clipping."""

    def __init__(self) -> None:
        self.of_epoch: dict[int, list[np.ndarray]] = {}

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        grad = pl_module.backbone.embedding.weight.grad
        dense = (grad.to_dense() if grad.is_sparse else grad.clone()).double().numpy()
        self.of_epoch.setdefault(trainer.current_epoch, []).append(dense)


def metrics_of(matrix: np.ndarray) -> dict[str, float]:
    sigma = np.linalg.svd(matrix, compute_uv=False)
    if not len(matrix) or sigma[0] == 0:
        return dict.fromkeys(METRICS, math.nan)
    share = sigma[sigma > 0] / sigma.sum()
    values = (sigma.sum() / sigma[0], math.exp(-(share * np.log(share)).sum()), (sigma**2).sum() / sigma[0] ** 2)
    return dict(zip(METRICS, values, strict=True))


def adagrad(words: Sequence[str], sparse: bool) -> list[str]:
    rest = [word for word in words if not word.startswith("optimizer")]
    return [*rest, "optimizer=adagrad", "optimizer.table.lr=0.1", f"optimizer.sparse_gradients={sparse}"]


@pytest.mark.parametrize("model", ["dcnv2 ME", "dcnv2 SE", "ffm", "dnn ME"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("every", [1, 4, 50])
def test_values_are_those_of_the_gradients(model: str, sparse: bool, every: int, tmp_path: Path) -> None:
    """Six steps in an epoch, with clipping that acts; the first step of every epoch counts always."""
    gradients, logger = Gradients(), Collected()
    words = [*adagrad(words_of(model), sparse), "trainer.gradient_clip=1e-3"]
    module = train(tmp_path, words, GradientSpectrum(every_n_steps=every), gradients, loggers=[logger])
    embedding, frame = module.backbone.embedding, read(tmp_path, "gradient_spectra")
    assert frame.schema == pl.Schema(SCHEMAS["gradient_spectra"])
    num_sets = embedding.num_sets
    assert len(frame) == 2 * num_sets * len(FIELDS) * len(METRICS)
    compared = 0
    assert gradients.of_epoch.keys() == {0, 1} and [len(g) for g in gradients.of_epoch.values()] == [6, 6]
    for row in frame.iter_rows(named=True):
        kept, i = gradients.of_epoch[row["epoch"]][::every], FIELDS.index(row["field"])
        own = np.stack(kept)[:, embedding.field_slices[i]]
        m, size = row["embedding_set"] or 0, embedding.embed_size
        assert (row["embedding_set"] is None) == (num_sets == 1)
        assert row["steps"] == len(kept) and row["rows"] == (own != 0).any(axis=(0, 2)).sum()
        columns = own.reshape(-1, own.shape[2])[:, m * size : (m + 1) * size]
        matrix = columns[(own.reshape(-1, own.shape[2]) != 0).any(axis=1)]
        assert row["value"] is not None and row["reason"] is None
        if np.linalg.norm(matrix) > 1e-6 * np.linalg.norm(kept):  # else rounding: batch norm takes off what is constant
            assert row["value"] == pytest.approx(metrics_of(matrix)[row["metric"]], rel=1e-5)
            compared += 1
    assert compared >= 0.75 * len(frame)
    means = frame.filter(metric="information_abundance").group_by("epoch", "field").agg(pl.col("value").mean())
    for epoch, field, value in means.rows():
        assert logger.at_epoch(epoch)[f"gradient_ia/{field}"] == pytest.approx(value, rel=1e-12)
    assert max(np.linalg.norm(grad) for grad in gradients.of_epoch[0]) > 1e-3, "the clip acts"


@pytest.mark.parametrize("sparse", [False, True])
def test_moved_rows(sparse: bool) -> None:
    """Rows that stand several times, and rows of zeros; the gradient itself stays as it is."""
    index, values = torch.tensor([[5, 1, 5, 3]]), torch.tensor([[1.0, 2], [3, 4], [10, 20], [0, 0]])
    grad = torch.sparse_coo_tensor(index, values, (7, 2))
    before = grad._values().clone()
    rows, found = moved_rows(grad if sparse else grad.to_dense())
    assert rows.tolist() == [1, 5] and found.tolist() == [[3, 4], [11, 22]]
    assert not grad.is_coalesced() and torch.equal(grad._values(), before)


class Break(lightning.Callback):
    """Makes the gradient of some steps what is given, of what all others see."""

    def __init__(self, value: float, steps: Sequence[int]) -> None:
        self.value, self.steps, self.step = value, steps, 0

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.kept = pl_module.backbone.embedding.weight.grad.clone()
        if self.step in self.steps:
            pl_module.backbone.embedding.weight.grad[:12] = self.value  # of field a
        self.step += 1


class Mend(lightning.Callback):
    """Puts back what `Break` changed."""

    def __init__(self, broken: Break) -> None:
        self.broken = broken

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        pl_module.backbone.embedding.weight.grad.copy_(self.broken.kept)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_do_not_count(value: float, tmp_path: Path) -> None:
    """float16 takes no such step. Here steps 0 and 3, then all of the second epoch."""
    broken = Break(value, [0, 3, *range(6, 12)])
    words = [*words_of("dcnv2 ME"), "optimizer.sparse_gradients=false"]
    train(tmp_path, words, broken, GradientSpectrum(every_n_steps=1), Mend(broken))
    frame = read(tmp_path, "gradient_spectra")
    first, second = (frame.filter(epoch=epoch) for epoch in (0, 1))
    assert set(first["steps"]) == {4} and first["value"].null_count() == 0
    assert set(second["steps"]) == {0} and set(second["rows"]) == {0}
    assert second["value"].null_count() == len(second) and set(second["reason"]) == {"no step with a finite gradient"}
    assert not_blank(tmp_path / "figures" / "gradient_spectrum.png")


def test_a_field_without_a_gradient(tmp_path: Path) -> None:
    broken = Break(0.0, range(12))
    words = [*words_of("dcnv2 SE"), "optimizer.sparse_gradients=false"]
    train(tmp_path, words, broken, GradientSpectrum(every_n_steps=1), Mend(broken))
    frame = read(tmp_path, "gradient_spectra")
    own = frame.filter(field="a")
    assert set(own["reason"]) == {"no id with a gradient"} and set(own["rows"]) == {0} and set(own["steps"]) == {6}
    assert frame.filter(pl.col("field") != "a")["value"].null_count() == 0


def test_a_frozen_table_has_none(tmp_path: Path) -> None:
    module = build_module(config(*words_of("dcnv2 ME")), small_store())
    module.backbone.embedding.weight.requires_grad_(False)
    train(tmp_path, words_of("dcnv2 ME"), GradientSpectrum(), module=module)
    assert set(read(tmp_path, "gradient_spectra")["reason"]) == {"no step with a finite gradient"}


def test_figure_has_the_first_and_the_best_epoch() -> None:
    rows = [
        (epoch, field, m, 1, 2, metric, float(10 * epoch + i + 0.1 * m), None)
        for epoch in (0, 1, 2)
        for m in (0, 1)
        for i, field in enumerate("xyz")
        for metric in METRICS
    ]
    frame = pl.DataFrame(rows, schema=SCHEMAS["gradient_spectra"], orient="row")
    axes = gradient_spectrum_figure(frame, best=1).axes[0]
    assert [line.get_label() for line in axes.lines] == ["epoch 0", "epoch 1 (best)"]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([10, 11, 12, 10.1, 11.1, 12.1])
    assert axes.lines[1].get_xdata().tolist() == [0, 1, 2] * 2
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["x", "y", "z"]
    assert [line.get_label() for line in gradient_spectrum_figure(frame, best=0).axes[0].lines] == ["epoch 0 (best)"]


def test_options() -> None:
    with pytest.raises(ValueError, match="every_n_steps=0: expected 1 or more"):
        GradientSpectrum(every_n_steps=0)
