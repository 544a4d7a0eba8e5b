"""One thread per test process: two xdist workers with two threads each wait for each other on two cores.

And no network, here and in every Python process that a test starts.
"""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import NO_NETWORK, python_path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the subprocesses of the tests
os.environ.pop("WANDB_MODE", None)
os.environ["PYTHONPATH"] = python_path(*filter(None, [os.environ.get("PYTHONPATH")]))
sys.path.append(str(NO_NETWORK))
import block_network  # which is what blocks


@pytest.fixture(autouse=True)
def no_handler_left() -> Iterator[None]:
    """A command that is called in a test lets the root logger write to a stream that is closed with the test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler and one not in before]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where attempts to reach another machine are written. A test that leaves one there fails, whoever caught it."""
    path = Path(os.environ.setdefault(block_network.FILE, str(tmp_path_factory.getbasetemp() / "attempts")))
    path.write_text("")
    yield path
    assert path.read_text() == ""
