"""The JSON files of a model folder, read so that nothing in them is ambiguous."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. FileNotFoundError as usual; CheckpointError if it cannot be read or is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unambiguous)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or no JSON
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: it is nested too deeply") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once, or twice with the same value; ValueError otherwise."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{key!r} stands there twice, as {found[key]!r} and as {value!r}"[:200])
        found[key] = value
    return found
