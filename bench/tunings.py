"""What makes torch faster on a CPU and is no peer's default; nothing here is of tutelage, so peers' environments can import it."""

from __future__ import annotations

import ctypes
import platform
import sys


def keep_big_tensors_on_heap() -> None:
    """ "mallopt": glibc keeps freed memory instead of mapping every big tensor anew; 9 to 30% of a training step.

    Nothing outside Linux with glibc.
    """
    if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
