"""What the pages and their backend say to each other, beside the shapes of ``endpoints``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from tutelage.generate.service import Delta


class Person(NamedTuple):
    """Who is logged in."""

    id: str
    name: str
    language: str | None = None


class Answer(NamedTuple):
    """How far an answer has come."""

    text: str
    state: Literal["writing", "done", "stopped", "failed"]


class Writer(Protocol):
    """An answer as it is written, from its first token: a ``Ticket``, or what wraps one."""

    def __iter__(self) -> Iterator[Delta]: ...

    def cancel(self) -> None: ...
