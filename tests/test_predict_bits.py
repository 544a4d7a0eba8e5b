"""The logits of `predict` are those of the run itself, bit for bit: all backbones, SE, ME, all precisions of a CPU."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.config import config_dir
from recsys_collapse.dataset.batches import Batches, count_batches, regroup
from recsys_collapse.dataset.store import Store
from tests.predicting import clicks_run, scored, split_rows, write_rows

MODELS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
SINGLE = ("ffm", "fm")  # refuse several sets
CASES = [
    *((model, ["embed=se", "scale=2"]) for model in MODELS),
    *((model, ["embed=me", "scale=2"]) for model in MODELS if model not in SINGLE),
    *(("dcnv2", [f"trainer.precision={name}"]) for name in ("bf16-mixed", "bf16-true", "64-true")),
    ("ipnn", ["embed=me", "scale=3", "trainer.precision=bf16-mixed"]),
    ("dnn", ["embed=me", "scale=3", "trainer.precision=64-true"]),
    ("nfwfm", ["trainer.precision=bf16-true"]),
]


def same_bits(left: pl.Series, right: pl.Series) -> bool:
    return left.to_numpy().tobytes() == right.to_numpy().tobytes()


@pytest.mark.parametrize(("model", "words"), CASES)
def test_logits_are_those_of_the_run(tmp_path: Path, model: str, words: list[str]) -> None:
    """The rows of its own test split, without labels, in batches of 17: a last row is left over."""
    torch.manual_seed(0)
    run_dir = clicks_run(tmp_path, f"model={model}", "trainer.eval_batch_size=17", "dataset.min_count=20", *words)
    header, rows, expected = split_rows(run_dir, tmp_path / "clicks.csv")
    assert len(rows) % 17 == 1 and expected["logit"].n_unique() > 10
    label = header.index("click")
    without = [[value for i, value in enumerate(row) if i != label] for row in rows]
    write_rows(tmp_path / "new.csv", [name for name in header if name != "click"], without)
    found = scored(run_dir, tmp_path / "scores.parquet", f"input={tmp_path / 'new.csv'}")
    assert same_bits(found["logit"], expected["logit"])
    assert found.schema == {"row_id": pl.Int64, "logit": pl.Float32, "probability": pl.Float32}
    assert found["row_id"].to_list() == list(range(len(rows)))
    probability = 1 / (1 + np.exp(-expected["logit"].to_numpy().astype(np.float64)))
    np.testing.assert_allclose(found["probability"].to_numpy(), probability, rtol=1e-6)


def test_another_batch_size_or_precision_would_be_seen(tmp_path: Path) -> None:
    """Guards the test above: bf16 and float32 differ there."""
    run_dir = clicks_run(tmp_path, "trainer.precision=bf16-mixed")
    header, rows, expected = split_rows(run_dir, tmp_path / "clicks.csv")
    new = write_rows(tmp_path / "new.csv", header, rows)
    config = run_dir / "config.yaml"
    assert same_bits(scored(run_dir, tmp_path / "a.parquet", f"input={new}")["logit"], expected["logit"])
    config.write_text(config.read_text().replace("bf16-mixed", "32-true"))
    assert not same_bits(scored(run_dir, tmp_path / "b.parquet", f"input={new}")["logit"], expected["logit"])


def test_files_are_batched_as_one(tmp_path: Path) -> None:
    """Several files, and pieces of text that end anywhere, in the order given."""
    run_dir = clicks_run(tmp_path, "trainer.eval_batch_size=17")
    header, rows, expected = split_rows(run_dir, tmp_path / "clicks.csv")
    names = [tmp_path / f"part-{i}.csv" for i in range(3)]
    for name, own in zip(names, (rows[:1], rows[1:60], rows[60:]), strict=True):
        write_rows(name, header, own)
    listed = scored(run_dir, tmp_path / "a.parquet", f"input=[{','.join(map(str, names))}]")
    pattern = scored(run_dir, tmp_path / "b.parquet", f"input='{tmp_path}/part-*.csv'")
    assert same_bits(listed["logit"], expected["logit"]) and listed.equals(pattern)
    assert listed["label"].to_list() == expected["label"].to_list()
    assert listed["row_id"].to_list() == list(range(len(rows)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 8))
def test_batches_of_pieces_are_batches_of_all_rows(sizes: list[int], batch_size: int) -> None:
    """Of pieces of any size, also empty ones, against `Batches` itself."""
    rows, pieces, start = sum(sizes), [], 0
    for size in sizes:
        pieces.append((np.arange(start, start + size, dtype=np.int32)[:, None], np.zeros(size, np.uint8)))
        start += size
    found = [(x[:, 0].tolist(), len(y)) for x, y in regroup(pieces, batch_size)]
    ids = torch.arange(rows, dtype=torch.int32)
    store = Store(Path(), "", ["a"], [rows + 1], ids[:, None], torch.zeros(rows, dtype=torch.uint8), {"test": ids})
    expected = [(x[:, 0].tolist(), len(y)) for x, y in Batches(store, "test", batch_size)]
    assert found == (expected if rows else [])
    assert len(found) == (count_batches(rows, batch_size) if rows else 0)
