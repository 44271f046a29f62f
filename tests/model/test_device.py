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
        assert device.autocast_dtype("cpu", "bf16") == torch.bfloat16  # what was asked for is done
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
    """In a process of its own, since it cannot be undone: mmap'd blocks are counted by mallinfo2."""
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
        pytest.skip("glibc before 2.33 cannot be asked")
    before, done, after = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.split()
    assert int(before) >= 64 << 20
    assert done == b"True"
    assert int(after) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_products_of_many_shapes_do_not_pile_up():
    """Memory held after one bf16 product each of 400 shapes, with the caches as they come and bounded; a process each."""
    script = """
import re, sys, torch
from tutelage.model.device import bound_primitive_caches, keep_big_tensors_on_heap
def held(): return int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1]) >> 10
keep_big_tensors_on_heap()
if sys.argv[1] == "bounded":
    bound_primitive_caches()
weight, rows = torch.ones(2048, 256, dtype=torch.bfloat16), torch.ones(1500, 256, dtype=torch.bfloat16)
torch.nn.functional.linear(rows, weight)
before = held()
for length in range(1000, 1400):
    torch.nn.functional.linear(rows[:length], weight)
print(held() - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("CACHE_CAPACITY")}
    free, bounded = (
        int(
            subprocess.run([sys.executable, "-c", script, how], capture_output=True, check=True, env=environment).stdout
        )
        for how in ("free", "bounded")
    )
    if free < 500:
        pytest.skip(f"products of 400 shapes hold {free} MiB on this processor: nothing to bound")
    assert bounded < 0.7 * free


def test_peak_memory_is_what_this_process_itself_has_held():
    """Whatever the process that starts it holds: 1 GiB here."""
    inner = (
        "from tutelage.model.device import peak_rss_gib; import torch\n"
        "before = peak_rss_gib(); block = torch.ones(80 << 20); del block; print(before, peak_rss_gib())"
    )
    outer = f"import subprocess, sys; held = b'x' * (1 << 30); subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    run = subprocess.run([sys.executable, "-c", outer], capture_output=True, check=True)
    before, after = map(float, run.stdout.split())
    assert 0.05 < before < 0.9
    assert before + 0.3 < after < before + 0.4  # 0.3125 GiB


def test_set_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert device.set_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "7")  # torch has read it long ago: left as it is
        assert device.set_threads() == torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
        assert device.set_threads() == torch.get_num_threads() == 2
        with pytest.raises(RecipeError, match="at least 1"):
            device.set_threads(0)
    finally:
        torch.set_num_threads(before)
