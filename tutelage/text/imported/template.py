"""A model's own chat template: jinja, as transformers runs it, in a sandbox, with every character's author known.

Templates come with downloaded models: they are programs by strangers. They see no Python internals, and whatever goes wrong
inside one is a one-line error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message
from tutelage.text.imported.marks import NotFollowed, Written, authors, bare, follow, mark
from tutelage.text.layout import message_fields

# A message has a mark of its own in one rendering in this many; the next mark stands for all others.
_AT_ONCE = 15


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote; the authors say that already, so the tag only has to parse."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The settings of transformers' ``apply_chat_template``."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception


class _Following(_Environment):
    """The same for marked texts: what looks at characters sees through the marks."""

    def __init__(self) -> None:
        super().__init__()
        self.finalize = _string
        self.filters = {name: _following(function) for name, function in self.filters.items()}
        self.filters |= {"_bare": bare, "trim": _trim}

    def _parse(self, *args: Any) -> nodes.Template:
        return _Comparison().visit(super()._parse(*args))

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            for own in ("_loop_vars", "_block_vars"):  # jinja's
                kwargs.pop(own, None)
            return follow(getattr(str, function.__name__), owner, *args, **kwargs)
        return super().call(context, function, *args, **kwargs)


class _Comparison(NodeTransformer):
    """Compares bare values."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        for side in sides:
            side.expr = nodes.Filter(side.expr, "_bare", [], [], None, None, lineno=node.lineno)
        return node


class Template:
    """A compiled chat template. ``literals`` are all the texts in it. ``strftime_now`` always says when it was compiled.

    With a clock that runs, the prompt for an answer could differ from the start of the same conversation rendered a moment later.
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        """``variables`` are bos_token and the like. Raises CheckpointError where ``source`` is not jinja."""
        self.source, self._variables = source.removeprefix("\ufeff"), variables or {}
        self._now = datetime.now()
        try:
            tree = _environment(_Environment).parse(self.source)
            self._plain, self._following = (
                _environment(kind).from_string(self.source) for kind in (_Environment, _Following)
            )
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            where = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise CheckpointError(f"the chat template is not jinja: {where}{_line(error)}") from None
        self.literals = frozenset(
            [node.data for node in tree.find_all(nodes.TemplateData)]
            + [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        )

    def text(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """The conversation as one text, as transformers renders it; ``ask`` is its add_generation_prompt.

        A developer is the system to a template that does not name the role. Raises UsageError where the template refuses the
        conversation, with its words, and where it fails.
        """
        return self._render(self._plain, map(message_fields, messages), ask)

    def written(self, messages: Sequence[Message], *, ask: bool = False) -> Written:
        """``text``, and the author of each character: ``chr(i + 1)`` is message i.

        Raises UsageError also where the template leaves out tool calls or thoughts, and where it changes a message's text in a
        way that hides what is whose.
        """
        if any(message.reasoning for message in messages) and "reasoning_content" not in self.source:
            raise UsageError("the chat template leaves out what the assistant thought (reasoning_content)")
        text = self.text(messages, ask=ask)
        found = np.zeros(len(text), np.uint32)
        for first in range(0, len(messages), _AT_ONCE):
            own = [i - first + 1 if 0 <= i - first < _AT_ONCE else _AT_ONCE + 1 for i in range(len(messages))]
            dialogue = [message_fields(m, partial(mark, author=i)) for m, i in zip(messages, own, strict=True)]
            try:
                among = authors(text, self._render(self._following, dialogue, ask))
            except (UsageError, NotFollowed):
                raise UsageError(
                    "the chat template changes the messages' texts in a way that hides which part of the prompt is whose: "
                    "edit chat_template.jinja"
                ) from None
            found = np.where((among > 0) & (among <= _AT_ONCE), first + among, found)
        assistants = "".join(chr(i + 1) for i, message in enumerate(messages) if message.role == "assistant")
        written = Written(text, "".join(map(chr, found.tolist())), assistants)
        for index, message in enumerate(messages):
            start, stop = written.place(index)
            if not all(call.name in text[start:stop] for call in message.tool_calls):
                raise UsageError("the chat template leaves out the assistant's tool calls")
        return written

    def _render(self, compiled: jinja2.Template, dialogue: Iterable[dict[str, Any]], ask: bool) -> str:
        unnamed = "developer" not in self.literals
        dialogue = [m | {"role": "system"} if m["role"] == "developer" and unnamed else m for m in dialogue]
        given = {"tools": None, "documents": None, "add_generation_prompt": ask, "strftime_now": self._now.strftime}
        try:
            return compiled.render(messages=dialogue, **given, **self._variables)
        except _Refusal as error:
            raise UsageError(f"the chat template refuses this conversation: {_line(error)}") from None
        except Exception as error:  # jinja's errors, and whatever Python raises for a wrong program
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            raise UsageError(f"the chat template fails: {kind}{_line(error)}") from None


@cache
def _environment(kind: type[_Environment]) -> _Environment:
    return kind()


def _following(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, its result with authors. jinja reads ``pass_context`` and the like off the function: they are copied."""

    def followed(*args: Any, **kwargs: Any) -> Any:
        return follow(function, *args, **kwargs)

    followed.__dict__.update(getattr(function, "__dict__", {}))
    return followed


def _string(value: object) -> Any:
    return value if isinstance(value, str) else follow(str, value)


def _trim(value: object, chars: str | None = None) -> Any:
    return follow(str.strip, _string(value), chars)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers': jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
