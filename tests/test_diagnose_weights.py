"""Reading checkpoints of others: the same tensors as were saved, nothing run, and an error with words for all else."""

import argparse
import builtins
import collections
import functools
import gzip
import importlib
import io
import json
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from recsys_collapse.diagnose.weights import Weights, read_weights
from recsys_collapse.runs.checkpoint import write_checkpoint

TABLE_DK = torch.arange(12.0).reshape(4, 3)
STATE = {"embedding.0.weight": TABLE_DK, "head.bias": torch.ones(2)}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def zipped(path: Path, data: bytes, **parts: bytes) -> Path:
    """A file of torch around a pickle that torch did not make."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", **parts}.items():
            archive.writestr(f"a/{name}", content)
    return path


def refused(path: Path, *words: str, **options: Any) -> str:
    """The error's message, which begins with the file and has these words in it."""
    with pytest.raises(ValueError) as caught:
        read_weights(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "weights_only" not in message and len(message) < 1500
    assert [word for word in words if word not in message] == [], message
    return message


def same(found: Weights, expected: dict[str, Tensor]) -> None:
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        ours = found.tensors[name]
        assert type(ours) is Tensor and ours.dtype == tensor.dtype and torch.equal(ours, tensor)
        assert not ours.requires_grad


# --- what is read


def test_a_state_dict(tmp_path: Path) -> None:
    found = read_weights(saved(tmp_path / "a", STATE))
    same(found, STATE)
    assert (found.format, found.values, found.state, found.path) == ("torch", {}, "", tmp_path / "a")


def test_a_checkpoint_of_this_project_whose_file_ends_with_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    write_checkpoint(path, {"run_id": "x", "epoch": 3, "global_step": 7, "state_dict": STATE})
    found = read_weights(path)
    same(found, STATE)
    assert found.values == {"run_id": "x", "epoch": 3, "global_step": 7} and found.state == "state_dict"
    with path.open("r+b") as file:  # the tensors lie in the file: what is written there is seen
        where = path.read_bytes().index(TABLE_DK.numpy().tobytes())
        file.seek(where)
        file.write(struct.pack("<f", 77))
    assert found.tensors["embedding.0.weight"][0, 0] == 77


def test_safetensors_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_file(STATE, path, metadata={"epoch": "3"})
    found = read_weights(path)
    same(found, {name: STATE[name] for name in found.tensors})
    assert set(found.tensors) == set(STATE) and found.format == "safetensors" and found.values == {"epoch": "3"}
    refused(path, "one level", state="state_dict")
    refused(saved(tmp_path / "model.safetensors", STATE), "file of torch", ".pt")


def test_safetensors_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(STATE, tmp_path / "a")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(tmp_path / "a", "pip install safetensors")


def test_the_format_before_1_6_is_read_whole_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "a", {"state_dict": STATE, "epoch": 1}, _use_new_zipfile_serialization=False)
    found = read_weights(path)
    same(found, STATE)
    assert "read into memory" in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_the_prefix_of_a_wrapper_is_left_out_where_all_names_have_it(tmp_path: Path, prefix: str) -> None:
    wrapped = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    same(read_weights(saved(tmp_path / "a", wrapped)), STATE)
    save_file(wrapped, tmp_path / "b")
    assert set(read_weights(tmp_path / "b").tensors) == set(STATE)
    partly = {"other": torch.ones(1), **wrapped}
    same(read_weights(saved(tmp_path / "c", partly)), partly)


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(4, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize(
    ("content", "state"),
    [
        ({"model": STATE, "optimizer": OPTIMIZER, "epoch": 1}, "model"),
        ({"net": {"x": torch.ones(1)}, "state_dict": STATE}, "state_dict"),
        ({"my_weights": STATE, "optimizer_state": OPTIMIZER, "optim": OPTIMIZER}, "my_weights"),
        ({"step": torch.tensor(5), "params": STATE, "optimizer": OPTIMIZER}, "params"),
        ({"state_dict": {}, "other_parameter": None, "weights": STATE}, "weights"),
        ({**STATE, "optimizer": OPTIMIZER}, ""),
        (collections.OrderedDict(STATE), ""),
    ],
)
def test_where_the_weights_are(tmp_path: Path, content: Any, state: str) -> None:
    found = read_weights(saved(tmp_path / "a", content))
    same(found, STATE)
    assert found.state == state


def test_a_model_that_begins_like_an_optimizer(tmp_path: Path) -> None:
    named = {"optimal.weight": torch.ones(2, 2), "optimal.bias": torch.ones(2)}
    same(read_weights(saved(tmp_path / "a", named)), named)


def test_a_choice_is_asked_for_and_made(tmp_path: Path) -> None:
    towers = {"user": {"t.weight": torch.ones(2, 2)}, "item": {"deep": {"x": torch.ones(2), "x.y": torch.ones(3)}}}
    path = saved(tmp_path / "a", {**towers, "optimizer": OPTIMIZER, "epoch": 1})
    refused(path, "several places", "user (1 tensors)", "item (2 tensors)", "--state")
    same(read_weights(path, "user"), towers["user"])
    same(read_weights(path, "item.deep"), towers["item"]["deep"])
    same(read_weights(path, "user.t.weight"), {"tensor": torch.ones(2, 2)})
    assert list(read_weights(path, "").tensors) == ["user.t.weight", "item.deep.x", "item.deep.x.y"]
    assert read_weights(path, "optimizer.state.0").tensors.keys() == {"exp_avg"}
    refused(path, "has no 'usr'", "the top level holds epoch, item, optimizer, user", state="usr")
    same(read_weights(path, "item.deep.x.y"), {"tensor": torch.ones(3)})
    refused(path, "item.deep holds x, x.y", state="item.deep.z.x")
    refused(path, "'epoch' holds no tensor", state="epoch")


@pytest.mark.parametrize("content", [{}, [], None, 5, {"epoch": 3, "optimizer": OPTIMIZER}, {"state_dict": {}}])
def test_no_weights(tmp_path: Path, content: Any) -> None:
    refused(saved(tmp_path / "a", content), "no tensor")


def test_no_weights_in_safetensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a")
    refused(tmp_path / "a", "no tensor")


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_tensors_are_kept(tmp_path: Path) -> None:
    content = {
        "sparse": TABLE_DK.to_sparse(),
        "csr": TABLE_DK.to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(TABLE_DK, 0.1, 0, torch.qint8),
        "meta": torch.empty(2, 2, device="meta"),
        "ids": torch.arange(3),
        "half": TABLE_DK.bfloat16(),
        "flag": torch.tensor([True]),
        "scalar": torch.tensor(1.0),
        "turned": TABLE_DK.t(),
        "parameter": nn.Parameter(TABLE_DK),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }
    found = read_weights(saved(tmp_path / "a", content)).tensors
    assert list(found) == list(content)
    assert torch.equal(found["turned"], TABLE_DK.t()) and not found["parameter"].requires_grad
    assert found["meta"].is_meta and found["sparse"].is_sparse and found["quantized"].is_quantized


def test_a_mapping_in_itself_and_one_too_deep(tmp_path: Path) -> None:
    looped: dict[str, Any] = {"w": TABLE_DK}
    looped["again"] = {"and": looped}
    same(read_weights(saved(tmp_path / "a", {"model": looped})), {"w": TABLE_DK})
    deep: dict[str, Any] = {"w": TABLE_DK}
    for _ in range(150):
        deep = {"x": deep}
    refused(saved(tmp_path / "b", deep), "nested deeper than 100")
    laughs: dict[str, Any] = {"w": TABLE_DK}
    for _ in range(60):
        laughs = {"a": laughs, "b": laughs}
    assert len(read_weights(saved(tmp_path / "c", {"model": laughs})).tensors) == 1


# --- objects, and code


class Config(dict):
    """As Lightning's AttributeDict."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(4, 3), nn.EmbeddingBag(5, 2)])
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("offsets", torch.arange(2))
        self.mlp = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.config = argparse.Namespace(lr=1)


def test_tensors_beside_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = {
        "hyper_parameters": argparse.Namespace(lr=0.1, path=Path("a")),
        "config": Config(a=1, b=Config(c=2)),
        "history": collections.deque([1.0, 2.0], maxlen=5),
        "counts": collections.defaultdict(list, a=[1]),
        "schedule": functools.partial(max, 1),
        "loss": np.float64(0.5),
        "rows": np.ones(3),
        "by_class": {Path("a"): 1},
    }
    path = saved(tmp_path / "a", {**objects, "epoch": 2, "state_dict": STATE})
    refused(path, "argparse.Namespace", "Nothing of it was run", "--skip-objects", "more")
    before = {*torch.serialization.get_safe_globals()}
    found = read_weights(path, skip_objects=True)
    same(found, STATE)
    assert found.values == {"epoch": 2} and "placeholders in place of objects of argparse.Namespace" in caplog.text
    assert {*torch.serialization.get_safe_globals()} == before


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 1}])
def test_a_whole_module(tmp_path: Path, wrap: Callable[[Model], Any]) -> None:
    model = Model()
    path = saved(tmp_path / "a", wrap(model))
    refused(path, "tests.test_diagnose_weights.Model", "torch.nn.modules.sparse.Embedding")
    found = read_weights(path, skip_objects=True)
    expected = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found.tensors[name], tensor)
    tables = read_weights(path, f"{found.state}.tables".lstrip("."), skip_objects=True).tensors
    assert list(tables) == ["0.weight", "1.weight"]


class Noisy:
    """Says when one is made."""

    made = 0

    def __new__(cls) -> "Noisy":
        Noisy.made += 1
        return super().__new__(cls)


def test_what_other_code_has_declared_safe_is_not_made(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", {"x": Noisy(), "state_dict": STATE})
    name = f"{Noisy.__module__}.Noisy"
    before, Noisy.made = Noisy.made, 0
    assert before == 1
    with torch.serialization.safe_globals([Noisy, *((type("Noisy", (Noisy,), {}), name) for _ in range(20))]):
        refused(path, name)
        same(read_weights(path, skip_objects=True), STATE)
        assert Noisy.made == 0 and Noisy in torch.serialization.get_safe_globals()


class Call:
    """A call of a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(folder: Path) -> dict[str, Call]:
    """Calls that make the file `marker`."""
    marker = folder / "marker"
    code = f"open({str(marker)!r}, 'w')"
    for name in ("hubconf.py", "imported_by_a_pickle.py"):
        (folder / name).write_text(f"{code}\ndef entry(): pass\n")
    return {
        "system": Call(os.system, f"touch {marker}"),
        "mkdir": Call(os.mkdir, str(marker)),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "open": Call(open, str(marker), "w"),
        "popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "hub": Call(torch.hub._load_local, str(folder), "entry"),
        "runpy": Call(runpy.run_path, str(folder / "hubconf.py")),
        "import": Call(importlib.import_module, "imported_by_a_pickle"),
    }


def hostile(path: Path, form: str, call: Call) -> Path:
    content = {"state_dict": STATE, "more": call}
    if form == "raw":
        path.write_bytes(pickle.dumps(content, 2))
    elif form == "tar":
        with tarfile.open(path, "w") as archive:
            for name in ("storages", "tensors", "pickle"):
                data = pickle.dumps(call, 2)
                (member := tarfile.TarInfo(name)).size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        protocol = int(form[3:] or 2) if form.startswith("zip") else 2
        is_zip = form != "legacy"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


@pytest.mark.parametrize("name", ["system", "mkdir", "eval", "exec", "open", "popen", "hub", "runpy", "import"])
def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    call, marker = payloads(tmp_path)[name], tmp_path / "marker"
    before = {file.name for file in tmp_path.iterdir()}
    forms = ("zip", "zip3", "zip4", "zip5", "legacy", "raw", "tar")
    for form in forms:
        path = hostile(tmp_path / f"{form}.pt", form, call)
        message = refused(path)
        if form not in ("raw", "tar"):
            assert call.call[0].__name__ in message and "Nothing of it was run" in message
        if form in ("raw", "tar") or name != "hub":
            refused(path, skip_objects=True)
        else:  # a function of a library: an empty placeholder in its place
            same(read_weights(path, skip_objects=True), STATE)
    assert {file.name for file in tmp_path.iterdir()} - before == {f"{form}.pt" for form in forms}
    if name == "import":
        assert "imported_by_a_pickle" not in sys.modules
    torch.load(tmp_path / "zip.pt", weights_only=False)  # it would have
    for _ in range(200):
        if marker.exists():
            break
        time.sleep(0.01)
    assert marker.exists()
    sys.modules.pop("imported_by_a_pickle", None)


def test_names_are_put_together_in_no_way(tmp_path: Path) -> None:
    """Names in parts, dots in names, code behind names that torch takes: refused or inert."""
    marker = str(tmp_path / "marker").encode()
    text = b"X" + struct.pack("<I", len(marker)) + marker
    for data in (
        b"cos\nsystem\n" + text + b"\x85R.",
        b"cos.path\nos.mkdir\n" + text + b"\x85R.",
        b"c__builtin__\ngetattr\ncos\nmkdir\nX\x08\0\0\0__call__\x86R" + text + b"\x85R.",
        b"c__builtin__\n__import__\nX\x02\0\0\0os\x85RX\x05\0\0\0mkdirc__builtin__\ngetattr\n.",
        b"X\x02\0\0\0osX\x05\0\0\0mkdir\x93" + text + b"\x85R.",  # STACK_GLOBAL
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\neval\nctorch\nTensor\n" + text + b"\x85}tR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\nctorch\nTensor\n" + text + b"\x85}tR.",
        b"ios\nmkdir\n.",
        b"(" + text + b"ios\nmkdir\n.",
    ):
        for skip in (False, True):
            for protocol in (b"\x80\x02", b"\x80\x04"):
                refused(zipped(tmp_path / "a", protocol + data), skip_objects=skip)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["torch.distributed.tensor\nDTensor", "my.own\nShardedTensor"])
