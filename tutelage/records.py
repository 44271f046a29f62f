"""The shapes data has, and the only ones: everything read, written, trained on or labelled is one of these.

Records are immutable pydantic models. ``record.model_dump_json(exclude_defaults=True)`` writes one as a line of JSONL and
``Record.model_validate_json(line)`` reads it back. ``meta`` carries what a source knows beyond the fields (its family, its
language, what a judge has to check); nothing in training reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Record):
    """A text to pretrain on."""

    text: str = Field(min_length=1)
    source: str = ""
    meta: dict[str, Any] = {}


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Conversation(Record):
    """A dialogue to learn from: its assistant turns are demonstrations."""

    messages: tuple[Message, ...] = Field(min_length=1)
    source: str = ""
    meta: dict[str, Any] = {}


class Prompt(Record):
    """A conversation that waits for the assistant: its last message is the user's."""

    messages: tuple[Message, ...] = Field(min_length=1)
    id: str = ""
    source: str = ""
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError(f"a prompt ends with a user message, this one ends with {self.messages[-1].role!r}")
        return self


class Completion(Record):
    """One answer to a prompt, and what made it: model, sampling settings, seed."""

    text: str
    finished: bool = True
    """False when the answer was cut off at its length limit: it has no end-of-turn token."""
    model: str = ""
    sampling: dict[str, float | int] = {}
    seed: int | None = None
    _ids: tuple[int, ...] | None = PrivateAttr(None)

    @property
    def ids(self) -> tuple[int, ...] | None:
        """The tokens as the model wrote them, its end token too; None where only the text is known. Files hold text alone."""
        return self._ids

    def with_ids(self, ids: Iterable[int]) -> Self:
        """The same answer, and the tokens that it was written in."""
        copy = self.model_copy()
        copy._ids = tuple(ids)
        return copy


class Answers(Record):
    """A prompt with completions that nobody has ranked yet."""

    prompt: Prompt
    completions: tuple[Completion, ...] = Field(min_length=1)


class Ranking(Record):
    """One labeller's view of one prompt: K completions, 2 <= K <= 9, ranked with ties.

    ``ranks[i]`` is the place of ``completions[i]``: 1 is best, equal numbers are a tie. Pairs are derived from it by the loss,
    never stored.
    """

    prompt: Prompt
    completions: tuple[Completion, ...] = Field(min_length=2, max_length=9)
    ranks: tuple[int, ...]
    ratings: tuple[int, ...] | None = None
    """Overall quality of each completion, 1 to 7."""
    flags: tuple[tuple[str, ...], ...] | None = None
    """For each completion, any of: harmful, false, off_task."""
    all_bad: bool = False
    labeller: str = ""
    seconds: float | None = None
    source: str = ""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        k = len(self.completions)
        for name, values in (("ranks", self.ranks), ("ratings", self.ratings), ("flags", self.flags)):
            if values is not None and len(values) != k:
                raise ValueError(f"{name} has {len(values)} entries for {k} completions")
        if min(self.ranks) < 1:
            raise ValueError(f"ranks start at 1 (best), found {min(self.ranks)}")
        if self.ratings is not None and not all(1 <= r <= 7 for r in self.ratings):
            raise ValueError(f"ratings go from 1 to 7, found {self.ratings}")
        return self
