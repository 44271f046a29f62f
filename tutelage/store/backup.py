"""Backing up, restoring and checking a store."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, func, select

from tutelage.errors import StoreError, UsageError
from tutelage.files import atomic_path
from tutelage.store.database import HEAD, Store, revision
from tutelage.store.erase import replay
from tutelage.store.labels import counts
from tutelage.store.opening import open_store
from tutelage.store.tables import conversations, erasures, labels, messages, seats, users


def backup(store: Store, file: Path) -> None:
    """Write a copy of the store to a new file while others go on using it: a SQLite file, or pg_dump's custom format.

    Raises UsageError if the file exists, or where PostgreSQL's pg_dump is missing.
    """
    if file.exists():
        raise UsageError(f"{file} exists already; give another name")
    with atomic_path(file) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
        if not store.path:
            _postgres(store, "pg_dump", "--format=custom", f"--file={temporary}")
            return
        with closing(sqlite3.connect(store.path)) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            if (said := target.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise StoreError(f"{store} is damaged ({said}); nothing was written")


def restore(file: Path, where: str | Path, *, force: bool = False, ledger: Path | None = None) -> Store:
    """Put a backup in place of a store and open it; what was erased since the backup is erased again.

    Raises UsageError if there is a store already and ``force`` is not given, if another process uses it, or for a file that is no
    backup.
    """
    target = Store(where, ledger=ledger)
    if not target.path:
        return _restore_postgres(file, target, force)
    if _revision_of(file) is None:
        raise UsageError(f"{file} is not a backup of a store")
    if target.path.exists():
        if not force:
            raise UsageError(f"{target} exists; --force puts the backup in its place")
        if target.path.samefile(file):
            raise UsageError(f"{file} is the store itself")
        _close_file(target)
    target.close()
    with atomic_path(target.path) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
        shutil.copyfile(file, temporary)
    return open_store(where, ledger=ledger)


def _revision_of(file: Path) -> str | None:
    """The revision of a sound SQLite file; None if it is something else."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
            sound = db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            return str(db.execute("SELECT version_num FROM store_version").fetchone()[0]) if sound else None
    except sqlite3.DatabaseError:
        if not file.exists():
            raise FileNotFoundError(2, "No such file or directory", str(file)) from None
        return None


def _close_file(target: Store) -> None:
    """Make the ledger complete, and the file one without a log beside it. Raises UsageError if another process has it open."""
    if target.path and _revision_of(target.path) == HEAD:
        replay(target)  # the erasures that only the old database knows are in the ledger after this
    target.close()
    try:
        with closing(sqlite3.connect(str(target.path), timeout=1)) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # refused while there are other connections
    except sqlite3.OperationalError:
        raise UsageError(f"{target} is in use; stop the server first") from None
    except sqlite3.DatabaseError:  # not a database, or a damaged one: what a backup is for
        for ending in ("-wal", "-shm"):
            Path(f"{target.path}{ending}").unlink(missing_ok=True)


def _restore_postgres(file: Path, target: Store, force: bool) -> Store:
    with target.read() as db:
        found = revision(db)
    if found is not None and not force:
        raise UsageError(f"{target} holds a store; --force puts the backup in its place")
    if found == HEAD:
        replay(target)
    options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
    target.close()
    _postgres(target, "pg_restore", *options, f"--dbname={target.url.database}", str(file))
    return open_store(target.url.render_as_string(hide_password=False), ledger=target.ledger)


def _postgres(store: Store, program: str, *options: str) -> None:
    """Run one of PostgreSQL's programs against the store; the password is not on its command line, which others can read."""
    if shutil.which(program) is None:
        raise UsageError(f"{program} is missing; install PostgreSQL's client programs, or use your provider's backups")
    url = store.url
    host = url.host or url.query.get("host")
    given = {"PGHOST": host, "PGPORT": url.port or url.query.get("port"), "PGUSER": url.username}
    given |= {"PGPASSWORD": url.password, "PGDATABASE": url.database}
    environment = os.environ | {name: str(value) for name, value in given.items() if value}
    done = subprocess.run([program, *options], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise StoreError(f"{store}: {program} failed: {' '.join(done.stderr.split())[:300]}")


# ---- check


def check(store: Store) -> list[str]:
    """What is wrong with a store, one sentence each; empty if all is well."""
    problems: list[str] = []
    with store.read() as db:
        if store.path:
            found = [row[0] for row in db.exec_driver_sql("PRAGMA integrity_check")]
            problems += [f"SQLite finds damage: {said}" for said in found if said != "ok"]
            for table, row, parent, _ in db.exec_driver_sql("PRAGMA foreign_key_check"):
                problems.append(f"row {row} of {table} refers to a row of {parent} that is not there")
        if (found_revision := revision(db)) != HEAD:
            problems.append(f"its revision is {found_revision}, and this package's is {HEAD}")
        for what, query in _invariants():
            if count := db.scalar(select(func.count()).select_from(query.subquery())):
                problems.append(f"{count} x {what}")
    return problems


def _invariants() -> Sequence[tuple[str, Select[Any]]]:
    """What is never true of a sound store -> the rows of which it is."""
    parent = messages.alias()
    elsewhere = messages.join(parent, parent.c.id == messages.c.parent_id)
    role = messages.c.message["role"].as_string()
    leaf = (messages.c.id == conversations.c.active_leaf) & (messages.c.conversation_id == conversations.c.id)
    held = seats.c.user_id.is_not(None)
    ranked = (seats.c.task_id == labels.c.task_id) & (seats.c.user_id == labels.c.user_id) & (seats.c.state == "ranked")
    has_label = select(labels.c.id).where(counts(), ranked).exists()
    has_seat = select(seats.c.id).where(ranked).exists()
    conditions: list[tuple[str, FromClause, ColumnElement[bool]]] = [
        (
            "a message follows one of another conversation",
            elsewhere,
            parent.c.conversation_id != messages.c.conversation_id,
        ),
        ("a message is running that is no answer", messages, (messages.c.status == "running") & (role != "assistant")),
        (
            "a conversation's open branch is none of its own",
            conversations,
            conversations.c.active_leaf.is_not(None) & ~select(messages.c.id).where(leaf).exists(),
        ),
        ("a seat is leased or ranked by nobody", seats, seats.c.state.in_(["leased", "ranked"]) & ~held),
        ("a seat is free and somebody's", seats, (seats.c.state == "waiting") & held),
        ("a seat is ranked without a ranking", seats, (seats.c.state == "ranked") & ~has_label),
        ("a ranking counts without a seat", labels, counts() & ~has_seat),
        ("a person is erased and still there", users, users.c.id.in_(select(erasures.c.subject))),
    ]
    return [(what, select(1).select_from(table).where(wrong)) for what, table, wrong in conditions]
