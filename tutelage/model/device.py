"""What depends on the machine: device, mixed precision and memory."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

import torch

from tutelage.errors import RecipeError

_CONTAINER = Path("/sys/fs/cgroup")
"""Where a container sees its own limits."""


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


def memory_of(device: torch.device) -> tuple[int | None, int | None]:
    """Free memory of the device and all of it [bytes]; in a container (cgroups v2), of what it may have. None: nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    free, whole = (kib.get(name) for name in ("MemAvailable", "MemTotal"))
    free, whole = free and free * 1024, whole and whole * 1024
    try:
        limit, used = (int((_CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # ValueError: no limit, which reads max
        return free, whole
    left = max(0, limit - used)
    return left if free is None else min(free, left), limit if whole is None else min(whole, limit)
