"""What a task is, and how a row of it is put to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tutelage.data.read.rows import check
from tutelage.records import Message, Prompt
from tutelage.sandbox.programs import Check

Context = str | tuple[Message, ...]
"""What a model continues: a plain text, or a conversation that waits for the assistant."""
Score = dict[str, float]
"""Metric -> value of one row. A metric that says nothing about a row is left out."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Fields(dict[str, Any]):
    """A row as it was read. Its methods raise RowError, which names the field."""

    def text(self, name: str, *others: str) -> str:
        """The text of the first of these fields that the row has. A number is written out."""
        found = next((key for key in (name, *others) if self.get(key) is not None), name)
        value = self.get(found)
        check(value is not None, "is missing", name, "text", None)
        check(isinstance(value, str | int | float), "is not text", found, "text", value)
        return str(value).strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that is not empty."""
        value = self.get(name)
        good = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
        check(good, "is missing" if value is None else "is not a list of texts", name, "a list of texts", value)
        return tuple(text.strip() for text in self[name])

    def choice(self, name: str, labels: Sequence[str]) -> int:
        """The index of the label that a field holds among the labels of the choices."""
        value = self.text(name)
        check(value in labels, "is none of the choices", name, ", ".join(labels), value)
        return list(labels).index(value)


@dataclass(frozen=True)
class Item:
    """A row of a task, read."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """What templates fill in, by name."""
    choices: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    """The indices of the right choices."""
    answers: tuple[str, ...] = ()
    """The texts that are right, where no choices are given."""
    group: str = ""
    """Part of the set, such as its subject, with a score of its own."""
    source: Any = None
    """What the scorer needs beyond that."""
    id: str = ""
    """Its place below the folder of data; the same for every model."""

    def values(self, choice: int) -> dict[str, str]:
        """What a template may name, for one of the choices."""
        named = {"options": "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=False))}
        if self.choices:
            named |= {"choice": self.choices[choice], "letter": LETTERS[choice % 26]}
        elif self.answers:
            named |= {"answer": self.answers[0]}
        return named | dict(self.fields)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text of the row."""
        return (*self.fields.values(), *self.choices)


@dataclass(frozen=True)
class Template:
    """How a row becomes text. ``{name}`` is a field of the row; ``{choice}``, ``{letter}``, ``{options}`` and ``{answer}`` are
    made of its choices and answers.

    An ``ask`` that is empty or has ``{choice}`` in it asks nothing: the model compares whole texts, never in the chat format.
    """

    ask: str
    answer: str
    """What follows: in the examples the right answer, in the question each choice, which are then compared."""
    head: str = ""
    """Stands before everything else."""
    chat: str = ""
    """What is asked in the chat format instead of ``ask``."""
    stop: tuple[str, ...] = ()
    """A plain-text answer ends before the first of these."""

    @property
    def asks(self) -> bool:
        return bool(self.ask) and "{choice}" not in self.ask

    @property
    def by_content(self) -> bool:
        """Whether what is compared are the choices' own words, whose likelihood without the question says something."""
        return self.asks and "{choice}" in self.answer


class Question(NamedTuple):
    """A row as one model is asked: for each choice what comes before it, and the choice; or one context and nothing."""

    pairs: list[tuple[Context, str]]
    bare: list[tuple[Context, str]]
    """The choices without the question; empty where that means nothing."""

    @property
    def shown(self) -> str:
        """The first context as people read it."""
        context = self.pairs[0][0]
        if isinstance(context, str):
            return context
        return "\n".join(f"{message.role}: {message.text}" for message in context)


class Compared(NamedTuple):
    """What a model finds of a row's choices, in nats."""

    logprobs: list[float]
    bare: list[float]
    """Without the question; empty where that was not asked."""
    written: list[str]
    """Each choice as it was written."""


class Answered(NamedTuple):
    """What a model wrote."""

    text: str
    finished: bool = True


Compare = Callable[[Item, Compared], Score]
Grade = Callable[[Item, Answered], Score]


@dataclass(frozen=True)
class Task:
    """A set of rows, how they are asked, and what scores the answers."""

    summary: str
    files: tuple[str, ...]
    """Patterns below the folder of data; the files of the first one that finds any are read."""
    read: Callable[[Fields], Item]
    templates: Mapping[str, Template]
    metric: str
    """The figure that tables show."""
    compare: Compare | None = None
    """Scores the likelihoods of the choices ..."""
    grade: Grade | None = None
    """... or this scores what the model writes ..."""
    program: Callable[[Item, str], Check] | None = None
    """... or what the model writes is a program: this makes the check that a sandbox runs. A task has one of the three."""
    pool: tuple[str, ...] = ()
    """Files of the examples; empty: the rows themselves, each without itself."""
    hub: str = ""
    """Its rows on the Hugging Face hub: owner/name/configuration/split, where ``*`` stands for every configuration."""
    hub_pool: str = ""
    columns: tuple[str, ...] = ()
    """Names of the columns of CSV files that have no header."""
    unnest: Callable[[Any], Iterable[dict[str, Any]]] | None = None
    """From the content of a file that is one JSON object, or a text, to rows."""
    grouped: bool = False
    """Whether each file is a group, and examples are of the row's own."""
    max_tokens: int = 0
    """The longest answer, where the model writes one."""


def ask(item: Item, template: Template, shots: Sequence[Item], *, chat: bool) -> Question:
    """A row after its examples, as text or as a conversation."""
    count = max(1, len(item.choices))
    written = [template.answer.format_map(item.values(i)) if item.choices else "" for i in range(count)]
    if chat and template.asks:
        context: Context = _conversation(item, template, shots)
        return Question([(context, text.strip()) for text in written], [])
    head = template.head.format_map(_first(shots, item).values(0))
    examples = "".join(f"{_asked(shot, template)}{answer_of(shot, template)}\n\n" for shot in shots)
    if "{choice}" in template.ask:
        before = [head + examples + template.ask.format_map(item.values(i)) for i in range(count)]
    else:
        before = [head + examples + template.ask.format_map(item.values(0))] * count
    bare: list[tuple[Context, str]] = [("", text) for text in written] if template.by_content else []
    return Question(list(zip(before, written, strict=True)), bare)


def _conversation(item: Item, template: Template, shots: Sequence[Item]) -> tuple[Message, ...]:
    """Examples as earlier turns. A row that was read from a prompt is that prompt."""
    asked = template.chat or template.ask
    turns: list[Message] = []
    for shot in shots:
        question = asked.format_map(shot.values(_right(shot))).strip()
        answer = answer_of(shot, template).strip()
        turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    if isinstance(item.source, Prompt):
        return (*turns, *item.source.messages)
    turns.append(Message(role="user", content=asked.format_map(item.values(0)).strip()))
    head = template.head.format_map(_first(shots, item).values(0))
    return (Message(role="user", content=head + turns[0].text), *turns[1:])


def _asked(shot: Item, template: Template) -> str:
    return template.ask.format_map(shot.values(_right(shot)))


def answer_of(shot: Item, template: Template) -> str:
    """What an example shows as its answer."""
    return template.answer.format_map(shot.values(_right(shot)))


def _right(shot: Item) -> int:
    return shot.gold[0] if shot.gold else 0


def _first(shots: Sequence[Item], item: Item) -> Item:
    return shots[0] if shots else item
