"""Models by hash, which of them serves, and the rounds that made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from tutelage.errors import UsageError
from tutelage.store.audit import record as note
from tutelage.store.database import Store, insert_once, one
from tutelage.store.tables import exports, model_exports, models, new_id, promotions, rounds


@dataclass(frozen=True)
class Model:
    """A checkpoint that is known to the store."""

    hash: str
    folder: str
    run: str
    parents: tuple[str, ...]
    """Hashes of the models that it was trained from."""
    created: float


@dataclass(frozen=True)
class Promotion:
    """A model began to serve."""

    id: int
    model: str
    actor: str
    reason: str
    is_rollback: bool
    created: float


@dataclass(frozen=True)
class Round:
    """One turn of the loop."""

    id: str
    state: str
    record: dict[str, Any]
    """Everything that it used: settings, export, models, figures. Never what people wrote, which erasure would not find here."""
    created: float
    updated: float


def _model(row: Row[Any]) -> Model:
    return Model(row.hash, row.folder, row.run, tuple(row.parents), row.created)


def register_model(
    store: Store, hash: str, folder: str, *, run: str = "", parents: Sequence[str] = (), trained_on: Iterable[str] = ()
) -> Model:
    """Make a model known; once is enough. ``trained_on``: ids of the exports whose rows it saw, its parents' aside."""
    row = {"hash": hash, "folder": folder, "run": run, "parents": list(parents), "created": store.now()}
    with store.write() as db:
        made, _ = insert_once(db, models, ("hash",), row)
        for export_id in trained_on:
            one(db, select(exports.c.id).where(exports.c.id == export_id), "export")
            insert_once(db, model_exports, ("model", "export_id"), {"model": hash, "export_id": export_id})
        return _model(made)


def get_model(store: Store, hash: str) -> Model:
    """Raises NotFound."""
    with store.read() as db:
        return _model(one(db, select(models).where(models.c.hash == hash), "model"))


def trained_on(db: Connection, export_ids: Iterable[str]) -> list[Model]:
    """The models that saw a row of these exports, and those trained from them."""
    query = select(model_exports.c.model).where(model_exports.c.export_id.in_(list(export_ids)))
    everything = [_model(row) for row in db.execute(select(models).order_by(models.c.created, models.c.hash))]
    reached = descendants({model.hash: model.parents for model in everything}, set(db.scalars(query)))
    return [model for model in everything if model.hash in reached]


def descendants(parents: Mapping[str, Sequence[str]], first: set[str]) -> set[str]:
    """``first`` and all that have one of them among their parents, their parents' parents, and so on."""
    reached = set(first)
    while more := {name for name, above in parents.items() if name not in reached and reached.intersection(above)}:
        reached |= more
    return reached


# ---- which one serves


def promote(store: Store, hash: str, *, actor: str, reason: str = "") -> Promotion:
    """From now on this model serves. Raises NotFound for one that is not registered."""
    with store.write() as db:
        one(db, select(models.c.hash).where(models.c.hash == hash), "model")
        return _promote(db, store.now(), hash, actor, reason, is_rollback=False)


def promoted(store: Store) -> Model | None:
    """The model that serves; None if none was ever promoted."""
    with store.read() as db:
        latest = select(models).join(promotions).order_by(promotions.c.id.desc()).limit(1)
        row = db.execute(latest).one_or_none()
        return _model(row) if row else None


def promotion_history(store: Store) -> list[Promotion]:
    """All promotions, the latest first."""
    with store.read() as db:
        return [Promotion(*row) for row in db.execute(select(promotions).order_by(promotions.c.id.desc()))]


def roll_back(store: Store, *, actor: str, reason: str = "") -> Promotion:
    """Promote the model that served before the present one; again goes further back. Raises UsageError if there is none."""
    with store.write() as db:
        stack = _served_before(db)
        if len(stack) < 2:
            raise UsageError("there is no earlier model to go back to")
        return _promote(db, store.now(), stack[-2], actor, reason, is_rollback=True)


def before_promoted(store: Store) -> Model | None:
    """The model to which ``roll_back`` would go back; None if there is none."""
    with store.read() as db:
        stack = _served_before(db)
        return _model(one(db, select(models).where(models.c.hash == stack[-2]), "model")) if len(stack) > 1 else None


def _served_before(db: Connection) -> list[str]:
    """The hashes of the models that served, the promoted one last, without those that were rolled back."""
    stack: list[str] = []
    for row in db.execute(select(promotions).order_by(promotions.c.id)):
        if row.is_rollback:
            stack.pop()
        elif not stack or stack[-1] != row.model:
            stack.append(row.model)
    return stack


def _promote(db: Connection, now: float, hash: str, actor: str, reason: str, *, is_rollback: bool) -> Promotion:
    row = {"model": hash, "actor": actor, "reason": reason, "is_rollback": is_rollback, "created": now}
    note(db, now, actor, "roll back" if is_rollback else "promote", hash)
    return Promotion(*db.execute(insert(promotions).values(row).returning(promotions)).one())


# ---- rounds


def start_round(store: Store, record: Mapping[str, Any], *, state: str = "started") -> Round:
    """A new round of the loop."""
    now = store.now()
    row = {"id": new_id(), "state": state, "record": dict(record), "created": now, "updated": now}
    with store.write() as db:
        return Round(*db.execute(insert(rounds).values(row).returning(rounds)).one())


def update_round(
    store: Store, round_id: str, *, state: str | None = None, record: Mapping[str, Any] | None = None
) -> Round:
    """Set a round's state, or add fields to its record."""
    with store.write() as db:
        before = one(db, select(rounds).where(rounds.c.id == round_id).with_for_update(), "round")
        changes = {"state": state or before.state, "record": before.record | dict(record or {}), "updated": store.now()}
        mine = rounds.c.id == round_id
        return Round(*db.execute(update(rounds).where(mine).values(changes).returning(rounds)).one())


def list_rounds(store: Store) -> list[Round]:
    """All rounds, the first first."""
    with store.read() as db:
        return [Round(*row) for row in db.execute(select(rounds).order_by(rounds.c.id))]
