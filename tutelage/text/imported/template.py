"""A model's own chat template: jinja, as transformers runs it, in a sandbox, with every character's author known.

Templates come with downloaded models: they are programs by strangers. They see no Python internals, and whatever goes wrong
inside one is a one-line error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message
from tutelage.text.imported.authored import Authored, authors_of, bare, follow, joined
from tutelage.text.layout import message_fields


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote; the authors say that already, so the tag only has to parse."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Concatenation(NodeTransformer):
    """``~`` as a filter, which keeps authors: compiled code would use ``str.join``."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The settings of transformers' ``apply_chat_template``; texts keep their authors through filters and calls."""

    intercepted_binops = frozenset(["%", "*"])
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=lambda value: value if isinstance(value, str) else follow(str, value),
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: _following(function) for name, function in self.filters.items()}
        self.filters |= {"_joined": joined, "join": _join}
        self.globals["raise_exception"] = _raise_exception

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        owner, call = getattr(function, "__self__", None), partial(super().call, context)
        if isinstance(owner, dict | list):  # what it returns is an element, with its own authors
            return call(function, *args, **kwargs)
        if isinstance(owner, Authored) and function.__name__ not in vars(Authored):
            name = function.__name__
            return follow(lambda text, *a, **k: call(getattr(bare(text), name), *a, **k), owner, *args, **kwargs)
        return follow(call, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(getattr(value, "__self__", None), Authored) and value.__name__ in ("format", "format_map"):
            raise jinja2.sandbox.SecurityError("a message's text cannot be a format")
        return super().wrap_str_format(value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return follow(partial(super().call_binop, context, operator), left, right)


class Template:
    """A compiled chat template. ``literals`` are all the texts that stand in it. Its clock stands still from now on.

    With a clock that runs, the prompt for an answer could differ from the start of the same conversation rendered a moment later.
    """

    def __init__(self, source: str) -> None:
        """Raises CheckpointError where ``source`` is not jinja."""
        self.source = source.removeprefix("\ufeff")
        self._now = datetime.now()
        environment = _environment()
        try:
            tree = environment.parse(self.source)
            self.literals = frozenset(
                [node.data for node in tree.find_all(nodes.TemplateData)]
                + [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
            )
            self._compiled = environment.from_string(_Concatenation().visit(tree))
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            where = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise CheckpointError(f"the chat template is not jinja: {where}{_line(error)}") from None

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, str], *, add_generation_prompt: bool = False
    ) -> Authored:
        """The conversation as one text; message i is the author ``chr(i + 1)``. ``variables`` are bos_token and the like.

        A developer is the system to a template that does not name the role. Raises UsageError where the template refuses the
        conversation, with its words, where it fails, and where it leaves out tool calls or thoughts.
        """
        dialogue = [message_fields(m, partial(Authored, authors=chr(i + 1))) for i, m in enumerate(messages)]
        for fields in dialogue:
            if "reasoning_content" in fields and "reasoning_content" not in self.source:
                raise UsageError("the chat template leaves out what the assistant thought (reasoning_content)")
            if fields["role"] == "developer" and "developer" not in self.literals:
                fields["role"] = "system"
        try:
            text = joined(
                self._compiled.generate(
                    messages=dialogue,
                    tools=None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    strftime_now=self._now.strftime,
                    **variables,
                )
            )
        except _Refusal as error:
            raise UsageError(f"the chat template refuses this conversation: {_line(error)}") from None
        except Exception as error:  # jinja's errors, and whatever Python raises for a wrong program
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            raise UsageError(f"the chat template fails: {kind}{_line(error)}") from None
        for i, message in enumerate(messages):
            if message.tool_calls:
                said = "".join(
                    c for c, author in zip(bare(text), authors_of(text), strict=True) if author == chr(i + 1)
                )
                if not all(call.name in said for call in message.tool_calls):
                    raise UsageError("the chat template leaves out the assistant's tool calls")
        return text


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment()


def _following(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, its result with authors. jinja reads ``pass_context`` and the like off the function: they are copied."""

    def followed(*args: Any, **kwargs: Any) -> Any:
        return follow(function, *args, **kwargs)

    followed.__dict__.update(getattr(function, "__dict__", {}))
    return followed


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> Authored:
    """jinja's ``join`` filter, with its names of the arguments."""
    return joined((part if attribute is None else part[attribute] for part in value), d)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers': jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
