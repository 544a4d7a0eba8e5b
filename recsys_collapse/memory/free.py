"""How much memory can be had: of a GPU, of the machine, or of the control group that this process is in."""

import gc
from pathlib import Path

import torch

from recsys_collapse.heap import give_back_freed_memory

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of a control group: its limit, what it uses, and the line of memory.stat that tells what the system can take back.
FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(accelerator: str, wanted: int = 0) -> int | None:
    """Bytes that can be had where a run trains: on the GPU, or of the machine; None where the system does not say.

    Of the machine: what is available, or what a control group (a container, a batch job) has left, if that is less.
    If that is less than `wanted`, what the run before this one in the process left is cleared away first, which takes
    half a second.
    """
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    found = _on_gpu() if on_gpu else _on_machine()
    if found is None or found >= wanted:
        return found
    gc.collect()
    return _on_gpu() if on_gpu else _on_machine()


def _on_gpu() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _on_machine() -> int | None:
    give_back_freed_memory()
    found = [*_available(), *_left_in_groups()]
    return min(found) if found else None


def _available() -> list[int]:
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]


def _left_in_groups() -> list[int]:
    """What every group above this process has left. A container may see its own group as the root."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        version, top = (1, GROUPS / "memory") if controllers else (2, GROUPS)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            found += _left(folder, version)
            if folder == top:
                break
    return found


def _left(folder: Path, version: int) -> list[int]:
    limit, usage, evictable = FILES[version]
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or its root, which has no limit
        return []
    return [] if most == "max" else [max(0, int(most) - used + int(stat.get(evictable, 0)))]
