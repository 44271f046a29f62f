"""What the pages' scripts and the server say to each other: one table of endpoints, and the shapes of their bodies and replies.

Addresses are relative to the pages. Every change carries the session's CSRF token in ``X-CSRF-Token``; one that makes something
also carries a ``key`` that the page invents, so that a request which is repeated because its reply was lost is done once.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Key = Annotated[str, Field(min_length=8, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=100_000)]
Reason = Annotated[str, Field(max_length=2000)]
Language = Literal["en", "zh"]


class Shape(BaseModel):
    """Base of all bodies and replies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Done(Shape):
    """A change that needs no other reply."""


class Summary(Shape):
    """A conversation in the list, newest first."""

    id: str
    title: str


class Conversations(Shape):
    conversations: list[Summary]


class Turn(Shape):
    """A message. Siblings, which share a parent, are versions of the same turn, in the order in which they were made."""

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    text: str
    html: str
    """The text rendered: of a finished answer. A user's text and an unfinished answer have none."""
    state: Literal["writing", "done", "cut", "stopped", "failed"]
    """``cut``: as long as an answer may be, and without an end."""
    model: str
    """Who wrote it; empty while a choice between two is open."""
    thumb: Literal["up", "down", "none"]
    comparison: str | None
    """The open choice that this answer is part of. Its two answers are shown side by side, in the order of the list."""


class Dialogue(Shape):
    """A conversation: a tree of messages, and the leaf of the branch that was seen last."""

    id: str
    title: str
    training: bool
    """Whether it may be used to improve the model."""
    turns: list[Turn]
    leaf: str | None


class Change(Shape):
    """What changes of a conversation; None stays."""

    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    training: bool | None = None
    leaf: str | None = None


class Say(Shape):
    """A user's message, as a child of ``parent``: an answer, or None at the start. To edit is to add a sibling."""

    key: Key
    conversation: str | None
    """None starts one."""
    training: bool = True
    """Of a new conversation: whether it may be used to improve the model."""
    parent: str | None
    text: Text


class Again(Shape):
    """Answer the same message once more, as a sibling of an answer; or take back the last ranking, if no use was made of it yet."""

    key: Key


class Said(Shape):
    """Where answers are being written: one, or two to choose from."""

    conversation: str
    answers: list[str]


class Piece(Shape):
    """An event of ``stream``: what the page shows is the blocks it has had, these, and then ``open``, which the next replaces."""

    blocks: list[str]
    """HTML of the blocks from ``after`` on."""
    open: str
    """HTML of the block that is still growing."""
    after: int
    """Blocks so far: what to ask for when the stream is cut."""
    seen: int
    """Characters of the text that this shows: what Stop keeps."""
    state: Literal["writing", "done", "stopped", "failed"]


class Stop(Shape):
    """End an answer and keep its first ``seen`` characters; one that has ended stays as it is."""

    seen: Annotated[int, Field(ge=0)]


class Thumb(Shape):
    key: Key
    value: Literal["up", "down", "none"]
    reason: Reason = ""


class Choice(Shape):
    """The answer chosen of two; None where they are equally good, or equally bad."""

    key: Key
    answer: str | None
    verdict: Literal["better", "tie", "both_bad"]


class Chosen(Shape):
    """What may be known after the choice."""

    leaf: str
    models: dict[str, str]
    """The model of each answer."""


class Candidate(Shape):
    id: str
    html: str


class Before(Shape):
    """A message of the conversation that is to be answered."""

    role: str
    html: str


class Task(Shape):
    """A prompt with its answers, shuffled, nameless, and identical ones shown once."""

    id: str
    prompt: list[Before]
    answers: list[Candidate]


class NextTask(Shape):
    task: Task | None
    done: int
    """How many this person has ranked."""


class Ranked(Shape):
    """Every answer, best first; those in one group are tied."""

    key: Key
    groups: list[Annotated[list[str], Field(min_length=1)]]
    all_bad: bool
    seconds: Annotated[float, Field(ge=0)]


class Skip(Shape):
    key: Key
    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class Preferences(Shape):
    language: Language


class Erase(Shape):
    """Delete everything this person wrote. ``confirm`` is their name, typed once more."""

    confirm: str


class ApiKey(Shape):
    id: str
    prefix: str
    label: str
    created: float
    """Seconds since 1970."""


class ApiKeys(Shape):
    keys: list[ApiKey]


class MakeKey(Shape):
    """Each request makes a key. One whose reply was lost is in the list, to be revoked."""

    label: Annotated[str, Field(min_length=1, max_length=100)]


class MadeKey(Shape):
    secret: str
    """The key, which nobody can see again."""


class Endpoint(NamedTuple):
    method: Literal["GET", "POST", "DELETE"]
    path: str
    body: type[Shape] | None
    reply: type[Shape]
    """For ``stream``, each event's data."""


ENDPOINTS: dict[str, Endpoint] = {
    "conversations": Endpoint("GET", "data/conversations", None, Conversations),
    "dialogue": Endpoint("GET", "data/conversations/{id}", None, Dialogue),
    "change": Endpoint("POST", "data/conversations/{id}", Change, Done),
    "delete": Endpoint("DELETE", "data/conversations/{id}", None, Done),
    "say": Endpoint("POST", "data/say", Say, Said),
    "again": Endpoint("POST", "data/turns/{id}/again", Again, Said),
    "stream": Endpoint("GET", "data/turns/{id}/stream", None, Piece),
    "stop": Endpoint("POST", "data/turns/{id}/stop", Stop, Turn),
    "thumb": Endpoint("POST", "data/turns/{id}/thumb", Thumb, Done),
    "choose": Endpoint("POST", "data/comparisons/{id}", Choice, Chosen),
    "task": Endpoint("GET", "data/task", None, NextTask),
    "rank": Endpoint("POST", "data/tasks/{id}/ranking", Ranked, NextTask),
    "undo": Endpoint("POST", "data/undo", Again, NextTask),
    "skip": Endpoint("POST", "data/tasks/{id}/skip", Skip, NextTask),
    "keys": Endpoint("GET", "data/keys", None, ApiKeys),
    "make_key": Endpoint("POST", "data/keys", MakeKey, MadeKey),
    "revoke_key": Endpoint("DELETE", "data/keys/{id}", None, Done),
    "preferences": Endpoint("POST", "data/preferences", Preferences, Done),
    "erase": Endpoint("POST", "data/erase", Erase, Done),
}
"""Name -> endpoint. ``stream`` takes ``?after=N`` and answers with Server-Sent Events until its answer is finished."""
