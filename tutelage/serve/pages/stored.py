"""The pages over the store: ``StoredBackend``. Answers are written by threads of its own, not by the requests for them."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import RLock, Thread
from typing import Any, Literal, NamedTuple

from tutelage.errors import NotFound, TutelageError, UsageError
from tutelage.records import Message
from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages.backend import Answer, Person, Writer
from tutelage.serve.pages.markdown import render
from tutelage.store import conversations, erase, feedback, labels, people, tasks
from tutelage.store.conversations import Turn
from tutelage.store.database import Store

SESSION = 30 * 86400.0
SAVE = 1.0
"""Seconds between two savings of an answer that is being written."""
REMEMBERED = 1000
"""Messages whose repetition is recognised without the store, which knows a repeated message but no repeated conversation."""


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
    """An answer under way."""

    person: str
    policy: Policy
    seed: int
    ticket: Writer
    text: str = ""
    finish_reason: str | None = None
    state: str = "writing"


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
        self._lock = RLock()
        self._writing: dict[str, _Writing] = {}
        self._said: OrderedDict[tuple[str, str], e.Said] = OrderedDict()
        conversations.stop_orphans(store)

    # People -----------------------------------------------------------------------------------------------------------

    def person_of(self, session: str) -> Person | None:
        user = people.logged_in(self.store, session)
        return _person(user) if user else None

    def only_person(self) -> Person:
        """Whose everything is in one-user mode."""
        with self._lock:
            user = people.find_user(self.store, "me")
            if user is None:
                user = people.create_user(self.store, "me", role="admin", language="")
                people.give_consent(self.store, user.id, "one-user mode")
        return _person(user)

    def credentials(self, name: str) -> tuple[Person, str] | None:
        user = people.find_user(self.store, name)
        return (_person(user), user.password_hash) if user and user.password_hash else None

    def sign_up(self, name: str, password_hash: str, language: str, consent: str) -> Person:
        user = people.create_user(self.store, name, password_hash=password_hash, language=language)
        people.give_consent(self.store, user.id, consent)
        return _person(user)

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
        self._stop_writing(lambda id, writing: writing.person == person.id)
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
        turns = [
            self._turn(turn, thumbs.get(turn.id, "none"), None if turn.id in chosen else _pair(turn))
            for turn in conversations.turns(self.store, person.id, id)
            if turn.message.role in ("user", "assistant")
        ]
        return e.Dialogue(id=id, title=chat.title, training=not chat.keep_out, turns=turns, leaf=chat.active_leaf)

    def _turn(self, turn: Turn, thumb: Any, comparison: str | None) -> e.Turn:
        mine = turn.message.role == "user"
        return e.Turn(
            id=turn.id, parent=turn.parent, role="user" if mine else "assistant", text=turn.message.text,
            html="" if mine or turn.status == "running" else render(turn.message.text),
            state="writing" if turn.status == "running" else turn.status,
            model="" if comparison or not turn.model else self.names(turn.model), thumb=thumb, comparison=comparison,
        )  # fmt: skip

    def change(self, person: Person, id: str, body: e.Change) -> e.Done:
        keep_out = None if body.training is None else not body.training
        conversations.update_chat(self.store, person.id, id, title=body.title, keep_out=keep_out, active_leaf=body.leaf)
        return e.Done()

    def delete(self, person: Person, id: str) -> e.Done:
        running = {turn.id for turn in conversations.turns(self.store, person.id, id) if turn.status == "running"}
        self._stop_writing(lambda id, writing: id in running)
        erase.delete_chat(self.store, person.id, id)
        return e.Done()

    # Answers ----------------------------------------------------------------------------------------------------------

    def say(self, person: Person, body: e.Say) -> e.Said:
        def work() -> e.Said:
            message, chat = Message(role="user", content=body.text), body.conversation
            before = self._messages(person, chat, body.parent) if chat else []
            answers = self._reserve(person, [*before, message], True)
            if chat is None:
                title = " ".join(body.text.split())[:60]
                chat = conversations.create_chat(self.store, person.id, title, keep_out=not body.training).id
            asked = conversations.add_message(self.store, person.id, chat, message, parent=body.parent, key=body.key)
            return self._write(person, chat, asked.id, body.key, answers)

        return self._once(person, body.key, work)

    def again(self, person: Person, id: str, body: e.Again) -> e.Said:
        turn = conversations.get_turn(self.store, person.id, id)
        if turn.message.role != "assistant" or turn.parent is None:
            raise UsageError("only an answer can be written again")
        chat, asked = turn.chat_id, turn.parent

        def work() -> e.Said:
            answers = self._reserve(person, self._messages(person, chat, asked), False)
            return self._write(person, chat, asked, body.key, answers)

        return self._once(person, body.key, work)

    def _messages(self, person: Person, chat: str, leaf: str | None) -> list[Message]:
        """The conversation down to a message of it."""
        tree = conversations.turns(self.store, person.id, chat)
        if leaf is not None and all(turn.id != leaf for turn in tree):
            raise NotFound("there is no such message")
        return [turn.message for turn in conversations.path_to(tree, leaf)]

    def _reserve(self, person: Person, messages: Sequence[Message], compare: bool) -> list[_Writing]:
        """Take the places of the answers, before anything of them is recorded: where there is no room, nothing was said."""
        seed = secrets.randbits(32)
        return [
            _Writing(person.id, policy, seed + i, policy.write(messages, seed + i, person.id))
            for i, policy in enumerate(self.policies(seed, compare))
        ]

    def _once(self, person: Person, key: str, work: Callable[[], e.Said]) -> e.Said:
        with self._lock:
            name = (person.id, key)
            if name not in self._said:
                self._said[name] = work()
                while len(self._said) > REMEMBERED:
                    self._said.popitem(last=False)
            return self._said[name]

    def _write(self, person: Person, chat: str, asked: str, key: str, answers: Sequence[_Writing]) -> e.Said:
        """Record the answers as running and leave each to a thread."""
        pair = {"pair": secrets.token_hex(8)} if len(answers) > 1 else {}
        ids: list[str] = []
        for number, writing in enumerate(answers):
            turn = conversations.start_answer(
                self.store, person.id, chat, parent=asked, model=writing.policy.model, seed=writing.seed,
                sampling={**writing.policy.sampling, **pair}, key=f"{key}:{number}",
            )  # fmt: skip
            ids.append(turn.id)
            if turn.status == "running" and turn.id not in self._writing:
                self._writing[turn.id] = writing
                Thread(target=self._run, args=(turn.id, writing), name="tutelage-answer", daemon=True).start()
            else:  # a repeated request
                writing.ticket.cancel()
        return e.Said(conversation=chat, answers=ids)

    def _run(self, id: str, writing: _Writing) -> None:
        saved, error = time.monotonic(), None
        try:
            for delta in writing.ticket:
                with self._lock:
                    if writing.state != "writing":
                        break
                    writing.text += delta.text
                    writing.finish_reason = delta.finish_reason
                if time.monotonic() - saved >= SAVE:
                    saved = time.monotonic()
                    if not conversations.save_partial(self.store, writing.person, id, writing.text):
                        break
        except TutelageError as problem:
            error = str(problem)
        except Exception as problem:  # an answer that nobody writes must not look as if it were being written
            error = f"{type(problem).__name__}: {problem}"
        writing.ticket.cancel()
        with self._lock:
            self._end(id, writing, "failed" if error else "done", error)
            self._writing.pop(id, None)

    def _end(
        self, id: str, writing: _Writing, state: Literal["done", "stopped", "failed"], error: str | None = None
    ) -> None:
        """Record the end of an answer, unless it had one. The caller holds the lock."""
        if writing.state != "writing":
            return
        writing.state = state
        writing.ticket.cancel()
        reason = {"done": writing.finish_reason, "stopped": "cancelled"}.get(state)
        message = Message(role="assistant", content=writing.text)
        with suppress(NotFound):  # its conversation was deleted meanwhile
            conversations.finish_answer(
                self.store, writing.person, id, state, message=message, finish_reason=reason, error=error
            )

    def _stop_writing(self, mine: Callable[[str, _Writing], bool]) -> None:
        """Stop the answers for which ``mine(id, answer)`` holds, and keep what there is of them."""
        with self._lock:
            for id, writing in self._writing.items():
                if mine(id, writing):
                    self._end(id, writing, "stopped")

    def close(self) -> None:
        """Stop all answers that are being written: the server ends."""
        self._stop_writing(lambda id, writing: True)

    def answer(self, person: Person, id: str) -> Answer:
        with self._lock:
            writing = self._writing.get(id)
            if writing is not None and writing.person == person.id and writing.state == "writing":
                return Answer(writing.text, "writing")
        turn = conversations.get_turn(self.store, person.id, id)
        return Answer(turn.message.text, "writing" if turn.status == "running" else turn.status)

    def stop(self, person: Person, id: str, body: e.Stop) -> e.Turn:
        turn = conversations.get_turn(self.store, person.id, id)
        with self._lock:
            writing = self._writing.get(id)
            if writing is not None and writing.state == "writing":
                writing.text = writing.text[: body.seen]
                self._end(id, writing, "stopped")
                turn = conversations.get_turn(self.store, person.id, id)
        return self._turn(turn, "none", _pair(turn))

    # What people say of answers -----------------------------------------------------------------------------------------

    def thumb(self, person: Person, id: str, body: e.Thumb) -> e.Done:
        feedback.give_thumb(self.store, person.id, id, body.value, key=body.key, reason=body.reason)
        return e.Done()

    def choose(self, person: Person, id: str, body: e.Choice) -> e.Chosen:
        """``id`` is ``conversation.pair``. Of two that are both bad, the store gets a tie, and a thumb down for each."""
        chat, _, pair = id.partition(".")
        turns = [turn for turn in conversations.turns(self.store, person.id, chat) if _pair(turn) == id and pair]
        if len(turns) != 2:
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
        given = labels.labels_of(self.store, person.id, limit=1_000_000)
        done = sum({"ranking": 1, "undo": -1}.get(label.kind, 0) for label in given)
        if lease is None:
            return e.NextTask(task=None, done=done)
        prompt = "\n\n".join(f"**{turn.role}**\n\n{turn.text}" for turn in lease.prompt.messages)
        answers = [e.Candidate(id=f"a{place}", html=render(text)) for place, text in enumerate(lease.answers)]
        return e.NextTask(task=e.Task(id=lease.task_id, prompt=render(prompt), answers=answers), done=done)

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


def _pair(turn: Turn) -> str | None:
    """The choice that an answer is part of, open or not. It is kept beside the sampling's numbers, and exports leave it out."""
    pair = (turn.sampling or {}).get("pair")
    return f"{turn.chat_id}.{pair}" if pair else None
