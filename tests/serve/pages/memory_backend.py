"""A backend in memory, whose answers grow by a few characters each time that somebody looks."""

from __future__ import annotations

import itertools
from collections import deque
from threading import RLock
from typing import Any

from tutelage.errors import Conflict, NotFound, UsageError
from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages.backend import Answer, Person
from tutelage.serve.pages.markdown import render

ANSWER = "Here is **one** answer.\n\n- first\n- second\n\n```python\nprint('hi')\n```\n\nIts area is $\\pi r^2$."


class MemoryBackend:
    def __init__(self) -> None:
        self.lock = RLock()
        self.ids = itertools.count(1)
        self.people: dict[str, tuple[Person, str]] = {}
        self.sessions: dict[str, str] = {}
        self.owner: dict[str, str] = {}  # conversation -> person
        self.dialogues: dict[str, dict[str, Any]] = {}
        self.turns: dict[str, dict[str, Any]] = {}
        self.full: dict[str, str] = {}
        self.replies: dict[str, Any] = {}  # by key
        self.next_answers: deque[list[str]] = deque()
        self.hold: int | None = None
        """Characters at which answers stop growing, until it is None again."""
        self.speed = 40
        """Characters that are new at each look."""
        self.tasks: list[tuple[str, list[str]]] = []
        self.rankings: list[tuple[str, e.Ranked]] = []
        self.skips: list[tuple[str, str]] = []
        self.thumbs: list[tuple[str, str, str]] = []
        self.choices: list[tuple[str, e.Choice]] = []
        self.api_keys: list[tuple[str, e.ApiKey]] = []
        self.me = Person("me", "me")

    def new(self, kind: str) -> str:
        return f"{kind}{next(self.ids)}"

    def once(self, key: str, work: Any) -> Any:
        with self.lock:
            if key not in self.replies:
                self.replies[key] = work()
            return self.replies[key]

    # Accounts

    def only_person(self) -> Person:
        return self.me

    def person_of(self, session: str) -> Person | None:
        name = self.sessions.get(session)
        return self.people[name][0] if name in self.people else None

    def credentials(self, name: str) -> tuple[Person, str] | None:
        return self.people.get(name)

    def sign_up(self, name: str, password_hash: str, language: str, consent: str) -> Person:
        assert consent
        if name in self.people:
            raise Conflict("the name is taken")
        self.people[name] = (Person(self.new("p"), name, language), password_hash)
        return self.people[name][0]

    def new_password_hash(self, person: Person, password_hash: str) -> None:
        self.log_out_everywhere(person)
        self.people[person.name] = (person, password_hash)

    def log_in(self, person: Person, previous: str) -> str:
        self.log_out(previous)
        session = self.new("session")
        self.sessions[session] = person.name
        return session

    def log_out(self, session: str) -> None:
        self.sessions.pop(session, None)

    def log_out_everywhere(self, person: Person) -> None:
        self.sessions = {session: name for session, name in self.sessions.items() if name != person.name}

    def keys(self, person: Person) -> e.ApiKeys:
        return e.ApiKeys(keys=[key for owner, key in self.api_keys if owner == person.id])

    def make_key(self, person: Person, body: e.MakeKey) -> e.MadeKey:
        made = e.ApiKey(id=self.new("k"), prefix="tut-abcd", label=body.label, created=1_800_000_000.0)
        self.api_keys.append((person.id, made))
        return e.MadeKey(secret=f"tut-abcd-{made.id}")

    def revoke_key(self, person: Person, id: str) -> e.Done:
        kept = [(owner, key) for owner, key in self.api_keys if (owner, key.id) != (person.id, id)]
        if len(kept) == len(self.api_keys):
            raise NotFound("there is no such API key")
        self.api_keys = kept
        return e.Done()

    def preferences(self, person: Person, body: e.Preferences) -> e.Done:
        changed = person._replace(language=body.language)
        if person.name in self.people:
            self.people[person.name] = (changed, self.people[person.name][1])
        else:
            self.me = changed
        return e.Done()

    def export(self, person: Person) -> dict[str, Any]:
        return {
            "name": person.name,
            "conversations": [self.dialogues[c] for c, p in self.owner.items() if p == person.id],
        }

    def erase(self, person: Person, body: e.Erase) -> e.Done:
        if body.confirm != person.name:
            raise UsageError("the name is another")
        self.people.pop(person.name, None)
        for conversation in [c for c, p in self.owner.items() if p == person.id]:
            self.delete(person, conversation)
        return e.Done()

    # Conversations

    def mine(self, person: Person, id: str) -> dict[str, Any]:
        if self.owner.get(id) != person.id:
            raise NotFound("there is no such conversation")
        return self.dialogues[id]

    def my_turn(self, person: Person, id: str) -> dict[str, Any]:
        turn = self.turns.get(id)
        if turn is None or self.owner.get(turn["conversation"]) != person.id:
            raise NotFound("there is no such message")
        return turn

    def conversations(self, person: Person) -> e.Conversations:
        mine = [self.dialogues[c] for c, p in self.owner.items() if p == person.id]
        return e.Conversations(conversations=[e.Summary(id=d["id"], title=d["title"]) for d in reversed(mine)])

    def turn(self, id: str) -> e.Turn:
        turn = self.turns[id]
        html = render(turn["text"]) if turn["role"] == "assistant" and turn["state"] != "writing" else ""
        return e.Turn(html=html, **{key: turn[key] for key in e.Turn.model_fields if key != "html"})

    def dialogue(self, person: Person, id: str) -> e.Dialogue:
        found = self.mine(person, id)
        turns = [self.turn(t) for t, turn in self.turns.items() if turn["conversation"] == id]
        return e.Dialogue(turns=turns, **{k: found[k] for k in ("id", "title", "training", "leaf")})

    def change(self, person: Person, id: str, body: e.Change) -> e.Done:
        self.mine(person, id).update(body.model_dump(exclude_none=True))
        return e.Done()

    def delete(self, person: Person, id: str) -> e.Done:
        self.mine(person, id)
        del self.owner[id], self.dialogues[id]
        self.turns = {key: turn for key, turn in self.turns.items() if turn["conversation"] != id}
        return e.Done()

    def add(self, conversation: str, parent: str | None, role: str, text: str, **more: Any) -> str:
        id = self.new("t")
        self.turns[id] = {
            "id": id, "conversation": conversation, "parent": parent, "role": role, "text": text, "state": "done",
            "model": "", "thumb": "none", "comparison": None, **more,
        }  # fmt: skip
        self.dialogues[conversation]["leaf"] = id
        return id

    def write(self, conversation: str, parent: str) -> list[str]:
        texts = self.next_answers.popleft() if self.next_answers else [ANSWER]
        comparison = self.new("x") if len(texts) > 1 else None
        ids = []
        for text in texts:
            model = "" if comparison else "demo-3"
            ids.append(
                self.add(conversation, parent, "assistant", "", state="writing", comparison=comparison, model=model)
            )
            self.full[ids[-1]] = text
        return ids

    def say(self, person: Person, body: e.Say) -> e.Said:
        def work() -> e.Said:
            conversation = body.conversation
            if conversation is None:
                conversation = self.new("c")
                self.owner[conversation] = person.id
                self.dialogues[conversation] = {
                    "id": conversation, "title": body.text[:40], "training": body.training, "leaf": None,
                }  # fmt: skip
            self.mine(person, conversation)
            asked = self.add(conversation, body.parent, "user", body.text)
            return e.Said(conversation=conversation, answers=self.write(conversation, asked))

        return self.once(body.key, work)

    def again(self, person: Person, id: str, body: e.Again) -> e.Said:
        turn = self.my_turn(person, id)
        return self.once(
            body.key,
            lambda: e.Said(conversation=turn["conversation"], answers=self.write(turn["conversation"], turn["parent"])),
        )

    def answer(self, person: Person, id: str) -> Answer:
        with self.lock:
            turn = self.my_turn(person, id)
            if turn["state"] == "writing":
                length = len(turn["text"]) + self.speed
                if self.hold is not None:
                    length = min(length, self.hold)
                turn["text"] = self.full[id][:length]
                if turn["text"] == self.full[id]:
                    turn["state"] = "done"
            return Answer(turn["text"], turn["state"])

    def stop(self, person: Person, id: str, body: e.Stop) -> e.Turn:
        with self.lock:
            turn = self.my_turn(person, id)
            if turn["state"] == "writing":
                turn.update(state="stopped", text=turn["text"][: body.seen])
            return self.turn(id)

    def thumb(self, person: Person, id: str, body: e.Thumb) -> e.Done:
        self.my_turn(person, id)["thumb"] = body.value
        self.thumbs.append((id, body.value, body.reason))
        return e.Done()

    def choose(self, person: Person, id: str, body: e.Choice) -> e.Chosen:
        pair = [turn for turn in self.turns.values() if turn["comparison"] == id]
        if not pair:
            raise NotFound("there is no such choice")
        conversation = self.mine(person, pair[0]["conversation"])
        for number, turn in enumerate(pair):
            turn.update(comparison=None, model=f"demo-{number + 3}")
        conversation["leaf"] = body.answer or pair[0]["id"]
        self.choices.append((id, body))
        return e.Chosen(leaf=conversation["leaf"], models={turn["id"]: turn["model"] for turn in pair})

    # Ranking

    def task(self, person: Person) -> e.NextTask:
        done = len(self.rankings) + len(self.skips)
        if done >= len(self.tasks):
            return e.NextTask(task=None, done=len(self.rankings))
        prompt, answers = self.tasks[done]
        candidates = [e.Candidate(id=f"a{n}", html=render(text)) for n, text in enumerate(answers)]
        return e.NextTask(
            task=e.Task(id=f"task{done}", prompt=[e.Before(role="user", html=render(prompt))], answers=candidates),
            done=len(self.rankings),
        )

    def rank(self, person: Person, id: str, body: e.Ranked) -> e.NextTask:
        def work() -> None:
            answers = self.tasks[int(id.removeprefix("task"))][1]
            placed = [answer for group in body.groups for answer in group]
            if sorted(placed) != [f"a{n}" for n in range(len(answers))]:
                raise UsageError("place every answer once")
            self.rankings.append((id, body))

        self.once(body.key, work)
        return self.task(person)

    def undo(self, person: Person, body: e.Again) -> e.NextTask:
        if not self.rankings:
            raise Conflict("there is nothing to take back")
        self.rankings.pop()
        return self.task(person)

    def skip(self, person: Person, id: str, body: e.Skip) -> e.NextTask:
        self.skips.append((id, body.reason))
        return self.task(person)
