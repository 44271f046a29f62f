"""A JSON schema as the compiler of grammars takes it: without keywords that ask for nothing, and without numbers that it rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.errors import UsageError

LARGEST = 2**53 - 1
"""Up to here every whole number is a double of its own. Beyond, llguidance 1.9 answers {"const": 9007199254740993} with
9007199254740992, and an exclusiveMaximum of 2**60 with 2**60."""
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_NAMED = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)  # of schemas by name
_DATA = frozenset({"const", "enum", "default", "examples", "example"})
_HINTS = ("password", "binary", "path")  # formats of pydantic's and OpenAPI's that any string has


def usable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with the same valid texts. UsageError for a number that would be rounded, and for one that is too deep."""
    try:
        return _schema(schema)
    except RecursionError:
        raise UsageError("it is nested too deeply") from None


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    for keyword in (*_LIMITS, "const", "enum"):
        _require_exact(keyword, schema.get(keyword))
    return {key: _value(key, value) for key, value in schema.items() if not _idle(key, schema)}


def _value(key: str, value: Any) -> Any:
    """The value of a keyword, with the schemas in it made usable."""
    if key in _DATA:
        return value
    if isinstance(value, list):
        return [_value("", one) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {name: _value("", one) for name, one in value.items()} if key in _NAMED else _schema(value)


def _require_exact(keyword: str, value: Any) -> None:
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            _require_exact(keyword, one)
    elif isinstance(value, int | float) and abs(value) > LARGEST:
        shown = text if len(text := str(value)) <= 40 else f"{text[:40]}..."
        raise UsageError(f"{keyword}: {shown} is too large to be kept exactly, which numbers are up to 2**53 - 1")


def _any(schema: Any) -> bool:
    """Whether a schema takes everything."""
    return schema is True or schema == {}


def _idle(keyword: str, schema: Mapping[str, Any]) -> bool:
    """Whether a keyword of a schema, which the compiler would refuse, asks for nothing."""
    value = schema[keyword]
    match keyword:
        case "uniqueItems" | "not":
            return value is False
        case "format":
            return value in _HINTS
        case "propertyNames":  # Zod's records have a type here
            return _any(value) or value == {"type": "string"}
        case "unevaluatedProperties" | "unevaluatedItems":
            return _any(value)
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return value == {}
        case "if" | "then" | "else":
            return "if" not in schema or (_any(schema.get("then", True)) and _any(schema.get("else", True)))
        case "contains" | "minContains" | "maxContains":
            return "contains" not in schema or (schema.get("minContains") == 0 and "maxContains" not in schema)
    return False
