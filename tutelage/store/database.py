"""``Store``: the engine of a database and its transactions. ``opening.open_store`` makes one that is ready for use.

SQLite: one writer at a time, which takes its lock when the transaction begins (a transaction that reads first and writes later
fails with "database is locked" whatever the timeout), readers beside it; a commit is on the disk when it returns. PostgreSQL:
its defaults, which promise the same; a read transaction sees one state throughout.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import orjson
from sqlalchemy import URL, Connection, Engine, Row, Select, Table, create_engine, event, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from tutelage.errors import NotFound, StoreError, UsageError

DEFAULT = "store/tutelage.db"
HEAD = "0002"
"""The migration that ``tables`` describes; a test compares the two. Here, so that opening a store need not import alembic."""

_PATIENCE = 30.0
"""Seconds that a transaction waits for another process's lock on a SQLite file."""
_VERSION = "store_version"
_UPGRADING = 0x7475746C
"""Key of PostgreSQL's advisory lock that is held while a database is upgraded."""

Kind = Literal["read", "write", "upgrade"]


class Store:
    """A database, by path (SQLite) or URL (PostgreSQL). Usable from any thread."""

    def __init__(
        self, where: str | Path, *, clock: Callable[[], float] = time.time, ledger: Path | None = None
    ) -> None:
        """Connects to nothing yet. ``clock``: seconds since 1970.

        ``ledger``: the file of erasures, see ``erase``; by default beside the SQLite file, or for PostgreSQL
        ``store/DATABASE.erasures.jsonl`` below the current folder.

        Raises UsageError for a URL of another database, or where the driver is not installed.
        """
        self.now = clock
        self.url, self.path = _parse(where)
        beside = self.path or Path(DEFAULT).with_name(str(self.url.database))
        self.ledger = ledger or beside.with_name(f"{beside.name}.erasures.jsonl")
        self.engine = _engine(self.url)
        self._threads = Lock()

    def __str__(self) -> str:
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and cannot write."""
        with self._transaction("read") as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed, to the disk, when the block ends without an exception.

        The database's own failures raise StoreError.
        """
        with self._turn(), self._transaction("write") as db:
            yield db

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Writers of a SQLite file queue here, threads and processes alike.

        SQLite lets those that wait look again at times, and under load its lock is hardly ever free when they look: of two busy
        servers the one waited until its time was up. Here who waits at the door is next, and waits for the one that writes alone.
        """
        if not self.path:
            yield
            return
        with self._threads, _locked(f"{self.path}.turn", until=f"{self.path}.door"):
            yield

    @contextmanager
    def _transaction(self, kind: Kind) -> Iterator[Connection]:
        try:
            with self.engine.connect() as db:
                db.execution_options(kind=kind)
                if not self.path and kind == "read":
                    db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                with db.begin():
                    yield db
        except IntegrityError:
            raise
        except (DBAPIError, sqlite3.Error) as error:
            said = str(getattr(error, "orig", None) or error).strip()
            raise StoreError(f"{self}: {said.splitlines()[0] if said else type(error).__name__}") from error

    def maintain(self, *statements: str) -> None:
        """Run statements that cannot be in a transaction, such as VACUUM."""
        raw = self.engine.raw_connection()
        try:
            if not self.path:
                raw.driver_connection.autocommit = True  # type: ignore[union-attr]
            for statement in statements:
                raw.cursor().execute(statement)
        except (DBAPIError, sqlite3.Error) as error:
            raise StoreError(f"{self}: {error}") from error
        finally:
            raw.invalidate()  # it goes back in another mode than it came
            raw.close()

    def close(self) -> None:
        """Close idle connections. The store may still be used."""
        self.engine.dispose()


@contextmanager
def _locked(path: str, *, until: str) -> Iterator[None]:
    """Hold a file's lock, and while waiting for it that of another; the system frees those of a process that is killed."""
    with open(path, "ab", opener=_private) as file:
        with open(until, "ab", opener=_private) as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _parse(where: str | Path) -> tuple[URL, Path | None]:
    """The URL, and the path if it is a SQLite file."""
    if "://" not in str(where):
        return URL.create("sqlite", database=str(where)), Path(where)
    try:
        url = make_url(str(where))
    except ArgumentError:
        raise UsageError("the store's URL cannot be read; write postgresql://USER:PASSWORD@HOST/DATABASE") from None
    if url.get_backend_name() == "sqlite" and url.database:
        return URL.create("sqlite", database=url.database), Path(url.database)
    if url.get_backend_name() != "postgresql" or not url.database:
        raise UsageError(
            f"{url.render_as_string()}: a store is the path of a SQLite file, or postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return url.set(drivername="postgresql+psycopg"), None


def _as_json(value: Any) -> str:
    """With characters as they are, so that a search of the file for a person's words finds them."""
    return orjson.dumps(value).decode()


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "postgresql":
            return create_engine(url, json_serializer=_as_json, pool_pre_ping=True)
        engine = create_engine(url, json_serializer=_as_json, connect_args={"timeout": _PATIENCE})
    except ModuleNotFoundError:
        raise UsageError("PostgreSQL needs psycopg; install it with: pip install 'tutelage[postgres]'") from None
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, record: object) -> None:
    """Settings of a SQLite connection, which the file does not keep."""
    connection.isolation_level = None  # Python's driver begins no transactions of its own
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # two processes make the file: this one pragma does not wait
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")


