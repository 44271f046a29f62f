"""The machine that figures are from, and how fast it is at the moment."""

from __future__ import annotations

import os
import platform
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Instructions that the kernels of one participant or another use."""
PRODUCTS = 3


def describe() -> dict[str, Any]:
    """Processor, its flags, cores, memory, system, load; nothing that identifies the machine."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name, flags = (re.search(rf"^{key}\s*:\s*(.+)$", info, re.M) for key in ("model name", "flags"))
    has = flags[1].split() if flags else []
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in has],
        "cores": os.cpu_count(),
        "threads": threads(),
        "memory_gib": round(pages / 2**30),
        "system": platform.system(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }


def threads() -> int:
    """What every participant gets: OMP_NUM_THREADS, or as many as CPUs that this process may run on."""
    if given := os.environ.get("OMP_NUM_THREADS"):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def speed() -> float:
    """GFLOP/s of a fixed matrix product, the fastest of ``PRODUCTS``: 20 to 50 ms before and after each turn."""
    left, right = _factors()
    best = 1e9
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * left.shape[0] ** 3 / best / 1e9


@cache
def _factors() -> tuple[Any, Any]:
    import torch  # not for those who only want the number of cores

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(1024, 1024, generator=generator) for _ in range(2))
    left @ right
    return left, right
