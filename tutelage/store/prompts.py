"""Prompts: what people asked, without personal data, as labellers and trainers get it.

``collect`` makes them of the conversations that may be used. Which split a prompt belongs to depends on its author alone, so that
no person is in both, and nothing that is kept for evaluation is chosen by what people thought of its answers.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, exists, func, insert, or_, select

from tutelage.records import Prompt
from tutelage.seeds import derive
from tutelage.store.conversations import path_to, turns_of
from tutelage.store.database import Store
from tutelage.store.people import consents_now
from tutelage.store.personal import scrub_record
from tutelage.store.tables import conversations, feedback, messages, new_id, prompts, tasks

Split = Literal["train", "evaluate"]

PREFIX = 96
"""Bytes of UTF-8 in which prompts that count as one agree: 96 letters of English, 32 characters of Chinese."""
HELD_OUT = 0.1
"""Share of authors whose prompts are kept for evaluation."""


@dataclass(frozen=True)
class Candidate:
    """A prompt that nobody has been asked to rank answers to."""

    id: str
    prompt: Prompt
    purpose: Split
    reason: str
    """``thumbs`` for one with an answer that somebody disliked, else ``random``."""


def split_of(author_id: str | None, prompt_id: str, *, held_out: float = HELD_OUT) -> Split:
    """The split of an author's prompts, for all uses and for good. A prompt without an author, which was imported, goes by itself.

    There is no seed to choose: with two of them, what one use keeps for evaluation another would train on.
    """
    drawn = derive(0, "store.split", author_id or prompt_id) / 2**63
    return "evaluate" if drawn < held_out else "train"


def prefix_key(prompt: Prompt) -> bytes:
    """Two prompts count as one if this is equal: their last messages begin alike, and so does what was said before short ones."""
    said = "\x1f".join(message.text for message in reversed(prompt.messages))
    return " ".join(unicodedata.normalize("NFKC", said).casefold().split()).encode()[:PREFIX]


def usable() -> ColumnElement[bool]:
    """Condition on ``prompts``: imported, or its author agrees at present and has not kept the conversation out."""
    source = select(1).select_from(messages.join(conversations)).where(messages.c.id == prompts.c.message_id)
    kept_out = source.where(conversations.c.keep_out).correlate_except(messages, conversations).exists()
    return ~kept_out & or_(prompts.c.author_id.is_(None), consents_now(prompts.c.author_id))


def add_prompt(store: Store, prompt: Prompt, *, author_id: str | None = None) -> str:
    """Add a prompt that comes from elsewhere, without personal data; returns its id."""
    made, (cleaned, _) = new_id(), without_personal(prompt)
    with store.write() as db:
        db.execute(insert(prompts).values(id=made, author_id=author_id, prompt=cleaned, created=store.now()))
    return made


def import_prompts(store: Store, given: Iterable[Prompt]) -> int:
    """Add those prompts from elsewhere that were not imported before, without personal data; returns how many."""
    rows = [without_personal(prompt)[0] for prompt in given]
    with store.write() as db:
        known = [*db.scalars(select(prompts.c.prompt).where(prompts.c.author_id.is_(None)))]
        seen = {canonical(row) for row in known}
        new = {said: row for row in rows if (said := canonical(row)) not in seen}
        for row in new.values():
            db.execute(insert(prompts).values(id=new_id(), prompt=row, created=store.now()))
    return len(new)


def canonical(row: dict[str, Any]) -> str:
    """What a prompt says, without where it is from."""
    return json.dumps(row["messages"], sort_keys=True)


def collect(store: Store) -> Counter[str]:
    """Make prompts of what people who agree have asked since the last time, in conversations that are not kept out.

    Returns how many were added, under ``prompts``, and how many pieces of personal data were taken out, by kind.
    """
    counts: Counter[str] = Counter()
    with store.read() as db:
        chats = db.execute(_uncollected().distinct()).all()
    for chat in chats:  # one transaction each: people write meanwhile
        with store.write() as db:
            for row, found in _new_prompts(db, chat, store.now()):
                db.execute(insert(prompts).values(row))
                counts.update(found, prompts=1)
    return counts


def _uncollected(*columns: Any) -> Any:
    """People's messages without a prompt that may be used."""
    may = ~conversations.c.keep_out & consents_now(conversations.c.user_id)
    new = ~exists().where(prompts.c.message_id == messages.c.id)
    by_person = messages.c.message["role"].as_string() == "user"
    chosen = columns or (conversations.c.id, conversations.c.user_id)
    return select(*chosen).select_from(messages.join(conversations)).where(may, new, by_person)


def _new_prompts(db: Connection, chat: Row[Any], now: float) -> Iterator[tuple[dict[str, Any], Counter[str]]]:
    """The rows of a conversation's new prompts; asked again here, since it may have been deleted or kept out since."""
    new = set(db.scalars(_uncollected(messages.c.id).where(conversations.c.id == chat.id)))
    tree = turns_of(db, chat.id) if new else []
    for turn in tree:
        if turn.id in new:
            said = tuple(each.message for each in path_to(tree, turn.id))
            made, found = without_personal(Prompt(messages=said, source="store"))
            row = {"id": new_id(), "author_id": chat.user_id, "message_id": turn.id, "prompt": made, "created": now}
            yield row, found


def without_personal(prompt: Prompt) -> tuple[dict[str, Any], Counter[str]]:
    """A prompt as its column holds it, and how many pieces of personal data were taken out, by kind."""
    cleaned, found = scrub_record(prompt)
    return cleaned.model_dump(mode="json", exclude_defaults=True), found


def prompts_to_rank(store: Store, limit: int, *, held_out: float = HELD_OUT) -> list[Candidate]:
    """Prompts without a task: a share for evaluation drawn at random, of the others those with a disliked answer first."""
    latest = select(func.max(feedback.c.id)).where(feedback.c.kind == "thumb").group_by(feedback.c.message_id)
    down = feedback.c.body["value"].as_string() == "down"
    disliked = select(messages.c.parent_id).join(feedback).where(feedback.c.id.in_(latest), down)
    query = select(prompts, func.coalesce(prompts.c.message_id.in_(disliked), False).label("disliked"))
    with store.read() as db:
        rows = db.execute(query.where(usable(), ~exists().where(tasks.c.prompt_id == prompts.c.id))).all()
    found = []
    for row in sorted(rows, key=lambda row: derive(0, "store.prompts to rank", row.id)):
        split = split_of(row.author_id, row.id, held_out=held_out)
        reason = "thumbs" if row.disliked and split == "train" else "random"
        found.append(Candidate(row.id, Prompt.model_validate(row.prompt), split, reason))
    evaluation = [one for one in found if one.purpose == "evaluate"][: round(limit * held_out)]
    training = sorted((one for one in found if one.purpose == "train"), key=lambda one: one.reason != "thumbs")
    return evaluation + training[: limit - len(evaluation)]
