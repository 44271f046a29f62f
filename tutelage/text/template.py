"""A model's own chat template: jinja, as transformers runs it, in a sandbox, with every character's author known.

Templates come with downloaded models: they are programs by strangers. They see no Python internals, they stop after a bounded
number of steps, and whatever goes wrong inside one is a one-line error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message
from tutelage.text.authored import Authored, attribute, joined

# Loop rounds and calls that one rendering may take: about a second. The longest templates in use take some hundred a message.
MAX_STEPS = 2_000_000
MAX_LENGTH = 10_000_000  # characters that a repetition ('x' * n) may make

_steps: ContextVar[int] = ContextVar("steps of the rendering under way")


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote; we know that from the authors, so the tag only has to parse."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Followed(NodeTransformer):
    """Send what the compiled code does by itself through the environment: loops are counted, ``~`` keeps authors."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The settings of transformers' ``apply_chat_template``; texts keep their authors through filters and calls."""

    intercepted_binops = frozenset(["*", "**", "%"])
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=lambda value: value if isinstance(value, str) else attribute(str(value), value),
        )
        self.filters["tojson"] = _tojson
        self.filters |= {name: _keeping_authors(function) for name, function in self.filters.items()}
        self.filters |= {"_counted": _counted, "_joined": joined, "join": _join}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: datetime.now().strftime(format),
            "namespace": _Namespace,
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),  # not the type: it has attributes
        }

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        _step(20)  # a macro's call takes as long as twenty rounds of an empty loop
        result = super().call(context, function, *args, **kwargs)
        return attribute(result, (getattr(function, "__self__", None), args, kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) <= 1e6 and abs(right) <= 64):
            raise jinja2.sandbox.SecurityError(f"{left} ** {right} is too large")
        if operator == "*":
            size = max((len(part) for part in (left, right) if isinstance(part, str | list | tuple)), default=0)
            times = min((part for part in (left, right) if isinstance(part, int)), default=1)
            if size * times > MAX_LENGTH:
                raise jinja2.sandbox.SecurityError(f"a text of {size * times:,} characters by repetition")
        return attribute(super().call_binop(context, operator, left, right), (left, right))


class _Namespace(jinja2.utils.Namespace):
    """jinja's own, without names that lead to Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # jinja's signature: ``self`` may be a keyword
        names = dict(*args[1:], **kwargs)
        for name in names:
            _public(name)
        jinja2.utils.Namespace.__init__(args[0], names)

    def __setitem__(self, name: str, value: Any) -> None:
        jinja2.utils.Namespace.__setitem__(self, _public(name), value)


class Template:
    """A compiled chat template. ``literals`` are all the texts that stand in it."""

    def __init__(self, source: str) -> None:
        """Raises CheckpointError where ``source`` is no jinja."""
        environment = _environment()
        try:
            tree = environment.parse(source)
            self.literals = frozenset(
                [node.data for node in tree.find_all(nodes.TemplateData)]
                + [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
            )
            self._compiled = environment.from_string(_Followed().visit(tree))
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(f"the chat template is no jinja: line {error.lineno}: {_line(error)}") from None
        except RecursionError:
            raise CheckpointError("the chat template is no jinja: nested too deeply") from None
        self.source = source

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, str], *, add_generation_prompt: bool = False
    ) -> Authored:
        """The conversation as one text; message i is the author ``chr(i + 1)``. ``variables`` are bos_token and the like.

        Raises UsageError where the template refuses the conversation, with its words, and where it fails.
        """
        dialogue = [{"role": m.role, "content": Authored(m.text, chr(i + 1))} for i, m in enumerate(messages)]
        token = _steps.set(0)
        try:
            pieces = self._compiled.generate(
                messages=dialogue,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
            return joined(pieces)
        except _Refusal as error:
            raise UsageError(f"the chat template refuses this conversation: {_line(error)}") from None
        except RecursionError:
            raise UsageError("the chat template fails: it calls itself without end") from None
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template fails: {_line(error)}") from None
        except Exception as error:  # whatever Python raises for a wrong program
            raise UsageError(f"the chat template fails: {type(error).__name__}: {_line(error)}") from None
        finally:
            _steps.reset(token)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment()


def _step(count: int = 1) -> None:
    steps = _steps.get(0) + count
    if steps > MAX_STEPS:
        raise jinja2.sandbox.SecurityError(f"stopped after {MAX_STEPS:,} steps, it may never end")
    _steps.set(steps)


def _counted(items: Any) -> Any:
    """What a loop goes over, its rounds counted: at once where their number is known, as it keeps ``loop.last`` cheap."""
    if hasattr(items, "__len__"):
        _step(len(items) + 1)
        return items
    return _counting(items)


def _counting(items: Any) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


def _keeping_authors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, its result with authors. jinja reads ``pass_context`` and the like off the function: they are copied."""

    def followed(*args: Any, **kwargs: Any) -> Any:
        return attribute(function(*args, **kwargs), (args, kwargs))

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


def _public(name: Any) -> Any:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.sandbox.SecurityError(f"a namespace has no attribute {name!r}")
    return name


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
