"""A model's own chat template: jinja, as transformers runs it, in a sandbox, with every character's author known.

Templates come with downloaded models: they are programs by strangers. They see no Python internals, and whatever goes wrong
inside one is a one-line error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
import numpy.typing as npt
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message, Tool
from tutelage.seeds import present_time
from tutelage.text.imported.marks import NotFollowed, Written, authors, bare, follow, mark, percent, printed
from tutelage.text.layout import message_fields, tool_fields

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

    intercepted_binops = frozenset("%")

    def __init__(self) -> None:
        super().__init__()
        self.finalize = _string
        self.filters = {name: _following(function) for name, function in self.filters.items()}
        self.filters |= {"_bare": bare, "_string": _string, "string": _string, "trim": _trim, "replace": _replace}
        self.filters |= {"tojson": _tojson_followed, "format": _format}
        self.filters["join"] = _following(jinja2.filters.FILTERS["join"], by=_join)
        tests: dict[str, Any] = self.tests
        self.tests = {name: test if name == "sameas" else _following(test, _tested) for name, test in tests.items()}

    def _parse(self, *args: Any) -> nodes.Template:
        return _Operators().visit(super()._parse(*args))

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            for own in ("_loop_vars", "_block_vars"):  # jinja's
                kwargs.pop(own, None)
            return follow(getattr(str, function.__name__), owner, *args, **kwargs)
        if isinstance(owner, dict) and args and isinstance(args[0], str):
            args = (_key(owner, args[0]), *args[1:])
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, str):
            return percent(left, right, _string)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, _key(obj, argument))

    def getattr(self, obj: Any, attribute: str) -> Any:
        return super().getattr(obj, _key(obj, attribute))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                args, kwargs = (), *args
            return _Formatter(self).vformat(value.__self__, args, kwargs)

        return formatted


class _Formatter(jinja2.sandbox.SandboxedFormatter):
    """``str.format`` with marks."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion in ("r", "a"):
            return printed(super().convert_field(bare(value), conversion), value)
        return _string(value) if conversion else value

    def format_field(self, value: Any, format_spec: str) -> str:
        return str(follow(format, value, format_spec)) if format_spec else _string(value)


class _Operators(NodeTransformer):
    """Comparisons are of bare values; ``~`` joins what ``_string`` makes of its operands."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        for side in sides:
            side.expr = _through("_bare", side.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_through("_string", operand) for operand in node.nodes]
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Template:
    """A compiled chat template. ``literals`` are all the texts in it.

    ``strftime_now`` always says the run's time, or outside of runs when the template was compiled. With a clock that runs, the
    prompt for an answer could differ from the start of the same conversation rendered a moment later.
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        """``variables`` are bos_token and the like. Raises CheckpointError where ``source`` is not jinja."""
        self.source, self._variables = source.lstrip("\ufeff"), variables or {}
        self._now = present_time()
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

    def text(self, messages: Sequence[Message], *, ask: bool = False, tools: Sequence[Tool] = ()) -> str:
        """The conversation as one text, as transformers renders it; ``ask`` is its add_generation_prompt.

        A developer is the system to a template that does not name the role. Raises UsageError where the template refuses the
        conversation, with its words, and where it fails.
        """
        return self._render(self._plain, map(message_fields, messages), ask, [tool_fields(tool) for tool in tools])

    def written(self, messages: Sequence[Message], *, ask: bool = False, tools: Sequence[Tool] = ()) -> Written:
        """``text``, and the author of each character: ``chr(i + 1)`` is message i, ``chr(len(messages) + 1)`` speakers' names
        and whoever wrote the tools.

        Raises UsageError also where the template leaves out tool calls or thoughts, and where it changes a message's text in a
        way that hides what is whose.
        """
        text = self._whole(messages, ask, tools)
        found, given = np.zeros(len(text), np.uint32), np.zeros(len(text), bool)
        for first in range(0, len(messages), _AT_ONCE):
            own = [i - first + 1 if 0 <= i - first < _AT_ONCE else _AT_ONCE + 1 for i in range(len(messages))]
            among = self._authors(text, messages, own, ask, tools)
            found = np.where((among > 0) & (among <= _AT_ONCE), first + among, found)
            given |= among > 0
        found = np.where(given & (found == 0), len(messages) + 1, found)
        assistants = "".join(chr(i + 1) for i, message in enumerate(messages) if message.role == "assistant")
        written = Written(text, "".join(map(chr, found.tolist())), assistants)
        for index, message in enumerate(messages):
            start, stop = written.place(index)
            _check_calls([message], text[start:stop])
        return written

    def written_by_roles(
        self, messages: Sequence[Message], *, ask: bool = False, tools: Sequence[Tool] = ()
    ) -> Written:
        """``written`` in two renderings for any number of messages; ``chr(1)`` is the assistant, any other author the rest."""
        text = self._whole(messages, ask, tools)
        own = [1 if message.role == "assistant" else 2 for message in messages]
        whose = "".join(map(chr, self._authors(text, messages, own, ask, tools).tolist()))
        called = [message for message in messages if message.tool_calls]
        if called:
            _check_calls(called, "".join(c for c, author in zip(text, whose, strict=True) if author == chr(1)))
        return Written(text, whose, chr(1))

    def _whole(self, messages: Sequence[Message], ask: bool, tools: Sequence[Tool]) -> str:
        """``text``, or a UsageError where the template leaves out thoughts."""
        shown = "reasoning_content" in self.source or "thinking" in self.source
        if any(message.reasoning for message in messages) and not shown:
            raise UsageError("the chat template leaves out what the assistant thought (reasoning_content)")
        return self.text(messages, ask=ask, tools=tools)

    def _authors(
        self, text: str, messages: Sequence[Message], own: Sequence[int], ask: bool, tools: Sequence[Tool]
    ) -> npt.NDArray[np.uint32]:
        """The author of each character: 0, or the number in ``own`` of its message, or _AT_ONCE + 1 for names and tools."""
        others = [tool_fields(tool, partial(mark, author=_AT_ONCE + 1)) for tool in tools]
        dialogue = [message_fields(m, partial(mark, author=i)) for m, i in zip(messages, own, strict=True)]
        for fields in dialogue:  # a name in the header of a turn is not what the speaker says
            if "name" in fields:
                fields["name"] = mark(bare(fields["name"]), _AT_ONCE + 1)
        try:
            return authors(text, self._render(self._following, dialogue, ask, others))
        except (UsageError, NotFollowed):
            raise UsageError(
                "the chat template changes the messages' texts in a way that hides which part of the prompt is whose: "
                "edit chat_template.jinja"
            ) from None

    def _render(
        self, compiled: jinja2.Template, dialogue: Iterable[dict[str, Any]], ask: bool, tools: Sequence[dict[str, Any]]
    ) -> str:
        unnamed = "developer" not in self.literals
        dialogue = [m | {"role": "system"} if m["role"] == "developer" and unnamed else m for m in dialogue]
        given = {
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": ask,
            "strftime_now": self._now.strftime,
        }
        try:
            return compiled.render(messages=dialogue, **given, **self._variables)
        except _Refusal as error:
            raise UsageError(f"the chat template refuses this conversation: {_line(error)}") from None
        except Exception as error:  # jinja's errors, and whatever Python raises for a wrong program
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            raise UsageError(f"the chat template fails: {kind}{_line(error)}") from None


