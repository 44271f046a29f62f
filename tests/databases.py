"""A new store of each kind: every test that takes ``where`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from postgres import Unavailable, postgres

from tutelage.store.opening import open_store
from tutelage.store.tables import metadata


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL; skips where none can be started. Yields a URL without a name."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres())
        except Unavailable as problem:
            pytest.skip(str(problem))
        yield url


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
