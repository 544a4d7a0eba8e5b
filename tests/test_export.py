"""Exports of every backbone against the backbone itself, in this process and where this package cannot be imported."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import recsys_collapse.export as exporting
from recsys_collapse.build import build
from recsys_collapse.config import plain
from recsys_collapse.dataset.store import Store, prepare
from recsys_collapse.dataset.table import Table
from recsys_collapse.export import export, load
from recsys_collapse.export.formats import FILES
from recsys_collapse.load import LoadedRun, load_run
from recsys_collapse.model.dcnv2 import DCNv2
from tests import cli
from tests.cli import python_path
from tests.test_backbone_contract import MODELS, VARIANTS, compose, has_sets, randomise


class TheirDCNv2(DCNv2):
    """A backbone of a user's own package."""


CASES = [(name, sets) for name in MODELS for sets in (1, 3) if sets == 1 or has_sets(name)]
OTHERS = [(name, sets) for name in sorted(VARIANTS) for sets in (1, 3) if sets == 1 or has_sets(name)]
KINDS = [*FILES]
CLOSE = {"safetensors": 1e-6, "torch_export": 1e-6, "onnx": 2e-5}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five fields; `row` has the id of rare values only, `price` and `hour` are bucketed."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(1000, (400, 4), generator=generator).tolist()
    lines = [f"u{a % 30},x{i},{b % 50},141021{c % 24:02d},{int(d < 400)}" for i, (a, b, c, d) in enumerate(numbers)]
    (folder / "clicks.csv").write_text("\n".join(["user,row,price,when,click", *lines]))
    source = Table(
        name="clicks",
        label="click",
        path=str(folder / "clicks.csv"),
        min_count=3,
        derive={"hour": "when"},
        buckets={"price": "quantile:5", "hour": "hour"},
    )
    found = prepare(source, folder / "stores", split_seed=0)
    assert found.fields == ["user", "row", "price", "when", "hour"] and found.cardinalities[1] == 1
    return found


def loaded(
    store: Store, name: str = "dcnv2", sets: int = 3, dtype: torch.dtype = torch.float32, precision: str = "32-true"
) -> LoadedRun:
    """A run as `load_run` would find it, with random weights and statistics, and small hidden layers."""
    config = compose(name, "me" if sets > 1 else "se", sets)
    if "hidden_sizes" in config.model.backbone and name not in VARIANTS:
        config.model.backbone.hidden_sizes = [24, 16]
    config.trainer = {"precision": precision, "batch_size": 32}
    config.optimizer = {"_target_": "torch.optim.Adam", "lr": 0.001}
    config = OmegaConf.create(plain(config))
    torch.manual_seed(0)
    sizes = {"num_sets": config.embed.num_sets, "embed_size": config.embed.embed_size}
    backbone = build(config.model.backbone, "model.backbone", cardinalities=store.cardinalities, **sizes)
    result = {
        "run_name": f"{name}-run",
        "run_id": "0123",
        "model": name,
        "embed": config.embed.name,
        "scale": sets,
        "num_sets": backbone.embedding.num_sets,
        "embed_size": backbone.embedding.embed_size,
        "dataset": "clicks",
        "data_fingerprint": store.fingerprint,
        "parameters": {"embedding": backbone.embedding.weight.numel(), "dense": 1},
        "val_auc": 0.75,
        "test_auc": None,
        "val_logloss": 0.5,
        "test_logloss": 0.625,
        "truth": {"test": {"bayes_auc": 0.875}},
        "null_reasons": {"test_auc": "the test rows have one class only"},
        "code_version": "0.1.0-abc",
        "environment": {"python": "3.11.1", "torch": "2.13.0", "platform": "a machine of the user"},
    }
    randomise(backbone).embedding.weight.data *= 5  # logits that depend on the ids
    return LoadedRun(Path("/home/somebody/run"), config, result, store, backbone.to(dtype).eval())


def ids_of(store: Store, rows: int) -> Tensor:
    """Random ids (rows, N) with both ends of every field as far as there are rows."""
    generator = torch.Generator().manual_seed(rows)
    ids_BN = torch.stack([torch.randint(size, (rows,), generator=generator) for size in store.cardinalities], dim=1)
    ends_2N = torch.tensor([[0] * len(store.fields), [size - 1 for size in store.cardinalities]])
    ids_BN[-2:] = ends_2N[-rows:]
    return ids_BN


