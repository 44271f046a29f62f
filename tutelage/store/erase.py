"""Erasure: a person's words, or a conversation's, are gone from every table and from the database's files.

Each erasure is also a line in a ledger, a file beside the database (ids and times, nothing else). Opening a store erases again
what the ledger names and the database does not know to be erased: so that whoever brings back an old backup, by whatever way,
does not bring back the person. What cannot be reached from here is listed instead: files that were exported, models that were
trained on them, and backups, which are to be deleted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Connection, delete, false, func, insert, select, update

from tutelage.errors import StoreError
from tutelage.store.audit import record
from tutelage.store.conversations import own_chat
from tutelage.store.database import Store, one
from tutelage.store.models import Model, trained_on
from tutelage.store.tables import (
    api_keys,
    conversations,
    demonstrations,
    erasures,
    export_rows,
    exports,
    feedback,
    labels,
    messages,
    prompts,
    seats,
    tasks,
    users,
)
from tutelage.store.tasks import move

Kind = Literal["user", "conversation"]


@dataclass(frozen=True)
class Traces:
    """What there is of a person or a conversation."""

    rows: Counter[str]
    """Table -> rows that erasure deletes."""
    exports: tuple[tuple[str, str], ...]
    """(id, folder) of the exports that hold rows of theirs. The files are not touched: delete or redo them."""
    models: tuple[Model, ...]
    """Models trained on those exports, and the models trained from them."""
    cleaned: bool = False
    """After erasure: the database's files hold nothing of it either. If not, another process reads them, or a conversation was
    deleted, and the next opening rebuilds them."""


def traces(store: Store, user_id: str) -> Traces:
    """What erasing a person would delete, and what it cannot. Raises NotFound."""
    with store.read() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
        return _traces(db, "user", user_id)


def erase_user(store: Store, user_id: str, *, actor: str) -> Traces:
    """Erase a person: account, conversations, feedback, what labellers were given of theirs, and what they labelled.

    Their places in other tasks become free again. Raises NotFound.
    """
    with store.read() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
    return _erase(store, "user", user_id, actor)


def delete_chat(store: Store, user_id: str, chat_id: str) -> Traces:
    """Erase one of a person's conversations, and what was made of it. Raises NotFound, for another's too."""
    with store.read() as db:
        own_chat(db, user_id, chat_id)
    return _erase(store, "conversation", chat_id, user_id)


def erasures_so_far(store: Store) -> int:
    """A number that is the same at two times if nothing was erased between them."""
    with store.read() as db:
        return db.scalar(select(func.max(erasures.c.id))) or 0


def replay(store: Store) -> int:
    """Erase what the ledger names and this database has not erased; returns how many. ``open_store`` calls it."""
    with store.read() as db:
        done = {row.subject: row for row in db.execute(select(erasures))}
    written = {line["subject"]: line for line in _read_ledger(store)}
    for subject, row in done.items():
        if subject not in written:  # the ledger was lost, or this is a copy elsewhere
            _write_ledger(store, row.kind, subject, row.created)
    missing = [line for subject, line in written.items() if subject not in done]
    for line in missing:
        with store.write() as db:
            _delete(db, line["kind"], line["subject"], float(line["time"]))
            record(db, store.now(), "ledger", f"erase {line['kind']}", line["subject"])
    if missing or not all(row.cleaned for row in done.values()):
        clean_files(store)
    return len(missing)


def _erase(store: Store, kind: Kind, subject: str, actor: str) -> Traces:
    now = store.now()
    _write_ledger(store, kind, subject, now)  # first: if the process dies here, the next opening erases
    with store.write() as db:
        found = _traces(db, kind, subject)
        _delete(db, kind, subject, now)
        record(db, now, actor, f"erase {kind}", subject)
    if kind == "user":
        return replace(found, cleaned=clean_files(store))
    return replace(found, cleaned=not store.path or _empty_log(store))


def _delete(db: Connection, kind: Kind, subject: str, when: float) -> None:
    if kind == "user":
        db.execute(move("free", seats.c.user_id == subject).values(user_id=None, expires=None))
        db.execute(delete(users).where(users.c.id == subject))
    else:
        db.execute(delete(conversations).where(conversations.c.id == subject))
    if not db.scalar(select(func.count()).where(erasures.c.subject == subject)):
        db.execute(insert(erasures).values(kind=kind, subject=subject, created=when, cleaned=False))


def _traces(db: Connection, kind: Kind, subject: str) -> Traces:
    of_user = conversations.c.user_id if kind == "user" else conversations.c.id
    chats = select(conversations.c.id).where(of_user == subject)
    said = select(messages.c.id).where(messages.c.conversation_id.in_(chats))
    asked = select(prompts.c.id).where(
        prompts.c.message_id.in_(said) | ((prompts.c.author_id == subject) if kind == "user" else false())
    )
    given = select(tasks.c.id).where(tasks.c.prompt_id.in_(asked))
    deleted: dict[Any, Any] = {
        conversations: conversations.c.id.in_(chats),
        messages: messages.c.id.in_(said),
        feedback: feedback.c.message_id.in_(said),
        prompts: prompts.c.id.in_(asked),
        tasks: tasks.c.id.in_(given),
        labels: labels.c.task_id.in_(given) | (labels.c.user_id == subject),
        demonstrations: demonstrations.c.prompt_id.in_(asked) | (demonstrations.c.user_id == subject),
    }
    rows = {
        table.name: db.scalar(select(func.count()).select_from(table).where(which)) for table, which in deleted.items()
    }
    column = export_rows.c.user_id if kind == "user" else export_rows.c.conversation_id
    of_theirs = select(export_rows.c.export_id).where(column == subject)
    found = [
        (row.id, row.folder) for row in db.execute(select(exports).where(exports.c.id.in_(of_theirs)).order_by("id"))
    ]
    return Traces(
        Counter({k: v for k, v in rows.items() if v}), tuple(found), tuple(trained_on(db, [e for e, _ in found]))
    )


def clean_files(store: Store) -> bool:
    """Overwrite what deleted rows leave behind in the database's files; False if another process kept that from being done.

    SQLite: the file is rebuilt and the write-ahead log emptied. PostgreSQL: the tables are rewritten; its log, replicas and
    archives keep what their administrator lets them keep. What is not done is done at the next opening.
    """
    try:
        if store.path:
            store.maintain("PRAGMA query_only = 0", f"PRAGMA busy_timeout = {_PATIENCE}", "VACUUM")
        else:
            rewrite = [f"VACUUM FULL {table.name}" for table in _WITH_WORDS]
            store.maintain(f"SET lock_timeout = {_PATIENCE}", *rewrite)
    except StoreError:
        return False
    with store.write() as db:
        db.execute(update(erasures).values(cleaned=True))
    if not store.path or _empty_log(store):
        return True
    with store.write() as db:
        db.execute(update(erasures).values(cleaned=False))
    return False


def _empty_log(store: Store) -> bool:
    """Move SQLite's write-ahead log into the file and truncate it; False while another process reads an older state.

    The file holds no deleted row then (secure_delete), except that a copy may be left in an unused part of a page until
    it is rebuilt.
    """
    with store.engine.connect() as db:
        cursor = db.connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        busy: int = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        db.invalidate()
    return not busy


_PATIENCE = 5000
"""Milliseconds to wait for other users of the database."""
_WITH_WORDS = (users, api_keys, conversations, messages, feedback, prompts, tasks, labels, demonstrations)


# ---- the ledger


def _read_ledger(store: Store) -> list[dict[str, Any]]:
    """The lines of the ledger. A torn one is of an erasure that was never acknowledged."""
    lines = []
    for line in store.ledger.read_bytes().splitlines() if store.ledger.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _write_ledger(store: Store, kind: str, subject: str, when: float) -> None:
    line = json.dumps({"kind": kind, "subject": subject, "time": when}).encode()
    store.ledger.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(store.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, b"\n" + line + b"\n")  # an earlier line may be torn
        os.fsync(file)
    finally:
        os.close(file)
