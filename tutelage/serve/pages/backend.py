"""What the pages need of the store and of the thing that writes answers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from tutelage.serve.pages import endpoints as e


class Person(NamedTuple):
    """Who is logged in."""

    id: str
    name: str
    language: str | None = None


class Answer(NamedTuple):
    """How far an answer has come."""

    text: str
    state: Literal["writing", "done", "stopped", "failed"]


class Backend(Protocol):
    """Called from threads. A method named as an endpoint does it.

    Each raises NotFound for what does not exist or is another person's, Conflict for what is no longer possible, UsageError
    for what makes no sense, QueueFull where too many answers are being written.
    """

    def person_of(self, session: str) -> Person | None: ...

    def only_person(self) -> Person:
        """Whose everything is in one-user mode."""
        ...

    def credentials(self, name: str) -> tuple[Person, str] | None:
        """The person of this name and the hash of their password."""
        ...

    def sign_up(self, name: str, password_hash: str, language: str, consent: str) -> Person:
        """Raises Conflict if the name is taken. ``consent``: the very text that was agreed to."""
        ...

    def new_password_hash(self, person: Person, password_hash: str) -> None: ...

    def log_in(self, person: Person, previous: str) -> str:
        """A new session's id; ``previous`` ends."""
        ...

    def log_out(self, session: str) -> None: ...

    def export(self, person: Person) -> dict[str, Any]:
        """All that is stored about a person, as JSON."""
        ...

    def answer(self, person: Person, id: str) -> Answer:
        """How far an answer has come; called up to 20 times a second for each page that watches it."""
        ...

    def conversations(self, person: Person) -> e.Conversations: ...

    def dialogue(self, person: Person, id: str) -> e.Dialogue: ...

    def change(self, person: Person, id: str, body: e.Change) -> e.Done: ...

    def delete(self, person: Person, id: str) -> e.Done: ...

    def say(self, person: Person, body: e.Say) -> e.Said: ...

    def again(self, person: Person, id: str, body: e.Again) -> e.Said:
        """Answer the same message once more, as a sibling of this answer."""
        ...

    def stop(self, person: Person, id: str, body: e.Stop) -> e.Turn:
        """End an answer and keep its first ``seen`` characters; one that has ended stays as it is."""
        ...

    def thumb(self, person: Person, id: str, body: e.Thumb) -> e.Done: ...

    def choose(self, person: Person, id: str, body: e.Choice) -> e.Chosen: ...

    def task(self, person: Person) -> e.NextTask:
        """The task that the person holds, in the same order, or a new one."""
        ...

    def rank(self, person: Person, id: str, body: e.Ranked) -> e.NextTask: ...

    def undo(self, person: Person, body: e.Again) -> e.NextTask:
        """Take back the last ranking, if no use was made of it yet, and give its task back."""
        ...

    def skip(self, person: Person, id: str, body: e.Skip) -> e.NextTask: ...

    def preferences(self, person: Person, body: e.Preferences) -> e.Done: ...

    def erase(self, person: Person, body: e.Erase) -> e.Done: ...
