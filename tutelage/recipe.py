"""Recipes: YAML plus command-line overrides -> typed, validated settings. One road for both, so one kind of error.

A stage's settings are a pydantic model that inherits ``Settings``. A value may come from the defaults, from a YAML file, or from
the command line (``--optimiser.lr 1e-3``); the later wins. An unknown key is an error that names the nearest setting.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined

from tutelage.errors import RecipeError


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, defaults are validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe. Raises RecipeError if it is missing, is not YAML, repeats a key, or is not a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error}") from None
    try:
        loaded = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(loaded, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of settings, found {type(loaded).__name__}")
    return loaded


def resolve(kind: type[S], values: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "settings") -> S:
    """Settings of ``kind`` from nested ``values``, with ``--dotted.name value`` overrides on top.

    Raises RecipeError that names the setting, what was expected, and for an unknown one the nearest that exists.
    """
    merged = merge(values, parse_overrides(kind, overrides))
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_problem(kind, error)}") from None


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
        if not equals:
            value = queue.pop(0) if queue and not queue[0].startswith("--") else "true"
        here = parsed
        *parents, last = name.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = _value(value, _annotation(kind, name))
    return parsed


def dump(settings: BaseModel) -> str:
    """The resolved recipe as YAML, every default spelled out: reading it back gives equal settings."""
    values = settings.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    if any(character in text for character in "\x85\u2028\u2029\ufeff"):  # line breaks to a YAML reader: escape them
        text = yaml.safe_dump(values, sort_keys=False, width=120)
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


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    """The first validation error as one line."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{_nearest(name, {known for known, *_ in describe(kind)})}"
    if problem["type"] == "missing":
        return f"setting {name!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    if not name:
        return message
    return f"setting {name!r}: {message[0].lower()}{message[1:]}, found {problem['input']!r}"


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
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if text in ("none", "null") and type(None) in kinds:
        return None
    if str in kinds or Path in kinds or not text:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
