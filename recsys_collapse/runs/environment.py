"""Which versions and hardware made a number."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "polars", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, CPU capability and threads: what can change the last bits of a number."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


def other_than(then: dict[str, Any], device: torch.device) -> str:
    """What of an earlier `environment` is not so now and can change the last bits of a number; empty if nothing is."""
    now = environment(device)
    keys = [key for key in ("device", "torch", "cpu_capability", "threads") if then.get(key) != now[key]]
    return ", ".join(f"{key} {now[key]}, then {then.get(key)}" for key in keys)
