"""What depends on the machine: device, mixed precision, threads, memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import platform
import re
import sys
from pathlib import Path

import torch

from tutelage.errors import RecipeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h of glibc


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: CUDA, then Apple's mps, then cpu. RecipeError if ``name`` is unknown or not available."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device {name!r} is unknown: give auto, cpu, cuda, cuda:0 or mps") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise RecipeError(f"device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices; give auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("device 'mps': torch finds no Apple GPU here; give auto or cpu")
    return device


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 products. Otherwise bf16 is emulated and slower than fp32."""
    return _cpu_has("avx512_bf16|amx_bf16")


@functools.cache
def cpu_has_amx() -> bool:
    """Whether the processor has Intel's matrix instructions for bf16."""
    return _cpu_has("amx_bf16")


def _cpu_has(flags: str) -> bool:
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(rf"\b({flags})\b", known) is not None


def autocast_dtype(device: torch.device | str, precision: str = "auto") -> torch.dtype:
    """The compute type of ``autocast`` on this device: bfloat16 or float32."""
    if precision not in ("auto", "bf16", "fp32"):
        raise RecipeError(f"precision {precision!r} is unknown: give auto, bf16 or fp32")
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    kind = torch.device(device).type
    gains = cpu_has_bf16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.bfloat16 if gains else torch.float32


def autocast(device: torch.device | str, precision: str = "auto") -> contextlib.AbstractContextManager[object]:
    """A context for forwards: bf16 autocast or none. ``auto`` uses bf16 where the hardware supports it."""
    if autocast_dtype(device, precision) == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc" else None


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


def release_heap() -> None:
    """Return unused memory to the system, so that one stage's leftovers do not add to the next stage's peak."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


def set_threads() -> None:
    """Use one thread per CPU that this process may run on, unless OMP_NUM_THREADS says how many: torch reads it itself."""
    if "OMP_NUM_THREADS" not in os.environ:
        available = hasattr(os, "sched_getaffinity")
        torch.set_num_threads(len(os.sched_getaffinity(0)) if available else os.cpu_count() or 1)
