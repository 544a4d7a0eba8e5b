"""Memory: what training takes, told before anything is allocated, and what there is."""

from recsys_collapse.memory.check import check_memory
from recsys_collapse.memory.free import free_memory
from recsys_collapse.memory.need import PROCESS, Memory, memory_of, needed

__all__ = ["PROCESS", "Memory", "check_memory", "free_memory", "memory_of", "needed"]
