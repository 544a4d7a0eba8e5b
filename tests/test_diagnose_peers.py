"""Checkpoints of other libraries, trained by them: DeepCTR-Torch and RecBole, as their own code saves them.

`make test-peers` installs both into a venv of their own; without them these tests are skipped.
"""

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_collapse.diagnose.__main__ import main

ROWS, SIZES = 600, {"user_id": 30, "item_id": 20, "site": 5}


def needs(library: str) -> Any:
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed: make test-peers")


def diagnosed(*words: Any) -> dict[str, Any]:
    assert main([*map(str, words), "--output", "found"]) == 0
    return json.loads(Path("found/diagnosis.json").read_text())


def check(found: dict[str, Any], layout: str, tables: dict[str, torch.Tensor]) -> None:
    """Every field with the singular values that numpy finds in the library's own tables."""
    assert found["checkpoint"]["layout"] == layout
    assert {one["field"] for one in found["fields"]} == {*tables}
    for one in found["fields"]:
        sigma = np.linalg.svd(tables[one["field"]].detach().double().cpu().numpy(), compute_uv=False)
        np.testing.assert_allclose(one["spectrum"], sigma, rtol=1e-6)
        assert 0 < one["relative"] < 1.2


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows() -> list[tuple[int, int, int, int]]:
    draw = random.Random(0)
    ids = [tuple(draw.randrange(size) for size in SIZES.values()) for _ in range(ROWS)]
    return [(*one, int(sum(one) % 3 == 0)) for one in ids]


@needs("deepctr_torch")
@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole model"])
def test_deepctr_torch(whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.peer_models import peer

    peer("fm", [2, 2], 2)  # imports the library without its question to PyPI
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(name, size, embedding_dim=8) for name, size in SIZES.items()]
    model = DeepFM(columns, columns, dnn_hidden_units=(16,), task="binary", device="cpu")
    model.compile("adam", "binary_crossentropy")
    values = np.array(rows(), dtype=np.float32).T
    model.fit(dict(zip(SIZES, values[:3], strict=True)), values[3], batch_size=64, epochs=3, verbose=0)
    torch.save(model if whole else model.state_dict(), "deepfm.pt")
    if whole:
        assert main(["deepfm.pt"]) == 2
        message = capsys.readouterr().err
        assert "deepctr_torch.models.deepfm.DeepFM" in message and "--skip-objects" in message
    found = diagnosed("deepfm.pt", *(["--skip-objects"] if whole else []))
    check(found, "DeepCTR-Torch", {name: model.embedding_dict[name].weight for name in SIZES})
    assert {one["why"] for one in found["left_out"]} == {
        "one column: a first-order weight, or the projection of a number"
    }


@needs("recbole")
def test_recbole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        monkeypatch.setattr(np, old, new, raising=False)  # RecBole 1.2.1 asks for names that NumPy 2 has no more
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    folder = tmp_path / "tiny"
    folder.mkdir()
    header = "\t".join([*(f"{name}:token" for name in SIZES), "label:float"])
    lines = ["\t".join(f"{value}" for value in row) for row in rows()]
    (folder / "tiny.inter").write_text("\n".join([header, *lines]) + "\n")
    options = {
        "data_path": str(tmp_path),
        "checkpoint_dir": str(tmp_path / "saved"),
        "load_col": {"inter": [*SIZES, "label"]},
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "epochs": 2,
        "embedding_size": 8,
        "mlp_hidden_size": [16],
        "use_gpu": False,
        "show_progress": False,
        "worker": 0,
    }
    monkeypatch.setattr("sys.argv", ["run"])  # which RecBole reads
    config = Config(model="DCNV2", dataset="tiny", config_dict=options)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model("DCNV2")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "DCNV2")(config, model)
    trainer.fit(train, valid, saved=True, show_progress=False)

    assert main([trainer.saved_model_file]) == 2
    assert "recbole.config.configurator.Config" in capsys.readouterr().err
    assert main([trainer.saved_model_file, "--skip-objects"]) == 2
    assert "--cardinalities must say" in capsys.readouterr().err
    sizes = {name: int(dataset.num(name)) for name in SIZES}
    Path("sizes.json").write_text(json.dumps(sizes))
    saved = torch.load(trainer.saved_model_file, weights_only=False)["state_dict"]
    weight = saved["token_embedding_table.embedding.weight"]
    found = diagnosed(trainer.saved_model_file, "--skip-objects", "--cardinalities", "sizes.json")
    check(found, "RecBole, context-aware", dict(zip(sizes, weight.split([*sizes.values()]), strict=True)))
