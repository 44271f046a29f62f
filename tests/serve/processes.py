"""`tutelage serve` as a process that can be killed, started again, and looked into."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class ServeProcess:
    """A `tutelage serve` process that can be killed and started again at the same address."""

    words: list[str]
    log: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        command = [sys.executable, "-m", "tutelage", "serve", *self.words, "--device", "cpu", "--port", str(self.port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+) answers", first)
        assert found, f"{first}{self.log.read_text()}"
        self.port = int(found[1])

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def kill(self) -> None:
        """With SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def holds(self) -> dict[str, int]:
        """How many descriptors and threads the process has, and how many samples have a place."""
        assert self.process is not None
        at = Path("/proc") / str(self.process.pid)
        page = httpx2.get(f"{self.url}/metrics").text
        places = {
            name: int(float(re.findall(rf"^tutelage_{name} (\S+)", page, re.M)[0])) for name in ("waiting", "running")
        }
        return {kind: len(os.listdir(at / kind)) for kind in ("fd", "task")} | places


@contextmanager
def serving(log: Path, *words: str) -> Iterator[ServeProcess]:
    """A server until the block ends."""
    server = ServeProcess(list(words), log)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def faults(log: Path) -> list[str]:
    """Lines of a server's log that tell of a fault: a locked database, a 5xx, an exception."""
    bad = re.compile(r"locked|deadlock|Traceback|Error|(GET|POST|DELETE) \S+ 5\d\d ")
    return [line for line in log.read_text().splitlines() if bad.search(line)]
