"""Promises of SECURITY.md that no other file tests: what is read cannot run, and bad releases are not installed."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from recsys_collapse.runs.checkpoint import find, read_checkpoint, write_checkpoint
from recsys_collapse.runs.durable import DamagedError
from tests.cli import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "recsys_collapse").rglob("*.py"))}
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
EXECUTING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}


def suspicious(source: str) -> list[str]:
    """Ways from a file's content to running code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"import {name}" for name in names if name.partition(".")[0] in UNPICKLING]
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        found += [name] if name in EXECUTING else []
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if (
            options.get("weights_only") == "False"
            or options.get("allow_pickle") == "True"
            or options.get("shell") == "True"
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_that_is_read_can_run(name: str) -> None:
    assert suspicious(SOURCES[name]) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "eval(x)",
        "exec(x)",
        "os.system(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=flag)",
        "load_from_checkpoint(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_what_could_run_is_seen(source: str) -> None:
    assert suspicious(f"def f():\n    {source}")
    assert not suspicious("import torch, re\nmodule.eval()\nre.compile('a')\ntorch.load(x, weights_only=True)")


class Malicious:
    """Leaves a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt", "best.ckpt"])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoints" / name
    write_checkpoint(path, {"run_id": "x", "epoch": 0, "global_step": 1, "state_dict": {}, "more": Malicious(marker)})
    with pytest.raises(DamagedError, match=f"{name}: cannot be read"):
        read_checkpoint(path, "x")
    assert not marker.exists()
    assert find(tmp_path, "x", lambda content: 0) is None
    assert not marker.exists() and path.exists() == (name == "best.ckpt")
    torch.load(next(tmp_path.rglob(f"*{name}*")), weights_only=False)  # it would have
    assert marker.exists()


def test_bad_releases_are_excluded_and_tested_versions_are_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {need.name: need for need in map(Requirement, project["dependencies"])}
    lightning = wanted["pytorch-lightning"].specifier
    assert "2.6.6" in lightning
    assert "2.6.2" not in lightning and "2.6.3" not in lightning and "2.9.1" not in wanted["torch"].specifier
    lines = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = {name.replace("_", "-"): version for name, version in lines}
    extras = [need for group in project["optional-dependencies"].values() for need in map(Requirement, group)]
    for need in [*wanted.values(), *extras]:
        assert need.name not in tested or tested[need.name] in need.specifier, need
    assert set(wanted) <= set(tested)


def test_security_names_tests_that_there_are() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 8 and [name for name in named if not (ROOT / name).is_file()] == []
