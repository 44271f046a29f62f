"""What a process asks of the machine, each time in one of its own."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_big_tensors_stay_on_the_heap():
    """In a separate process, since it cannot be undone. mallinfo2 counts mmap'd blocks."""
    script = """
import ctypes, torch
from tutelage.machine import keep_big_tensors_on_heap
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
from tutelage.machine import bound_primitive_caches
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


@pytest.mark.parametrize("wanted", ["", "1"])
def test_every_command_is_prepared_before_torch_is_loaded(wanted):
    """`reproduce` and `loop run` load torch when they are under way."""
    script = """
import os, sys
from tutelage.cli.app import run_command
run_command(["reproduce"])
print("torch" in sys.modules, os.environ["OMP_NUM_THREADS"], os.environ["LRU_CACHE_CAPACITY"])
import torch
print(torch.get_num_threads(), len(os.sched_getaffinity(0)))
"""
    unset = ("OMP_NUM_THREADS", "LRU_CACHE_CAPACITY")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | (
        {"OMP_NUM_THREADS": wanted} if wanted else {}
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment, text=True)
    *_, before, after = output.stdout.splitlines()
    threads, cpus = after.split()
    assert before == f"False {wanted or cpus} 128"
    assert threads == (wanted or cpus)
