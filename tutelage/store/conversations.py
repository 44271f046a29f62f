"""Conversations as trees of messages, each answer with what made it.

An answer belongs to the store and not to the connection that asked for it: it is begun here, its text is saved while it grows, and
it ends here as done, stopped or failed. The first end counts: what the model writes after Stop is not kept. Several servers may
share a store: an answer that its server has not saved for ``SILENT`` seconds is taken to be nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from tutelage.errors import UsageError
from tutelage.records import Completion, Message
from tutelage.store.database import Store, insert_once, one
from tutelage.store.tables import conversations, messages, new_id, users

Status = Literal["running", "done", "stopped", "failed"]

SILENT = 15.0
"""Seconds after which a running answer that was not saved has lost its server. Servers save once a second; where several share a
store, their clocks have to agree to well within this."""


@dataclass(frozen=True)
class Chat:
    """A person's conversation, without its messages."""

    id: str
    title: str
    keep_out: bool
    """Of training, exports and labelling."""
    active_leaf: str | None
    """The message at whose branch the reader is."""
    created: float
    updated: float


@dataclass(frozen=True)
class Turn:
    """A message of a conversation."""

    id: str
    chat_id: str
    parent: str | None
    message: Message
    status: Status
    """``done`` for what people write."""
    model: str | None
    """Of an answer: the hash of the model that wrote it; likewise ``sampling``, ``seed`` and ``finish_reason``."""
    sampling: Mapping[str, Any] | None
    seed: int | None
    finish_reason: str | None
    error: str | None
    created: float
    key: str | None

    @property
    def completion(self) -> Completion:
        """An answer as rankings hold it."""
        said = self.message
        more = {name: getattr(said, name) for name in ("reasoning", "tool_calls", "evidence", "citations")}
        numbers = {k: v for k, v in (self.sampling or {}).items() if isinstance(v, int | float)}
        made_by = {"model": self.model or "", "sampling": numbers, "seed": self.seed}
        return Completion(text=said.text, finished=self.finish_reason == "stop", **made_by, **more)


class Draft(NamedTuple):
    """An answer that is to be written."""

    model: str
    """The hash of the model that writes it."""
    sampling: Mapping[str, Any]
    seed: int


def _chat(row: Row[Any]) -> Chat:
    return Chat(row.id, row.title, row.keep_out, row.active_leaf, row.created, row.updated)


def _turn(row: Row[Any]) -> Turn:
    made_by = (row.model, row.sampling, row.seed, row.finish_reason, row.error)
    message = Message.model_validate(row.message)
    return Turn(row.id, row.conversation_id, row.parent_id, message, row.status, *made_by, row.created, row.key)


def as_json(message: Message) -> dict[str, Any]:
    """A message as its column holds it."""
    return message.model_dump(mode="json", exclude_defaults=True)


# ---- conversations


def create_chat(store: Store, user_id: str, title: str = "", *, keep_out: bool = False) -> Chat:
    """A new conversation without messages."""
    with store.write() as db:
        one(db, select(users.c.id).where(users.c.id == user_id), "user")
        return _create(db, store.now(), user_id, title, keep_out)


def _create(db: Connection, now: float, user_id: str, title: str, keep_out: bool) -> Chat:
    row = {"id": new_id(), "user_id": user_id, "title": title, "keep_out": keep_out, "created": now, "updated": now}
    return _chat(db.execute(insert(conversations).values(row).returning(conversations)).one())


def list_chats(store: Store, user_id: str, *, limit: int = 100) -> list[Chat]:
    """A person's conversations, the one last written in first."""
    query = select(conversations).where(conversations.c.user_id == user_id)
    with store.read() as db:
        rows = db.execute(query.order_by(conversations.c.updated.desc(), conversations.c.id.desc()).limit(limit))
        return [_chat(row) for row in rows]


def get_chat(store: Store, user_id: str, chat_id: str) -> Chat:
    """Raises NotFound, for another's conversation too."""
    with store.read() as db:
        return _chat(own_chat(db, user_id, chat_id))


