"""What the process asks of the machine before torch is loaded: threads, and how memory is kept."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h of glibc


def prepare_machine() -> None:
    """Process-wide choices that must come before torch is loaded, as some commands do only when they are under way."""
    keep_big_tensors_on_heap()
    bound_primitive_caches()
    set_threads()


def keep_big_tensors_on_heap() -> bool:
    """Tell glibc to keep freed memory instead of returning every big tensor to the kernel; True if it took effect.

    Without it torch on CPU maps and faults in fresh pages for every large activation of every step (9-30% of a training
    step). Call it before the first big allocation. Does nothing outside Linux with glibc.
    """
    libc = _glibc()
    if libc is None:
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def bound_primitive_caches() -> None:
    """Let oneDNN and torch's layer over it keep 128 prepared matrix products each instead of 1,024.

    Each holds megabytes (5 MB for 1,000 rows times a 256 x 2,048 matrix in bf16). If every batch has another length, they
    are rarely reused, and memory grows for a thousand steps. Call it before the first matrix product. Existing values of
    ONEDNN_PRIMITIVE_CACHE_CAPACITY and LRU_CACHE_CAPACITY take precedence.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "128")


def set_threads() -> None:
    """One thread per CPU that this process may run on, unless OMP_NUM_THREADS says how many.

    Torch, not loaded yet, reads that variable itself, and so do the programs that this one starts.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        available = hasattr(os, "sched_getaffinity")
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)) if available else os.cpu_count() or 1)


def release_heap() -> None:
    """Return unused memory to the system, so that one stage's leftovers do not add to the next stage's peak."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc" else None