def _check_calls(messages: Sequence[Message], text: str) -> None:
    """UsageError where tool calls of these messages are not in what the template wrote of them."""
    calls = Counter(call.name for message in messages for call in message.tool_calls)
    if any(text.count(name) < count for name, count in calls.items()):
        raise UsageError("the chat template leaves out the assistant's tool calls")


@cache
def _environment(kind: type[_Environment]) -> _Environment:
    return kind()


def _following(function: Callable[..., Any], by: Callable[..., Any] = follow) -> Callable[..., Any]:
    """The filter, its result with authors. jinja reads ``pass_context`` and the like off the function: they are copied."""

    def followed(*args: Any, **kwargs: Any) -> Any:
        return by(function, *args, **kwargs)

    followed.__dict__.update(getattr(function, "__dict__", {}))
    return followed


def _tested(function: Callable[..., Any], *args: Any) -> Any:
    return function(*bare(args))


def _key(owner: Any, key: Any) -> Any:
    """The key of a dictionary that reads as ``key`` does: those of a tool call's arguments have marks."""
    if not isinstance(owner, dict) or not isinstance(key, str) or key in owner:
        return key
    return next((own for own in owner if bare(own) == bare(key)), bare(key))


def _string(value: object) -> Any:
    return value if isinstance(value, str) else printed(str(bare(value)), value)


def _trim(value: object, chars: str | None = None) -> Any:
    return follow(str.strip, _string(value), chars)


def _replace(value: object, old: object, new: object, count: int | None = None) -> Any:
    return follow(str.replace, *map(_string, (value, old, new)), -1 if count is None else count)


def _format(value: object, *args: Any, **kwargs: Any) -> str:
    return percent(_string(value), kwargs or args, _string)


def _join(function: Callable[..., Any], context: Any, value: Any, d: Any = "", attribute: Any = None) -> Any:
    if attribute is not None:
        return follow(function, context, value, d, attribute)
    return str(_string(d)).join(map(_string, value))


def _tojson_followed(value: Any, **how: Any) -> str:
    encode = partial(_tojson, ensure_ascii=how.get("ensure_ascii", False))
    return printed(_tojson(bare(value), **how), value, encode, by_key=bool(how.get("sort_keys")))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers': jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
