"""``open_store``: a store that is ready for use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tutelage.errors import UsageError
from tutelage.store.database import DEFAULT, Store, upgrade
from tutelage.store.erase import replay

Where = Annotated[
    str | None,
    Field(description="path of a SQLite file or postgresql:// URL; none: TUTELAGE_STORE, or store/tutelage.db"),
]


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


def require_store(where: str | None) -> None:
    """Raise UsageError where no store is; that of a database server is looked for when it is opened."""
    store = Store(where or default_store())
    if store.path and not store.path.exists():
        raise UsageError(
            f"{store}: there is no store here; serve with it first, or give --store, or set TUTELAGE_STORE"
        )


@contextmanager
def existing_store(where: str | None) -> Iterator[Store]:
    """Open a store that is there already."""
    require_store(where)
    opened = open_store(where)
    try:
        yield opened
    finally:
        opened.close()
