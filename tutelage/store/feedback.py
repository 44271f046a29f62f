"""What people say of answers, in the order in which they said it. Nothing here is changed or taken back: a later event counts.

Each event has a snapshot of what it speaks of, so that its meaning does not depend on what the conversation becomes, and a key
made by the client, so that one sent twice counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from tutelage.errors import UsageError
from tutelage.store.conversations import Turn, as_json, own_chat, own_turn, path_to, turns_of
from tutelage.store.database import Store, insert_once
from tutelage.store.tables import feedback, messages

Kind = Literal["thumb", "comparison", "edit"]


@dataclass(frozen=True)
class Event:
    """One thing that somebody said of an answer."""

    id: int
    kind: Kind
    message_id: str
    body: dict[str, Any]
    snapshot: dict[str, Any]
    """``messages``: the conversation before the answer; ``answers``: those spoken of, as ``records.Completion``."""
    created: float


def event_of(row: Row[Any]) -> Event:
    """A row as an event."""
    return Event(row.id, row.kind, row.message_id, row.body, row.snapshot, row.created)


def give_thumb(
    store: Store, user_id: str, message_id: str, value: Literal["up", "down", "none"], *, key: str, reason: str = ""
) -> Event:
    """A thumb for an answer; ``none`` takes an earlier one back. Thumbs choose which prompts get ranked, and never rank."""
    return _add(store, user_id, (message_id,), "thumb", {"value": value, "reason": reason}, key)


def compare_answers(
    store: Store,
    user_id: str,
    shown: tuple[str, str],
    better: Literal["first", "second", "tie"],
    *,
    policies: tuple[str, str],
    key: str,
) -> Event:
    """A choice between two answers to one message. ``shown``: their ids, in the order on the page; ``policies``: what chose the
    model and settings of each."""
    if shown[0] == shown[1]:
        raise UsageError("a comparison is of two different answers")
    body = {"shown": list(shown), "better": better, "policies": list(policies)}
    return _add(store, user_id, shown, "comparison", body, key)


def edit_answer(store: Store, user_id: str, message_id: str, text: str, *, key: str) -> Event:
    """The answer as the person would have it. Kept, but exported only on request."""
    return _add(store, user_id, (message_id,), "edit", {"text": text}, key)


def _add(store: Store, user_id: str, answers: tuple[str, ...], kind: Kind, body: dict[str, Any], key: str) -> Event:
    if not key:
        raise UsageError("feedback needs a key, a random text that the client makes once for each event")
    with store.write() as db:
        spoken_of = [own_turn(db, user_id, answer) for answer in answers]
        for turn in spoken_of:
            if turn.message.role != "assistant" or turn.status == "running":
                raise UsageError("feedback is about an answer of the assistant that has ended")
            if turn.parent != spoken_of[0].parent or turn.chat_id != spoken_of[0].chat_id:
                raise UsageError("the answers that are compared are answers to one message")
        row: dict[str, Any] = {"user_id": user_id, "message_id": answers[0], "key": key, "kind": kind, "body": body}
        row |= {"snapshot": _snapshot(db, spoken_of), "created": store.now()}
        return event_of(insert_once(db, feedback, ("user_id", "key"), row)[0])


def _snapshot(db: Connection, answers: list[Turn]) -> dict[str, Any]:
    """The conversation before the answers, and them with model, sampling and seed."""
    before = path_to(turns_of(db, answers[0].chat_id), answers[0].parent)
    completions = [turn.completion.model_dump(mode="json", exclude_defaults=True) for turn in answers]
    return {"messages": [as_json(turn.message) for turn in before], "answers": completions}


def list_feedback(store: Store, user_id: str, chat_id: str) -> list[Event]:
    """What was said of a conversation's answers, in order."""
    with store.read() as db:
        own_chat(db, user_id, chat_id)
        of_chat = messages.c.conversation_id == chat_id
        rows = db.execute(select(feedback).join(messages).where(of_chat).order_by(feedback.c.id))
        return [event_of(row) for row in rows]
