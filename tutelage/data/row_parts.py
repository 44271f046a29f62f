"""What the formats of rows.py and trees.py share: errors, and the parts that rows are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.data.json_rows import parse
from tutelage.records import Completion, Message, Prompt, Ranking, Role

Fields = Mapping[str, Any]

_RATINGS = ("1", "2", "3", "4", "5")
_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


@dataclass(frozen=True)
class Skip:
    """A well-formed row that gives no record. The reason is one of few, so that they can be counted."""

    reason: str


class RowError(Exception):
    """A row breaks its format at ``field``."""

    def __init__(
        self, problem: str, *, field: str | None = None, expected: str | None = None, found: Any = None
    ) -> None:
        super().__init__(problem)
        self.problem, self.field, self.expected, self.found = problem, field, expected, found


def as_text(value: Any) -> str:
    """A name or a number as a text; nothing for null."""
    return "" if value is None else str(value)


def text_field(row: Fields, field: str) -> str:
    """The text in a column. Raises RowError if there is none."""
    value = row.get(field)
    if not isinstance(value, str):
        problem = "is no text" if field in row else "is missing"
        raise RowError(problem, field=field, expected="a text", found=value if field in row else sorted(row))
    return value


def check_object(value: Any, field: str) -> None:
    """Raises RowError for anything but an object."""
    if not isinstance(value, dict):
        raise RowError("is no object", field=field, expected="an object", found=value)


def other_columns(row: Fields, *known: str) -> dict[str, Any]:
    """Columns that the format does not name, for ``meta``; empty ones left out. Those of a ``meta`` object join them.

    ``meta`` may also be the object's JSON as a text: tables need one type a column, so that is how they hold it.
    """
    others = {k: v for k, v in row.items() if k not in known and v not in (None, "", [], {})}
    given = object_of(others.get("meta"))
    if given is None:
        return others
    del others["meta"]
    return given | others


def with_meta(row: Fields, *known: str) -> dict[str, Any]:
    """The fields of one of our own records, with all other columns under ``meta``. Null is as good as absent."""
    if row.get("meta") not in (None, "") and object_of(row["meta"]) is None:
        raise RowError("is no object", field="meta", expected="an object", found=row["meta"])
    return {k: row[k] for k in known if row.get(k) is not None} | {"meta": other_columns(row, *known)}


def with_objects(row: Fields) -> dict[str, Any]:
    """Our own Ranking or Answers with the free-form objects in it as objects, where they are JSON in a text."""
    made = {key: value for key, value in row.items() if value is not None}
    if isinstance(row.get("prompt"), dict):
        made["prompt"] = _opened(row["prompt"], "meta")
    if isinstance(row.get("completions"), list):
        made["completions"] = [_opened(c, "sampling") if isinstance(c, dict) else c for c in row["completions"]]
    return made


def object_of(value: Any) -> dict[str, Any] | None:
    """The object that a value is, or is the JSON of; None for anything else."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = parse(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _opened(holder: dict[str, Any], field: str) -> dict[str, Any]:
    opened = object_of(holder.get(field))
    return holder if opened is None else holder | {field: opened}


def _system(row: Fields) -> list[Message]:
    return [Message(role="system", content=text_field(row, "system"))] if row.get("system") else []


def with_system(row: Fields, messages: list[Message]) -> list[Message]:
    """The messages with the row's ``system`` in front, unless it stands there already."""
    system = _system(row)
    return messages if messages[: len(system)] == system else [*system, *messages]


def prompt_messages(value: Any, field: str) -> list[Message]:
    """A prompt, given as a text or as messages."""
    return [Message(role="user", content=value)] if isinstance(value, str) else messages_of(value, field)


