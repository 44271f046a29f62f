"""What all formats share: how one is described, and the parts that rows and records are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import orjson
from pydantic import ValidationError

from tutelage.data.read.rows import Row as FileRow
from tutelage.data.read.rows import RowError, check
from tutelage.records import Message, Record

Fields = Mapping[str, Any]
Row = dict[str, Any]
Reader = Callable[[Any], "Iterator[Any]"]
"""A row -> its records, or Skip with the reason why it gives none. Pure. Raises RowError for a row that breaks the format."""

EVERYTHING = ("*",)


class CannotHold(Exception):
    """The format has no way to say this record."""


@dataclass(frozen=True)
class Writer:
    """How records of one kind become rows of one format."""

    row: Callable[[Any], Row]
    """Raises CannotHold."""
    columns: Mapping[str, Any]
    """Column -> its type in a table, the same for every file.

    A type is str, int, float, bool, dict (an object of free form: its JSON), [type], or {field: type}.
    """
    keeps: Sequence[str] = ("meta",)
    """Of the fields that ``writing.says`` names, those that come back when the rows are read.

    ``meta`` is written as JSON in a column, where there is any: tools that make tables want one type per column.
    """


@dataclass(frozen=True)
class Format:
    """How a format is recognised, read and written."""

    name: str
    recognise: Callable[[Any], bool]
    """True for a row of it."""
    read: Mapping[type[Record], Reader]
    """The kind of record that the format is made for comes first. Empty: rows are recognised and refused."""
    write: Mapping[type[Record], Writer] = field(default_factory=dict)
    gather: Callable[[Iterator[FileRow]], Iterator[FileRow]] | None = None
    """Makes rows that stand on their own of a file's rows."""


def has(*alternatives: str) -> Callable[[Any], bool]:
    """Recognises rows that have all the columns of one of the alternatives (names with spaces between)."""
    wanted = [frozenset(names.split()) for names in alternatives]
    return lambda row: isinstance(row, dict) and any(names <= row.keys() for names in wanted)


def plural(kind: type[Record]) -> str:
    """What records of this kind are called: Documents, Answers."""
    return kind.__name__.removesuffix("s") + "s"


# ---- out of rows


_FREE_FORM = ("arguments", "meta", "tools", "parameters", "sampling")


def present(value: Any) -> Any:
    """A row without the keys that are null: null is as good as absent, except in objects of free form."""
    if isinstance(value, dict):
        return {k: v if k in _FREE_FORM else present(v) for k, v in value.items() if v is not None}
    return [present(item) for item in value] if isinstance(value, list) else value


def as_text(value: Any) -> str:
    """A name or a number as text; empty for null."""
    return "" if value is None else str(value)


def text_field(row: Fields, field: str) -> str:
    """The text in a column. Raises RowError if there is none."""
    value = row.get(field)
    if not isinstance(value, str):
        problem, found = ("is not text", value) if field in row else ("is missing", sorted(row))
        raise RowError(problem, field, "text", found)
    return value


def check_object(value: Any, field: str) -> None:
    """Raises RowError for anything but an object."""
    check(isinstance(value, dict), "is not an object", field, "an object", value)


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
    others = {k: v for k, v in row.items() if k not in known and k not in _OF_ROWS and v not in _EMPTY}
    others |= {name: extras for name in known if any(extras := beyond_messages(row.get(name)))}
    given = object_of(others.get("meta"))
    return others if given is None else given | {k: v for k, v in others.items() if k != "meta"}


_LEARN = ("learn", "weight", "loss", "train", "trainable", "train_on_turn", "train_detail", "loss_weight", "loss_mask")
_MASK = ("mask", "masked")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def learns(holder: Fields, field: str = "") -> bool | None:
    """What the marks of a row or a turn say, such as ``"loss": false`` or ``"weight": 0``: is it to be learnt? None: nothing.

    Raises RowError for a mark that is neither, such as a weight between 0 and 1.
    """
    said = None
    for name in (*_LEARN, *_MASK):
        if name in holder:
            text, where = str(holder[name]).lower(), f"{field}.{name}".lstrip(".")
            if name == "mask" and text in ("user", "human"):  # who is masked: the user always is
                continue
            check(
                text in _TRUTHS,
                "says whether it is to be learnt, in a way that is not known",
                where,
                "0 or 1",
                holder[name],
            )
            given = _TRUTHS[text] != (name in _MASK)
            check(said in (None, given), "contradicts another mark of what is to be learnt", where, None, holder[name])
            said = given
    return said


_OF_ROWS = {*_LEARN, *_MASK}
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_OF_MESSAGES = {"from", "value", "content", "thinking", "reasoning_content", "function_call", *Message.model_fields}
_OF_MESSAGES |= {"refusal", *_LEARN, *_MASK}


def beyond_messages(turns: Any) -> list[dict[str, Any]]:
    """What each turn holds that a Message has no field for."""
    return [
        {k: v for k, v in turn.items() if k not in _OF_MESSAGES and v not in _EMPTY}
        for turn in (turns if isinstance(turns, list) else [turns])
        if isinstance(turn, dict) and not turn.keys().isdisjoint(("role", "from"))
    ]


_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field that is known here",
    "string_type": "is not text",
    "string_too_short": "is empty",
    "too_long": "has {actual_length} entries, and at most {max_length} are allowed",
    "too_short": "has {actual_length} entries, and at least {min_length} are needed",
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "literal_error": "is not {expected}",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "is not an object"),
    **dict.fromkeys(("tuple_type", "list_type"), "is not a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "is not a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "is not a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "is neither true nor false"),
}


def invalid(error: ValidationError, field: str = "") -> RowError:
    """What keeps a row from being a record, in words of the data and not of pydantic; ``field`` is where the record is."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    place = [str(part) for part in first["loc"] if part not in ("str", "int", "float")]
    problem = str(context["error"]) if kind == "value_error" else _PROBLEMS.get(kind, "is not as the format has it")
    found = None if kind in ("missing", "value_error") else first["input"]
    return RowError(problem.format(**context), ".".join([*([field] if field else []), *place]) or None, None, found)


# ---- into rows


def dumps(value: Any) -> str:
    """JSON on one line. Raises ValueError or TypeError for what JSON does not have, half surrogate pairs too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def columns_of(kind: Any) -> Any:
    """The columns of one of our own records, from its fields; the type of one of its fields."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return {name: columns_of(field.annotation) for name, field in kind.model_fields.items()}
    if origin in (dict, Literal):
        return dict if origin is dict else str
    if origin is tuple:
        return [columns_of(arguments[0])]
    return columns_of(arguments[0]) if origin else kind  # of "str | parts" the text, of "type | None" the type


MESSAGE_COLUMNS = [{"role": str, "content": str}]
