"""What an answer has to look like: ``response_format`` of chat completions and ``text.format`` of responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from weakref import WeakValueDictionary

from pydantic import Field, Tag, field_validator
from torch import Tensor

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.serve.openai.errors import BadRequest, Busy
from tutelage.serve.openai.fields import Shape, refusing

if TYPE_CHECKING:  # llguidance is loaded with the first grammar
    from tutelage.generate.constraints import Mask

MOST_WAITING = 16
"""Grammars of one client that may wait to be compiled: a hostile one takes a second."""
_compiling = ThreadPoolExecutor(1, "grammars")  # one thread, so that requests without a grammar find theirs free

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class PlainText(Shape):
    """Any text."""

    type: Literal["text"]

    @field_validator("type", mode="before")
    @classmethod
    def _one_of_ours(cls, value: Any) -> Any:
        if value != "text":  # whatever has another type is read as this one
            raise ValueError("should be text, json_object or json_schema")
        return value


class JsonObject(Shape):
    """Any JSON object."""

    type: Literal["json_object"]


class Schema(Shape):
    """A JSON schema with a name. It is always enforced, whatever ``strict`` says."""

    name: Name
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class JsonSchema(Shape):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"]
    json_schema: Schema


def _format_kind(value: Any) -> str | None:
    if not isinstance(value, dict | Shape):
        return None
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "an_object" if kind == "json_object" else "a_schema" if kind == "json_schema" else "any_text"


by_format = refusing(_format_kind, "should be an object with the type text, json_object or json_schema")
"""What tells the alternatives of a format."""


ResponseFormat = Annotated[
    Annotated[PlainText, Tag("any_text")]
    | Annotated[JsonObject, Tag("an_object")]
    | Annotated[JsonSchema, Tag("a_schema")],
    by_format,
]


def schema_of(format: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that an answer has to be valid by; None for any text."""
    if isinstance(format, JsonSchema):
        return format.json_schema.json_schema
    return {"type": "object"} if isinstance(format, JsonObject) else None


@dataclass(frozen=True)
class Named:
    """A mask whose faults name the field that its grammar comes from."""

    mask: Mask
    param: str

    @property
    def after(self) -> int | None:
        """The token that it begins with; see ``Request.mask_after``."""
        return self.mask.after

    def __call__(self, ids: list[int]) -> Tensor:
        try:
            return self.mask(ids)
        except UsageError as error:
            raise BadRequest(str(error), param=self.param, code="invalid_json_schema") from None


class _Turn:
    """A client's grammars, which are compiled one after the other, so that others' wait for one of them at most."""

    def __init__(self) -> None:
        self.lock, self.waiting = asyncio.Lock(), 0


_turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()


async def compiled(
    assistant: Assistant, grammar: Callable[[], str], param: str, client: str, *, after: int | None = None
) -> Named:
    """The mask of a request, see ``Grammars.compile``. BadRequest, naming ``param``, where ``grammar``, that or the mask fails."""
    turn = _turns.setdefault(client, _Turn())
    if turn.waiting >= MOST_WAITING:
        raise Busy("too many schemas wait to be compiled", code="queue_full", headers={"retry-after": "5"})
    turn.waiting += 1
    try:
        async with turn.lock:
            # In the thread from the start: the first grammar of a model takes its tokenizer's table too, seconds for a large one.
            loop = asyncio.get_running_loop()
            mask = await loop.run_in_executor(_compiling, lambda: assistant.grammars.compile(grammar(), after))
    except UsageError as error:
        raise BadRequest(f"the schema cannot be used: {error}", param=param, code="invalid_json_schema") from None
    finally:
        turn.waiting -= 1

    return Named(mask, param)
