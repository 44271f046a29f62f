"""A PostgreSQL of the tests' own, reached through a socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("initdb", "pg_ctl", "postgres")


class Unavailable(Exception):
    """No PostgreSQL can be started here."""


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """Yields a URL with {} for the database's name. ``durable``: on the disk and with fsync, as for people; else fast."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise Unavailable(f"PostgreSQL is not installed: no {', '.join(missing)}")
    memory = Path("/dev/shm")
    fast = not durable and os.access(memory, os.W_OK)
    folder = Path(tempfile.mkdtemp(prefix="tutelage-postgres-", dir=memory if fast else None))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        if shutil.which("setpriv") is None:
            raise Unavailable("PostgreSQL does not run as root, and there is no setpriv to be somebody else")
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"HOME={folder}"]
    data = folder / "data"

    def run(*command: str) -> None:
        said = (folder / "said").open("a+")  # a pipe would stay open in the server, and reading it would never end
        if subprocess.run([*as_user, *command], stdout=said, stderr=said, cwd=folder).returncode:
            said.seek(0)
            raise Unavailable(f"PostgreSQL cannot be started: {said.read()[-300:]}")

    new = ("--username=tutelage", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
    run("initdb", "--pgdata", str(data), *new)
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=60"
    options += "" if durable else " -c fsync=off"
    run("pg_ctl", "--pgdata", str(data), "--wait", "--options", options, "--log", str(folder / "log"), "start")
    try:
        yield f"postgresql://tutelage@/{{}}?host={folder}"
    finally:
        subprocess.run(
            [*as_user, "pg_ctl", "--pgdata", str(data), "--mode=immediate", "stop"], capture_output=True, cwd=folder
        )
        shutil.rmtree(folder, ignore_errors=True)
