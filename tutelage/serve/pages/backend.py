"""What the pages need of the store and of the thing that writes answers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol


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
    """Called from threads. Besides what follows it has a method for each of ``ENDPOINTS``: its name, then (the person, the id
    in the path, the body) as far as there are any, and its reply.

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

    def new_password_hash(self, person: Person, password_hash: str) -> None:
        """Their sessions end."""
        ...

    def log_in(self, person: Person, previous: str) -> str:
        """A new session's id; ``previous`` ends."""
        ...

    def log_out(self, session: str) -> None: ...

    def log_out_everywhere(self, person: Person) -> None: ...

    def export(self, person: Person) -> dict[str, Any]:
        """All that is stored about a person, as JSON."""
        ...

    def answer(self, person: Person, id: str) -> Answer:
        """How far an answer has come; called up to 20 times a second for each page that watches it."""
        ...
