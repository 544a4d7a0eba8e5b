"""Several evaluations in one pass over the data: the same batches in the same order, and what is counted as what."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir, register
from recsys_collapse.data import load_data
from recsys_collapse.dataset.batches import Batches, shuffled
from recsys_collapse.dataset.store import Store
from recsys_collapse.launch.plan import make_plan
from recsys_collapse.module import CTRModule
from recsys_collapse.score import Score, SplitScore
from recsys_collapse.seeding import derive
from recsys_collapse.train import build_module, fit
from recsys_collapse.train import train as train_job
from tests.cli import SMALL, SMALL_SYNTHETIC
from tests.test_dataset import numbered
from tests.training import make_trainer

few = settings(max_examples=60, deadline=None)
NUM_ROWS, BATCH = 59, 8  # 8 batches, the last one of 3 rows
EPOCHS = "trainer.max_epochs="
EVALUATIONS = "trainer.evaluations_per_epoch="


# Pieces of a pass


def rows_of(batches: Batches) -> list[list[int]]:
    """Row numbers of each batch of one iteration."""
    return [x_BN[:, 0].tolist() for x_BN, _ in batches]


@few
@given(st.integers(1, 90), st.integers(1, 20), st.booleans(), st.data())
def test_pieces_are_the_batches_of_a_pass(num_rows: int, batch_size: int, mixed: bool, data: st.DataObject) -> None:
    order = shuffled(0, lambda: 0) if mixed else None
    whole = rows_of(Batches(numbered(num_rows), "train", batch_size, order))
    pieces = data.draw(st.integers(1, len(whole)))
    running = [0]
    cut = Batches(numbered(num_rows), "train", batch_size, order, pieces, lambda: running[0])
    found, lengths = [], []
    for running[0] in range(pieces):
        found.append(rows_of(cut))
        lengths.append(len(cut))
    assert [batch for piece in found for batch in piece] == whole
    assert lengths == [len(piece) for piece in found]
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


def test_order_and_piece_are_asked_for_when_the_first_batch_is_fetched() -> None:
    asked: list[str] = []

    def order(num_rows: int) -> Tensor:
        asked.append("order")
        return torch.arange(num_rows)

    def piece() -> int:
        asked.append("piece")
        return 1

    batches = Batches(numbered(NUM_ROWS), "train", BATCH, order, 3, piece)
    iterator = iter(batches)
    assert asked == []
    next(iterator)
    assert sorted(asked) == ["order", "piece"]
    list(iterator)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "batches"), [(59, 8, 8), (57, 8, 7), (1, 8, 1), (8, 8, 1), (2, 1, 2)]
)
def test_too_many_pieces_are_refused(num_rows: int, batch_size: int, batches: int) -> None:
    """One batch a piece is the most."""
    Batches(numbered(num_rows), "train", batch_size, pieces=batches)
    with pytest.raises(ValueError) as refusal:
        Batches(numbered(num_rows), "train", batch_size, pieces=batches + 1)
    assert str(refusal.value) == (
        f"trainer.evaluations_per_epoch={batches + 1}: the train rows are {batches} batches of {batch_size}: expected "
        "at most as many evaluations; lower it or trainer.batch_size"
    )


# A run


def config(*overrides: str) -> DictConfig:
    register()
    words = ["trainer.accelerator=cpu", f"trainer.batch_size={BATCH}", "trainer.progress_bar=false", "callback=[]"]
    words += ["model=dnn", "model.backbone.hidden_sizes=[8,8]", "model.backbone.dropout=0.0"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [*words, *overrides])


def store() -> Store:
    """Row r has r as its first id."""
    generator = torch.Generator().manual_seed(0)
    row_n = torch.arange(NUM_ROWS + 20)
    ids = torch.stack([row_n, torch.randint(5, row_n.shape, generator=generator)], dim=1).int()
    parts = zip(("train", "valid", "test"), row_n.split([NUM_ROWS, 10, 10]), strict=True)
    return Store(Path("memory"), "f", ["a", "b"], [len(row_n), 5], ids, (row_n % 2).to(torch.uint8), dict(parts))


class Watched(EpochRecords):
    """Also keeps the rows of every batch and what Lightning takes for their number, by evaluation."""

    def __init__(self) -> None:
        super().__init__(NUM_ROWS)
        self.batches: list[list[list[int]]] = []
        self.lengths: list[int] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.batches.append([])
        self.lengths.append(trainer.num_training_batches)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches[-1].append(batch[0][:, 0].tolist())


def train(folder: Path, *overrides: str) -> tuple[CTRModule, Watched]:
    cfg = config(*overrides)
    module, records = build_module(cfg, store()), Watched()
    fit(make_trainer(cfg, folder, [records], []), module, store(), cfg)
    return module, records


def state(module: CTRModule) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def all_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_a_whole_pass_gives_the_same_weights(tmp_path: Path, pieces: int) -> None:
    """Bit for bit, without dropout, whose order is another in every part."""
    one, at_once = train(tmp_path / "1", EPOCHS + "1", EVALUATIONS + "1")
    many, in_parts = train(tmp_path / "n", EPOCHS + "1", EVALUATIONS + str(pieces), "trainer.patience=99")
    assert all_equal(state(one), state(many))
    assert not all_equal(state(one), state(build_module(config(), store())))
    assert [batch for part in in_parts.batches for batch in part] == at_once.batches[0]
    assert len(in_parts.batches) == pieces
    assert in_parts.lengths == [len(part) for part in in_parts.batches]


def test_one_evaluation_is_a_run_as_ever(tmp_path: Path) -> None:
    """What Batches, seeds and steps of an epoch give, written as a loop."""
    module, records = train(tmp_path, EPOCHS + "2", "model.backbone.dropout=0.5")
    cfg = config("model.backbone.dropout=0.5")
    slow = build_module(cfg, store())
    optimizer = slow.make_optimizer(slow.parameter_groups())
    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive(0, "order", epoch))
        order = torch.randperm(NUM_ROWS, generator=generator, dtype=torch.int32)
        torch.manual_seed(derive(0, "epoch", epoch))
        for rows in order.split(BATCH):
            loss = bce(slow.backbone.train()(store().ids[rows]), store().labels[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert all_equal(state(module), state(slow))
    assert [record["rows"] for record in records.records] == [0, NUM_ROWS, NUM_ROWS]


@pytest.fixture
def ever_better(monkeypatch) -> None:
    """No stopping."""
    values = iter(np.linspace(0.5, 0.9, 100).tolist())
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(next(values), 0.5))


@pytest.mark.parametrize(
    ("pieces", "rows"), [(1, [59]), (2, [32, 27]), (3, [16, 24, 19]), (5, [8, 16, 8, 16, 11]), (8, [8] * 7 + [3])]
)
def test_a_record_for_every_evaluation(tmp_path: Path, ever_better: None, pieces: int, rows: list[int]) -> None:
    """`max_epochs` counts passes, `epoch` evaluations; `passes` ends with a whole number."""
    _, found = train(tmp_path, EPOCHS + "2", EVALUATIONS + str(pieces))
    first, *records = found.records
    assert (first["epoch"], first["rows"], first["passes"], first["step"]) == (-1, 0, 0.0, 0)
    assert [record["epoch"] for record in records] == list(range(2 * pieces))
    assert [record["rows"] for record in records] == rows * 2
    assert [record["passes"] for record in records] == [sum((rows * 2)[: i + 1]) / NUM_ROWS for i in range(2 * pieces)]
    assert (records[pieces - 1]["passes"], records[-1]["passes"]) == (1.0, 2.0)
    assert records[-1]["step"] == 16
    assert [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == found.records


def test_train_loss_is_that_of_the_part(tmp_path: Path, ever_better: None) -> None:
    """Without learning, the rows' losses of a part; all parts together are the pass."""
    words = ("optimizer.lr=0.0", EPOCHS + "1")
    _, whole = train(tmp_path / "1", *words)
    _, parts = train(tmp_path / "3", *words, EVALUATIONS + "3")
    losses = [record["train_loss"] for record in parts.records[1:]]
    rows = [record["rows"] for record in parts.records[1:]]
    assert len(set(losses)) == 3
    assert np.average(losses, weights=rows) == pytest.approx(whole.records[1]["train_loss"], rel=1e-9)


