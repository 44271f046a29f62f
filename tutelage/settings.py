"""Settings: typed, validated values from YAML and the command line, with errors that name what is wrong.

A step has *knobs*, a ``Settings`` class of numbers and choices, and *inputs*, an ``Inputs`` class of files and checkpoints.
"""

from __future__ import annotations

import copy
import difflib
import io
import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tutelage.errors import RecipeError

ModelPath = Annotated[Path, "model"]
"""A language model: its folder, or its name on the Hugging Face hub."""
RewardModelPath = Annotated[Path, "reward model"]
"""A reward model, likewise."""
TokenizerPath = Annotated[Path, "tokenizer"]
"""A folder with tokenizer files; a checkpoint has them too."""
WorldPath = Annotated[Path, "world"]
"""The folder of an embedded world."""
RunPath = Annotated[Path, "run"]
"""The folder of a run, not its result."""
MODELS = ("model", "reward model")
"""The marks of paths that may be names on the hub."""
_MARKS = (*MODELS, "tokenizer", "world", "run")

Device = Annotated[str, Field(description="auto, cpu, cuda, cuda:1, mps")]


class Settings(BaseModel):
    """Base of all settings: immutable and without unknown names; defaults are validated too, and numbers are finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_coercion(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = alternatives(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            raise ValueError("should be a number")
        if value == "" and Path in kinds:
            raise ValueError("should be a path")
        return value

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError if these knobs contradict the inputs. Called before anything runs."""

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """Compare these knobs with the amount of data before anything runs.

        Yields warnings; raises RecipeError if the step cannot succeed.
        """
        yield from ()

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """The most rows, or a number from ``enough`` on, that a file which the step will write can have; None if unknown."""
        return None

    def code(self) -> dict[str, Path]:
        """Files of code that these knobs name, by dotted name. Like inputs, they are part of what a run is made from."""
        return {}

    def writes(self, inputs: Inputs) -> tuple[str, ...]:
        """Patterns of the files that the step writes, if they depend on knobs or inputs; empty: those of its kind."""
        return ()


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
            if value is not None and self.mark(name) in MODELS:
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
        """What a field's paths lead to: "model" for ``ModelPath``, "run" for ``RunPath`` and so on; empty for files of data."""
        field = cls.model_fields.get(role)
        marks = (*field.metadata, *_marks(field.annotation)) if field else ()
        return next((mark for mark in marks if mark in _MARKS), "")


Rows = Callable[[str, Path, int], int | None]
"""(kind, file, number) -> rows of the kind in the file, or at most in a file to come, counted up to the number; None if unknown.

The kinds are documents, conversations, prompts, rankings, preferences (rankings that are not all ties), and the formats of
labelled examples.
"""
Option = Callable[[str], str | None]
"""Dotted name of a setting -> the option that gave it on the command line, if one did."""
S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML 1.2 file. Raises RecipeError, with the line, for bad YAML or a repeated key."""
    try:
        loaded = copy.deepcopy(_parsed(path.read_text(encoding="utf-8-sig")))
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


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """The values of a text in YAML. Parsing is slow, and a run of a recipe reads the same few files again at every step."""
    return YAML(typ="safe", pure=True).load(text)


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


def validated(kind: type[S], values: Mapping[str, Any], source: str, option: Option = lambda name: None) -> S:
    """Settings of ``kind`` from nested ``values``.

    Raises RecipeError that names the setting, what was expected, and ``source``, or instead of it the option that the setting was
    given by: ``option`` maps its dotted name to that.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")  # a misspelt name, if any
        given = option(dotted_name(first)) if first["loc"] else None
        said = describe_problem(first, kind, given)
        raise RecipeError(said if given else f"{source}: {said}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top; nested mappings are merged, not replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name; an empty mapping has none."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + str(name): value}
    return named


def free_names(settings: BaseModel, prefix: str = "") -> dict[str, list[str]]:
    """The dotted name of every mapping whose names the user chose -> those names in order."""
    found: dict[str, list[str]] = {}

    def look(value: Any, name: str) -> None:
        if isinstance(value, BaseModel):
            found.update(free_names(value, f"{name}."))
        elif isinstance(value, Mapping):
            found[name] = list(value)
            for key, inner in value.items():
                look(inner, f"{name}.{key}")

    for name in type(settings).model_fields:
        look(getattr(settings, name), prefix + name)
    return found


def setting_names(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted name of every setting, nested ones after their parent."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        if inner := model_inside(field.annotation):
            yield from setting_names(inner, f"{prefix}{name}.")


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """``; did you mean 'x'?`` for the nearest known name; empty if none is near.

    A name whose last part is exactly ``name`` comes first, then names that are alike, then names whose last parts are.
    ``cutoff``: how alike, from 0 to 1, see ``difflib.SequenceMatcher.ratio``.
    """
    tails = {_tail(item): item for item in sorted(known, reverse=True)}
    close = [tails[_tail(name)]] if "." not in name and name not in known and _tail(name) in tails else []
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    close = close or [tails[tail] for tail in difflib.get_close_matches(_tail(name), tails, n=1, cutoff=cutoff)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _tail(name: str) -> str:
    """The last part of a dotted name or option."""
    return name.rpartition(".")[2].removeprefix("--")


def dotted_name(problem: ErrorDetails) -> str:
    """The name of the setting that a pydantic error is about; empty if it is about several together."""
    return ".".join(str(part) for part in problem["loc"] if part != "[key]")


_WORDINGS = {
    "int": "should be a whole number",
    "float": "should be a number",
    "finite_number": "should be a finite number",
    "bool": "should be true or false",
    "string_type": "should be text; put numbers and truth values in quotes",
    "path_type": "should be text; put numbers and truth values in quotes",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping of names to values",
    "model": "should be a mapping of settings",
    "too_short": "should have {min_length} or more items",
    "too_long": "should have {max_length} or fewer items",
    "literal_error": "should be {expected}",
}
"""Beginning of the type of a pydantic error -> what to say instead of its message."""


def wording(problem: ErrorDetails) -> str:
    """The message of a pydantic error, without the value and its name, as a person would put it."""
    known = next((said for kind, said in _WORDINGS.items() if problem["type"].startswith(kind)), None)
    if known:
        return known.format(**problem.get("ctx", {})).replace("'", "")
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message = problem["msg"].removeprefix("Input ")
    return message[:1].lower() + message[1:]


def describe_problem(problem: ErrorDetails, kind: type[BaseModel] | None = None, option: str | None = None) -> str:
    """A pydantic error as one line. ``kind``: the settings, to suggest a name; ``option``: what the user typed for the setting."""
    name = option or dotted_name(problem)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nearest(name, list(setting_names(kind))) if kind else ''}"
    if problem["type"] == "missing":
        return f"{name} is required"
    message = wording(problem)
    if not name:
        return message
    if not message.startswith("should "):
        return f"{name}: {message}"
    return f"{name} {message}, found {as_written(problem['input'])}"


def as_written(value: Any, longest: int = 80) -> str:
    """A value as it is written in a recipe, on one line, cut if it is long."""
    if value is None or isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping | list | tuple):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


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
