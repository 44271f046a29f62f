"""Writes the database that is kept of a landed revision: ``python tests/store/make_fixture.py``, once, before the next one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from store_helpers import answered, asks, person, rank, task

from tutelage.store.database import HEAD
from tutelage.store.opening import open_store

if __name__ == "__main__":
    path = Path(__file__).parent / "fixtures" / f"revision-{HEAD}.db"
    path.unlink(missing_ok=True)
    store = open_store(path)
    ann = person(store)
    answered(store, ann, asks(store, ann, "What is a tide? 潮汐"), "The sea's rise and fall.")
    task(store)
    rank(store, ann, "a b=c", "key")
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA page_size = 512")  # 60 kB instead of 280
        db.execute("VACUUM")