def test_parts_of_tables_of_several_processes(tmp_path: Path, name: str) -> None:
    for skip in (False, True):
        path = zipped(tmp_path / "a", b"\x80\x02c" + name.encode() + b"\n)\x81.")
        refused(path, name.split("\n")[1], "gather", skip_objects=skip)


# --- what is no checkpoint, or damaged


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "a", "no such file")
    refused(tmp_path, "directory", "run directory", "format_utils dcp_to_torch")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither")
    refused(tmp_path / ("long" * 100), "cannot be read")


def numpy_zip() -> bytes:
    np.savez(file := io.BytesIO(), a=np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"epoch,loss\n1,0.5\n", "text ('epoch,loss"),
        ("Größe {".encode() * 40, "text"),
        (b'{"weight_map": {}}', "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (b"\x93NUMPY\x01\x00", "numpy"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (pickle.dumps({"a": 1}), "plain pickle"),
        (numpy_zip(), "numpy"),
        (bytes(600), "unknown format"),
        (b"\x00\xff\x12", "unknown format"),
        (b"x", "text"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", word, "expected a file of torch.save or safetensors")


def test_other_archives_are_named(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "a", b"\x80\x02}.", **{"constants.pkl": b"\x80\x02)."}), "TorchScript")
    for name, word in (("model.weights.h5", "Keras"), ("notes.txt", "notes.txt")):
        with zipfile.ZipFile(tmp_path / "b", "w") as archive:
            archive.writestr(name, "x")
        refused(tmp_path / "b", word)


def test_several_files_in_one(tmp_path: Path) -> None:
    one = saved(tmp_path / "a", STATE).read_bytes()
    (tmp_path / "b").write_bytes(one + saved(tmp_path / "c", {"x": torch.ones(2)}).read_bytes())
    refused(tmp_path / "b", "several files in one", "dcp_to_torch")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "a", {"w": TABLE_DK})) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for packing, repeated, word in ((zipfile.ZIP_DEFLATED, 1, "compressed"), (zipfile.ZIP_STORED, 2, "same name")):
        with zipfile.ZipFile(tmp_path / "b", "w", packing) as archive:
            for name, content in [*parts.items()] * repeated:
                archive.writestr(name, content)
        refused(tmp_path / "b", word)
    path = zipped(tmp_path / "c", parts["a/data.pkl"], **{"data/0": TABLE_DK.numpy().tobytes()})
    whole = path.read_bytes()
    same(read_weights(path), {"w": TABLE_DK})
    path.write_bytes(whole.replace(b"a/data/0", b"a/data/1", 1))  # in the header before the content only
    refused(path, "damaged", "differ")
    behind = whole.rindex(b"a/data/0") - 46  # where the archive's list of contents has it
    path.write_bytes(whole[: behind + 20] + struct.pack("<II", 2**31, 2**31) + whole[behind + 28 :])
    refused(path, "ends outside")


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    data = zipfile.ZipFile(saved(tmp_path / "a", {"w": TABLE_DK})).read("a/data.pkl")
    swapped = TABLE_DK.numpy().byteswap().tobytes()
    path = zipped(tmp_path / "b", data, **{"data/0": swapped, "byteorder": b"big"})
    before = path.read_bytes()
    same(read_weights(path), {"w": TABLE_DK})
    assert path.read_bytes() == before


