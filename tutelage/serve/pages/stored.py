"""The pages over the store: ``StoredBackend``. Answers are written by threads of its own, not by the requests for them.

Several servers may share a store: what must happen once is one transaction, and an answer that is stopped or deleted on another
server stops being written here within a second or two.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, RLock, Thread
from typing import Any, Literal, NamedTuple

from tutelage.errors import Conflict, NotFound, TutelageError, UsageError
from tutelage.records import Message
from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages.backend import Answer, Person, Writer
from tutelage.serve.pages.markdown import render
from tutelage.store import conversations, erase, feedback, labels, people, tasks
from tutelage.store.conversations import Turn
from tutelage.store.database import Store

SESSION = 30 * 86400.0
SAVE = 1.0
"""Seconds between two savings of the answers that are being written; well below ``conversations.SILENT``."""

_log = logging.getLogger("tutelage.serve")


class Policy(NamedTuple):
    """What is to write an answer."""

    model: str
    """The model's hash."""
    sampling: dict[str, float | int]
    write: Callable[[Sequence[Message], int, str], Writer]
    """(conversation, seed, person) -> the answer, which has its place in the queue. Raises QueueFull, and UsageError for a
    conversation that cannot be answered."""


@dataclass
class _Writing:
    """An answer under way. ``lock`` guards what changes, and is held until its end is in the store."""

    person: str
    ticket: Writer
    text: str = ""
    finish_reason: str | None = None
    state: str = "writing"
    lock: RLock = field(default_factory=RLock)


