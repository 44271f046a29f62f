"""A store of each kind for the tests of this folder: every test that takes ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import Clock

from tutelage.store.database import Store
from tutelage.store.opening import open_store


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
