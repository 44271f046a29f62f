"""Programs that try to get out, to break something, or to use the machine up; each prints "escaped" where it succeeds.

Each runs behind both walls. A file, sockets, the environment and a process of the caller's are within reach of a program without
a wall: `test_the_attempts_work_without_a_wall` shows it.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.errors import SandboxError
from tutelage.sandbox.programs import Ending, Limits, Outcome, Program
from tutelage.sandbox.run import run
from tutelage.sandbox.walls import Wall

B, S = Wall.BUBBLEWRAP, Wall.SECCOMP
OK, FAILED, KILLED, TIME = Ending.OK, Ending.FAILED, Ending.KILLED, Ending.TIME
MEMORY, DISK, PROCESSES, OUTPUT = Ending.MEMORY, Ending.DISK, Ending.PROCESSES, Ending.OUTPUT
SHORT = Limits(seconds=20.0, cpu_seconds=1)
C = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"

# fmt: off
EXHAUSTIONS: dict[str, tuple[str, tuple[set[Ending], set[Ending]]]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", ({PROCESSES}, {PROCESSES})),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        ({PROCESSES}, {PROCESSES}),
    ),
    "memory in a list": ("x = []\nwhile True: x.append(bytearray(1 << 20))", ({MEMORY}, {MEMORY})),
    "memory in a map": ("import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(64)]", ({MEMORY}, {MEMORY})),
    "memory in files without names": ("import os\nos.memfd_create('x')", ({FAILED}, {FAILED})),
    "one large file": ("f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", ({DISK}, {FAILED})),
    "disk in several files": (
        "for i in range(99): open(str(i), 'wb').write(bytes(1 << 20))",
        ({DISK}, {FAILED}),
    ),
    "many files": ("import itertools\nfor i in itertools.count(): open(str(i), 'w').close()", ({DISK}, {FAILED})),
    "many descriptors": ("import os\nwhile True: os.dup(0)", ({FAILED}, {FAILED})),
    "endless stdout": ("while True: print('x' * 100)", ({OUTPUT}, {OUTPUT})),
    "endless stderr": ("import os\nwhile True: os.write(2, b'x\\n')", ({OUTPUT}, {OUTPUT})),
    "no newline": ("import os\nwhile True: os.write(1, b'x' * 5000)", ({OUTPUT}, {OUTPUT})),
    "output and an end": ("print('x' * 70_000)", ({OUTPUT}, {OUTPUT})),
    "endless loop": ("while True: pass", ({TIME}, {TIME})),
    "signals ignored": (
        "import signal\n"
        "for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        ({TIME}, {TIME}),
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
        ({MEMORY, KILLED, TIME}, {MEMORY, KILLED, TIME}),
    ),
    "deep recursion in C": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        ({MEMORY, KILLED, TIME}, {MEMORY, KILLED, TIME}),
    ),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", ({KILLED}, {KILLED})),
    "stdin": ("import sys\nprint(repr(sys.stdin.read()))\ninput()", ({FAILED}, {FAILED})),
    "huge exit code": ("import sys\nsys.exit(10**10 + 7)", ({FAILED}, {FAILED})),
    "closed descriptors": ("import os\nos.closerange(0, 256)\nwhile True: pass", ({TIME}, {TIME})),
}
ESCAPES = {
    "IPv4": "import socket\nsocket.create_connection(('127.0.0.1', PORT4), 3)",
    "IPv6": "import socket\nsocket.create_connection(('::1', PORT6), 3)",
    "unix socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(FOLDER + '/socket')",
    "abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(ABSTRACT)",
    "vsock": "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
    "raw socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "the caller's file": "open(SECRET).read()",
    "the caller's folder": "import os\nos.listdir(FOLDER)",
    "by symbolic link": "import os\nos.symlink(SECRET, 'link')\nopen('link').read()",
    "by hard link": "import os\nos.link(SECRET, 'link')\nopen('link').read()",
    "by path from here": "open('../' * 20 + SECRET).read()",
    "accounts": "open('/etc/passwd').read()",
    "environment": "import os\nassert 'TUTELAGE_SECRET' in os.environ",
    "environment of the caller by /proc": "open(f'/proc/{CALLER}/environ').read()",
    "own memory by /proc": "open('/proc/self/mem', 'r+b')",
    "descriptors by /proc": "import os\nos.listdir('/proc/self/fd')",
    "processes by /proc": "import os\nos.listdir('/proc/1')",
    "settings of the kernel": "open('/proc/sys/kernel/hostname', 'w')",
    "write the caller's file": "open(SECRET, 'a').write('x')",
    "truncate the caller's file": "import os\nos.truncate(SECRET, 0)",
    "truncate by opening": "import os\nos.open(SECRET, os.O_RDONLY | os.O_TRUNC)",
    "remove the caller's file": "import os\nos.unlink(SECRET)",
    "rename the caller's file": "import os\nos.rename(SECRET, SECRET + '.x')",
    "modes of the caller's file": "import os\nos.chmod(SECRET, 0o777)",
    "times of the caller's file": "import os\nos.utime(SECRET, (0, 0))",
    "write to the root": "open('/x', 'w')",
    "write to the interpreter": "import os\nopen(os.__file__, 'a')",
    "truncate the interpreter": "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "modes of the interpreter": "import os\nos.chmod(os.__file__, 0o600)",
    "write beside the interpreter": "import os\nopen(os.path.dirname(os.__file__) + '/x.py', 'w')",
    "kill the caller": "import os\nos.kill(CALLER, 9)",
    "kill the bystander": "import os\nos.kill(BYSTANDER, 9)",
    "kill by SIGIO": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, BYSTANDER)\n",
    "slow the bystander": "import os\nos.setpriority(os.PRIO_PROCESS, BYSTANDER, 19)",
    "limits of the bystander": "import resource\nresource.prlimit(BYSTANDER, resource.RLIMIT_CPU, (1, 1))",
    "ptrace": C + "if libc.ptrace(16, BYSTANDER, 0, 0): raise OSError(ctypes.get_errno(), 'ptrace')",
    "read the bystander's memory": C
    + "if libc.process_vm_readv(BYSTANDER, 0, 0, 0, 0, 0): raise OSError(ctypes.get_errno(), 'read')",
    "raise own limits": "import resource as r\nh = r.getrlimit(r.RLIMIT_AS)[1]\nr.setrlimit(r.RLIMIT_AS, (h * 2, h * 2))",
    "no limit of processes": "import resource as r\nr.setrlimit(r.RLIMIT_NPROC, (r.RLIM_INFINITY,) * 2)",
    "shared memory": C + "if libc.shmget(0, 4096, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'shmget')",
    "become root": "import os\nassert os.getuid() != 0\nos.setuid(0)",
    "mount": C + "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError(ctypes.get_errno(), 'mount')",
    "new namespace": C + "if libc.unshare(0x10000000): raise OSError(ctypes.get_errno(), 'unshare')",
    "leave the root": "import os\nos.chroot('/tmp')",
    "io_uring": C + "if libc.syscall(425, 1, bytes(120)) < 0: raise OSError(ctypes.get_errno(), 'io_uring')",
    "keys of the caller": C
    + "if libc.syscall(250 if os.uname().machine == 'x86_64' else 219, 0, -3, 0) < 0: raise OSError(1, 'keyctl')",
    "another program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo escaped'])",
    "a device": "open('/dev/mem', 'rb')",
    "inherited descriptors": "import os\nos.fstat(3)",
}

# fmt: on


class Caller:
    """What is within reach of this process: a file, servers, and a process that stands by."""

    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.bystander = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        abstract = f"\0tutelage-{secrets.token_hex(8)}"
        self.servers = [socket.create_server(("127.0.0.1", 0))]
        if socket.has_ipv6:
            self.servers.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        for name in (str(folder / "socket"), abstract):
            server = socket.socket(socket.AF_UNIX)
            server.bind(name)
            server.listen()
            self.servers.append(server)
        values = {
            "SECRET": str(self.secret), "FOLDER": str(folder), "CALLER": os.getpid(), "BYSTANDER": self.bystander.pid,
            "PORT4": self.servers[0].getsockname()[1], "PORT6": self.servers[1].getsockname()[1],
            "ABSTRACT": abstract,
        }  # fmt: skip
        self.names = "".join(f"{name} = {value!r}\n" for name, value in values.items())

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.bystander.kill()
        self.bystander.wait()
        for server in self.servers:
            server.close()

    def attempt(self, source: str) -> str:
        return f"{self.names}{source}\nprint('escaped')"

    def whole(self) -> bool:
        """Whether the file, the process and the servers are as they were."""
        for server in self.servers:
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()
        status = self.secret.stat()
        return (
            self.secret.read_text() == "secret"
            and status.st_mtime > 0
            and status.st_mode & 0o777 != 0o777
            and self.bystander.poll() is None
        )


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with Caller(tmp_path_factory.mktemp("caller")) as there, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_SECRET", "secret")
        yield there


@pytest.fixture(params=list(Wall))
def wall(request: pytest.FixtureRequest) -> Wall:
    return request.param


@pytest.mark.parametrize("name", EXHAUSTIONS)
def test_exhaustions_are_stopped_and_named(name: str, wall: Wall) -> None:
    source, endings = EXHAUSTIONS[name]
    outcome = run(Program(source), SHORT, wall)
    assert outcome.ending in endings[list(Wall).index(wall)], outcome
    assert len(outcome.stdout) + len(outcome.stderr) <= 2 * SHORT.output


@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_are_contained(name: str, wall: Wall, caller: Caller) -> None:
    outcome = run(Program(caller.attempt(ESCAPES[name])), SHORT, wall)
    assert "escaped" not in outcome.stdout, outcome
    assert outcome.ending in (FAILED, PROCESSES, DISK), outcome
    assert caller.whole()


@pytest.mark.parametrize(
    "name",
    ["IPv4", "unix socket", "abstract socket", "the caller's file", "by path from here", "environment", "truncate by opening",
     "modes of the caller's file", "kill by SIGIO", "slow the bystander", "read the bystander's memory", "shared memory"],
)  # fmt: skip
def test_the_attempts_work_without_a_wall(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_SECRET", "secret")
    with Caller(tmp_path) as there:
        source = there.attempt(ESCAPES[name])
        done = subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True, cwd=tmp_path)
        assert "escaped" in done.stdout, done.stderr


def commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text()
        except OSError:
            continue


@pytest.mark.wall(B)
def test_a_daemon_ends_with_its_run() -> None:
    mark = f"tutelage-daemon-{os.getpid()}"
    source = f"""
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b"1")
        os.closerange(0, 64)
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)", {mark!r}])
    os._exit(0)
