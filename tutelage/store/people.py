"""People: who they are, how they are recognised, and what they agreed to.

Passwords arrive here as hashes that this module does not read. Of tokens and API keys, which are random and long, only a SHA-256
is stored: whoever reads the database cannot log in with it.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, delete, false, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tutelage.errors import Conflict, NotFound, UsageError
from tutelage.store.audit import record
from tutelage.store.database import Store, one
from tutelage.store.tables import api_keys, consents, login_sessions, new_id, users

Role = Literal["user", "labeller", "admin"]


@dataclass(frozen=True)
class User:
    """A person with an account."""

    id: str
    name: str
    role: Role
    language: str
    created: float
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True)
class ApiKey:
    """A key as its owner sees it after it was made: by its first characters."""

    id: str
    prefix: str
    label: str
    created: float


def _user(row: Row[Any]) -> User:
    return User(row.id, row.name, row.role, row.language, row.created, row.password_hash)


def name_key(name: str) -> str:
    """A name as names are compared, so that no two people's look alike."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def hash_of(secret: str) -> str:
    """What is stored of a random token."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ---- accounts


def create_user(
    store: Store,
    name: str,
    *,
    password_hash: str | None = None,
    role: Role = "user",
    language: str = "en",
    consent: str | None = None,
) -> User:
    """Add a person, who agrees to the version ``consent`` of the notice if one is given.

    Raises Conflict if the name is taken, UsageError if it is empty or longer than 100 characters.
    """
    name = name.strip()
    if not 0 < len(name) <= 100:
        raise UsageError("a name has 1 to 100 characters")
    row = {"id": new_id(), "name": name, "name_key": name_key(name), "created": store.now()}
    row |= {"password_hash": password_hash, "role": role, "language": language}
    try:
        with store.write() as db:
            user = _user(db.execute(insert(users).values(**row).returning(users)).one())
            record(db, store.now(), user.id, "create user", user.id)
            if consent is not None:
                _consent(db, user.id, consent, True, store.now())
            return user
    except IntegrityError:
        raise Conflict(f"the name {name!r} is taken") from None


def find_user(store: Store, name: str) -> User | None:
    """The person of this name."""
    with store.read() as db:
        row = db.execute(select(users).where(users.c.name_key == name_key(name))).one_or_none()
        return _user(row) if row else None


def list_users(store: Store) -> list[User]:
    """Everybody, by the time they came."""
    with store.read() as db:
        return [_user(row) for row in db.execute(select(users).order_by(users.c.id))]


def update_user(
    store: Store,
    user_id: str,
    *,
    actor: str,
    password_hash: str | None = None,
    role: Role | None = None,
    language: str | None = None,
) -> User:
    """Change what is given. A new password or role ends the person's login sessions: they log in again with the new rights."""
    given = {"password_hash": password_hash, "role": role, "language": language}
    changes = {name: value for name, value in given.items() if value is not None}
    with store.write() as db:
        before = _user(one(db, select(users).where(users.c.id == user_id), "user"))
        if not changes:
            return before
        row = db.execute(update(users).where(users.c.id == user_id).values(**changes).returning(users)).one()
        if password_hash is not None or row.role != before.role:
            db.execute(delete(login_sessions).where(login_sessions.c.user_id == user_id))
        record(db, store.now(), actor, f"change {', '.join(changes)}", user_id)
        return _user(row)


# ---- login sessions


def log_in(store: Store, user_id: str, *, seconds: float, previous: str | None = None) -> str:
    """A new session; returns its token, which is stored nowhere. ``previous``: a token that this one replaces."""
    token, now = secrets.token_urlsafe(32), store.now()
    with store.write() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
        expired = login_sessions.c.expires <= now
        replaced = login_sessions.c.token_hash == hash_of(previous or "")
        db.execute(delete(login_sessions).where(expired | replaced))
        row = {"token_hash": hash_of(token), "user_id": user_id, "created": now, "expires": now + seconds}
        db.execute(insert(login_sessions).values(**row))
    return token


