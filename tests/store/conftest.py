"""A store of each kind for the tests of this folder: every test that takes ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from postgres import Unavailable, postgres
from store_helpers import Clock, new_database

from tutelage.store.database import Store
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


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


@pytest.fixture
def store(where: str, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(where, clock=clock, ledger=tmp_path / "ledger.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def lite(tmp_path: Path, empty_file: Path, clock: Clock) -> Iterator[Store]:
    """A store in a SQLite file, for what only that has."""
    shutil.copyfile(empty_file, tmp_path / "tutelage.db")
    opened = open_store(tmp_path / "tutelage.db", clock=clock)
    yield opened
    opened.close()