os.read(read, 1)
time.sleep(0.3)
print("started")
"""
    outcome = run(Program(source), Limits(processes=8), B)
    assert outcome.stdout == "started\n", outcome
    assert not any(mark in command for command in commands())


def test_a_sleeper_and_a_stopped_program_end_at_the_deadline(wall: Wall) -> None:
    limits = Limits(seconds=1.5)
    assert run(Program("import time\ntime.sleep(600)"), limits, wall).ending is TIME
    if wall is B:
        assert run(Program("import os\nos.kill(os.getpid(), 19)"), limits, wall).ending is TIME


@pytest.mark.wall(B, S)
def test_many_processes_are_held_to_their_number() -> None:
    forks = "n = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept OSError: print(n)"
    source = f"import os, time\n{forks}"
    outcomes = [run(Program(source), Limits(processes=n), B).stdout for n in (2, 5)]
    assert outcomes == ["1\n", "4\n"]
    with pytest.raises(SandboxError, match="processes=2 needs bubblewrap"):
        run(Program(""), Limits(processes=2), S)


@pytest.mark.wall(B)
def test_killing_everything_in_sight_harms_nobody(caller: Caller) -> None:
    outcome: Outcome = run(Program("import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)\nprint('done')"), SHORT, B)
    assert outcome.ending in (OK, FAILED)
    assert caller.whole()
