"""`tutelage store ...`: what the people who run a server do with its database."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tutelage.errors import NotFound, StoreError
from tutelage.settings import Settings
from tutelage.store import backup as backups
from tutelage.store import erase, people
from tutelage.store.audit import entries
from tutelage.store.database import Store
from tutelage.store.export import PER_USER
from tutelage.store.export import export as write_export
from tutelage.store.opening import Where, default_store, existing_store
from tutelage.store.prompts import HELD_OUT


def backup(
    file: Annotated[Path, Field(description="file to write: a SQLite file, or pg_dump's format from PostgreSQL")],
    *,
    store: Where = None,
) -> str:
    """Copy the store into a file while servers go on using it."""
    with existing_store(store) as opened:
        backups.backup(opened, file)
        return f"{file}: a copy of {opened}"


def restore(
    file: Annotated[Path, Field(description="backup to read")],
    *,
    store: Where = None,
    force: Annotated[bool, Field(description="put it in the place of a store that is there")] = False,
) -> str:
    """Bring a backup back; what was erased since is erased again. Stop the servers first."""
    opened = backups.restore(file, store or default_store(), force=force)
    opened.close()
    return f"{opened}: restored from {file}"


def check(*, store: Where = None) -> str:
    """Look for damage in the store."""
    with existing_store(store) as opened:
        problems = backups.check(opened)
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            raise StoreError(f"{opened}: {problems[0]}{more}; restore a backup with: tutelage store restore")
        return f"{opened}: no damage found"


def erase_user(
    name: Annotated[str, Field(description="name of the person")],
    *,
    store: Where = None,
    yes: Annotated[bool, Field(description="erase, and not only list what would be erased")] = False,
) -> str:
    """Erase a person and all their words, or without --yes list what would be erased and which models saw it."""
    with existing_store(store) as opened:
        user = _named(opened, name)
        found = erase.erase_user(opened, user.id, actor="command line") if yes else erase.traces(opened, user.id)
        lines = [f"{name}: {'erased' if yes else 'would be erased; --yes erases'}", _counted(found.rows)]
        lines += [f"delete this export, which holds rows of theirs: {folder}" for _, folder in found.exports]
        lines += [f"trained on such an export: {model.folder} ({model.hash})" for model in found.models]
        lines += ["backups made before hold their words still: delete them"] * yes
        if yes and not found.cleaned:
            lines.append(
                "another process reads the database, so its files may hold the words until the store is next opened"
            )
        return "\n".join(line for line in lines if line)


def users(*, store: Where = None) -> str:
    """The people of the store, since when, and their API keys by their first characters."""
    with existing_store(store) as opened:
        lines = []
        for user in people.list_users(opened):
            keys = ", ".join(f"{key.prefix}... {key.label}".strip() for key in people.list_api_keys(opened, user.id))
            lines.append(f"{user.name}, since {date.fromtimestamp(user.created)}, keys: {keys or 'none'}")
        return "\n".join(lines) or f"{opened}: nobody has an account yet"


def key(
    name: Annotated[str, Field(description="name of the person")],
    *,
    label: Annotated[str, Field(description="what the key is for, shown in lists")] = "",
    revoke: Annotated[str, Field(description="refuse the key with these first characters, instead of making one")] = "",
    store: Where = None,
) -> str:
    """Make an API key for a person, which is shown this once, or revoke one."""
    with existing_store(store) as opened:
        user = _named(opened, name)
        if not revoke:
            return people.create_api_key(opened, user.id, label)[1]
        found = [key for key in people.list_api_keys(opened, user.id) if key.prefix == revoke[: len(key.prefix)]]
        if not found:
            raise NotFound(f"{name} has no key that begins with {revoke!r}; see: tutelage store users")
        for each in found:
            people.revoke_api_key(opened, user.id, each.id)
        return f"{name}: {', '.join(f'{each.prefix}... {each.label}'.strip() for each in found)} is refused from now on"


def password(name: Annotated[str, Field(description="name of the person")], *, store: Where = None) -> str:
    """Give a person who has forgotten theirs a new password, which is shown this once; they are logged out everywhere."""
    from argon2 import PasswordHasher

    with existing_store(store) as opened:
        user = _named(opened, name)
        made = secrets.token_urlsafe(12)
        people.update_user(opened, user.id, actor="command line", password_hash=PasswordHasher().hash(made))
        return made


def _named(store: Store, name: str) -> people.User:
    """The person of this name. Raises NotFound."""
    user = people.find_user(store, name)
    if user is None:
        raise NotFound(f"nobody here is called {name!r}; see: tutelage store users")
    return user


def audit(*, last: Annotated[int, Field(ge=1, description="how many lines to show")] = 20, store: Where = None) -> str:
    """Who did what and when, newest first: promotions, roll-backs, new roles and erasures."""
    with existing_store(store) as opened:
        lines = [
            f"{datetime.fromtimestamp(entry.created):%Y-%m-%d %H:%M}  {entry.actor}: {entry.action} {entry.subject}"
            for entry in entries(opened, last)
        ]
        return "\n".join(lines) or f"{opened}: nothing is on record yet"


class ExportSettings(Settings):
    """How ``tutelage store export`` chooses."""

    seed: int = Field(0, description="draws which prompts of a prolific person are taken")
    per_user: int = Field(PER_USER, ge=1, description="most prompts of one person")
    held_out: float = Field(HELD_OUT, ge=0, le=1, description="share of people whose prompts are for evaluation")
    edits: bool = Field(False, description="take answers that people edited as demonstrations")


def export(
    folder: Annotated[Path, Field(description="folder to make")], how: ExportSettings, *, store: Where = None
) -> str:
    """Write rankings, demonstrations and prompts for training, by InstructGPT's rules."""
    with existing_store(store) as opened:
        made = write_export(opened, folder, **how.model_dump())
    lines = [f"{folder}: export {made.id}: {_counted(made.rows)}"]
    lines += [f"left out: {_counted(made.left_out)}"] if made.left_out else []
    lines += [f"personal data removed: {_counted(made.personal_data)}"] if made.personal_data else []
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
