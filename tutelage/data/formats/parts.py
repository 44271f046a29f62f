"""What all formats share: how one is described, and the parts that rows and records are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import orjson

from tutelage.data.read.rows import RowError
from tutelage.records import Message, Record

Fields = Mapping[str, Any]
Row = dict[str, Any]
Reader = Callable[[Any], "Iterator[Any]"]
"""A row -> its records, or Skip with the reason why it gives none. Pure. Raises RowError for a row that breaks the format."""

EVERYTHING = ("*",)


@dataclass(frozen=True)
class Skip:
    """A well-formed row that gives no record. The reason is one of few, so that they can be counted."""

    reason: str


class CannotHold(Exception):
    """The format has no way to say this record."""


@dataclass(frozen=True)
class Writer:
    """How records of one kind become rows of one format."""

    row: Callable[[Any], Row]
    """Raises CannotHold."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Column -> its type in a table, the same for every file; empty where a table cannot hold the format.

    A type is str, int, float, bool, dict (an object of free form: its JSON), [type], or {field: type}.
    """
    keeps: Sequence[str] = ()
    """Of the fields that ``writing.says`` names, those that come back when the rows are read."""


@dataclass(frozen=True)
class Format:
    """How a format is recognised, read and written."""

    name: str
    recognise: Callable[[Any], bool] | None = None
    """True for a row of it; None for a variant that is only written and is read under another name."""
    read: Mapping[type[Record], Reader] = field(default_factory=dict)
    """The kind of record that the format is made for comes first."""
    write: Mapping[type[Record], Writer] = field(default_factory=dict)
    problem: str = ""
    """Why nothing reads it."""


def has(*alternatives: str) -> Callable[[Any], bool]:
    """Recognises rows that have all the columns of one of the alternatives (names with spaces between)."""
    wanted = [frozenset(names.split()) for names in alternatives]
    return lambda row: isinstance(row, dict) and any(names <= row.keys() for names in wanted)


# ---- out of rows


def as_text(value: Any) -> str:
    """A name or a number as text; empty for null."""
    return "" if value is None else str(value)


def text_field(row: Fields, field: str) -> str:
    """The text in a column. Raises RowError if there is none."""
    value = row.get(field)
    if not isinstance(value, str):
        problem = "is not text" if field in row else "is missing"
        raise RowError(problem, field=field, expected="text", found=value if field in row else sorted(row))
    return value


def check_object(value: Any, field: str) -> None:
    """Raises RowError for anything but an object."""
    if not isinstance(value, dict):
        raise RowError("is not an object", field=field, expected="an object", found=value)


def object_of(value: Any) -> dict[str, Any] | None:
    """The object that a value is, or is the JSON of; None for anything else."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = orjson.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def other_columns(row: Fields, *known: str) -> dict[str, Any]:
    """Columns that the format does not name, for ``meta``; empty ones left out. Those of a ``meta`` object join them.

    ``meta`` may also be the object's JSON as text: that is how tables hold it, which need one type per column. What the
    turns of a known column hold beyond a Message stays under the column's name, one object per turn.
    """
    others = {k: v for k, v in row.items() if k not in known and v not in (None, "", [], {})}
    others |= {name: extras for name in known if any(extras := beyond_messages(row.get(name)))}
    given = object_of(others.get("meta"))
    if given is None:
        return others
    del others["meta"]
    return given | others


_OF_MESSAGES = {"from", "value", "content", "thinking", "reasoning_content", "function_call", *Message.model_fields}


def beyond_messages(turns: Any) -> list[dict[str, Any]]:
    """What each turn holds that a Message has no field for."""
    return [
        {k: v for k, v in turn.items() if k not in _OF_MESSAGES and v not in (None, "", [], {})}
        for turn in (turns if isinstance(turns, list) else [turns])
        if isinstance(turn, dict) and not turn.keys().isdisjoint(("role", "from"))
    ]


# ---- into rows


def dumps(value: Any) -> str:
    """JSON on one line. Raises ValueError or TypeError for what JSON does not have, half surrogate pairs too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def with_meta(row: Row, meta: Row) -> Row:
    """The row with ``meta`` as JSON in a column, where there is any: tools that make tables want one type per column."""
    return row | {"meta": dumps(meta)} if meta else row


def with_id(row: Row, column: str, id: str) -> Row:
    """The row with a column for the id, where there is one."""
    return row | {column: id} if id else row


def some(content: str) -> str:
    """The text. Raises CannotHold if it is empty."""
    if not content.strip():
        raise CannotHold("one of its turns is empty, and readers leave out rows with an empty turn")
    return content


def one_question(messages: Sequence[Message]) -> str:
    """The text of the only message. Raises CannotHold for any other dialogue."""
    if len(messages) != 1 or messages[0].role != "user":
        raise CannotHold("its prompt is more than one question, and this format has one text for it")
    return messages[0].text


def system_apart(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    """(the system message in front, the turns)."""
    if messages[0].role != "system":
        return None, messages
    if len(messages) == 1:
        raise CannotHold("it has a system message and no question")
    return messages[0].text, messages[1:]


def check_alternating(messages: Sequence[Message]) -> None:
    """Raises CannotHold unless the roles are user, assistant, user, ..., user."""
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise CannotHold("its turns do not alternate between user and assistant")


def columns_of(kind: Any) -> Any:
    """The columns of one of our own records, from its fields; the type of one of its fields."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return {name: columns_of(field.annotation) for name, field in kind.model_fields.items()}
    if origin is dict or kind is dict:
        return dict
    if origin is tuple:
        return [columns_of(arguments[0])]
    if origin is Literal:
        return str
    return columns_of(arguments[0]) if origin else kind  # of "str | parts" the text, of "type | None" the type


MESSAGE_COLUMNS = [{"role": str, "content": str}]


def ranks_without_gaps(ranks: Sequence[float]) -> list[int]:
    """Places counted from 1: [2, 5, 2] -> [1, 2, 1]."""
    places = sorted(set(ranks))
    return [places.index(rank) + 1 for rank in ranks]
