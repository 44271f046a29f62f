"""Runs programs behind a wall: one with `run`, many side by side with `run_all`. An outcome never raises; a missing wall does."""

from __future__ import annotations

import json
import logging
import marshal
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from tutelage.errors import SandboxError
from tutelage.sandbox.filter import filter_program
from tutelage.sandbox.programs import Check, Ending, Limits, Outcome, Program
from tutelage.sandbox.walls import ENVIRONMENT, Wall, bubblewrap, check_platform, python, readable, real_root

_INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
_GLANCE = 0.05
"""Seconds between two looks at the number of files."""
_LEAVE = 10.0
"""Seconds within which all processes of a run that was ended must be gone."""
_DESCRIPTORS = 64
_LAST_LINES = {
    "MemoryError": Ending.MEMORY,
    "OSError: [Errno 12]": Ending.MEMORY,
    "OSError: [Errno 27]": Ending.DISK,
    "OSError: [Errno 28]": Ending.DISK,
    "BlockingIOError: [Errno 11]": Ending.PROCESSES,
    "RuntimeError: can't start new thread": Ending.PROCESSES,
}
_log = logging.getLogger("tutelage.sandbox")


def run(work: Program | Check, limits: Limits = Limits(), wall: Wall | None = None) -> Outcome:  # noqa: B008 - frozen
    """Run a program, or the tests of one, and say how it ended. ``wall`` is `standing_wall` unless given.

    Raises SandboxError where the wall does not hold; then nothing of the program has run.
    """
    wall = wall or standing_wall()
    check_platform(wall, limits)
    with ExitStack() as stack:
        began = time.monotonic()
        running = _Running(stack, work, limits, wall)
        try:
            ending = running.watch(began + limits.seconds)
        finally:
            running.end()
        seconds = time.monotonic() - began
        stdout, stderr = (
            running.written[name][: limits.output].decode("utf-8", "replace") for name in ("stdout", "stderr")
        )
        if ending is None and not running.written["ready"]:
            raise SandboxError(
                f"the wall {wall} does not hold here: {(stderr.strip() or 'no reason given').splitlines()[-1]}"
            )
        if ending is None and running.excess():
            ending = Ending.OUTPUT
        code = None if ending else running.code()
        return Outcome(ending or _ending(code or 0, stderr, seconds, limits), code, stdout, stderr, seconds)


def run_all(
    works: Iterable[Program | Check],
    limits: Limits = Limits(),  # noqa: B008 - frozen
    wall: Wall | None = None,
    workers: int | None = None,
) -> list[Outcome]:
    """`run` each, ``workers`` at a time (by default one per processor); outcomes in the order of ``works``."""
    wall = wall or standing_wall()
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    try:
        return list(pool.map(partial(run, limits=limits, wall=wall), works))
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def standing_wall() -> Wall:
    """The strongest wall that holds on this machine, found by trying, once per process. Raises SandboxError where none does."""
    refusals: list[str] = []
    for wall in Wall:
        try:
            outcome = run(Program("print(6 * 7)"), Limits(seconds=60.0), wall)
            if outcome.stdout == "42\n":
                _log.log(
                    logging.WARNING if refusals else logging.INFO,
                    "%s",
                    "; ".join([*refusals, f"code runs behind {wall}"]),
                )
                return wall
            refusals.append(f"{wall}: a trial was {outcome.ending}")
        except SandboxError as error:
            refusals.append(str(error))
    raise SandboxError(
        f"no code is run, for nothing here would hold it: {'; '.join(refusals)}. Install bubblewrap 0.8 or newer and "
        "allow user namespaces, or use a kernel with seccomp and Landlock (Linux 5.13 or newer)"
    )