def alpaca_prompt(row: Fields) -> list[Message]:
    """``{instruction, input?, system?, history?}`` as messages."""
    messages = _system(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("is no list of pairs", field="history", expected="[[question, answer], ...]", found=pair)
        messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    given = text_field(row, "input") if row.get("input") is not None else ""
    text = text_field(row, "instruction") + (f"\n\n{given}" if given else "")
    return [*messages, Message(role="user", content=text)]


def messages_of(value: Any, field: str) -> list[Message]:
    """Messages of ShareGPT's kind ({from, value}) or OpenAI's ({role, content})."""
    if not isinstance(value, list) or not value:
        raise RowError("is no list of messages", field=field, expected="a list of messages", found=value)
    return [_message(turn, f"{field}.{i}") for i, turn in enumerate(value)]


def _message(turn: Any, field: str) -> Message:
    check_object(turn, field)
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    role, text = turn.get(role_key), turn.get(text_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError("is no known role", field=f"{field}.{role_key}", expected="human, gpt or system", found=role)
    if not isinstance(text, str):
        raise RowError("is no text", field=f"{field}.{text_key}", expected="a text", found=text)
    return Message(role=_ROLES[role], content=text)


def transcript(text: str, field: str) -> list[Message]:
    """A text of "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages, white space around the turns gone."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowError("is no transcript", field=field, expected=r"'\n\nHuman: ...\n\nAssistant: ...'", found=text)
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [Message(role=roles[role], content=turn.strip()) for role, turn in pairs]


def side(value: Any, field: str, before: list[Message]) -> list[Message]:
    """One side of a preference as a whole dialogue."""
    if isinstance(value, str):
        return [*before, Message(role="assistant", content=value)]
    turns = messages_of(value if isinstance(value, list) else [value], field)
    (system, asked), (own_system, rest) = _apart(before), _apart(turns)
    if system and own_system and _said(own_system) != _said(system):
        raise RowError("has a system message of its own", field=field, expected="the prompt's", found=_said(own_system))
    # UltraFeedback repeats the prompt at the front of each side; TRL's explicit format does not.
    if _said(rest[: len(asked)]) != _said(asked):
        if rest and rest[0].role == asked[-1].role == "user":
            expected = "the prompt, or what follows it"
            raise RowError("does not begin with the prompt", field=field, expected=expected, found=_said(rest))
        rest = [*asked, *rest]
    return [*(system or own_system), *rest]


def _apart(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """(the system messages in front, the other turns)."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:first], messages[first:]


def _said(messages: list[Message]) -> list[tuple[Role, str]]:
    """Who says what, without the white space around it: for comparing and for errors."""
    return [(message.role, message.text.strip()) for message in messages]


def pair(chosen: list[Message], rejected: list[Message], meta: dict[str, Any], *, identity: str = "") -> Ranking | Skip:
    """The ranking of two dialogues that differ in their last answer, the better one first."""
    if chosen == rejected:
        return Skip("both sides are the same")
    if chosen[:-1] != rejected[:-1]:
        return Skip("the sides differ before the last answer")
    if len(chosen) < 2 or chosen[-2].role != "user" or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        return Skip("the sides do not end with a question and an answer")
    texts = (chosen[-1].text, rejected[-1].text)
    completions = tuple(Completion(text=text) for text in texts)
    asked = Prompt(messages=tuple(chosen[:-1]), id=identity, meta=meta)
    return Ranking(prompt=asked, completions=completions, ranks=(1, 2))


def score(completion: Fields, field: str) -> float | None:
    """UltraFeedback's score of a completion: ``overall_score``, else the mean of the ratings it has, else None."""
    overall = completion.get("overall_score")
    if overall is not None:
        if not isinstance(overall, int | float) or abs(overall) > 1e9:
            raise RowError("is no score", field=f"{field}.overall_score", expected="a number", found=overall)
        return float(overall)
    annotations = completion.get("annotations") or {}
    check_object(annotations, f"{field}.annotations")
    ratings = [a.get("Rating") for a in annotations.values() if isinstance(a, dict)]
    numbers = [int(str(rating)) for rating in ratings if str(rating) in _RATINGS]  # "N/A" is there too
    return sum(numbers) / len(numbers) if numbers else None
