"""Freed memory that stays with the process, and goes back when somebody asks how much there is."""

import platform
import subprocess
import sys

import pytest

from recsys_collapse import heap

SCRIPT = """
import resource, torch
from recsys_collapse.heap import give_back_freed_memory, keep_freed_memory
if {keep}:
    assert keep_freed_memory()
pages = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.empty(millions * 1_000_000).fill_(1.0) for millions in (12, 15, 25)]
    del blocks
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
held = resident()
give_back_freed_memory()
print(sum(pages[4:]), held - resident())
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")


def pages_and_given_back(keep: bool) -> list[int]:
    """Page faults of four rounds with blocks of 208 MB, and bytes that the process then gives back."""
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@on_glibc
def test_freed_blocks_are_used_again_until_they_are_given_back() -> None:
    kept, given_back = pages_and_given_back(True)
    assert given_back > 200e6
    faults, given_back = pages_and_given_back(False)  # as it is otherwise: 208 MB new in each of four rounds
    assert given_back < 50e6
    assert kept < 0.3 * faults, "a block may still be new, where the one it had is not quite large enough"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_freed_memory()
    heap.give_back_freed_memory()
