"""Who did what, and when. Subjects are ids: the log has no word of what people wrote, and outlives the erasure of an account."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from tutelage.store.database import Store
from tutelage.store.tables import audit


@dataclass(frozen=True)
class Entry:
    """A line of the log."""

    created: float
    actor: str
    action: str
    subject: str


def record(db: Connection, now: float, actor: str, action: str, subject: str) -> None:
    """Add a line in the transaction of what it tells of. ``actor``: a user's id, or the name of a part of the system."""
    db.execute(insert(audit).values(created=now, actor=actor, action=action, subject=subject))


def entries(store: Store, limit: int = 100) -> list[Entry]:
    """The latest lines, newest first."""
    with store.read() as db:
        rows = db.execute(select(audit).order_by(audit.c.id.desc()).limit(limit))
        return [Entry(row.created, row.actor, row.action, row.subject) for row in rows]