def test_a_checksum_that_torch_does_not_look_at(tmp_path: Path) -> None:
    """One changed letter of a name."""
    content = saved(tmp_path / "a", STATE).read_bytes()
    (tmp_path / "a").write_bytes(content.replace(b"embedding.0", b"embedding.1"))
    refused(tmp_path / "a", "damaged", "CRC")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"]" * 10**7)


def test_files_made_to_use_up_memory_or_the_stack(tmp_path: Path) -> None:
    path = tmp_path / "a"
    bomb(path)
    refused(path, "compressed")
    refused(zipped(path, b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."), "tuples in each other")
    chain = b"".join(b"q\x01h\x01\x85" for _ in range(12_000))
    refused(zipped(path, b"\x80\x02})" + chain + b"Ns."), "tuples in each other")
    refused(
        zipped(path, b"\x80\x02" + b"".join(b"ca\nb%d\n" % i for i in range(1500)) + b"N."),
        "1,500 classes",
        skip_objects=True,
    )
    for length in (2**60, 2**64 - 1, 200):
        path.write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
        refused(path, "header of", "cut off")


def test_a_tensor_whose_numbers_are_not_in_the_file(tmp_path: Path) -> None:
    for data in (
        b"ctorch\nFloatTensor\nJ\0\0\0\x10\x85R.",
        b"c__builtin__\nbytearray\n\x8a\x08" + b"\x7f" * 8 + b"\x85R.",
    ):
        refused(zipped(tmp_path / "a", b"\x80\x02" + data))


def test_many_flat_tuples_are_no_matter(tmp_path: Path) -> None:
    content = {f"tttttttttt{index}.weight": torch.ones(1, 1) for index in range(1500)}
    same(read_weights(saved(tmp_path / "a", content)), content)


def header(path: Path, text: str, data: int = 16) -> Path:
    raw = text.encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


def entry(begin: int = 0, end: int = 16, shape: tuple[int, ...] = (4,), dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a": {entry(0, 160, (40,))}}}',
        f'{{"a": {entry(-8, 8)}}}',
        f'{{"a": {entry(16, 0)}}}',
        f'{{"a": {entry(0, 16, (5,))}}}',
        f'{{"a": {entry(0, 16, (2**62, 2**62))}}}',
        f'{{"a": {entry(dtype="F33")}}}',
        f'{{"a": {entry()}, "b": {entry()}}}',
        f'{{"a": {entry(0, 12, (3,))}, "b": {entry(8, 16, (2,))}}}',
        f'{{"a": {entry(0, 8, (2,))}, "a": {entry(8, 16, (2,))}}}',
        f'{{"a": {entry()}, "a": {entry()}}}',
        f'{{"a": {entry()}',
        '{"a": 5}',
        '{"a": ' + "[" * 100_000,
    ],
)
def test_a_header_of_safetensors_that_lies(tmp_path: Path, text: str) -> None:
    refused(header(tmp_path / "a", text), "damaged or no safetensors")


def test_the_header_that_these_lie_about_is_read(tmp_path: Path) -> None:
    assert read_weights(header(tmp_path / "a", f'{{"a": {entry()}}}')).tensors["a"].shape == (4,)


def test_a_tensor_that_reaches_outside_its_file(tmp_path: Path) -> None:
    data = zipfile.ZipFile(saved(tmp_path / "a", {"w": TABLE_DK})).read("a/data.pkl")
    wide = data.replace(b"K\x04K\x03\x86", b"M\xff\xffK\x03\x86")
    assert wide != data
    refused(zipped(tmp_path / "b", wide, **{"data/0": bytes(48)}), "torch cannot read it", "resize storage")
    more = wide.replace(b"K\x0ctq", b"J\xff\xff\xff\x7ftq")
    assert more != wide
    refused(zipped(tmp_path / "b", more, **{"data/0": bytes(48)}), "resize storage")
    refused(zipped(tmp_path / "b", data), "torch cannot read it")


def examples() -> dict[str, bytes]:
    """A small valid file of each format."""
    found = {}
    for form in ("zip", "legacy"):
        torch.save(
            {"state_dict": STATE, "epoch": 3}, file := io.BytesIO(), _use_new_zipfile_serialization=form == "zip"
        )
        found[form] = file.getvalue()
    torch.save({"model": Model(), "x": argparse.Namespace(a=(1, 2))}, file := io.BytesIO())
    found["module"] = file.getvalue()
    from safetensors.torch import save

    return found | {"safetensors": save(STATE, {"a": "b"})}


EXAMPLES = examples()


def survives(path: Path) -> None:
    """Weights, all of which can be read, or an error with the path."""
    for skip in (False, True):
        try:
            found = read_weights(path, skip_objects=skip)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            for tensor in found.tensors.values():
                tensor.double().sum().item()  # every page of it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", EXAMPLES)
def test_damage_is_an_error_or_read(tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a"
    whole = EXAMPLES[form]

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), max_size=4), st.integers(0, 3))
    def damage(flips: list[tuple[int, int]], cut: int) -> None:
        content = bytearray(whole)
        for place, bits in flips:
            content[place] ^= bits
        path.write_bytes(content[: flips[0][0]] if flips and cut == 0 else content)
        survives(path)

    damage()


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_no_part_of_a_file_is_enough(tmp_path: Path, form: str) -> None:
    for length in range(1, len(EXAMPLES[form]), 97):
        (tmp_path / "a").write_bytes(EXAMPLES[form][:length])
        refused(tmp_path / "a")