def update_chat(
    store: Store,
    user_id: str,
    chat_id: str,
    *,
    title: str | None = None,
    keep_out: bool | None = None,
    active_leaf: str | None = None,
) -> Chat:
    """Change what is given."""
    given = {"title": title, "keep_out": keep_out, "active_leaf": active_leaf}
    changes = {name: value for name, value in given.items() if value is not None}
    with store.write() as db:
        row = own_chat(db, user_id, chat_id)
        if active_leaf is not None:
            _in_chat(db, chat_id, active_leaf)
        if changes:
            mine = conversations.c.id == chat_id
            row = db.execute(update(conversations).where(mine).values(**changes).returning(conversations)).one()
        return _chat(row)


def own_chat(db: Connection, user_id: str, chat_id: str) -> Row[Any]:
    """The row of a person's conversation; NotFound for another's."""
    mine = (conversations.c.id == chat_id) & (conversations.c.user_id == user_id)
    return one(db, select(conversations).where(mine), "conversation")


# ---- messages


def turns(store: Store, user_id: str, chat_id: str) -> list[Turn]:
    """All messages of a conversation, on all branches, in the order in which they were written."""
    with store.read() as db:
        own_chat(db, user_id, chat_id)
        return turns_of(db, chat_id)


def turns_of(db: Connection, chat_id: str) -> list[Turn]:
    """``turns`` without asking whose they are."""
    return [
        _turn(row) for row in db.execute(select(messages).where(messages.c.conversation_id == chat_id).order_by("id"))
    ]


def path_to(tree: Sequence[Turn], leaf: str | None) -> list[Turn]:
    """The messages from the first to ``leaf``."""
    by_id, path = {turn.id: turn for turn in tree}, list[Turn]()
    while leaf is not None:
        path.append(by_id[leaf])
        leaf = path[-1].parent
    return path[::-1]


def get_turn(store: Store, user_id: str, turn_id: str) -> Turn:
    """Raises NotFound, for a message of another's conversation too."""
    with store.read() as db:
        return own_turn(db, user_id, turn_id)


def own_turn(db: Connection, user_id: str, turn_id: str) -> Turn:
    """A message of a person's conversation; NotFound for another's."""
    mine = (messages.c.id == turn_id) & (conversations.c.user_id == user_id)
    return _turn(one(db, select(messages).join(conversations).where(mine), "message"))


def add_message(
    store: Store, user_id: str, chat_id: str, message: Message, *, parent: str | None = None, key: str | None = None
) -> Turn:
    """Add what a person, the system or a tool said after ``parent``; another message there already makes a branch.

    ``key``: made by the client; the same again returns the message that the first call added.
    """
    with store.write() as db:
        own_chat(db, user_id, chat_id)
        return _say(db, store.now(), chat_id, parent, message, key)


def begin_answers(
    store: Store,
    user_id: str,
    drafts: Sequence[Draft],
    *,
    key: str,
    chat_id: str | None = None,
    parent: str | None = None,
    message: Message | None = None,
    title: str = "",
    keep_out: bool = False,
) -> tuple[list[Turn], bool]:
    """Begin one or two answers to ``parent``, or to ``message``, which is added after it: all is recorded, or nothing.

    Each answer is ``running`` and has no text yet. Without ``chat_id`` a conversation is made for them, with ``title`` and
    ``keep_out``. Returns the answers and whether they are new: the same key again, even at the same time, returns those that the
    first call began.
    """
    if any(not -(2**63) <= draft.seed < 2**63 for draft in drafts):
        raise UsageError("a seed has at most 64 bits")
    with store.write() as db:
        now, me = store.now(), select(users.c.id).where(users.c.id == user_id)
        one(
            db, me.with_for_update(key_share=True), "user"
        )  # a person's calls take turns: no constraint spans conversations
        if earlier := _begun(db, user_id, key):
            return earlier, False
        chat_id = own_chat(db, user_id, chat_id).id if chat_id else _create(db, now, user_id, title, keep_out).id
        parent = _say(db, now, chat_id, parent, message, key).id if message else parent
        row = {"parent_id": parent, "message": {"role": "assistant", "content": ""}, "status": "running"}
        rows = [row | draft._asdict() | {"key": name} for draft, name in zip(drafts, _keys(key), strict=False)]
        return [_add(db, now, chat_id, row) for row in rows], True


