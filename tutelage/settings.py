"""Recipes: YAML plus command-line overrides -> typed, validated settings. One road for both, so one kind of error.

A stage's settings are a pydantic model that inherits ``Settings``. A value may come from the defaults, from a YAML file, or from
the command line (``--optimiser.lr 1e-3``); the later wins. An unknown key is an error that names the nearest setting.
"""

from __future__ import annotations

import codecs
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticUndefined

from tutelage.errors import RecipeError

_MOST_VALUES = 100_000
"""What a recipe may come to once its aliases are written out: nine lines of YAML can mean a billion values."""
_LARGEST = 2**40
"""Whole numbers are below this: seeds are multiplied and counted on, and must then still fit torch's 64 bits."""


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, defaults are validated too; numbers are finite, and no truth values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            raise ValueError("input should be a number")
        if isinstance(value, str) and Path in kinds and (not value or "\0" in value):
            raise ValueError("input should be a path")
        return value

    @field_validator("*")
    @classmethod
    def _as_read(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError("input should be below 2**40 in size")
        return value


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe: YAML 1.2, where ``1e-3`` is a number and ``no``, ``12:30`` and ``2026-01-01`` are texts.

    Raises RecipeError, with the line where there is one, if it is missing, no UTF-8 or no YAML, repeats a key, or is no mapping.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero character in the path
        raise RecipeError(f"{path}: cannot read the recipe: {getattr(error, 'strerror', None) or error}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RecipeError(f"{path}: is UTF-16; save the recipe as UTF-8")
    try:
        loaded = _load(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        where, problem = _problem_of(error)
        raise RecipeError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else type(loaded).__name__
        raise RecipeError(f"{path}: a recipe is a mapping of settings, found {found}")
    return loaded


def resolve(kind: type[S], values: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "settings") -> S:
    """Settings of ``kind`` from nested ``values``, with ``--dotted.name value`` overrides on top.

    Raises RecipeError that names the setting, what was expected, and for an unknown one the nearest that exists; and ``source``,
    or the command line for what was given there.
    """
    given = parse_overrides(kind, overrides)
    try:
        return kind.model_validate(merge(values, given))
    except ValidationError as error:
        problem = error.errors()[0]
        where = "command line" if problem["loc"] and _stands_in(given, problem["loc"]) else source
        raise RecipeError(f"{where}: {_in_words(kind, problem)}") from None


def parse_overrides(kind: type[BaseModel], arguments: Sequence[str]) -> dict[str, Any]:
    """``--a.b 3 --flag --c=x`` -> ``{"a": {"b": 3}, "flag": True, "c": "x"}``; names are checked against ``kind``."""
    known = {name for name, *_ in describe(kind)}
    parsed: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("--"):
            raise RecipeError(f"unexpected argument {argument!r}; settings are given as --name value")
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if name not in known and not _inside_free_mapping(kind, name):
            raise RecipeError(f"unknown setting --{name}{_nearest(name, known)}")
        annotation = _annotation(kind, name)
        if not equals:
            has_value = bool(queue) and not queue[0].startswith("--")
            if not has_value and not {bool, Any, None} & set(_kinds(annotation)):
                raise RecipeError(f"--{name} needs a value")
            value = queue.pop(0) if has_value else "true"
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise RecipeError(f"--{name}: {value!r} is not UTF-8")
        here = parsed
        *parents, last = name.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
            if not isinstance(here, dict):
                raise RecipeError(f"--{name}: --{parent} is given as a whole too; give one of the two")
        if isinstance(here.get(last), dict):
            raise RecipeError(f"--{name}: settings in it are given too; give one of the two")
        here[last] = _value(value, annotation)
    return parsed


def dump(settings: BaseModel) -> str:
    """The resolved recipe as YAML, every default spelled out: reading it back gives equal settings."""
    values = settings.model_dump(mode="json")
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    if any(character in text for character in "\x85\u2028\u2029\ufeff"):  # line breaks to a YAML reader: escape them
        text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=120)
    return text


def describe(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, type, default, description) of every setting, nested ones after their parent."""
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
        if isinstance(default, BaseModel):
            shown = ""
        elif default is PydanticUndefined:
            shown = "(required)"
        else:
            shown = "none" if default is None else str(default)
        yield prefix + name, _type_name(field.annotation), shown, field.description or ""
        inner = _model_inside(field.annotation)
        if inner is not None:
            yield from describe(inner, f"{prefix}{name}.")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top, nested mappings merged and not replaced."""
    result = dict(base)
    for key, value in over.items():
        both_nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both_nested else value
    return result


def _in_words(kind: type[BaseModel], problem: ErrorDetails) -> str:
    """A validation error as one line."""
    loc, found = problem["loc"], problem["input"]
    is_key = loc[-1:] == ("[key]",)  # pydantic's way to say that a name itself is wrong
    loc = loc[:-2] if is_key else loc
    name = _cut(".".join(str(part) for part in loc))
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{_meant(kind, [str(part) for part in loc])}"
    if problem["type"] == "missing":
        return f"setting {name!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    if not loc:
        return message
    if problem["type"] in ("model_type", "model_attributes_type"):
        message = f"is a mapping of settings ({', '.join(_inside(kind, loc))})"
    elif is_key or problem["type"] == "invalid_key":
        message = "names should be texts, which numbers and truth values are in quotes"
    elif problem["type"] in ("string_type", "path_type"):
        message = "should be a text, which numbers and truth values are in quotes"
    return f"setting {name!r}: {message[0].lower()}{message[1:]}, found {_cut(repr(found))}"


def _meant(kind: type[BaseModel], loc: Sequence[str]) -> str:
    """What an unknown setting may have been meant for."""
    known = {known for known, *_ in describe(kind)}
    *around, last = loc
    if "." in last and last in known:
        return f"; dots are for the command line: write it as {_nested(last)}"
    beside = difflib.get_close_matches(last, _inside(kind, around), n=1, cutoff=0.6)
    return f"; did you mean {'.'.join([*around, *beside])!r}?" if beside else _nearest(".".join(loc), known)


def _inside(kind: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The settings of the group at ``loc``; none where there is no telling."""
    inner = _model_inside(_annotation(kind, ".".join(str(part) for part in loc))) if loc else kind
    return list(inner.model_fields) if inner else []


def _cut(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _nested(name: str) -> str:
    """``a.b`` -> ``a: {b: ...}``."""
    first, _, rest = name.partition(".")
    return f"{first}: {{{_nested(rest)}}}" if rest else f"{first}: ..."


def _stands_in(given: Any, loc: Sequence[int | str]) -> bool:
    """True where the setting at ``loc``, or one around it, was given on the command line."""
    for part in loc:
        if not isinstance(given, Mapping):
            return True
        if part not in given:
            return False
        given = given[part]
    return True


def _nearest(name: str, known: set[str]) -> str:
    """A hint: the closest setting by whole name, or by last part (``lr`` for ``optimiser.lr``)."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        last = name.rpartition(".")[2]
        tails = {item.rpartition(".")[2]: item for item in sorted(known, reverse=True)}
        close = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else "; --help lists them all"


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The settings model of a field: the type itself, or inside Optional, list, tuple (not inside a free mapping)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((m for m in map(_model_inside, get_args(annotation)) if m), None)
    return None


def _annotation(kind: type[BaseModel], name: str) -> Any:
    """The type of a setting by its dotted name; None where there is no telling."""
    field, _, rest = name.partition(".")
    if field not in kind.model_fields:
        return None
    annotation = kind.model_fields[field].annotation
    if rest and get_origin(annotation) is dict:  # a free name, and then perhaps a setting of what it stands for
        annotation, (_, _, rest) = get_args(annotation)[1], rest.partition(".")
    if not rest:
        return annotation
    inner = _model_inside(annotation)
    return _annotation(inner, rest) if inner else None


def _value(text: str, annotation: Any) -> Any:
    """What was written on the command line: as it stands where a text or a path is wanted, else read as YAML."""
    kinds = _kinds(annotation)
    if text in ("none", "null") and type(None) in kinds:
        return None
    if str in kinds or Path in kinds or not text:
        return text
    try:
        return _load(text)
    except yaml.YAMLError:
        return text


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _inside_free_mapping(kind: type[BaseModel], name: str) -> bool:
    """True for ``sources.novels.weight`` where ``sources`` maps free names to settings."""
    field, _, rest = name.partition(".")
    if field not in kind.model_fields or not rest:
        return False
    annotation = kind.model_fields[field].annotation
    if get_origin(annotation) is dict:
        return True
    inner = _model_inside(annotation)
    return inner is not None and _inside_free_mapping(inner, rest)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(str(a) for a in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(_type_name(a) for a in get_args(annotation))
    if annotation is type(None):
        return "none"
    name = getattr(annotation, "__name__", str(annotation))
    return name.lower() if name == "Path" else name


# ---- YAML


def _load(text: str) -> Any:
    """What a YAML document says. Raises YAMLError, and nothing else."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        problem = (
            f"the character U+{ord(text[error.position]):04X} may not stand in it (is it UTF-16, or no text at all?)"
        )
        mark = yaml.Mark("", 0, before.count("\n"), len(before) - before.rfind("\n") - 1, None, 0)
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark) from None
    try:
        return loader.get_single_data()
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of "\UFFFFFFFF"
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=loader.get_mark()) from None


def _problem_of(error: yaml.YAMLError) -> tuple[str, str]:
    """Where (``:line:column`` or nothing) and what, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    problem = _cut(" ".join(str(getattr(error, "problem", None) or error).split()), 200)
    begun = getattr(error, "context_mark", None)
    if begun and mark and begun.line < mark.line:
        problem += f" (in what begins at {begun.line + 1}:{begun.column + 1})"
    return where, problem


class _Loader(yaml.SafeLoader):
    """YAML that refuses what plain YAML would take in silence: a key given twice, and a few lines that mean a billion values."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's; filled in below)

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: Any, known: dict[int, int]) -> int:
        """How many values a node comes to with its aliases written out."""
        if id(node) not in known:
            known[id(node)] = 0
            parts = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            known[id(node)] = 1 + sum(self._count(part, known) for part in parts)
        if not 0 < known[id(node)] <= _MOST_VALUES:
            problem = f"it comes to more than {_MOST_VALUES:,} values" if known[id(node)] else "it holds itself"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return known[id(node)]

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and any(0xD800 <= ord(character) <= 0xDFFF for character in node.value):
            problem = f"{_cut(repr(node.value))} has half of a surrogate pair"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, KeyError, AttributeError):  # PyYAML's, for !!int x and the like
            tag, value = node.tag.rpartition(":")[2], node.value if isinstance(node, yaml.ScalarNode) else node.id
            problem = f"{_cut(repr(value))} is no {tag}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = str(key_node.value)
            if key in seen:
                problem = f"the key {_cut(repr(key))} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        if len(text) > 100:
            raise ValueError("too long")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Puts a text in quotes where a reader of YAML 1.1 or of 1.2 would take it for something else."""


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (  # the core schema of YAML 1.2
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
