"""Memory that a training step frees stays with the process, for the next step.

glibc hands large blocks back to the system at once, and every step asks for them again: the system then fills page
after page with zeros, which takes up to half of a step. Elsewhere than on glibc nothing is changed.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and numbers of <malloc.h>


def keep_freed_memory() -> bool:
    """Large blocks come from the heap, and the heap does not shrink by itself; whether that can be said here."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Once, now: what is free in the heap is the system's again, for whoever asks how much there is."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL("libc.so.6") if platform.libc_ver()[0] == "glibc" else None
