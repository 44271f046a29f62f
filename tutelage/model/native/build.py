"""Compiles the C++ beside this file at first use, with the system's compiler, and loads it.

Libraries are kept in the user's cache folder (``$XDG_CACHE_HOME/tutelage/native``, by default ``~/.cache/tutelage/native``), by the
hash of the source, the compiler and its flags; loading one takes milliseconds. torch's own loader for extensions is not used: it
needs ninja, and a source without torch's headers needs no more than a call of the compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from tutelage.files import atomic_path, cache_folder

SOURCE = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wno-psabi"),
    # Products and sums may fuse, errno and floating-point traps are not used; nothing else that changes results.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and a sentence that says why there is none. Compiles it if that has not been done on this machine."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None, f"no C++ compiler found ({', '.join(COMPILERS)})"
    try:
        return ctypes.CDLL(str(compiled(compiler))), ""
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} could not compile it: {_first_error(error)}"


def compiled(compiler: str, defines: Sequence[str] = ()) -> Path:
    """The path of the library, compiled unless it is in the cache. OSError or SubprocessError if that fails."""
    path = cache_folder("native") / f"{_key(compiler, defines)}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_suffix(".lock")):
        if not path.exists():  # another process may have been first
            print("compiling the native decoder, once on this machine ...", file=sys.stderr, flush=True)
            with atomic_path(path) as temporary:
                _compile(compiler, defines, temporary)
    return path


def _key(compiler: str, defines: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted((*SOURCE.glob("*.h"), *SOURCE.glob("*.cpp"))):
        digest.update(path.read_bytes())
    about = os.stat(compiler)
    facts = (compiler, about.st_size, about.st_mtime_ns, platform.machine(), *FLAGS, *defines, _openmp())
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


def _compile(compiler: str, defines: Sequence[str], target: Path) -> None:
    """Compile and link. Threads come from the OpenMP library that torch has loaded: with two of them in one process, each would
    keep threads of its own that wait in a loop and take time from the others'. Where that library does not suit the compiler (clang
    and GNU's), or there is none, the decoder has one thread."""
    command = [compiler, *FLAGS, *defines, str(SOURCE / "decode.cpp")]
    openmp, unit = _openmp(), target.with_suffix(".o")
    attempts = [(["-fopenmp"], [openmp, "-Wl,--no-undefined"])] if openmp else []
    attempts.append(([], []))
    try:
        for number, (compile_flags, link_flags) in enumerate(attempts):
            try:
                _run([*command, *compile_flags, "-c", "-o", str(unit)])
                _run([compiler, "-shared", str(unit), *link_flags, "-o", str(target)])
                return
            except subprocess.CalledProcessError:
                if number + 1 == len(attempts):
                    raise
    finally:
        unit.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


def _openmp() -> str:
    """The OpenMP library that torch has loaded; empty if there is none. Wheels bring their own, and other packages theirs."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return ""
    found = re.findall(r"/\S*/lib(?:gomp|iomp5|omp)\b\S*", mapped)
    site = str(Path(torch.__file__).resolve().parent)  # torch/lib, or torch.libs beside it
    return next((path for path in found if path.startswith(site)), found[0] if found else "")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two processes do not compile at once; where there is no flock, as on Windows, both do."""
    with path.open("w") as file:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_error(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)
