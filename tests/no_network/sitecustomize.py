"""Python imports this when it starts, in every subprocess that has this folder on its PYTHONPATH."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import block_network  # noqa: F401 (its import is what blocks)

# Another one, which this one hides, is run all the same.
elsewhere = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]
spec = PathFinder.find_spec("sitecustomize", elsewhere)
if spec is not None and spec.loader is not None:
    spec.loader.exec_module(module_from_spec(spec))