def pairs(turns: Sequence[Turn]) -> dict[str, str]:
    """The answers of a conversation that were begun two at a time, to be chosen between: answer -> the first of its pair."""
    by_key = {turn.key: turn.id for turn in turns if turn.message.role == "assistant" and turn.key}
    asked = {key.rpartition(":")[0] for key in by_key}
    both = ([by_key.get(key) for key in _keys(one)] for one in asked)
    return {answer: first for first, second in both if first and second for answer in (first, second)}


def begun(store: Store, user_id: str, key: str) -> list[Turn]:
    """The answers that ``begin_answers`` began for a key; empty if there are none."""
    with store.read() as db:
        return _begun(db, user_id, key)


def _begun(db: Connection, user_id: str, key: str) -> list[Turn]:
    mine = (conversations.c.user_id == user_id) & messages.c.key.in_(_keys(key))
    return [_turn(row) for row in db.execute(select(messages).join(conversations).where(mine).order_by(messages.c.key))]


def _keys(key: str) -> list[str]:
    return [f"{key}:{number}" for number in range(2)]


def _say(db: Connection, now: float, chat_id: str, parent: str | None, message: Message, key: str | None) -> Turn:
    if message.role == "assistant":
        raise UsageError("an answer begins with begin_answers, which records what makes it")
    return _add(db, now, chat_id, {"parent_id": parent, "message": as_json(message), "status": "done", "key": key})


def _add(db: Connection, now: float, chat_id: str, row: dict[str, Any]) -> Turn:
    if row["parent_id"] is not None:
        _in_chat(db, chat_id, row["parent_id"])
    row |= {"id": new_id(), "conversation_id": chat_id, "created": now, "updated": now}
    added, is_new = insert_once(db, messages, ("conversation_id", "key"), row)
    if is_new:
        changes = {"active_leaf": added.id, "updated": now}
        db.execute(update(conversations).where(conversations.c.id == chat_id).values(**changes))
    return _turn(added)


def _in_chat(db: Connection, chat_id: str, turn_id: str) -> None:
    there = (messages.c.id == turn_id) & (messages.c.conversation_id == chat_id)
    one(db, select(messages.c.id).where(there), "message")


# ---- answers


def save_running(store: Store, texts: Mapping[str, str]) -> set[str]:
    """Save the texts that answers, by id, have so far: their server is alive. Returns those that have ended: stop writing them."""
    mine = select(messages.c.id).where(messages.c.id.in_(texts), messages.c.status == "running")
    with store.write() as db:
        # An answer that is locked is being ended or erased; waiting for it while others are held could be a deadlock.
        running = db.scalars(mine.with_for_update(key_share=True, skip_locked=True)).all()
        for id in running:
            changes = {"message": {"role": "assistant", "content": texts[id]}, "updated": store.now()}
            db.execute(update(messages).where(messages.c.id == id).values(changes))
    return texts.keys() - set(running)


def finish_answer(
    store: Store,
    user_id: str,
    turn_id: str,
    status: Literal["done", "stopped", "failed"],
    *,
    message: Message | None = None,
    finish_reason: str | None = None,
    error: str | None = None,
) -> Turn:
    """End an answer, with ``message`` in place of what was saved of it. An answer that has ended already stays as it is."""
    if message is not None and message.role != "assistant":
        raise UsageError(f"an answer is by the assistant, and this message is by the {message.role}")
    changes: dict[str, Any] = {"status": status, "finish_reason": finish_reason, "error": error, "updated": store.now()}
    changes |= {"message": as_json(message)} if message else {}
    running = (messages.c.id == turn_id) & (messages.c.status == "running")
    with store.write() as db:
        own_turn(db, user_id, turn_id)
        row = db.execute(update(messages).where(running).values(changes).returning(messages)).one_or_none()
        return _turn(row) if row else own_turn(db, user_id, turn_id)


def stop_orphans(store: Store, *, silent: float = SILENT) -> int:
    """End the running answers that nobody has saved for ``silent`` seconds, with the text that was saved; returns how many."""
    now = store.now()  # before the lock is waited for: those that save wait for it too
    left = (messages.c.status == "running") & (messages.c.updated <= now - silent)
    with store.write() as db:
        return db.execute(update(messages).where(left).values(status="stopped", updated=now)).rowcount
