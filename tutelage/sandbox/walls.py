"""The walls that a run is put behind.

**bubblewrap** gives a run namespaces of its own: processes, IPC, host names, an empty network, users; a file system that has
Python and the system's libraries, read-only, and an empty folder /tmp of bounded size; no /proc, and no device but /dev/null;
no capabilities. All its processes end when it ends, or its caller. Where the caller is root, a run is not root in a namespace
of users, which to the kernel would still be root, exempt from limits of processes; it becomes a user whose number nobody else
has.

**seccomp** is for places that forbid namespaces, such as most containers. The process seals itself: Landlock (Linux 5.13 and
later) leaves it Python, the system's libraries and its working folder to read, and no file to write; a filter refuses
sockets, other programs, forks and threads, signals to anybody, tracing, and changes of files' owners, modes and times;
capabilities are dropped. This wall is weaker: the process is the caller's user, and learns which files exist, their sizes and
times (stat); it shares the caller's space of process numbers, and the kernel's whole remaining interface lies open to it. A
program that writes files, or starts a thread, fails behind it.

Both limit time, memory, descriptors and output, and refuse the calls of `filter`. Neither keeps a program from knowing the
time, nor from exploiting a flaw of the kernel or the processor: for people who attack on purpose, take a machine of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from enum import StrEnum
from functools import cache
from pathlib import Path

from tutelage.errors import SandboxError
from tutelage.sandbox.filter import known_machine
from tutelage.sandbox.programs import Limits


class Wall(StrEnum):
    """The stronger first."""

    BUBBLEWRAP = "bubblewrap"
    SECCOMP = "seccomp"


ENVIRONMENT = {"HOME": "/tmp", "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
"""All that a run finds in its environment."""
_NAMESPACES = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try")


def check_platform(wall: Wall, limits: Limits) -> None:
    """Raise SandboxError where the wall cannot stand, for reasons known before trying."""
    if sys.platform != "linux" or not known_machine():
        raise SandboxError("code that nobody trusts is run on Linux only, on x86_64 or aarch64")
    if wall is Wall.BUBBLEWRAP and shutil.which("bwrap") is None:
        raise SandboxError("there is no program bwrap: install bubblewrap 0.8 or newer (apt install bubblewrap)")
    if wall is Wall.SECCOMP and limits.processes > 1:
        raise SandboxError(f"the wall seccomp holds one process: processes={limits.processes} needs bubblewrap")


@cache
def real_root() -> bool:
    """Whether this process is root to the kernel, not only in a namespace of users, as in a container of an ordinary user."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


@cache
def _python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def readable() -> tuple[str, ...]:
    """The folders and files that Python needs, those of the interpreter that a virtual environment is made from."""
    own = [os.path.join(os.path.realpath(sys.base_prefix), folder) for folder in ("lib", sys.platlibdir)]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    return tuple(path for path in dict.fromkeys(own + system) if os.path.exists(path))


def python(code: str, *descriptors: int) -> list[str]:
    """The command that runs ``code`` without site-packages and without writing bytecode."""
    return [_python(), "-S", "-s", "-B", "-P", "-c", code, *map(str, descriptors)]


def bubblewrap(limits: Limits, code: int, info: int) -> list[str]:
    """The command before Python's own. ``code`` is the filter's descriptor, ``info`` that of bubblewrap's report."""
    paths = (*readable(), _python())
    above = dict.fromkeys(str(folder) for path in paths for folder in reversed(Path(path).parents[:-1]))
    shown = [
        part for folder in above if folder not in paths for part in ("--dir", folder)
    ]  # else only root could enter them
    shown += ["--dir", "/dev"]
    for path in paths:
        link = os.path.islink(path)  # /lib is a link to usr/lib on many systems
        shown += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    root = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    user = root if real_root() else ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    folder = ["--perms", "0777", "--size", str(limits.disk), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [
        *(
            shutil.which("bwrap") or "bwrap",
            *shown,
            "--dev-bind",
            os.devnull,
            os.devnull,
            *folder,
            "--remount-ro",
            "/",
            *_NAMESPACES,
            *user,
        ),
        *(
            "--hostname",
            "sandbox",
            "--new-session",
            "--die-with-parent",
            "--seccomp",
            str(code),
            "--info-fd",
            str(info),
            "--",
        ),
    ]