def opened(kind: str, folder: Path) -> Callable[[Tensor], Tensor]:
    """The exported model as a function, read as its README says."""
    if kind == "onnx":
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        return lambda ids_BN: torch.from_numpy(session.run(["logit"], {"ids": ids_BN.numpy()})[0])
    return load(folder) if kind == "safetensors" else torch.export.load(folder / "model.pt2").module()


@torch.inference_mode()
def assert_same_logits(run: LoadedRun, model: Callable[[Tensor], Tensor], close: float) -> None:
    for rows in (1, 7, 300):
        ids_BN = ids_of(run.store, rows)
        ours_B, theirs_B = run.backbone(ids_BN), model(ids_BN)
        assert theirs_B.shape == (rows,) and theirs_B.dtype == torch.float32
        assert ((theirs_B - ours_B).abs() <= close * ours_B.abs().clamp(min=1)).all()
    assert ours_B.std() > 0.01  # or any constant would pass


def check(store: Store, name: str, sets: int, kinds: list[str], folder: Path) -> None:
    run = loaded(store, name, sets)
    for kind in kinds:
        paths = export(run, kind, folder / kind)
        assert [path.name for path in paths] == sorted([FILES[kind], "README.md", "card.json", "vocabulary.parquet"])
        assert_same_logits(run, opened(kind, folder / kind), CLOSE[kind])


