"""Rules of the house that no single file shows: which way imports go, what is light, what is short and documented."""

import ast
import importlib
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recsys_collapse
from tests.cli import python_path

PACKAGE = Path(recsys_collapse.__file__).parent
LONGEST = 260
# What a module or folder may import from the package; one that is not listed may import any.
ALLOWED: dict[str, set[str]] = {
    "products": set(),
    "dropout": set(),
    "heap": set(),
    "layers": {"dropout"},
    "embedding": set(),
    "spectrum": {"spectrum"},
    "similarity": {"spectrum"},
    "head": {"dropout"},
    "seeding": set(),
    "score": set(),
    "stats": {"stats"},
    "paper": {"stats"},
    "runs.durable": {"runs.heartbeat"},
    "runs.canonical": set(),
    "model": {"dropout", "embedding", "layers", "head", "model.backbone", "products"},
    "module": {"embedding", "model.backbone", "score", "seeding"},
    "dataset": {"dataset", "seeding", "runs.canonical", "runs.durable", "runs.secrets"},
    "variant": set(),
    "measure": {"spectrum", "variant"},
    "callback": {
        *("callback", "embedding", "measure", "module", "similarity", "spectrum", "truth", "variant"),
        "dataset.batches",  # whose rows have an answer
        *("runs.durable", "runs.checkpoint", "runs.heartbeat", "runs.records"),
    },
    "regularizer": {"model.backbone", "spectrum"},
    "optimizer": {"embedding"},
    "protocol": {"config", "runs.identity"},
    "cost": {"build", "model.backbone"},
    "memory": {"build", "cost", "heap", "memory", "model.backbone"},
    "memory.live": set(),
    "memory.free": {"heap"},
    "build": {"config"},
    "trust": set(),
    "scoring": {"dataset", "model.backbone", "runs.durable", "runs.environment"},
    "load": {"build", "config", "dataset.store", "model.backbone", "runs.checkpoint", "runs.records", "trust"},
    "export": {
        *("", "build", "dataset.buckets", "export", "load", "model.backbone", "trust"),
        *("runs.checkpoint", "runs.durable", "runs.environment", "runs.secrets", "runs.version"),
    },
    "diagnose": {
        "",
        "dataset.build",
        "dataset.progress",
        "dataset.store",
        "diagnose",
        "load",
        "paper",
        "runs",
        "scoring",
        "spectrum",
        "stats",
    },
    "diagnose.weights": {"diagnose.weights"},  # which files of others are read
    "diagnose.page": {"diagnose.page", "runs.durable"},
    "runs": {"", "build", "config", "runs"},
    "runs.secrets": set(),
    "launch": {
        "build",
        "config",
        "dataset.source",
        "launch",
        "runs",
        "train",  # when launch.job runs one
        "trust",
        "cost",
        "optimizer.trial",
    },
}
# Libraries that only these modules or folders may import, and libraries that are imported in functions only.
OWNERS = {
    "hydra": {"config", "build", "run", "prepare", "estimate", "predict", "launch"},
    "submitit": set(),
    "joblib": set(),
    "pytorch_lightning": {"module", "callback", "logger", "train", "describe"},
    "experiments": set(),
    "benchmarks": set(),
    "tests": set(),
}
LAZY = ("wandb", "matplotlib", "plotly", "safetensors", "onnx", "onnxscript", "onnxruntime")