def test_patience_counts_evaluations(tmp_path: Path, monkeypatch) -> None:
    values = iter([0.5, 0.6, 0.6, 0.4, 0.5])
    monkeypatch.setattr(SplitScore, "compute", lambda self: Score(next(values), 0.5))
    _, found = train(tmp_path, EVALUATIONS + "4", EPOCHS + "50")
    assert [record["val_auc"] for record in found.records[1:]] == [0.5, 0.6, 0.6, 0.4, 0.5]
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1


def test_every_pass_has_its_own_order(tmp_path: Path, ever_better: None) -> None:
    _, found = train(tmp_path / "2", EVALUATIONS + "2", EPOCHS + "3")
    parts = [[row for batch in part for row in batch] for part in found.batches]
    passes = [parts[0] + parts[1], parts[2] + parts[3], parts[4] + parts[5]]
    assert [sorted(rows) for rows in passes] == [list(range(NUM_ROWS))] * 3
    assert len({str(rows) for rows in passes}) == 3
    _, once = train(tmp_path / "1", EPOCHS + "3")
    assert [[row for batch in part for row in batch] for part in once.batches] == passes


def test_more_evaluations_than_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"evaluations_per_epoch=9: the train rows are 8 batches of 8: expected at most"
    ):
        train(tmp_path, EVALUATIONS + "9")


def result(folder: Path, *words: str) -> tuple[dict[str, Any], Store]:
    words = ("model=dnn", f"output_dir={folder}", "trainer.accelerator=cpu", *SMALL, *SMALL_SYNTHETIC, *words)
    found = make_plan([*words, "trainer.patience=99"])
    assert found is not None
    (job,) = found.jobs
    train_job(job)
    return json.loads((job.run_dir / "result.json").read_text()), load_data(job.config)[1]


def test_the_result_says_how_many(tmp_path: Path) -> None:
    """All else is of the whole data: the ids that were seen, and what a step costs."""
    one, data = result(tmp_path / "1")
    three, _ = result(tmp_path / "3", EVALUATIONS + "3")
    assert (one["evaluations_per_epoch"], three["evaluations_per_epoch"]) == (1, 3)
    assert (one["num_epochs"], three["num_epochs"]) == (2, 6)
    assert three["run_id"] != one["run_id"]
    train_ids = data.ids[data.splits["train"].long()].numpy()
    seen = [len(np.unique(train_ids[:, i])) for i in range(len(data.fields))]
    for found in (one, three):
        assert [found["information_abundance"][name]["seen"]["rows"] for name in data.fields] == seen
        assert found["best_epoch"] < found["num_epochs"]
    assert all(three[key] == one[key] for key in ("parameters", "flops_per_sample", "data_fingerprint"))
