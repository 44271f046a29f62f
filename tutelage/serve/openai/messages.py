"""The messages of chat completions, as clients send them, and as records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, Tag

from tutelage.records import Message, ToolCall
from tutelage.serve.openai.errors import BadRequest
from tutelage.serve.openai.fields import Many, Shape, by_type

_UNREAD = {
    "image_url": "a picture",
    "input_image": "a picture",
    "input_audio": "sound",
    "file": "a file",
    "input_file": "a file",
}


class Part(Shape):
    """A part of a message's content; only text is read."""

    type: str
    text: str | None = None
    refusal: str | None = None

    def read(self, place: str) -> str:
        """Its text. BadRequest for what the model cannot read."""
        if self.type in _UNREAD:
            said = f"this model reads text alone, and a message has {_UNREAD[self.type]}"
            raise BadRequest(said, param=f"{place}.type", code="unsupported_content")
        if self.type not in ("text", "input_text", "output_text", "refusal"):
            raise BadRequest(f"unknown part {self.type!r}: it should be 'text'", param=f"{place}.type")
        field = "refusal" if self.type == "refusal" else "text"
        text = getattr(self, field)
        if text is None:
            raise BadRequest(f"{place}.{field}: is required", param=f"{place}.{field}")
        return str(text)


Content = Annotated[
    Annotated[str, Tag("plain")] | Annotated[Many[Part], Tag("parts")],
    by_type({str: "plain", list: "parts"}, "should be text, or a list of parts of text"),
]


def text_of(content: str | list[Part], place: str) -> str:
    """All the text of a content. BadRequest for what the model cannot read; ``place`` is the content's name there."""
    if isinstance(content, str):
        return content
    return "".join(part.read(f"{place}.{i}") for i, part in enumerate(content))


class CalledFunction(Shape):
    """``arguments``: JSON as text."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class Call(Shape):
    """A call that the assistant made before."""

    id: str
    type: Literal["function"]
    function: CalledFunction


def tool_call(name: str, arguments: str, id: str, param: str) -> ToolCall:
    """A call as a record. BadRequest where the arguments are not a JSON object."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadRequest(f"{param}: should be a JSON object, as text", param=param)
    return ToolCall(name=name, arguments=found, id=id)


class ChatMessage(Shape):
    """A message. ``name`` is accepted and ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_calls: Many[Call] | None = None
    tool_call_id: str | None = None

    def record(self, place: str, called: dict[str, str]) -> Message:
        """The message as a record. BadRequest for what is not supported; ``place`` is its name there.

        ``called``: the names of the tools that were called so far, by the ids of the calls; brought up to date.
        """
        if self.role == "function":
            raise BadRequest("the role 'function' is not supported: use 'tool'", param=f"{place}.role")
        for name, value in (self.model_extra or {}).items():
            if value not in (None, []):  # what the client sends back of an earlier answer
                raise BadRequest(f"{name} is not supported in a message", param=f"{place}.{name}")
        calls = self.tool_calls or []
        if self.content is None and not calls:
            raise BadRequest(f"{place}.content: is required", param=f"{place}.content")
        content = "" if self.content is None else text_of(self.content, f"{place}.content")
        if calls and self.role != "assistant":
            raise BadRequest("only the assistant calls tools", param=f"{place}.tool_calls")
        if self.role == "tool":
            name = answered(self.tool_call_id, called, f"{place}.tool_call_id")
            return Message(role="tool", content=content, name=name, tool_call_id=self.tool_call_id or "")
        made = []
        for i, call in enumerate(calls):
            function, param = call.function, f"{place}.tool_calls.{i}.function.arguments"
            made.append(tool_call(function.name, function.arguments, call.id, param))
            called[call.id] = function.name
        return Message(role=self.role, content=content, tool_calls=tuple(made))


def answered(id: str | None, called: dict[str, str], param: str) -> str:
    """The name of the tool whose output it is. BadRequest for a call that was not made."""
    if id is None:
        raise BadRequest(f"{param}: is required", param=param)
    if id not in called:
        raise BadRequest(f"{param}: no message before it has a call with the id {id!r}", param=param)
    return called[id]


def records(messages: Sequence[ChatMessage]) -> list[Message]:
    """A conversation as records."""
    called: dict[str, str] = {}
    return [message.record(f"messages.{i}", called) for i, message in enumerate(messages)]