def _begin(db: Connection) -> None:
    kind: Kind = db.get_execution_options().get("kind", "read")
    db.exec_driver_sql(f"PRAGMA query_only = {int(kind == 'read')}")
    if kind == "upgrade":  # a table that is rebuilt with this on loses the rows that refer to it
        db.exec_driver_sql("PRAGMA foreign_keys = OFF")
    db.exec_driver_sql("BEGIN" if kind == "read" else "BEGIN IMMEDIATE")


# ---- upgrading


def upgrade(store: Store) -> None:
    """Make the database, or bring it to this package's schema. Servers that start at once do it once.

    Raises StoreError for a database of a newer package, or a file that is something else.
    """
    if store.path:
        if store.path.is_dir():
            raise UsageError(
                f"{store.path} is a folder; give the path of a file in it, such as {store.path}/tutelage.db"
            )
        store.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):  # people's conversations are for nobody else's eyes
            os.close(os.open(store.path, os.O_CREAT | os.O_EXCL, 0o600))
    with store.read() as db:
        if revision(db) == HEAD:
            return
    from tutelage.store.migrations.upgrading import known, upgrade_to_head

    with store._turn(), store._transaction("upgrade") as db:
        if not store.path:
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADING})
        found = revision(db)
        if found is not None and not known(found):
            raise StoreError(f"{store} was written by a newer tutelage (its revision is {found}); upgrade the package")
        if found is None and store.path and db.scalar(text("SELECT count(*) FROM sqlite_master")):
            raise UsageError(f"{store} is a database of something else, not a store of tutelage")
        if found != HEAD:
            upgrade_to_head(db, _VERSION)
            if store.path and (broken := db.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
                raise StoreError(
                    f"{store}: upgrading would leave {len(broken)} rows that refer to nothing; nothing is changed"
                )
    store.close()  # the connection has foreign_keys off


def revision(db: Connection) -> str | None:
    """The last migration that a database has had; None if it is empty, or something else."""
    if not db.dialect.has_table(db, _VERSION):
        return None
    found: str | None = db.scalar(text(f"SELECT version_num FROM {_VERSION}"))
    return found


# ---- statements that several modules need


def insert_once(db: Connection, table: Table, key: Sequence[str], values: Mapping[str, Any]) -> tuple[Row[Any], bool]:
    """Insert a row unless one with the same ``key`` columns is there; returns the row that is there, and whether it is new.

    So a request that is sent again because its reply was lost has the result of the first.
    """
    dialect: Any = sqlite if db.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing(index_elements=list(key)).returning(table)
    if (row := db.execute(statement).one_or_none()) is not None:
        return row, True
    return db.execute(select(table).where(*(table.c[name] == values[name] for name in key))).one(), False


def one(db: Connection, statement: Select[Any], what: str) -> Row[Any]:
    """The only row of a query. Raises NotFound naming ``what``."""
    row = db.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"there is no such {what}")
    return row