@pytest.mark.parametrize(("name", "sets"), CASES)
def test_every_backbone_gives_the_same_logits(store: Store, tmp_path: Path, name: str, sets: int) -> None:
    check(store, name, sets, KINDS if name == "dcnv2" and sets > 1 else KINDS[:2], tmp_path)  # the slow one: the rest


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sets"), CASES)
def test_every_backbone_in_onnx(store: Store, tmp_path: Path, name: str, sets: int) -> None:
    check(store, name, sets, ["onnx"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sets"), OTHERS)
def test_other_options_give_the_same_logits(store: Store, tmp_path: Path, name: str, sets: int) -> None:
    check(store, name, sets, KINDS, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_ids_that_a_field_does_not_have_are_read_as_0(store: Store, tmp_path: Path, kind: str) -> None:
    run = loaded(store)
    export(run, kind, tmp_path / "out")
    model, ids_BN = opened(kind, tmp_path / "out"), ids_of(store, 8)
    for field, size in enumerate(store.cardinalities):
        zero_BN = ids_BN.clone()
        zero_BN[:, field] = 0
        for outside in (-1, size, size + 3, 2**40, -(2**40)):
            outside_BN = ids_BN.clone()
            outside_BN[:, field] = outside
            torch.testing.assert_close(model(outside_BN), run.backbone(zero_BN), rtol=CLOSE[kind], atol=CLOSE[kind])


@pytest.mark.parametrize("kind", ["safetensors", "torch_export"])
@torch.inference_mode()
def test_int32_ids_do_as_well(store: Store, tmp_path: Path, kind: str) -> None:
    run = loaded(store)
    export(run, kind, tmp_path / "out")
    ids_BN = ids_of(store, 7)
    assert torch.equal(opened(kind, tmp_path / "out")(ids_BN.int()), run.backbone(ids_BN))


def read_card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def test_the_card(store: Store, tmp_path: Path) -> None:
    run = loaded(store)
    export(run, "torch_export", tmp_path / "out")
    card = read_card(tmp_path / "out")
    offsets, names = [0], ("name", "column", "cardinality", "offset", "bucket", "edges")
    for size in store.cardinalities[:-1]:
        offsets.append(offsets[-1] + size)
    buckets, columns = [None, None, "quantile:5", None, "hour"], ["user", "row", "price", "when", "when"]
    edges = [None, None, store.manifest()["edges"]["price"], None, None]
    assert edges[2]
    rows = zip(store.fields, columns, store.cardinalities, offsets, buckets, edges, strict=True)
    assert card["fields"] == [dict(zip(names, row, strict=True)) for row in rows]
    same = ("run_name", "run_id", "model", "embed", "scale", "num_sets", "embed_size", "parameters", "data_fingerprint")
    assert {key: card[key] for key in same} == {key: run.result[key] for key in same}
    assert card["label"] == "click" and card["kind"] == "torch_export" and card["schema"] == 1
    assert card["metrics"]["val_auc"] == 0.75 and card["metrics"]["truth"]["test"]["bayes_auc"] == 0.875
    assert card["metrics"]["test_auc"] is None and "one class" in card["metrics"]["null_reasons"]["test_auc"]
    assert card["data"]["rows"] == 400 and sum(card["data"]["parts"].values()) == 400
    assert card["config"]["model"]["backbone"]["hidden_sizes"] == [24, 16]
    assert card["config"]["dataset"]["min_count"] == 3 and card["config"]["optimizer"]["lr"] == 0.001
    assert card["versions"]["training"]["python"] == "3.11.1" and card["versions"]["export"]["torch"]
    with torch.inference_mode():
        logit_B = run.backbone(torch.tensor(card["example"]["ids"]))
    assert logit_B.tolist() == card["example"]["logit"] and len(logit_B) == 4
    assert card["example"]["ids"][3] == [size - 1 for size in store.cardinalities]
    assert card["format"]["verified"]["largest_difference"] <= 1e-6
    for name in ("model.pt2", "vocabulary.parquet", "README.md"):
        content = (tmp_path / "out" / name).read_bytes()
        assert card["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "not recorded" not in readme and "val_auc: 0.75" in readme and "| price |" in readme


def test_edges_that_an_older_store_does_not_have(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = {key: value for key, value in store.manifest().items() if key != "edges"}
    monkeypatch.setattr(Store, "manifest", lambda self: manifest)
    export(loaded(store), "safetensors", tmp_path / "out")
    assert read_card(tmp_path / "out")["fields"][2]["edges"] is None
    assert "edges of price were not recorded" in (tmp_path / "out" / "README.md").read_text()


def test_the_vocabulary_is_that_of_the_run(store: Store, tmp_path: Path) -> None:
    export(loaded(store), "safetensors", tmp_path / "out")
    found = pl.read_parquet(tmp_path / "out" / "vocabulary.parquet")
    assert found.columns == ["field", "value", "id"] and found.height > 30
    assert found.equals(pl.read_parquet(store.path / "vocabulary.parquet").select("field", "value", "id"))


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("recsys_collapse", "tests"):
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
try:
    import recsys_collapse
except ModuleNotFoundError as error:
    print(error)
"""


def run_blocked(code: str, folder: Path) -> None:
    """Run code in `folder`, in a process that cannot import this package, as its first line of output shows."""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "recsys_collapse is blocked"


def snippets(folder: Path) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 10 for code in found)
    return found


COMPARE = """
import torch
logit, expected = torch.as_tensor(logit).double(), torch.tensor(card["example"]["logit"]).double()
assert expected.std() > 0.01
torch.testing.assert_close(logit, expected, rtol=1e-5, atol=1e-5)
"""
ENCODED = """
assert ids == [[id_of.get((name, ""), 0) for name in ("user", "row", "price", "when", "hour")]]
assert id_of["user", vocabulary.filter(field="user")["value"][0]] == 1
"""


@pytest.mark.parametrize("kind", ["torch_export", "onnx"])
def test_the_readme_runs_without_this_package(store: Store, tmp_path: Path, kind: str) -> None:
    export(loaded(store), kind, tmp_path / "out")
    use, encode = snippets(tmp_path / "out")
    run_blocked(use + COMPARE + encode + ENCODED, tmp_path / "out")


def test_the_readme_of_safetensors(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = loaded(store)
    export(run, "safetensors", tmp_path / "out")
    with_package, by_hand, encode = snippets(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    exec(with_package + COMPARE, {})
    with torch.inference_mode():
        expected = run.backbone.embedding(torch.tensor(read_card(tmp_path / "out")["example"]["ids"]))
    torch.save(expected.clone(), tmp_path / "expected.pt")
    run_blocked(f"{by_hand}\nassert torch.equal(e, torch.load('../expected.pt'))\n{encode}{ENCODED}", tmp_path / "out")


BY_HAND = """
import json
import re
import torch
from safetensors.torch import load_file

card, w = json.load(open("card.json")), load_file("model.safetensors")
modules, num_sets = card["architecture"]["modules"], card["num_sets"]
ids, expected = torch.load("../expected.pt")

def named(kind, inside):
    return [n for n, text in modules.items() if text.startswith(kind + "(") and n.startswith(inside + ".")]

def grouped_linear(x, name):  # (B, M, I) -> (B, M, O)
    return torch.stack([x[:, m] @ w[name + ".weight"][m].T + w[name + ".bias"][m] for m in range(num_sets)], dim=1)

def norm(x, name):
    eps = float(re.search("eps=([^,]*)", modules[name])[1])
    scaled = (x - w[name + ".running_mean"]) / torch.sqrt(w[name + ".running_var"] + eps)
    return scaled * w[name + ".weight"] + w[name + ".bias"]

rows = torch.nn.functional.embedding(ids + w["embedding.offset_N"], w["embedding.weight"])
x0 = rows.unflatten(2, (num_sets, card["embed_size"])).transpose(1, 2).flatten(2)
x = x0
for cross in named("CrossNet", "interaction"):
    for layer in named("GroupedLinear", cross):
        x = x0 * grouped_linear(x, layer) + x
(projection,) = named("Projection", "interaction")
(linear,), (batch_norm,) = named("GroupedLinear", projection), named("BatchNorm1d", projection)
x = grouped_linear(x, linear)
h = norm(x.flatten(1), batch_norm).view(x.shape).relu().mean(1)
*hidden, last = named("Linear", "head")
for linear, batch_norm in zip(hidden, named("BatchNorm1d", "head"), strict=True):
    h = norm(h @ w[linear + ".weight"].T + w[linear + ".bias"], batch_norm).relu()
logit = (h @ w[last + ".weight"].T + w[last + ".bias"]).squeeze(1)
assert len(logit) == 300 and expected.std() > 0.01
torch.testing.assert_close(logit, expected, rtol=1e-5, atol=1e-5)
"""


def test_card_and_weights_are_enough_to_build_it(store: Store, tmp_path: Path) -> None:
    folders = []
    for name, sets in (("dcnv2", 1), ("dcnv2", 3), ("dnn", 1), ("dnn", 3)):
        run, ids_BN = loaded(store, name, sets), ids_of(store, 300)
        folders.append(str(tmp_path / f"{name}-{sets}" / "out"))
        export(run, "safetensors", Path(folders[-1]))
        with torch.no_grad():
            torch.save((ids_BN, run.backbone(ids_BN)), Path(folders[-1], "../expected.pt"))
        words = read_card(Path(folders[-1]))["architecture"]["words"]
        assert "y^(m) = W^(m) x^(m) + b^(m)" in words["GroupedLinear"] and "Args" not in "".join(words.values())
    run_blocked(f"import os\nfor folder in {folders}:\n    os.chdir(folder)\n    exec({BY_HAND!r}, {{}})", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_stays_float64(store: Store, tmp_path: Path, kind: str) -> None:
    run = loaded(store, dtype=torch.float64, precision="64-true")
    export(run, kind, tmp_path / "out")
    model, ids_BN = opened(kind, tmp_path / "out"), ids_of(store, 300)
    with torch.inference_mode():
        logit_B, rounded_B = run.backbone(ids_BN), loaded(store).backbone(ids_BN)
        found_B = model(ids_BN)
    assert found_B.dtype == torch.float32 and torch.equal(found_B, logit_B.float())
    assert not torch.equal(rounded_B, logit_B.float())  # float32 arithmetic would be seen
    about = read_card(tmp_path / "out")["precision"]
    assert (about["trained"], about["weights"]) == ("64-true", "float64") and "rounded to float32" in about["words"]


def test_bfloat16_is_exported_as_float32(store: Store, tmp_path: Path) -> None:
    run = loaded(store, dtype=torch.bfloat16, precision="bf16-true")
    export(run, "safetensors", tmp_path / "out")
    assert run.backbone.embedding.weight.dtype == torch.bfloat16  # the run's own is as it was
    found = load(tmp_path / "out").backbone
    for name, tensor in run.backbone.state_dict().items():
        same = found.state_dict()[name]
        assert torch.equal(same.to(tensor.dtype), tensor) and same.dtype != torch.bfloat16
    about = read_card(tmp_path / "out")["precision"]
    assert about["weights"] == "float32" and "scored itself in bf16-true" in about["words"]


def test_mixed_precision_is_said(store: Store, tmp_path: Path) -> None:
    export(loaded(store, precision="bf16-mixed"), "safetensors", tmp_path / "out")
    assert "under autocast (bf16-mixed)" in read_card(tmp_path / "out")["precision"]["words"]
    assert "under autocast (bf16-mixed)" in (tmp_path / "out" / "README.md").read_text()


def test_large_onnx_has_its_weights_beside_it(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_collapse.export.formats.LARGEST_ONNX", 1000)
    run = loaded(store)
    assert "model.onnx.data" in [path.name for path in export(run, "onnx", tmp_path / "out")]
    assert_same_logits(run, opened("onnx", tmp_path / "out"), CLOSE["onnx"])
    assert "model.onnx.data" in read_card(tmp_path / "out")["files"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_machine_is_in_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("OF_THE_USER_TOKEN", "geheim-4711")
    run = loaded(store)
    run.config.optimizer.note, run.config.trainer.dir = "geheim-4711", "/home/somebody/secret-project/dir"
    export(run, kind, tmp_path / "out")
    places = (
        "geheim-4711",
        "/home/",
        "a machine of the user",
        str(tmp_path),
        str(cli.ROOT),
        sys.prefix,
        os.sep + "tmp",
    )
    for path in (tmp_path / "out").iterdir():
        contents = [path.read_bytes()]
        if path.suffix == ".pt2":
            contents = [zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()]
        for content in contents:
            assert [place for place in places if place.encode() in content] == []
    config = read_card(tmp_path / "out")["config"]
    assert config["optimizer"]["note"] == "${oc.env:OF_THE_USER_TOKEN}" and config["trainer"]["dir"] == "dir"


def test_another_kind_names_the_three(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export=pickle: expected one of safetensors, torch_export, onnx"):
        export(loaded(store), "pickle", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there(store: Store, tmp_path: Path) -> None:
    run, folder = loaded(store), tmp_path / "out"
    export(run, "torch_export", folder)
    with pytest.raises(ValueError, match=r"is there already.*overwrite"):
        export(run, "safetensors", folder)
    assert (folder / "model.pt2").exists()
    (folder / "model.onnx.data").touch()  # as a large ONNX model has it
    export(run, "safetensors", folder, overwrite=True)
    assert not (folder / "model.pt2").exists() and read_card(folder)["kind"] == "safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}


def test_only_an_export_is_overwritten(store: Store, tmp_path: Path) -> None:
    run, folder = loaded(store), tmp_path / "out"
    folder.mkdir()
    export(run, "safetensors", folder, overwrite=True)  # an empty folder
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "README.md").write_text("mine")
    (tmp_path / "link").symlink_to(folder)
    for name, why in {"out": "notes.txt", "file": "is no folder", "bare": "no card.json", "link": "no folder"}.items():
        with pytest.raises(ValueError, match=why):
            export(run, "safetensors", tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "file", "link", "out"]
    assert (folder / "notes.txt").exists() and (tmp_path / "bare" / "README.md").read_text() == "mine"


class Stopped(BaseException):
    """As Ctrl-C: no `except Exception` catches it."""


@pytest.mark.parametrize("step", ["read", "write_parquet", "readme", "write_json", "folder.sync", "folder.rename"])
def test_an_error_in_the_middle_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run = loaded(store)
    export(loaded(store, sets=1), "safetensors", tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    kept = exporting.folder.rename

    def failing(*args: Any, **kwargs: Any) -> None:
        if step == "folder.rename" and args[1].name == "old" and args[0].name == "old":
            kept(*args)  # the old one was already moved when the new one cannot be
        elif step == "folder.rename" and args[0].name == "old":
            kept(*args)  # ... and goes back
        else:
            raise Stopped

    monkeypatch.setattr(f"recsys_collapse.export.{step}", failing)
    for folder, overwrite in ((tmp_path / "new", False), (tmp_path / "old", True)):
        with pytest.raises(Stopped):
            export(run, "safetensors", folder, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


CHANGES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "slightly": ("gives logits", lambda ids_BN, logit_B: logit_B * (1 + 1e-3)),
    "not a number": ("gives logits .*nan", lambda ids_BN, logit_B: logit_B * torch.nan),
    "shape": (r"gives \(6, 1\).* expected \(6,\)", lambda ids_BN, logit_B: logit_B.unsqueeze(1)),
    "type": ("gives .*float64.* expected", lambda ids_BN, logit_B: logit_B.double()),
    "batch of one": ("gives logits", lambda ids_BN, logit_B: logit_B + (len(ids_BN) == 1)),
    "id below 0": ("gives logits", lambda ids_BN, logit_B: logit_B + (ids_BN < 0).any(1)),
    "id too large": ("gives logits", lambda ids_BN, logit_B: logit_B + (ids_BN[:, 1] > 0)),
}


@pytest.mark.parametrize(
    ("kind", "change"), [*(("safetensors", change) for change in CHANGES), *((kind, "slightly") for kind in KINDS[1:])]
)
def test_a_written_model_that_differs_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: str
) -> None:
    true_read, (why, changed) = exporting.read, CHANGES[change]
    monkeypatch.setattr(exporting, "read", lambda *args: lambda ids_BN: changed(ids_BN, true_read(*args)(ids_BN)))
    with pytest.raises(ValueError, match=rf"{kind}.*{why}.*nothing is exported"):
        export(loaded(store), kind, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_not_finite_are_an_error(store: Store, tmp_path: Path) -> None:
    run = loaded(store)
    with torch.no_grad():
        run.backbone.head.mlp[-1].bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        export(run, "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "library"), [("safetensors", "safetensors.torch"), ("onnx", "onnx"), ("onnx", "onnxscript")]
)
def test_a_library_that_is_not_installed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"needs {library}.*pip install 'recsys-collapse\[export\]'"):
        export(loaded(store), kind, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_compared_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.WARNING):
        export(loaded(store), "onnx", tmp_path / "out")
    about = read_card(tmp_path / "out")["format"]["verified"]
    assert about["largest_difference"] is None and "onnxruntime is not installed" in about["why"]
    assert about["why"] in caplog.text and about["why"] in (tmp_path / "out" / "README.md").read_text()


class Deciding(torch.nn.Module):
    """A head with an `if` on its numbers."""

    def forward(self, h_BH: Tensor) -> Tensor:
        return h_BH.sum(1) if h_BH.sum() > 0 else h_BH.mean(1)


def test_a_model_that_is_no_graph(store: Store, tmp_path: Path) -> None:
    run = loaded(store)
    run.backbone.head = Deciding()
    with pytest.raises(ValueError, match=r"torch_export: torch finds no graph.*predict\.export=safetensors needs none"):
        export(run, "torch_export", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_readme_says_how_to_allow_a_class_from_elsewhere(store: Store, tmp_path: Path) -> None:
    run = loaded(store)
    run.config.model.backbone._target_ = f"{TheirDCNv2.__module__}.TheirDCNv2"
    export(run, "safetensors", tmp_path / "out")
    assert 'load(".", allow=["tests.test_export"])' in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"allow=\[tests\.test_export\]"):
        load(tmp_path / "out")
    assert_same_logits(run, load(tmp_path / "out", allow=["tests.test_export"]), 1e-6)


def test_load_trusts_no_card(store: Store, tmp_path: Path) -> None:
    export(loaded(store), "safetensors", tmp_path / "out")
    path, card = tmp_path / "out" / "card.json", read_card(tmp_path / "out")
    good, hostile = card["architecture"], {"_target_": "builtins.print"}
    for key, value in {"backbone": hostile, "cardinalities": [hostile], "num_sets": hostile}.items():
        path.write_text(json.dumps({**card, "architecture": {**good, key: value}}))
        with pytest.raises(ValueError, match=r"builtins\.print"):
            load(tmp_path / "out")
    path.write_text(json.dumps({**card, "architecture": {**good, "cardinalities": [2, 2, 2, 2, 2]}}))
    with pytest.raises(ValueError, match="not the weights"):
        load(tmp_path / "out")
    path.write_text(json.dumps({**card, "kind": "onnx"}))
    with pytest.raises(ValueError, match="kind onnx, expected safetensors"):
        load(tmp_path / "out")
    for text in ("[]", "{", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="expected the card of an export"):
            load(tmp_path / "out")
    path.write_text(json.dumps(card))
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "out")


@pytest.mark.slow
def test_a_run_from_its_data_to_its_exports(tmp_path: Path) -> None:
    data = cli.write_clicks(tmp_path / "clicks.csv")
    done = cli.run(*data, *cli.SMALL, "model=dcnv2", "scale=2", "embed=me", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "outputs" / "runs").iterdir()
    run, scores = load_run(run_dir), pl.read_parquet(run_dir / "test_scores.parquet")
    ids_BN = run.store.ids[scores["row_id"].to_torch()].long()
    recorded_B = scores["logit"].to_torch()
    assert recorded_B.std() > 0.01
    for kind in KINDS:
        export(run, kind, tmp_path / "export" / kind)
        with torch.inference_mode():
            logit_B = opened(kind, tmp_path / "export" / kind)(ids_BN)
        torch.testing.assert_close(logit_B, recorded_B, rtol=1e-5, atol=1e-5)
        card = read_card(tmp_path / "export" / kind)
        assert card["metrics"]["test_auc"] == run.result["test_auc"] and card["label"] == "click"
        assert str(tmp_path) not in (tmp_path / "export" / kind / "card.json").read_text()