class StoredBackend:
    """Called from threads. It has a method for each of ``ENDPOINTS``: its name, then (the person, the id in the path, the body) as
    far as there are any, and its reply.

    Each raises NotFound for what does not exist or is another person's, Conflict for what is no longer possible, UsageError
    for what makes no sense, QueueFull where too many answers are being written.

    ``policies``: (seed, whether two answers are possible) -> what writes an answer, or two for a choice in the order in which they
    are shown. ``names``: a model's hash -> its name.
    """

    def __init__(
        self, store: Store, policies: Callable[[int, bool], Sequence[Policy]], names: Callable[[str], str]
    ) -> None:
        self.store, self.policies, self.names = store, policies, names
        self._writing: dict[str, _Writing] = {}
        self._ending = Event()
        Thread(target=self._keep, name="tutelage-keeper", daemon=True).start()

    # People -----------------------------------------------------------------------------------------------------------

    def person_of(self, session: str) -> Person | None:
        user = people.logged_in(self.store, session)
        return _person(user) if user else None

    def only_person(self) -> Person:
        """Whose everything is in one-user mode."""
        while (user := people.find_user(self.store, "me")) is None:
            with suppress(Conflict):  # another request has just made it
                people.create_user(self.store, "me", role="admin", language="", consent="one-user mode")
        return _person(user)

    def credentials(self, name: str) -> tuple[Person, str] | None:
        user = people.find_user(self.store, name)
        return (_person(user), user.password_hash) if user and user.password_hash else None

    def sign_up(self, name: str, password_hash: str, language: str, consent: str) -> Person:
        return _person(
            people.create_user(self.store, name, password_hash=password_hash, language=language, consent=consent)
        )

    def new_password_hash(self, person: Person, password_hash: str) -> None:
        """Their sessions end."""
        people.update_user(self.store, person.id, actor=person.id, password_hash=password_hash)

    def log_in(self, person: Person, previous: str) -> str:
        return people.log_in(self.store, person.id, seconds=SESSION, previous=previous)

    def log_out(self, session: str) -> None:
        people.log_out(self.store, session)

    def log_out_everywhere(self, person: Person) -> None:
        people.log_out_everywhere(self.store, person.id)

    def keys(self, person: Person) -> e.ApiKeys:
        return e.ApiKeys(keys=[e.ApiKey(**vars(key)) for key in people.list_api_keys(self.store, person.id)])

    def make_key(self, person: Person, body: e.MakeKey) -> e.MadeKey:
        return e.MadeKey(secret=people.create_api_key(self.store, person.id, body.label)[1])

    def revoke_key(self, person: Person, id: str) -> e.Done:
        people.revoke_api_key(self.store, person.id, id)
        return e.Done()

    def preferences(self, person: Person, body: e.Preferences) -> e.Done:
        people.update_user(self.store, person.id, actor=person.id, language=body.language)
        return e.Done()

    def export(self, person: Person) -> dict[str, Any]:
        chats = conversations.list_chats(self.store, person.id, limit=1_000_000)
        return {
            "name": person.name,
            "consent": people.consent(self.store, person.id),
            "conversations": [
                {
                    "title": chat.title,
                    "keep_out": chat.keep_out,
                    "messages": [
                        {"id": turn.id, "parent": turn.parent, **conversations.as_json(turn.message)}
                        for turn in conversations.turns(self.store, person.id, chat.id)
                    ],
                    "feedback": [event.body for event in feedback.list_feedback(self.store, person.id, chat.id)],
                }
                for chat in chats
            ],
            "labels": [
                {"kind": label.kind, "task": label.task_id, **label.body}
                for label in labels.labels_of(self.store, person.id, limit=1_000_000)
            ],
        }

    def erase(self, person: Person, body: e.Erase) -> e.Done:
        if body.confirm.strip() != person.name:
            raise UsageError("that is not your name; nothing was deleted")
        self._stop_writing(id for id, writing in list(self._writing.items()) if writing.person == person.id)
        erase.erase_user(self.store, person.id, actor=person.id)
        return e.Done()

    # Conversations ----------------------------------------------------------------------------------------------------

    def conversations(self, person: Person) -> e.Conversations:
        chats = conversations.list_chats(self.store, person.id)
        return e.Conversations(conversations=[e.Summary(id=chat.id, title=chat.title) for chat in chats])

    def dialogue(self, person: Person, id: str) -> e.Dialogue:
        chat = conversations.get_chat(self.store, person.id, id)
        events = feedback.list_feedback(self.store, person.id, id)
        thumbs = {event.message_id: event.body["value"] for event in events if event.kind == "thumb"}
        chosen = {answer for event in events if event.kind == "comparison" for answer in event.body["shown"]}
        tree = conversations.turns(self.store, person.id, id)
        open_pairs = {answer: first for answer, first in conversations.pairs(tree).items() if answer not in chosen}
        turns = [
            self._turn(turn, thumbs.get(turn.id, "none"), open_pairs.get(turn.id))
            for turn in tree
            if turn.message.role in ("user", "assistant")
        ]
        return e.Dialogue(id=id, title=chat.title, training=not chat.keep_out, turns=turns, leaf=chat.active_leaf)

    def _turn(self, turn: Turn, thumb: Any, comparison: str | None) -> e.Turn:
        mine = turn.message.role == "user"
        state: Any = "writing" if turn.status == "running" else turn.status
        if state == "done" and turn.finish_reason == "length":
            state = "cut"
        return e.Turn(
            id=turn.id, parent=turn.parent, role="user" if mine else "assistant", text=turn.message.text,
            html="" if mine or turn.status == "running" else render(turn.message.text),
            state=state,
            model="" if comparison or not turn.model else self.names(turn.model), thumb=thumb, comparison=comparison,
        )  # fmt: skip

    def change(self, person: Person, id: str, body: e.Change) -> e.Done:
        keep_out = None if body.training is None else not body.training
        conversations.update_chat(self.store, person.id, id, title=body.title, keep_out=keep_out, active_leaf=body.leaf)
        return e.Done()

    def delete(self, person: Person, id: str) -> e.Done:
        self._stop_writing(turn.id for turn in conversations.turns(self.store, person.id, id))
        erase.delete_chat(self.store, person.id, id)
        return e.Done()

    # Answers ----------------------------------------------------------------------------------------------------------

    def say(self, person: Person, body: e.Say) -> e.Said:
        said, title = Message(role="user", content=body.text), " ".join(body.text.split())[:60]
        new = {"title": title, "keep_out": not body.training}
        return self._answer(person, body.key, body.conversation, body.parent, said, **new)

    def again(self, person: Person, id: str, body: e.Again) -> e.Said:
        turn = conversations.get_turn(self.store, person.id, id)
        if turn.message.role != "assistant" or turn.parent is None:
            raise UsageError("only an answer can be written again")
        return self._answer(person, body.key, turn.chat_id, turn.parent)

    def _answer(
        self, person: Person, key: str, chat: str | None, parent: str | None, said: Message | None = None, **new: Any
    ) -> e.Said:
        """Have ``parent`` answered, or what is ``said`` after it, in a ``new`` conversation if there is none: once for each key.

        The places in the queue come first: where there is no room, nothing was said.
        """
        turns, begun = conversations.begun(self.store, person.id, key), False
        if not turns:
            messages = [*(self._messages(person, chat, parent) if chat else []), *([said] if said else [])]
            seed = secrets.randbits(32)
            policies = list(enumerate(self.policies(seed, said is not None), seed))
            writings = [_Writing(person.id, policy.write(messages, seed, person.id)) for seed, policy in policies]
            drafts = [conversations.Draft(policy.model, policy.sampling, seed) for seed, policy in policies]
            turns, begun = conversations.begin_answers(
                self.store, person.id, drafts, key=key, chat_id=chat, parent=parent, message=said, **new
            )
            for turn, writing in zip(turns, writings, strict=False):
                if begun:
                    self._writing[turn.id] = writing
                    Thread(target=self._run, args=(turn.id, writing), name="tutelage-answer", daemon=True).start()
                else:  # the same request has come twice at once
                    writing.ticket.cancel()
        return e.Said(conversation=turns[0].chat_id, answers=[turn.id for turn in turns])

    def _messages(self, person: Person, chat: str, leaf: str | None) -> list[Message]:
        """The conversation down to a message of it."""
        tree = conversations.turns(self.store, person.id, chat)
        if leaf is not None and all(turn.id != leaf for turn in tree):
            raise NotFound("there is no such message")
        return [turn.message for turn in conversations.path_to(tree, leaf)]

    def _run(self, id: str, writing: _Writing) -> None:
        error = None
        try:
            for delta in writing.ticket:
                with writing.lock:
                    if writing.state != "writing":
                        break
                    writing.text += delta.text
                    writing.finish_reason = delta.finish_reason
        except TutelageError as problem:
            error = str(problem)
        except Exception as problem:  # an answer that nobody writes must not look as if it were being written
            error = f"{type(problem).__name__}: {problem}"
        try:
            self._end(id, writing, "failed" if error else "done", error)
        finally:
            self._writing.pop(id, None)

    def _end(
        self, id: str, writing: _Writing, state: Literal["done", "stopped", "failed"], error: str | None = None
    ) -> None:
        """Record the end of an answer, unless it had one."""
        with writing.lock:
            writing.ticket.cancel()
            if writing.state != "writing":
                return
            writing.state = state
            reason = {"done": writing.finish_reason, "stopped": "cancelled"}.get(state)
            message = Message(role="assistant", content=writing.text)
            with suppress(NotFound):  # its conversation was deleted meanwhile
                conversations.finish_answer(
                    self.store, writing.person, id, state, message=message, finish_reason=reason, error=error
                )

    def _stop_writing(self, ids: Iterable[str]) -> None:
        """Stop those of the answers that are written here, and keep what there is of them."""
        for id in ids:
            if (writing := self._writing.get(id)) is not None:
                self._end(id, writing, "stopped")

    def _keep(self) -> None:
        """Until the server ends: save what is being written, and stop what no server writes any more."""
        while not self._ending.is_set():
            try:
                if texts := {id: writing.text for id, writing in list(self._writing.items())}:
                    self._stop_writing(conversations.save_running(self.store, texts))
                conversations.stop_orphans(self.store)
            except Exception as error:  # the database may be back in a second
                _log.error("answers that are being written cannot be saved: %s", error)
            self._ending.wait(SAVE)

    def close(self) -> None:
        """Stop all answers that are being written: the server ends."""
        self._ending.set()
        self._stop_writing(list(self._writing))

    def answer(self, person: Person, id: str) -> Answer:
        writing = self._writing.get(id)
        if writing is not None and writing.person == person.id:
            with writing.lock:
                if writing.state == "writing":
                    return Answer(writing.text, "writing")
        turn = conversations.get_turn(self.store, person.id, id)
        return Answer(turn.message.text, "writing" if turn.status == "running" else turn.status)

    def stop(self, person: Person, id: str, body: e.Stop) -> e.Turn:
        turn = conversations.get_turn(self.store, person.id, id)
        writing = self._writing.get(id)
        if writing is not None:
            with writing.lock:
                writing.text = writing.text[: body.seen]
                self._end(id, writing, "stopped")
            turn = conversations.get_turn(self.store, person.id, id)
        elif turn.status == "running":  # on another server, which notices at its next saving
            seen = Message(role="assistant", content=turn.message.text[: body.seen])
            turn = conversations.finish_answer(
                self.store, person.id, id, "stopped", message=seen, finish_reason="cancelled"
            )
        tree = conversations.turns(self.store, person.id, turn.chat_id)
        return self._turn(turn, "none", conversations.pairs(tree).get(id))

    # What people say of answers -----------------------------------------------------------------------------------------

    def thumb(self, person: Person, id: str, body: e.Thumb) -> e.Done:
        feedback.give_thumb(self.store, person.id, id, body.value, key=body.key, reason=body.reason)
        return e.Done()

    def choose(self, person: Person, id: str, body: e.Choice) -> e.Chosen:
        """``id`` is the first answer's. Of two that are both bad, the store gets a tie, and a thumb down for each."""
        chat = conversations.get_turn(self.store, person.id, id).chat_id
        tree = conversations.turns(self.store, person.id, chat)
        pairs = conversations.pairs(tree)
        turns = [turn for turn in tree if pairs.get(turn.id) == id]
        if not turns:
            raise NotFound("there is no such choice")
        ids = [turn.id for turn in turns]
        if (body.verdict == "better") is not (body.answer in ids):
            raise UsageError("the better answer is one of the two; of a tie there is none")
        better: Any = "tie" if body.answer is None else ("first", "second")[ids.index(body.answer)]
        said = [f"{turn.model} {dict(turn.sampling or {})}" for turn in turns]
        feedback.compare_answers(
            self.store, person.id, (ids[0], ids[1]), better, policies=(said[0], said[1]), key=body.key
        )
        if body.verdict == "both_bad":
            for number, answer in enumerate(ids):
                feedback.give_thumb(self.store, person.id, answer, "down", key=f"{body.key}:{number}")
        leaf = body.answer or ids[0]
        conversations.update_chat(self.store, person.id, chat, active_leaf=leaf)
        return e.Chosen(leaf=leaf, models={turn.id: self.names(turn.model or "") for turn in turns})

    # Ranking ----------------------------------------------------------------------------------------------------------

    def task(self, person: Person) -> e.NextTask:
        lease = tasks.lease(self.store, person.id)
        done = labels.count_rankings(self.store, person.id)
        if lease is None:
            return e.NextTask(task=None, done=done)
        prompt = [e.Before(role=turn.role, html=render(turn.text)) for turn in lease.prompt.messages]
        answers = [e.Candidate(id=f"a{place}", html=render(text)) for place, text in enumerate(lease.answers)]
        return e.NextTask(task=e.Task(id=lease.task_id, prompt=prompt, answers=answers), done=done)

    def rank(self, person: Person, id: str, body: e.Ranked) -> e.NextTask:
        """An answer's id is ``a`` and its place on the page, counted from 0; the store keeps the order in which they were shown."""
        places = {answer: rank for rank, group in enumerate(body.groups, 1) for answer in group}
        names = [f"a{place}" for place in range(len(places))]
        if len(places) != sum(map(len, body.groups)) or set(places) != set(names):
            raise UsageError("place every answer once")
        ranks = [places[name] for name in names]
        labels.submit(self.store, person.id, id, ranks, key=body.key, seconds=body.seconds, all_bad=body.all_bad)
        return self.task(person)

    def undo(self, person: Person, body: e.Again) -> e.NextTask:
        labels.undo(self.store, person.id, key=body.key)
        return self.task(person)

    def skip(self, person: Person, id: str, body: e.Skip) -> e.NextTask:
        labels.skip(self.store, person.id, id, body.reason, key=body.key)
        return self.task(person)


def _person(user: people.User) -> Person:
    return Person(user.id, user.name, user.language or None)
