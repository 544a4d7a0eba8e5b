"""One thread per test process: two xdist workers with two threads each wait for each other on two cores.

And no network, here and in every Python process that a test starts.
"""

import os
import sys
from collections.abc import Iterator

import pytest

from tests.cli import NO_NETWORK, python_path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the subprocesses of the tests
os.environ.pop("WANDB_MODE", None)
os.environ["PYTHONPATH"] = python_path(*filter(None, [os.environ.get("PYTHONPATH")]))
sys.path.append(str(NO_NETWORK))
import block_network  # which is what blocks


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """A test whose process tried to reach another machine fails, also if the error was caught."""
    block_network.attempts.clear()
    yield
    tried, block_network.attempts[:] = [*block_network.attempts], []
    assert tried == []
