"""``open_store``: a store that is ready for use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tutelage.store.database import DEFAULT, Store, upgrade
from tutelage.store.erase import replay


def default_store() -> str:
    """Where the store is unless said otherwise: TUTELAGE_STORE, or ``store/tutelage.db`` below the current folder."""
    return os.environ.get("TUTELAGE_STORE") or DEFAULT


def open_store(
    where: str | Path | None = None, *, clock: Callable[[], float] = time.time, ledger: Path | None = None
) -> Store:
    """Open a store, made if it is not there: the path of a SQLite file, or postgresql://USER:PASSWORD@HOST/DATABASE.

    Brings the schema up to date and erases what the ledger says was erased. Raises StoreError for a database of a newer package
    or one that cannot be reached, UsageError for what is no store.
    """
    store = Store(where if where is not None else default_store(), clock=clock, ledger=ledger)
    upgrade(store)
    replay(store)
    return store