def name_of(path: Path) -> str:
    """Dotted name below the package; the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
every_file = pytest.mark.parametrize("name", FILES)


def imports(name: str, top_level_only: bool = False) -> set[str]:
    """Every module that a file of the package imports; `from package import module` counts as that module."""
    found = set()
    stack: list[ast.AST] = [ast.parse(FILES[name].read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import in line {node.lineno}"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {word for word in full if word.removeprefix("recsys_collapse.") in FILES}
            found |= modules | ({node.module or ""} if modules != full else set())
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))
    return found


def own_imports(name: str) -> set[str]:
    """Names below the package; the package itself is ""."""
    own = {word for word in imports(name) if word.partition(".")[0] == "recsys_collapse"}
    return {word.removeprefix("recsys_collapse").removeprefix(".") for word in own}


def is_in(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places if place) or (
        name == "" and "" in places
    )


def test_the_walk_sees_imports() -> None:
    """Guards the tests below: an empty answer would pass them all."""
    assert {"module", "spectrum", "measure", "callback.publish"} <= own_imports("callback.spectrum")
    assert {"runs.figure", "runs.table", "launch.plan"} <= own_imports("run")
    assert "train" in own_imports("launch.job")
    assert own_imports("runs.version") == {""} and own_imports("runs.environment") == set()
    assert "recsys_collapse.train" not in imports("launch.job", top_level_only=True)
    assert "hydra" in imports("run", top_level_only=True)


@every_file
def test_imports_go_one_way(name: str) -> None:
    rules = [rule for rule in ALLOWED if is_in(name, {rule})]
    for rule in rules:
        assert [word for word in own_imports(name) if not is_in(word, ALLOWED[rule])] == []
    for library, owners in OWNERS.items():
        if library in {word.partition(".")[0] for word in imports(name)}:
            assert is_in(name, owners), f"{name} imports {library}"


def test_imports_make_no_circle() -> None:
    order = list(TopologicalSorter({name: own_imports(name) - {""} for name in FILES}).static_order())
    assert order.index("embedding") < order.index("model.backbone") < order.index("module") < order.index("run")


@every_file
def test_heavy_libraries_are_imported_where_they_are_used(name: str) -> None:
    top_level = {word.partition(".")[0] for word in imports(name, top_level_only=True)}
    assert top_level & set(LAZY) == set()


@every_file
def test_files_are_short(name: str) -> None:
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


def undocumented(source: str, module: object) -> list[str]:
    """Public modules, classes, functions and methods without a docstring; what a base class declares is exempt."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            missing += [] if ast.get_docstring(node) else [node.name]
            bases = getattr(module, node.name).__mro__[1:] if isinstance(node, ast.ClassDef) else ()
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    known = ast.get_docstring(method) or any(hasattr(base, method.name) for base in bases)
                    missing += [] if known else [f"{node.name}.{method.name}"]
    return missing


@every_file
def test_what_is_public_says_what_it_is(name: str) -> None:
    module = importlib.import_module(f"recsys_collapse.{name}".rstrip("."))
    assert undocumented(FILES[name].read_text(), module) == []


def test_a_missing_docstring_is_seen() -> None:
    source = '"""Doc."""\nclass Base:\n    """Doc."""\n    def hook(self):\n        """Doc."""\n'
    source += "class Own(Base):\n    def hook(self): ...\n    def public(self): ...\n    def _private(self): ...\n"
    source += "    @property\n    def shown(self): ...\ndef function(): ...\ndef _private(): ...\n"
    module = type(sys)("made_up")
    exec(source, module.__dict__)
    assert undocumented(source, module) == ["Own", "Own.public", "Own.shown", "function"]
    assert undocumented("a = 1", module) == ["the module"]


@pytest.mark.parametrize(
    "code",
    [
        "import recsys_collapse",
        "import recsys_collapse.run",
        "import recsys_collapse.predict",
        "from recsys_collapse.launch.plan import make_plan; assert len(make_plan(['-m', 'scale=1,2']).jobs) == 2",
        "from contextlib import redirect_stdout; from io import StringIO; from recsys_collapse.run import command\n"
        "with redirect_stdout(StringIO()): assert command(['--help']) == 0",
    ],
)
def test_what_starts_at_once_imports_nothing_heavy(tmp_path: Path, code: str) -> None:
    heavy = ["torch", "pytorch_lightning", "torchmetrics", *LAZY]
    heavy += [] if "predict" in code else ["polars", "numpy"]
    code = f"import sys\n{code}\nprint([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": python_path(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