class _Running:
    """The processes of one run, and what they have written so far. Whoever makes one calls `end`."""

    def __init__(self, stack: ExitStack, work: Program | Check, limits: Limits, wall: Wall) -> None:
        self.stack, self.limits, self.wall = stack, limits, wall
        self.selector = stack.enter_context(selectors.DefaultSelector())
        self.written = {name: bytearray() for name in ("stdout", "stderr", "ready", "info")}
        folder = None if wall is Wall.BUBBLEWRAP else stack.enter_context(tempfile.TemporaryDirectory(prefix="run-"))
        with ExitStack() as theirs:  # descriptors that the processes of the run alone shall hold
            stdout, stderr, ready, info = (self._pipe(name, theirs) for name in self.written)
            stdin = _memory_file(work.stdin if isinstance(work, Program) else b"", theirs)
            jobs = [_memory_file(marshal.dumps(job), theirs) for job in _jobs(work, limits, wall, folder)]
            command, passed = python(_INSIDE, ready, *jobs), [ready, *jobs]
            if wall is Wall.BUBBLEWRAP:
                code = _memory_file(filter_program(alone=False), theirs)
                command, passed = [*bubblewrap(limits, code, info), *command], [*passed, code, info]
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=passed, env=ENVIRONMENT, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
            self.process = stack.enter_context(process)
        self.handle = self._watch_process(process.pid)

    def _pipe(self, name: str, theirs: ExitStack) -> int:
        """The end to write to of a new pipe that we read."""
        read, write = os.pipe()
        self.stack.callback(os.close, read)
        theirs.callback(os.close, write)
        self.selector.register(read, selectors.EVENT_READ, name)
        return write

    def _watch_process(self, number: int) -> int:
        """A handle of a process, which wakes the selector when it ends."""
        handle = os.pidfd_open(number)
        self.stack.callback(os.close, handle)
        self.selector.register(handle, selectors.EVENT_READ)
        return handle

    def _read(self, timeout: float) -> bool:
        """Read what there is to read; whether a process that is watched has ended."""
        ended = False
        for key, _ in self.selector.select(timeout):
            chunk = os.read(key.fd, 1 << 16) if key.data else b""
            if chunk:
                self.written[key.data] += chunk
            else:  # a pipe's or a process's end
                self.selector.unregister(key.fd)
                ended |= key.data is None
        return ended

    def watch(self, deadline: float) -> Ending | None:
        """Wait for the run's own end (None), or until it breaks a limit."""
        while (left := deadline - time.monotonic()) > 0:
            if self._read(min(left, _GLANCE)):
                return None
            if self.excess():
                return Ending.OUTPUT
            if self.written["ready"] and self._files() > self.limits.files:
                return Ending.DISK
        return Ending.TIME

    def excess(self) -> bool:
        return len(self.written["stdout"]) + len(self.written["stderr"]) > self.limits.output

    def _init(self) -> int:
        """The number of the first process within bubblewrap, which ends with all others; 0 if there is none to be known."""
        return int(json.loads(self.written["info"])["child-pid"]) if self.written["info"] else 0

    def _files(self) -> int:
        """Files of the working folder, as its file system counts them: their number alone could fill the kernel's memory."""
        if init := self._init():
            with suppress(OSError):  # it has just ended
                folder = os.statvfs(f"/proc/{init}/root/tmp")
                return folder.f_files - folder.f_ffree
        return 0

    def end(self) -> None:
        """Kill all processes, and wait until they are gone and what they wrote is read."""
        with suppress(ProcessLookupError):
            if self.wall is Wall.BUBBLEWRAP:
                self.process.kill()
                if init := self._init():
                    signal.pidfd_send_signal(self._watch_process(init), signal.SIGKILL)
            else:  # nothing leaves the group, whose number is taken as long as we have not waited for its leader
                os.killpg(self.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + _LEAVE
        while self.selector.get_map():
            if time.monotonic() > deadline:
                raise SandboxError(f"processes of a run behind the wall {self.wall} did not end when killed")
            self._read(_GLANCE)

    def code(self) -> int:
        """The exit code, negative for a signal. bubblewrap and the tests of a check add 128 to a signal, as a shell does."""
        code = self.process.wait()
        return 128 - code if 128 < code <= 128 + signal.SIGRTMAX else code


def _memory_file(content: bytes, theirs: ExitStack) -> int:
    """A file without a name, to be read from its start."""
    descriptor = os.memfd_create("run")
    theirs.callback(os.close, descriptor)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _jobs(work: Program | Check, limits: Limits, wall: Wall, folder: str | None) -> list[dict[str, Any]]:
    """What `inside` reads: for a check the tests' job and the program's."""
    walled, user = wall is Wall.BUBBLEWRAP, 0
    if walled and real_root():
        user = 0x60000000 + secrets.randbelow(1 << 24)  # a number per run, for the kernel counts a user's processes
    others = (walled and not user) + isinstance(work, Check)  # bubblewrap's own process, and the tests'
    common: dict[str, Any] = {
        "user": user,
        "files": {},
        "limits": {
            "AS": limits.memory,
            "CPU": limits.cpu_seconds,
            "FSIZE": limits.disk,
            "NPROC": limits.processes + others if limits.processes > 1 else 0,
            "NOFILE": _DESCRIPTORS,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        },
        "filter": b"" if walled else filter_program(alone=True),
        "readable": [*readable(), os.devnull, *([folder] if folder else [])],
    }
    if isinstance(work, Check):
        return [
            common | {"tests": work.tests, "setup": work.setup, "names": list(work.names)},
            common | {"source": work.source},
        ]
    return [common | {"source": work.source, "arguments": list(work.arguments), "files": dict(work.files)}]


def _ending(code: int, stderr: str, seconds: float, limits: Limits) -> Ending:
    """How a run ended that was not stopped."""
    if code == 0:
        return Ending.OK
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and seconds >= limits.cpu_seconds):  # SIGXCPU can be ignored
        return Ending.TIME
    if code < 0:
        return Ending.DISK if code == -signal.SIGXFSZ else Ending.KILLED
    last = stderr.rstrip().rpartition("\n")[2]
    for start, ending in _LAST_LINES.items():
        # Where there are too many processes, others write after the one that says so.
        if last.startswith(start) or (ending is Ending.PROCESSES and f"\n{start}" in f"\n{stderr}"):
            return ending
    return Ending.FAILED
