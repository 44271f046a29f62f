"""The instruction sets that the native kernels are tested in."""

from __future__ import annotations

import ctypes
import functools
import platform
import shutil

import pytest

from tutelage.model.native import build
from tutelage.model.native.structures import declare

LEVELS = {"portable": 0, "avx2": 1, "avx512": 2}


@functools.cache
def kernels(name: str) -> tuple[ctypes.CDLL, int]:
    """The library and the level of an instruction set.

    Where the processor lacks AVX-512, its kernels run as the compiler spells their 16 lanes in AVX2, the bf16 product included.
    """
    loaded, problem = build.library()
    assert loaded is not None, problem
    best, level = declare(loaded).best_level(), LEVELS[name]
    if level <= best:
        return loaded, level
    if platform.machine() != "x86_64" or best == 0:
        pytest.skip(f"the processor has no {name} and cannot emulate it")
    compiler = next(filter(None, map(shutil.which, build.COMPILERS)))
    return declare(ctypes.CDLL(str(build.compiled(compiler, ("-DEMULATE_AVX512=1",))))), level
