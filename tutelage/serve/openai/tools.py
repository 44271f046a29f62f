"""Tools that the assistant may call: which, how, and the grammar of an answer that has to call one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tutelage.assistant.assistant import Assistant
from tutelage.generate.constraints import json_options, lark_grammar
from tutelage.records import Tool
from tutelage.serve.openai.errors import BadRequest
from tutelage.serve.openai.fields import Shape, by_type
from tutelage.serve.openai.formats import Name
from tutelage.text.tokenizer import Tokenizer
from tutelage.text.tools import CallReader, ToolFormat, takes_tools, tool_format

MOST_CALLS = 8
"""Calls in one answer that a grammar allows: a small model may call without end."""


NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Function(Shape):
    """``parameters``: a JSON schema; without one, or with an empty one, the function has no arguments.

    Forced calls and ``strict`` functions always follow it, others as far as grammars know it.
    """

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        parameters = self.parameters or NO_PARAMETERS
        return Tool(name=self.name, description=self.description or "", parameters=parameters)


class FunctionTool(Shape):
    """A tool of chat completions."""

    type: Literal["function"]
    function: Function


class NamedFunction(Shape):
    """The function's name in a choice."""

    name: str


class NamedTool(Shape):
    """A choice of one tool in chat completions."""

    type: Literal["function"]
    function: NamedFunction


by_choice = by_type(
    {str: "word", dict: "function_named", Shape: "function_named"},
    "should be none, auto, required, or a function by its name",
)
"""What tells the alternatives of a choice."""


@dataclass(frozen=True)
class Calling:
    """That an answer may call tools."""

    format: ToolFormat
    tools: Sequence[Tool]
    forced: Sequence[Tool]
    """The tools of which one has to be called; none: the model chooses whether to call."""
    several: bool
    """Whether it may call more than once."""
    strict: frozenset[str] = frozenset()
    """The names of the tools whose schemas have to be kept to the letter by a call that the model chooses."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The name of each tool -> the field of the request that has its schema."""

    def reader(self) -> CallReader:
        """What tells calls from content in one answer."""
        return CallReader(self.format, None if self.several else 1, silent=bool(self.forced))

    def grammar(self, tokenizer: Tokenizer, schema: dict[str, Any] | None) -> str:
        """The grammar of the whole answer. ``schema``: of an answer without a call, where a call is not forced."""
        if self.forced or schema is None:
            return lark_grammar("start: calls\n" + self._calls(tokenizer, self.format.before))
        answer = f"answer: %json {_inline(schema)}\n"
        return lark_grammar("start: calls | answer\n" + answer + self._calls(tokenizer, self.format.before))

    def after(self, tokenizer: Tokenizer) -> int | None:
        """The token that begins the calls of an answer in which the model chooses; None where a text does."""
        return _control(tokenizer).get(self.format.marker)

    def rest(self, tokenizer: Tokenizer) -> str:
        """The grammar of what follows that token: calls, and nothing else."""
        following = self.format.before.partition(self.format.marker)[2]
        return lark_grammar("start: calls\n" + self._calls(tokenizer, following, lenient=True))

    def _calls(self, tokenizer: Tokenizer, before: str, *, lenient: bool = False) -> str:
        """The rules of ``calls``. ``lenient``: schemas of tools that are not strict bind as far as grammars know them."""
        form, ids, tools = self.format, _control(tokenizer), self.forced or self.tools
        more = f"({_literal(form.following or '', ids)} call){{0,{MOST_CALLS - 1}}}" if self.several else ""
        lines = [f"calls: {_literal(before, ids)} call {more} {_literal(form.after, ids)}"]
        lines += ["call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
        for i, tool in enumerate(tools):
            schema = _inline(tool.parameters, lenient=lenient and tool.name not in self.strict)
            lines += [f"call_{i}: {_literal(tool.name + form.between, ids)} arguments_{i}"]
            lines += [f"arguments_{i}: %json {schema}"]
        return "\n".join(lines) + "\n"


def _control(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of control tokens by their names."""
    return {tokenizer.name_of(i): i for i in tokenizer.special_ids}


def _inline(schema: dict[str, Any], *, lenient: bool = False) -> str:
    return json.dumps(json_options(schema, lenient=lenient))


def _literal(text: str, ids: dict[str, int]) -> str:
    """A text as a grammar writes it, with the ids of the control tokens whose names are in it."""
    names = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    parts = [part for part in re.split(f"({names})", text) if part]
    return " ".join(f"<[{ids[part]}]>" if part in ids else json.dumps(part, ensure_ascii=False) for part in parts)


def calling(
    assistant: Assistant,
    functions: Sequence[Function],
    choice: str | None,
    named: str | None,
    *,
    several: bool,
    param: str,
) -> Calling | None:
    """How an answer may call tools; None where it may not.

    ``choice``: none, auto (the default) or required; ``named``: the one function that has to be called. BadRequest for tools that
    the model cannot be told of, unless a call is forced: a grammar can do that to any model whose template writes calls.
    """
    if named is None and (not functions or choice == "none"):
        if choice == "required":
            raise BadRequest("tool_choice 'required' needs tools", param="tool_choice")
        return None
    fields = [f"tools.{i}.{param}parameters" for i in range(len(functions))]
    tools = [_checked(function, place) for function, place in zip(functions, fields, strict=True)]
    if len({tool.name for tool in tools}) < len(tools):
        raise BadRequest("two tools have the same name", param="tools")
    forced = tools if choice == "required" else [tool for tool in tools if tool.name == named]
    if named is not None and not forced:
        raise BadRequest(f"tool_choice: there is no function {named!r} in tools", param="tool_choice")
    format = tool_format(assistant.tokenizer)
    if format is None or not (forced or takes_tools(assistant.tokenizer)):
        lacks = "has no place for tools" if format else "does not write calls as JSON with a name and arguments"
        forcing = "force a call with tool_choice 'required' or a function's name"
        hint = f": {forcing if format else 'it can call no tools, forced or not'}"
        raise BadRequest(f"the model's chat template {lacks}{hint}", param="tools", code="unsupported_tools")
    strict = frozenset(function.name for function in functions if function.strict)
    by_name = {tool.name: place for tool, place in zip(tools, fields, strict=True)}
    return Calling(format, tools, forced, several and format.several and named is None, strict, by_name)


def _checked(function: Function, param: str) -> Tool:
    tool = function.tool
    if tool.parameters.get("type", "object") != "object":
        raise BadRequest(f"{param}: the arguments of a function are an object", param=param)
    return tool.model_copy(update={"parameters": {"type": "object", **tool.parameters}})