# --- memory


def anonymous() -> float:
    """Memory of this process that lies in no file, in MiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory by /proc")
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    rows, wide, path = 1 << 18, 1000, tmp_path / "a"  # 1 GB, of holes: the file takes no room on the disk
    if form == "torch":
        with torch.serialization.skip_data():
            torch.save({"table": torch.empty(rows, wide), "small": torch.ones(3)}, path)
    else:
        size = 4 * rows * wide
        text = f'{{"table": {entry(0, size, (rows, wide))}, "small": {entry(size, size + 12, (3,))}}}'
        header(path, text, 0)
        os.truncate(path, path.stat().st_size + size + 12)
    before = anonymous()
    tensors = read_weights(path).tensors
    assert tensors["table"].shape == (rows, wide) and tensors["small"].sum() == 0
    assert anonymous() - before < 4
    total = sum(
        float(tensors["table"][start : start + 4096].sum()) for start in range(0, rows // 4, 4096)
    )  # 256 MB of it
    assert total == 0 and anonymous() - before < 16


@pytest.mark.parametrize("protocol", [2, 4])
def test_tuples_that_would_be_hashed_for_ever_are_refused(tmp_path: Path, protocol: int) -> None:
    """Sixty tuples, each of the one before twice, as a key: 2^60 steps, which Ctrl-C does not end."""
    key: tuple[Any, ...] = (1,)
    for _ in range(60):
        key = (key, key)
    data = pickle.dumps(key, protocol)
    data = data[:-1].replace(b"\x80" + bytes([protocol]), b"\x80" + bytes([protocol]) + b"}") + b"K\x01s."
    if protocol == 4:
        data = b"\x80\x04}" + data[data.index(b"K\x01") :]  # without its frame
    refused(zipped(tmp_path / "a", data), "tuples in each other")
