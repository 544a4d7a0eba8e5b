"""The quick part of the fault harness (`tests/faults.py`); `make test-faults` tries every operation."""

import os
import re
import subprocess
import sys

import pytest

from tests.cli import ROOT
from tests.faults import KINDS, SABOTAGES

SUMMARY = (
    r"(\d+) fault points tried, runs lost (\d+), runs repeated beyond one epoch (\d+), results that differ (\d+) \("
)


def harness(*options: str) -> tuple[int, str]:
    """Exit code and output of the harness, in a process of its own: it forks before polars and torch have threads."""
    words = [sys.executable, "-m", "tests.faults", "--workers", "1", *options]
    done = subprocess.run(words, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_lost_repeated_or_different() -> None:
    code, said = harness("--points", "12")
    ((tried, *wrong),) = re.findall(SUMMARY, said)
    assert (code, tried, wrong) == (0, "12", ["0", "0", "0"]), said
    (codes,) = re.findall(r"exit codes of the command that was hit: (\{.*\})", said)
    hit = {tuple(word.split()) for word in re.findall(r"'(\w+ -?\d+)'", codes)}
    assert {kind for kind, _ in hit} == set(KINDS)
    assert {("kill", "-9"), ("short", "-9"), ("enospc", "75")} <= hit, "the faults were none"


@pytest.mark.slow
def test_the_harness_notices_what_is_broken() -> None:
    """Dropout that is not seeded by the epoch, a run that starts over, a run that is believed to be finished."""
    code, said = harness("--points", "1", "--kinds", "kill", "--sabotage", *SABOTAGES)
    found = dict(zip(SABOTAGES, re.findall(SUMMARY, said), strict=True))
    assert code == 1 and {tried for tried, *_ in found.values()} == {"1"}, said
    noticed = {name: [int(number) > 0 for number in wrong] for name, (_, *wrong) in found.items()}
    assert noticed["seed"] == [False, False, True], said
    assert noticed["restart"] == [False, True, False], said
    assert noticed["believe"][0], said
