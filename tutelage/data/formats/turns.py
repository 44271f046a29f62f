"""Turns of dialogues in rows: OpenAI's ``{role, content, tool_calls, ...}`` and ShareGPT's ``{from, value}``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import ValidationError

from tutelage.data.formats import parts
from tutelage.data.read.rows import LeftOut, RowError, check
from tutelage.records import Completion, Conversation, ImagePart, Message, Part, Role, TextPart, ToolCall

_NAMES: tuple[tuple[Role, str], ...] = (
    ("system", "system"),
    ("developer", "developer"),
    ("user", "human user"),
    ("assistant", "gpt chatgpt assistant bing bard function_call"),
    ("tool", "tool function observation"),
)
ROLES: dict[str, Role] = {name: role for role, names in _NAMES for name in names.split()}
"""A turn's ``role`` or ``from`` -> the role of its message. The value of a ``function_call`` turn is the call."""

OPENAI_KEEPS = ("meta", "reasoning", "tool_calls", "tool_call_id", "name", "images", "learn")
"""What OpenAI's messages hold beyond roles and texts, with the row's meta."""

_EXPECTED_CALL = '{"name": ..., "arguments": {...}}'
_EXPECTED_PART = '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}'


def user(text: str) -> Message:
    """A message by the user."""
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    """A message by the assistant."""
    return Message(role="assistant", content=text)


OF_ANSWERS = ["reasoning", "reasoning_content", "thinking", "tool_calls", "function_call"]
"""Columns and keys that an answer may have besides its text."""


def answer_of(row: parts.Fields, text: str) -> Message:
    """An answer whose text, thoughts and tool calls are columns of a row."""
    return _message({k: row[k] for k in OF_ANSWERS if k in row} | {"role": "assistant", "content": text}, "")


def completion_of(answer: Message, model: str = "") -> Completion:
    """An answer of a ranking."""
    same = {name: getattr(answer, name) for name in ("text", "reasoning", "tool_calls", "evidence", "citations")}
    return Completion(model=model, **same)


def says_something(answer: Message) -> bool:
    """False for an answer of nothing but white space."""
    return bool(answer.text.strip() or answer.reasoning or answer.tool_calls)


# ---- out of rows


def messages_of(value: Any, field: str) -> tuple[Message, ...]:
    """Messages of OpenAI's or ShareGPT's kind. Raises RowError that names the turn, and LeftOut where there is none."""
    if value == []:
        raise LeftOut("empty conversation")
    check(isinstance(value, list) and value, "is not a list of messages", field, "a list of messages", value)
    return tuple(_message(turn, f"{field}.{i}") for i, turn in enumerate(value))


def prompt_messages(value: Any, field: str) -> tuple[Message, ...]:
    """A prompt, given as text or as messages."""
    return (user(value),) if isinstance(value, str) else messages_of(value, field)


SYSTEM = ("system", "system_prompt", "system_message")
"""Columns that may hold a row's system message."""


def with_system(row: parts.Fields, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with the row's ``system``, if it says something, in front, unless it is there already."""
    name = next((name for name in SYSTEM if row.get(name)), None)
    if name is None:
        return messages
    system = Message(role="system", content=parts.text_field(row, name))
    return messages if messages[:1] == (system,) else (system, *messages)


def _message(turn: Any, field: str) -> Message:
    parts.check_object(turn, field)
    at = f"{field}." if field else ""
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    said, content = turn.get(role_key), turn.get(text_key)
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise RowError("is not a known role", f"{at}{role_key}", ", ".join(ROLES), said)
    learn = parts.learns(turn, field)
    if learn and role != "assistant":
        raise RowError(f"marks a turn of the {role} as to be learnt, and only the assistant's are", field, None, turn)
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if said == "function_call":  # the text is the JSON of a call, or of a list of calls
        try:
            calls, content = orjson.loads(content) if isinstance(content, str) else content, ""
        except ValueError:
            raise RowError("is not a tool call", f"{at}{text_key}", _EXPECTED_CALL, content) from None
        calls = calls if isinstance(calls, list) else [calls]
    check(isinstance(calls, list), "is not a list", f"{at}tool_calls", f"[{_EXPECTED_CALL}]", calls)
    if content is None:
        content = turn.get("refusal", "" if calls else None)
    if not isinstance(content, str):
        good = isinstance(content, list) and content
        check(good, "is not text", f"{at}{text_key}", "text, or a list of parts", content)
        content = tuple(_part(part, f"{at}{text_key}.{i}") for i, part in enumerate(content))
    try:
        return Message(
            role=role,
            content=content,
            reasoning=next((turn[k] for k in ("reasoning", "reasoning_content", "thinking") if turn.get(k)), ""),
            tool_calls=tuple(tool_call(call, f"{at}tool_calls.{i}") for i, call in enumerate(calls)),
            tool_call_id=parts.as_text(turn.get("tool_call_id")),
            name=parts.as_text(turn.get("name")),
            evidence=turn.get("evidence") or (),
            citations=turn.get("citations") or (),
            learn=learn is not False or role != "assistant",
        )
    except ValidationError as error:
        raise parts.invalid(error, field) from None


def _part(part: Any, field: str) -> Part:
    if isinstance(part, dict):
        given = [value for key, value in part.items() if key != "type"]
        kind, value = part.get("type"), given[0] if len(given) == 1 else None
        if kind in ("text", "input_text", "output_text") and isinstance(value, str):
            return TextPart(text=value)
        if kind in ("image", "image_url", "input_image"):
            image = value.get("url") if isinstance(value, dict) and value.keys() == {"url"} else value
            if isinstance(image, str) and image:
                return ImagePart(image=image)
    raise RowError("is not a part of a message", field, _EXPECTED_PART, part)


def tool_call(value: Any, field: str) -> ToolCall:
    inner = value.get("function", value) if isinstance(value, dict) else None
    name, arguments = (inner.get("name"), inner.get("arguments")) if isinstance(inner, dict) else (None, None)
    given = parts.object_of(arguments or {})
    if not isinstance(name, str) or not name or given is None:
        raise RowError("is not a tool call", field, _EXPECTED_CALL, value)
    return ToolCall(name=name, arguments=given, id=parts.as_text(value.get("id")))


# ---- into rows


def openai_rows(messages: Iterable[Message]) -> list[parts.Row]:
    """Messages as the OpenAI API writes them."""
    rows = []
    for message in messages:
        content: Any = message.content
        if not isinstance(content, str):
            content = [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image_url", "image_url": {"url": part.image}}
                for part in content
            ]
        calls = [
            ({"id": call.id} if call.id else {})
            | {"type": "function", "function": {"name": call.name, "arguments": parts.dumps(call.arguments)}}
            for call in message.tool_calls
        ]
        more = {"reasoning_content": message.reasoning, "tool_calls": calls}
        more |= {"tool_call_id": message.tool_call_id, "name": message.name}
        row = {"role": message.role, "content": content}
        row |= {name: value for name, value in more.items() if value}
        rows.append(row if message.learn else row | {"weight": 0})
    return rows


def sharegpt_row(record: Conversation) -> parts.Row:
    """``{conversations: [{from, value}]}``; a message of tool calls is a ``function_call``, a tool's output an ``observation``."""
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    rows = []
    for message in record.messages:
        said, value = names.get(message.role, message.role), message.text
        if message.tool_calls:
            if value:
                raise parts.CannotHold("one of its turns has both text and tool calls")
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            said, value = "function_call", parts.dumps(calls[0] if len(calls) == 1 else calls)
        rows.append({"from": said, "value": value})
    return {"conversations": rows}
