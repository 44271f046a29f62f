"""The shapes data has, and the only ones: everything read, written, trained on or labelled is one of these.

Records are immutable pydantic models. ``record.model_dump_json(exclude_defaults=True)`` writes one as a line of JSONL and
``Record.model_validate_json(line)`` reads it back; files written before a field existed still read. ``meta`` carries what a
source knows beyond the fields (task family, language, what a judge checks); training never reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_serializer, model_validator

Role = Literal["system", "developer", "user", "assistant", "tool"]
TaskFormat = Literal["classification", "entailment", "similarity", "choice"]
"""What a classifier reads: a text, two texts in order, two texts in either order, a question with several answers."""


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Record):
    """A text to pretrain on."""

    text: str = Field(min_length=1)
    source: str = ""
    meta: dict[str, Any] = {}


class TextPart(Record):
    """A piece of text in a message."""

    type: Literal["text"] = "text"
    text: str

    @model_serializer
    def _with_type(self) -> dict[str, str]:  # which tells parts apart, so it is written though it is a default
        return {"type": self.type, "text": self.text}


class ImagePart(Record):
    """A picture in a message, by reference."""

    type: Literal["image"] = "image"
    image: str = Field(min_length=1)
    """A path, relative to the file that holds the record, or a URL."""

    @model_serializer
    def _with_type(self) -> dict[str, str]:
        return {"type": self.type, "image": self.image}


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ToolCall(Record):
    """A call that the assistant asks for. The tool's output follows as a message of role ``tool``."""

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}
    id: str = ""


class Tool(Record):
    """A function that the assistant may call; ``parameters`` is the JSON schema of its arguments."""

    name: str = Field(min_length=1)
    description: str = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}


class Evidence(Record):
    """A passage that an answer rests on."""

    id: str = Field(min_length=1)
    text: str
    source: str = ""
    """Where it is from: a URL, or a file."""
    title: str = ""


class Citation(Record):
    """The characters ``start`` to ``end`` (exclusive) of an answer's text rest on the evidence of this id."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    evidence: str


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str | tuple[Part, ...]
    reasoning: str = ""
    """What the assistant thought before it answered, where a source keeps that apart."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Of a tool's output: the call that it answers."""
    name: str = ""
    """Of a tool's output: the tool."""
    evidence: tuple[Evidence, ...] = ()
    citations: tuple[Citation, ...] = ()
    learn: bool = True
    """Of the assistant's turns: False for one that is there as context, and that training masks."""

    @property
    def text(self) -> str:
        """The content's text: all of it, or its text parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @model_validator(mode="after")
    def _fields_of_its_role(self) -> Self:
        if self.role != "assistant":
            for name in ("reasoning", "tool_calls", "evidence", "citations"):
                if getattr(self, name):
                    raise ValueError(f"{name} belongs to the assistant, and this message is by the {self.role}")
        if self.role != "tool" and self.tool_call_id:
            raise ValueError(f"tool_call_id belongs to a tool's output, and this message is by the {self.role}")
        return self


class Conversation(Record):
    """A dialogue to learn from: its assistant turns are demonstrations."""

    messages: tuple[Message, ...] = Field(min_length=1)
    source: str = ""
    meta: dict[str, Any] = {}


class Prompt(Record):
    """A conversation that waits for the assistant: its last message is the user's, or a tool's output."""

    messages: tuple[Message, ...] = Field(min_length=1)
    id: str = ""
    source: str = ""
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if self.messages[-1].role not in ("user", "tool"):
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
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    citations: tuple[Citation, ...] = ()
    _ids: tuple[int, ...] | None = PrivateAttr(None)
    _logprobs: tuple[float, ...] | None = PrivateAttr(None)
    _top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = PrivateAttr(None)

    @property
    def ids(self) -> tuple[int, ...] | None:
        """The tokens as the model wrote them, its end token too; None where only the text is known. Files hold text alone."""
        return self._ids

    @property
    def message(self) -> Message:
        """The answer as the assistant's turn."""
        more = {"evidence": self.evidence, "citations": self.citations}
        return Message(
            role="assistant", content=self.text, reasoning=self.reasoning, tool_calls=self.tool_calls, **more
        )

    @property
    def logprobs(self) -> tuple[float, ...] | None:
        """The log-probability of each of the ids when it was sampled; None unless they were asked for."""
        return self._logprobs

    @property
    def top_logprobs(self) -> tuple[tuple[tuple[int, float], ...], ...] | None:
        """For each of the ids the likeliest tokens in its place: (id, log-probability), likeliest first."""
        return self._top_logprobs

    def with_ids(
        self,
        ids: Iterable[int],
        logprobs: Iterable[float] | None = None,
        top_logprobs: Iterable[tuple[tuple[int, float], ...]] | None = None,
    ) -> Self:
        """The same answer, and the tokens that it was written in."""
        copy = self.model_copy()
        copy._ids = tuple(ids)
        copy._logprobs = None if logprobs is None else tuple(logprobs)
        copy._top_logprobs = None if top_logprobs is None else tuple(top_logprobs)
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
    id: str = ""
    weight: float = Field(1.0, gt=0)
    """How much it counts beside others: the labeller's reliability, where that is known."""
    note: str = ""
    """What the labeller wrote."""
    meta: dict[str, Any] = {}

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


class Labelled(Record):
    """A text, two texts, or a question with its choices, and the class that a classifier learns to give it."""

    text: str = Field(min_length=1)
    second: str = ""
    """The other text of entailment and similarity."""
    choices: tuple[str, ...] = ()
    label: str = ""
    """The class; with choices, the number of the right one, counted from 0. Empty where it is not known."""
