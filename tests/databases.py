"""A new store of each kind: every test that takes ``where`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tutelage.store.opening import open_store
from tutelage.store.tables import metadata

PROGRAMS = ("initdb", "pg_ctl", "postgres")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL of our own, reached through a socket only; skips where none can be started. Yields a URL without a name."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"PostgreSQL is not installed: no {', '.join(missing)}")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tutelage-postgres-", dir=memory if os.access(memory, os.W_OK) else None))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv to be somebody else")
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"HOME={folder}"]
    data = folder / "data"

    def run(*command: str) -> None:
        said = (folder / "said").open("a+")  # a pipe would stay open in the server, and reading it would never end
        if subprocess.run([*as_user, *command], stdout=said, stderr=said, cwd=folder).returncode:
            said.seek(0)
            pytest.skip(f"PostgreSQL cannot be started: {said.read()[-300:]}")

    run(
        "initdb",
        "--pgdata",
        str(data),
        "--username=tutelage",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    )
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=60"
    run("pg_ctl", "--pgdata", str(data), "--wait", "--options", options, "--log", str(folder / "log"), "start")
    try:
        yield f"postgresql://tutelage@/{{}}?host={folder}"
    finally:
        subprocess.run(
            [*as_user, "pg_ctl", "--pgdata", str(data), "--mode=immediate", "stop"], capture_output=True, cwd=folder
        )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def database(cluster: str) -> str:
    """The URL of a PostgreSQL database with the schema, which tests empty and use in turn: making one takes half a second."""
    return new_database(cluster, "tests")


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with the schema, to copy."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    open_store(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The path or URL of a new store."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("database")
        with psycopg.connect(url) as db:
            for table in reversed(metadata.sorted_tables):
                db.execute(f"DELETE FROM {table.name}".encode())
        return url
    path = tmp_path / "store" / "tutelage.db"
    path.parent.mkdir()
    shutil.copyfile(request.getfixturevalue("empty_file"), path)
    return str(path)


def new_database(cluster: str, name: str) -> str:
    """Make a database with the schema; returns its URL."""
    with psycopg.connect(cluster.format("postgres"), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    open_store(cluster.format(name), ledger=Path(os.devnull)).close()
    return cluster.format(name)
