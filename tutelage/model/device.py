"""What depends on the machine: device, mixed precision, threads, memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import platform
import re
import resource
import sys
from pathlib import Path

import torch

from tutelage.errors import RecipeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: CUDA, then Apple's mps, then cpu. RecipeError if the device that ``name`` asks for is not there."""
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
    """Whether the processor multiplies bf16 itself. Elsewhere bf16 is emulated and slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) is not None


def autocast_dtype(device: torch.device | str, precision: str = "auto") -> torch.dtype:
    """The type that ``autocast`` computes in on this device: bfloat16 or float32."""
    if precision not in ("auto", "bf16", "fp32"):
        raise RecipeError(f"precision {precision!r} is unknown: give auto, bf16 or fp32")
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    kind = torch.device(device).type
    gains = cpu_has_bf16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.bfloat16 if gains else torch.float32


def autocast(device: torch.device | str, precision: str = "auto") -> contextlib.AbstractContextManager[object]:
    """A context for forwards: bf16 autocast, or nothing. ``auto`` uses bf16 where the machine has it in hardware."""
    if autocast_dtype(device, precision) == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def keep_big_tensors_on_heap() -> bool:
    """Tell glibc to keep freed memory instead of returning every big tensor to the kernel; True when it took effect.

    Without it torch on CPU maps and faults in fresh pages for every large activation of every step (9-30% of a training
    step). Call it before the first big allocation. No-op outside glibc Linux.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def bound_primitive_caches() -> None:
    """Let oneDNN and torch's layer over it keep 128 prepared matrix products each instead of 1,024.

    Each holds megabytes of its own (5 MB for 1,000 rows times a 256 x 2,048 matrix in bf16). Where every batch has another length
    they are hardly used again, and the process grows for a thousand steps. Call it before the first matrix product. What
    ONEDNN_PRIMITIVE_CACHE_CAPACITY and LRU_CACHE_CAPACITY say already holds.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "128")


def release_heap() -> None:
    """Give memory that no tensor uses back to the system: between stages, what one leaves behind would add to the next's peak."""
    gc.collect()
    if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def peak_rss_gib() -> float:
    """The most memory this process has held so far, in GiB (resident, so without what lies on a GPU).

    On Linux of its own memory alone: getrusage also counts what the process that started it held at that moment.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M):
            return int(found[1]) / (1 << 20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)  # macOS counts bytes, Linux KiB


def set_threads(count: int | None = None) -> int:
    """Use this many threads for tensor work on the CPU; returns how many.

    None: what OMP_NUM_THREADS says, which torch read when it was imported, or as many as this process may run on.
    """
    if count is not None and count < 1:
        raise RecipeError(f"threads must be at least 1, not {count}")
    if count is None and "OMP_NUM_THREADS" not in os.environ:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()
