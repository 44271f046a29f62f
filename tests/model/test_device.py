import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

from tutelage.errors import RecipeError
from tutelage.model import device


def test_pick_device():
    assert device.pick_device("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device.pick_device().type == wanted
    with pytest.raises(RecipeError, match="'gpu' is unknown: give auto"):
        device.pick_device("gpu")
    with pytest.raises(RecipeError, match="CUDA devices; give auto or cpu"):
        device.pick_device("cuda:77")


@pytest.mark.parametrize(
    ("flags", "wanted"), [("fma avx512_bf16 x", True), ("amx_bf16", True), ("avx512f bf16", False)]
)
def test_bf16_on_cpu_only_where_the_processor_has_it(monkeypatch, flags, wanted):
    monkeypatch.setattr(device.Path, "read_text", lambda self: f"flags\t: {flags}\n")
    device.cpu_has_bf16.cache_clear()
    try:
        assert device.cpu_has_bf16() is wanted
        assert device.autocast_dtype("cpu") == (torch.bfloat16 if wanted else torch.float32)
        assert device.autocast_dtype("cpu", "bf16") == torch.bfloat16  # an explicit setting is obeyed
    finally:
        device.cpu_has_bf16.cache_clear()


def test_autocast_casts_or_does_nothing():
    x = torch.ones(2, 2)
    with device.autocast("cpu", "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with device.autocast("cpu", "fp32"):
        assert (x @ x).dtype == torch.float32
    with pytest.raises(RecipeError, match="precision 'fp16' is unknown"):
        device.autocast("cpu", "fp16")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_big_tensors_stay_on_the_heap():
    """In a separate process, since it cannot be undone. mallinfo2 counts mmap'd blocks."""
    script = """
import ctypes, torch
from tutelage.model.device import keep_big_tensors_on_heap
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc = ctypes.CDLL(None); libc.mallinfo2.restype = Info
def mapped():
    before = libc.mallinfo2().hblkhd
    x = torch.empty(16 << 20)
    return libc.mallinfo2().hblkhd - before
print(mapped(), keep_big_tensors_on_heap(), mapped())
"""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("glibc before 2.33 has no mallinfo2")
    before, done, after = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.split()
    assert int(before) >= 64 << 20
    assert done == b"True"
    assert int(after) == 0


@pytest.mark.parametrize(("bounded", "outcome"), [(False, "cache_hit"), (True, "cache_miss")])
def test_prepared_products_beyond_the_bound_are_dropped(bounded, outcome):
    """bf16 products of 200 shapes, then an early one again: oneDNN says whether it still has it. A process each."""
    script = """
import sys, torch
from tutelage.model.device import bound_primitive_caches
if sys.argv[1] == "True":
    bound_primitive_caches()
weight, rows = torch.ones(64, 32, dtype=torch.bfloat16), torch.ones(300, 32, dtype=torch.bfloat16)
for length in [*range(100, 300), 101]:
    print("length", length, flush=True)
    torch.nn.functional.linear(rows[:length], weight)
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("CACHE_CAPACITY")}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    command = [sys.executable, "-c", script, str(bounded)]
    output = subprocess.run(command, capture_output=True, check=True, env=environment, text=True).stdout
    last = output.rpartition("length 101\n")[2]
    if "create:" not in last:
        pytest.skip("torch does not multiply with oneDNN on this processor: nothing to bound")
    assert f"create:{outcome}" in last


def test_set_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "7")  # torch read it at import: no change
        device.set_threads()
        assert torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
        device.set_threads()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
