"""Typed functions as commands: the options that their parameters become, and the values that they are called with.

A parameter of a settings class becomes one option per field, nested fields by dotted name (``--kl.coef``). Any other parameter
becomes an option, or a positional argument if it comes before every settings class. Cyclopts matches words to options and prints
help. Values stay text until ``settings.validated`` reads them, so that they are checked, and errors worded, as in YAML.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter
from pydantic import BaseModel, create_model
from pydantic_core import PydanticUndefined

from tutelage.settings import Inputs, Settings, alternatives, merge, model_inside, plain, type_name, validated

NAME = "NAME"
"""Placeholder for a name that the user chooses."""


@dataclass(frozen=True)
class Option:
    """A setting on the command line."""

    path: tuple[str, ...]
    annotation: Any
    default: Any
    """For help only; PydanticUndefined if a value is required."""
    description: str
    panel: str
    """The heading above it in help."""
    positional: bool = False

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)

    @property
    def shown_default(self) -> str:
        """The default in help and documentation; empty if there is none."""
        if self.default is PydanticUndefined:
            return "required"
        if isinstance(self.default, list | tuple):
            return " ".join(map(str, self.default))
        shown = str(self.default)
        return shown.lower() if self.default is None or isinstance(self.default, bool) else shown


def options_of(
    kind: type[BaseModel], words: Sequence[str], panel: str, values: Any = None, prefix: tuple[str, ...] = ()
) -> Iterator[Option]:
    """The options of a settings class.

    ``words``: the command line, which determines the keys of mappings with free names (``--text.novels``). ``values``: defaults
    in place of the class's, such as a recipe's.
    """
    for name, field in kind.model_fields.items():
        default = _mapping(values).get(name, field.get_default(call_default_factory=True))
        option = Option((*prefix, name), field.annotation, default, field.description or "", panel)
        yield from _expanded(option, words)


def _expanded(option: Option, words: Sequence[str]) -> Iterator[Option]:
    """The option itself, or those inside nested settings and mappings."""
    values, nested = _mapping(option.default), model_inside(option.annotation)
    inside = next((get_args(kind)[1] for kind in alternatives(option.annotation) if get_origin(kind) is dict), None)
    if nested is not None:
        yield from options_of(nested, words, option.panel, values, option.path)
    elif inside is not None:
        given = [re.match(rf"--{re.escape(option.name)}\.([^.=]+)", word) for word in words]
        absent = PydanticUndefined if option.default is PydanticUndefined else ""
        for key in dict.fromkeys([*values, *(found[1] for found in given if found)] or [NAME]):
            one = replace(option, path=(*option.path, key), annotation=inside, default=values.get(key, absent))
            yield from _expanded(one, words)
    else:
        yield option


def _mapping(values: Any) -> Mapping[str, Any]:
    return plain(values) if isinstance(values, BaseModel) else values if isinstance(values, Mapping) else {}


# ---- what cyclopts sees


def as_function(options: Sequence[Option]) -> Callable[..., dict[str, Any]]:
    """A function whose signature cyclopts parses. It returns the values that were given, nested, without defaults."""

    def given(*arguments: Any, **named: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parameter, value in signature.bind(*arguments, **named).arguments.items():
            option = options[int(parameter[1:])]
            is_none = value in ("none", ["none"]) and NoneType in alternatives(option.annotation)
            nested: Any = None if is_none else value
            for part in reversed(option.path):
                nested = {part: nested}
            values = merge(values, nested)
        return values

    panels = {panel: Group(panel, sort_key=i) for i, panel in enumerate(dict.fromkeys(o.panel for o in options))}
    signature = inspect.Signature([_parameter(f"p{i}", o, panels[o.panel]) for i, o in enumerate(options)])
    given.__signature__ = signature  # type: ignore[attr-defined]
    return given


def _parameter(name: str, option: Option, panel: Group) -> inspect.Parameter:
    kinds = alternatives(option.annotation)
    some = [kind for kind in kinds if kind is not NoneType]
    items = next((get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, tuple)), None)
    choices: list[str] = []
    if any(get_origin(kind) is Literal for kind in kinds):
        choices = [str(word) for kind in kinds for word in get_args(kind)]
        choices += ["true", "false"] * (bool in kinds) + ["none"] * (NoneType in kinds)
    seen: Any = bool if some == [bool] else Path if Path in (items, *kinds) else str
    metavar = type_name(items).upper() + "..." if items else "|".join(type_name(kind).upper() for kind in some)
    required = option.shown_default == "required"
    described = Parameter(
        name=f"--{option.name}",
        help=option.description + " [required]" * required,
        group=panel,
        choices=choices or None,
        converter=None if seen is bool else _as_typed,
        consume_multiple=items is not None,
        negative_iterable=(),
        show_default=False if required else option.shown_default or False,
        metavar=None if seen is bool or choices else metavar,
    )
    order = inspect.Parameter.POSITIONAL_OR_KEYWORD if option.positional else inspect.Parameter.KEYWORD_ONLY
    hint = Annotated[(list[seen] if items else seen) | None, described]  # type: ignore[valid-type]
    return inspect.Parameter(name, order, default=None, annotation=hint)


def _as_typed(kind: Any, tokens: Sequence[Any]) -> Any:
    """Values as they were typed, for pydantic to read."""
    texts = [token.value for token in tokens]
    return texts if get_origin(kind) is list else texts[0]


# ---- typed functions


@dataclass(frozen=True)
class Typed:
    """A function whose parameters are settings."""

    function: Callable[..., Any]
    groups: Mapping[str, tuple[type[BaseModel], Mapping[str, Any]]]
    """Parameter -> its settings class and default; under "", a class made of the parameters that are not settings classes."""
    arguments: frozenset[str]
    """The positional arguments."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Typed:
        """Read the signature. ``overrides`` is not an option: it takes the values of options beyond the signature."""
        hints = get_type_hints(function, include_extras=True)
        own, groups, arguments = dict[str, Any](), dict[str, Any](), set()
        for name, parameter in inspect.signature(function).parameters.items():
            hint, default = hints[name], parameter.default
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                groups[name] = (hint, _mapping(default))
            elif name != "overrides":
                own[name.rstrip("_")] = (hint, ... if default is parameter.empty else default)
                if not groups and parameter.kind is not parameter.KEYWORD_ONLY:
                    arguments.add(name)
        own_group: Any = create_model("Own", __base__=Settings, **own)
        return cls(function, {"": (own_group, {})} | groups, frozenset(arguments))

    def options(self, words: Sequence[str] = ()) -> list[Option]:
        """The options of every group."""
        found: list[Option] = []
        for name, (kind, values) in self.groups.items():
            panel = "Inputs" if issubclass(kind, Inputs) else "Settings" if name else "Options"
            found += options_of(kind, words, panel, values)
        return [replace(option, positional=option.name in self.arguments) for option in found]

    def call(self, given: Mapping[str, Any]) -> Any:
        """Validate what was given and call the function. Raises RecipeError."""
        rest, values = dict(given), dict[str, Any]()
        for name, (kind, defaults) in self.groups.items():
            mine = {field: rest.pop(field) for field in kind.model_fields if field in rest}
            values[name] = validated(kind, merge(defaults, mine), "command line", self._typed)
        own = values.pop("")
        for name in inspect.signature(self.function).parameters.keys() - values.keys():
            values[name] = rest if name == "overrides" else getattr(own, name.rstrip("_"))
        return self.function(**values)

    def _typed(self, name: str) -> str:
        """A setting as it is typed."""
        return name.upper() if name in self.arguments else f"--{name}"
