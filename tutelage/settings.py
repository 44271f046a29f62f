"""Settings: typed, validated values from YAML and the command line, with errors that name what is wrong.

A step has *knobs*, a ``Settings`` class of numbers and choices, and *inputs*, an ``Inputs`` class of files and checkpoints.
"""

from __future__ import annotations

import difflib
import io
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tutelage.errors import RecipeError

ModelPath = Annotated[Path, "model"]
"""A checkpoint folder, or a model's name on the Hugging Face hub."""
RunPath = Annotated[Path, "run"]
"""The folder of a run, not its result."""


class Settings(BaseModel):
    """Base of all settings: immutable and without unknown names; defaults are validated too, and numbers are finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = alternatives(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            raise ValueError("input should be a number")
        if value == "" and Path in kinds:
            raise ValueError("input should be a path")
        return value

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError if these knobs contradict the inputs. Called before anything runs."""


class Inputs(Settings):
    """Base of a step's inputs: every field is a path, an optional path, or a mapping of free names to paths."""

    _given: dict[str, Any] | None = PrivateAttr(None)

    def files(self) -> dict[str, Path]:
        """Each path by its dotted name, such as ``checkpoint`` or ``text.novels``; unset ones are left out."""
        named: dict[str, Path] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                named |= {f"{name}.{key}": path for key, path in value.items()}
            elif value is not None:
                named[name] = value
        return named

    def local(self, resolve: Callable[[Path], Path]) -> Self:
        """A copy with ``resolve``, which turns hub names into folders, applied to every model; ``as_given`` keeps the names."""
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None and self.mark(name) == "model":
                several = isinstance(value, Mapping)
                changed[name] = {key: resolve(path) for key, path in value.items()} if several else resolve(value)
        copy = self.model_copy(update=changed)
        copy._given = self.as_given()
        return copy

    def as_given(self) -> dict[str, Any]:
        """Plain values, with models named as they were given."""
        return plain(self) if self._given is None else self._given

    @classmethod
    def mark(cls, role: str) -> str:
        """ "model" for a field of ``ModelPath``, "run" for one of ``RunPath``; empty for any other role."""
        field = cls.model_fields.get(role)
        marks = (*field.metadata, *_marks(field.annotation)) if field else ()
        return next((mark for mark in marks if mark in ("model", "run")), "")


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML 1.2 file. Raises RecipeError, with the line, for bad YAML or a repeated key."""
    try:
        loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not valid YAML: {_one_line(error.problem or error)}") from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else type(loaded).__name__
        raise RecipeError(f"{path}: a mapping of settings is expected, found {found}")
    return loaded


def write_yaml(values: Mapping[str, Any]) -> str:
    """A mapping of plain values as YAML."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style, writer.width = False, 120
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    writer.dump(dict(values), text)
    return text.getvalue()


def plain(settings: BaseModel) -> dict[str, Any]:
    """Settings as plain values for YAML and JSON, including every default."""
    return settings.model_dump(mode="json")


def validated(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Settings of ``kind`` from nested ``values``. Raises RecipeError that names ``source``, the setting, and what was expected."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")  # a misspelt name, if any
        raise RecipeError(f"{source}: {in_words(kind, first)}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top; nested mappings are merged, not replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and value
        named |= flat(value, f"{prefix}{name}.") if inner else {prefix + str(name): value}
    return named


def setting_names(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted name of every setting, nested ones after their parent."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        if inner := model_inside(field.annotation):
            yield from setting_names(inner, f"{prefix}{name}.")


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the known name nearest to ``name``, or nearest to its last part; empty if none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        tails = {item.rpartition(".")[2]: item for item in sorted(known, reverse=True)}
        close = [tails[tail] for tail in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def in_words(kind: type[BaseModel], problem: ErrorDetails) -> str:
    """A pydantic error as one line."""
    name = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nearest(name, list(setting_names(kind)))}"
    if problem["type"] == "missing":
        return f"setting {name!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    if not name:
        return message
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "input should be a mapping of settings"
    elif problem["type"] in ("string_type", "path_type"):
        message = "input should be text; put numbers and truth values in quotes"
    found = repr(problem["input"])
    return f"setting {name!r}: {message[0].lower()}{message[1:]}, found {found if len(found) <= 80 else found[:77] + '...'}"


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone. ``Annotated`` is looked through."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for part in get_args(annotation) for inner in alternatives(part))
    return (annotation,)


def model_inside(annotation: Any) -> type[BaseModel] | None:
    """The settings class of a field: the type itself, or one of a union."""
    return next((t for t in alternatives(annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)


def type_name(annotation: Any) -> str:
    """The name of a type in help and documentation."""
    kind, *others = alternatives(annotation)
    if others:
        return "|".join(map(type_name, (kind, *others)))
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is not None:
        return str(kind).replace("pathlib.Path", "path").replace("typing.", "")
    names: dict[Any, str] = {types.NoneType: "none", Path: "path"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _marks(annotation: Any) -> Iterator[Any]:
    """The metadata of every ``Annotated`` inside a type."""
    if get_origin(annotation) is Annotated:
        yield from get_args(annotation)[1:]
    for part in get_args(annotation):
        yield from _marks(part)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
