"""The request of /v1/responses. Nothing is stored: each request brings the whole conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag

from tutelage.assistant.assistant import Assistant
from tutelage.records import Message, ToolCall
from tutelage.serve.openai.errors import BadRequest
from tutelage.serve.openai.fields import Many, Sampled, Shape, by_type
from tutelage.serve.openai.formats import JsonObject, PlainText, Schema, by_format
from tutelage.serve.openai.messages import Content, answered, text_of, tool_call
from tutelage.serve.openai.tools import Calling, Function, by_choice, calling

_STATELESS = "nothing is stored here: send the whole conversation as input"


class JsonSchemaFormat(Schema):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"]


class TextOptions(Shape):
    """What the text of an answer has to look like."""

    format: (
        Annotated[
            Annotated[PlainText, Tag("any_text")]
            | Annotated[JsonObject, Tag("an_object")]
            | Annotated[JsonSchemaFormat, Tag("a_schema")],
            by_format,
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema that an answer has to be valid by; None for any text."""
        if isinstance(self.format, JsonSchemaFormat):
            return self.format.json_schema
        return {"type": "object"} if isinstance(self.format, JsonObject) else None


class ResponseTool(Function):
    """A function that may be called."""

    type: Literal["function"]


class NamedFunctionTool(Shape):
    """A choice of one function."""

    type: Literal["function"]
    name: str


class Item(Shape):
    """A message, a call of a function (function_call), or what it returned (function_call_output)."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None

    def needed(self, field: str, place: str) -> Any:
        """A field's value. BadRequest if it is missing."""
        if getattr(self, field) is None:
            raise BadRequest(f"{place}.{field}: is required", param=f"{place}.{field}")
        return getattr(self, field)


class ResponsesRequest(Sampled):
    """POST /v1/responses"""

    prompt_field = "input"
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "store": (False,),
        "background": (False,),
        "truncation": ("disabled",),
        "service_tier": ("auto", "default"),
    }
    unsupported = frozenset(
        {
            "previous_response_id",
            "conversation",
            "prompt",
            "reasoning",
            "max_tool_calls",
            "context_management",
            "moderation",
        }
    )
    reasons: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("store", "previous_response_id", "conversation", "background"), _STATELESS),
        "truncation": "a conversation that is too long is an error and is never cut",
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "use max_output_tokens"),
        "messages": "use input",
        "response_format": "use text.format",
    }

    input: Annotated[
        Annotated[str, Tag("plain")] | Annotated[Many[Item], Field(min_length=1), Tag("items")],
        by_type({str: "plain", list: "items"}, "should be text, or a list of items"),
    ]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextOptions | None = None
    tools: Many[ResponseTool] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("word")]
            | Annotated[NamedFunctionTool, Tag("function_named")],
            by_choice,
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    stream_options: Shape | None = None
    include: Many[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def most_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def ranked(self) -> int | None:
        return (self.top_logprobs or 0) if self.include else None

    def refuse_unknown(self) -> None:
        super().refuse_unknown()
        if self.top_logprobs and not self.include:
            raise BadRequest('top_logprobs needs include: ["message.output_text.logprobs"]', param="top_logprobs")
        if self.include and self.tools and self.tool_choice != "none":
            raise BadRequest(
                "log-probabilities are of messages, and not where tools may be called: leave out one of the two",
                param="include",
            )

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema that an answer has to be valid by; None for any text."""
        return self.text.schema_wanted if self.text else None

    def calling(self, assistant: Assistant) -> Calling | None:
        """How the answer may call tools. BadRequest where the model cannot."""
        choice = self.tool_choice
        word, named = (None, choice.name) if isinstance(choice, NamedFunctionTool) else (choice, None)
        several = self.parallel_tool_calls is not False
        return calling(assistant, self.tools or (), word, named, several=several, param="")

    def conversation(self) -> list[Message]:
        """The instructions and the input as records; calls that follow each other are one turn of the assistant."""
        found = [Message(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*found, Message(role="user", content=self.input)]
        called: dict[str, str] = {}
        for i, item in enumerate(self.input):
            place = f"input.{i}"
            if item.type in (None, "message"):
                content = text_of(item.needed("content", place), f"{place}.content")
                found.append(Message(role=item.needed("role", place), content=content))
            elif item.type == "function_call":
                call = _called(item, place)
                called[call.id] = call.name
                if found and found[-1].role == "assistant":
                    found[-1] = found[-1].model_copy(update={"tool_calls": (*found[-1].tool_calls, call)})
                else:
                    found.append(Message(role="assistant", content="", tool_calls=(call,)))
            elif item.type == "function_call_output":
                name = answered(item.call_id, called, f"{place}.call_id")
                output = text_of(item.needed("output", place), f"{place}.output")
                found.append(Message(role="tool", content=output, name=name, tool_call_id=item.call_id or ""))
            else:
                raise BadRequest(f"items of type {item.type!r} are not supported", param=f"{place}.type")
        return found


def _called(item: Item, place: str) -> ToolCall:
    name, arguments, id = (item.needed(field, place) for field in ("name", "arguments", "call_id"))
    return tool_call(name, arguments, id, f"{place}.arguments")