def logged_in(store: Store, token: str) -> User | None:
    """Whose session a token is; None if there is none or it has expired."""
    with store.read() as db:
        valid = (login_sessions.c.token_hash == hash_of(token)) & (login_sessions.c.expires > store.now())
        row = db.execute(select(users).join(login_sessions).where(valid)).one_or_none()
        return _user(row) if row else None


def log_out(store: Store, token: str) -> None:
    """End one session."""
    with store.write() as db:
        db.execute(delete(login_sessions).where(login_sessions.c.token_hash == hash_of(token)))


def log_out_everywhere(store: Store, user_id: str) -> int:
    """End all sessions of a person; returns how many."""
    with store.write() as db:
        return db.execute(delete(login_sessions).where(login_sessions.c.user_id == user_id)).rowcount


# ---- API keys


def create_api_key(store: Store, user_id: str, label: str = "") -> tuple[ApiKey, str]:
    """A new key and, this once, its text."""
    key = f"tut-{secrets.token_urlsafe(32)}"
    row = {"id": new_id(), "user_id": user_id, "key_hash": hash_of(key), "prefix": key[:8], "label": label}
    with store.write() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
        made = db.execute(insert(api_keys).values(**row, created=store.now()).returning(api_keys)).one()
        record(db, store.now(), user_id, "create API key", made.id)
        return _api_key(made), key


def list_api_keys(store: Store, user_id: str) -> list[ApiKey]:
    """A person's keys that are accepted, oldest first."""
    valid = (api_keys.c.user_id == user_id) & api_keys.c.revoked.is_(None)
    with store.read() as db:
        return [_api_key(row) for row in db.execute(select(api_keys).where(valid).order_by("id"))]


def revoke_api_key(store: Store, user_id: str, key_id: str) -> None:
    """From now on the key is refused. Raises NotFound for another's."""
    mine = (api_keys.c.id == key_id) & (api_keys.c.user_id == user_id)
    with store.write() as db:
        one(db, select(api_keys.c.id).where(mine), "API key")
        db.execute(update(api_keys).where(mine, api_keys.c.revoked.is_(None)).values(revoked=store.now()))
        record(db, store.now(), user_id, "revoke API key", key_id)


def user_of_api_key(store: Store, key: str) -> User | None:
    """Whose key it is; None for one that was never made or was revoked."""
    with store.read() as db:
        valid = (api_keys.c.key_hash == hash_of(key)) & api_keys.c.revoked.is_(None)
        row = db.execute(select(users).join(api_keys).where(valid)).one_or_none()
        return _user(row) if row else None


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(row.id, row.prefix, row.label, row.created)


# ---- consent


def give_consent(store: Store, user_id: str, version: str, *, given: bool = True) -> None:
    """Note that a person agreed to a version of the notice, or with ``given=False`` that they no longer do."""
    with store.write() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
        _consent(db, user_id, version, given, store.now())


def _consent(db: Connection, user_id: str, version: str, given: bool, now: float) -> None:
    db.execute(insert(consents).values(user_id=user_id, version=version, given=given, created=now))


def consent(store: Store, user_id: str) -> str | None:
    """The version that a person agreed to; None if they never did, or withdrew it."""
    latest = select(consents).where(consents.c.user_id == user_id).order_by(consents.c.id.desc()).limit(1)
    with store.read() as db:
        row = db.execute(latest).one_or_none()
        return row.version if row and row.given else None


def consents_now(user_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Condition: the person of this column agrees at present."""
    latest = select(consents.c.given).where(consents.c.user_id == user_id).order_by(consents.c.id.desc()).limit(1)
    return func.coalesce(latest.correlate_except(consents).scalar_subquery(), false())


def require_consent(db: Connection, user_id: str) -> None:
    """Raises NotFound for no such user, UsageError for one who has not agreed: consent comes before labelling."""
    row = db.execute(select(consents_now(users.c.id)).where(users.c.id == user_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such user")
    if not row[0]:
        raise UsageError("labels are only taken from people who have agreed to what is kept of them")
