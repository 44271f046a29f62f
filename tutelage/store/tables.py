"""The schema as data. Migrations bring a database to it; a test compares the two.

Things have random text ids that sort by the time they were made. Logs, of which nothing is updated, have growing integers. Times
are seconds since 1970, UTC. Everything that holds a person's words is below their row by cascading foreign keys, so that deleting
the row deletes the words. Columns without a foreign key that name a person (``export_rows``, ``audit``) outlive them on purpose
and hold nothing else about them.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""PostgreSQL stores no NUL, and neither database half a surrogate pair; a browser and an API client can send both."""


def storable(value: Any) -> Any:
    """The value with U+FFFD for characters that a database cannot hold, at any depth of lists and dictionaries."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(inner) for key, inner in value.items()}
    return [storable(inner) for inner in value] if isinstance(value, list | tuple) else value


class Words(TypeDecorator[str]):
    """Text of any characters."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return storable(value)


class Json(TypeDecorator[Any]):
    """JSON whose strings may hold any characters; None is NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self.impl_instance.coerce_compared_value(op, value)  # so that column["name"] works as on JSON

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return storable(value)


def new_id() -> str:
    """26 hexadecimal digits: the time in microseconds, then 48 random bits. Never reused, unlike a row number."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(6)}"


def _column(name: str, kind: Any = Words, **more: Any) -> Column[Any]:
    return Column(name, kind, **{"nullable": False} | more)


def _id() -> Column[Any]:
    return Column("id", Text, primary_key=True, default=new_id)


def _number() -> Column[Any]:
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _of(table: str, name: str = "", **more: Any) -> Column[Any]:
    """A reference to a row without which this one makes no sense: both are deleted together."""
    target = ForeignKey(f"{table}.{'hash' if table == 'models' else 'id'}", ondelete="CASCADE")
    return Column(name or f"{table.removesuffix('s')}_id", Text, target, **{"nullable": False, "index": True} | more)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *parts: Any) -> Table:
    return Table(
        name,
        metadata,
        *parts,
        sqlite_autoincrement=any(c.autoincrement is True for c in parts if isinstance(c, Column)),
    )


# ---- people

users = _table(
    "users",
    _id(),
    _column("name"),
    _column("name_key", unique=True),  # the name as compared: "Ann" and "ann" are one person
    _column("password_hash", nullable=True),  # opaque here; none: cannot log in with a password
    _column("role", Text),
    _column("language", Text),
    _column("created", Float),
)
login_sessions = _table(
    "login_sessions",
    Column("token_hash", Text, primary_key=True),
    _of("users"),
    _column("created", Float),
    _column("expires", Float),
)
api_keys = _table(
    "api_keys",
    _id(),
    _of("users"),
    _column("key_hash", Text, unique=True),
    _column("prefix", Text),
    _column("label"),
    _column("created", Float),
    _column("revoked", Float, nullable=True),
)
consents = _table(
    "consents", _number(), _of("users"), _column("version", Text), _column("given", Boolean), _column("created", Float)
)

# ---- conversations

conversations = _table(
    "conversations",
    _id(),
    _of("users"),
    _column("title"),
    _column("keep_out", Boolean),  # of training
    _column("active_leaf", Text, nullable=True),  # a message; no foreign key, since messages refer here already
    _column("created", Float),
    _column("updated", Float),
)
messages = _table(
    "messages",
    _id(),
    _of("conversations"),
    _of("messages", "parent_id", nullable=True),
    _column("key", Text, nullable=True),
    _column("message", Json),  # a records.Message
    _column("status", Text),
    _column("model", Text, nullable=True),
    _column("sampling", Json, nullable=True),
    _column("seed", BigInteger, nullable=True),
    _column("finish_reason", Text, nullable=True),
    _column("error", nullable=True),
    _column("created", Float),
    _column("updated", Float),
    UniqueConstraint("conversation_id", "key"),
)
_running = messages.c.status == "running"  # few are, and servers look for them all the time
Index("ix_messages_running", messages.c.updated, sqlite_where=_running, postgresql_where=_running)
feedback = _table(
    "feedback",
    _number(),
    _of("users"),
    _of("messages"),
    _column("key", Text),
    _column("kind", Text),
    _column("body", Json),
    _column("snapshot", Json),
    _column("created", Float),
    UniqueConstraint("user_id", "key"),
)

# ---- labelling

prompts = _table(
    "prompts",
    _id(),
    _of("users", "author_id", nullable=True),  # none: it was imported
    _of("messages", nullable=True, unique=True, index=False),
    _column("prompt", Json),  # a records.Prompt without personal data
    _column("created", Float),
)
tasks = _table(
    "tasks",
    _id(),
    _of("prompts"),
    _column("purpose", Text),
    _column("completions", Json),  # records.Completion
    _column("groups", Json),  # positions of identical completions
    _column("reason", Text),
    _column("round_id", Text, nullable=True),
    _column("seed", BigInteger),
    _column("created", Float),
)
seats = _table(
    "seats",
    _id(),
    _of("tasks"),
    _of("users", nullable=True),
    _column("state", Text),
    _column("expires", Float, nullable=True),
    UniqueConstraint("task_id", "user_id"),  # nobody ranks a task twice
    Index("ix_seats_state_expires", "state", "expires"),
    Index("ix_seats_state_task_id", "state", "task_id", "id"),  # whose turn it is
)
labels = _table(
    "labels",
    _number(),
    _of("tasks"),
    _of("users"),
    _column("key", Text),
    _column("kind", Text),
    _column("body", Json),
    _column("created", Float),
    UniqueConstraint("user_id", "key"),
)
demonstrations = _table(
    "demonstrations",
    _number(),
    _of("prompts"),
    _of("users"),
    _column("key", Text),
    _column("message", Json),  # a records.Message of the assistant
    _column("created", Float),
    UniqueConstraint("user_id", "key"),
)

# ---- models

models = _table(
    "models",
    Column("hash", Text, primary_key=True),
    _column("folder"),
    _column("run"),
    _column("parents", Json),  # hashes
    _column("created", Float),
)
promotions = _table(
    "promotions",
    _number(),
    _of("models", "model"),
    _column("actor", Text),
    _column("reason"),
    _column("is_rollback", Boolean),
    _column("created", Float),
)
rounds = _table(
    "rounds",
    _id(),
    _column("state", Text),
    _column("record", Json),
    _column("created", Float),
    _column("updated", Float),
)
exports = _table("exports", _id(), _column("folder"), _column("manifest", Json), _column("created", Float))
export_rows = _table(
    "export_rows",
    _number(),
    _of("exports"),
    _column("user_id", Text, index=True),
    _column("conversation_id", Text, nullable=True, index=True),
    _column("file", Text),
    _column("line", Integer),
)
model_exports = _table(
    "model_exports", _of("models", "model", primary_key=True, index=False), _of("exports", primary_key=True)
)

# ---- accounts of what was done

audit = _table(
    "audit",
    _number(),
    _column("actor", Text),
    _column("action", Text),
    _column("subject", Text),
    _column("created", Float),
)
erasures = _table(
    "erasures",
    _number(),
    _column("kind", Text),
    _column("subject", Text, unique=True),
    _column("created", Float),
    _column("cleaned", Boolean),  # the files hold nothing of it any more
)
