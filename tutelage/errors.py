"""Every error tutelage raises on purpose. The command line prints its message as one line and ends with its exit code."""

from __future__ import annotations

import json
from pathlib import Path


class TutelageError(Exception):
    """Exit code 1. The message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(TutelageError):
    """Exit code 2: the user's input is wrong, and the message says what to change."""

    exit_code = 2


class RecipeError(UsageError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(UsageError):
    """A data file or a row of it is wrong: names file, line, field, what was expected and what was found."""

    def __init__(
        self,
        problem: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
        found: object = None,
    ) -> None:
        self.field = field
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        message = f"{where}{f'field {field!r}: ' if field else ''}{problem}"
        if expected is not None:
            message += f"; expected {expected}"
        if found is not None:
            text = repr(found) if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
            message += f", found {text if len(text) <= 80 else text[:77] + '...'}"
        super().__init__(message)


class CheckpointError(UsageError):
    """A model or tokenizer folder is missing, damaged, or not of the kind that was asked for."""


class RunFolderError(UsageError):
    """A run folder is held by another process, or was made with other settings."""


class QueueFull(TutelageError):
    """Too many requests wait for an engine; the same request may succeed later."""


class TrainingError(TutelageError):
    """Training failed: a loss is not a number, a process is lost, or the disk is full."""


class Interrupted(TutelageError):
    """Exit code 0: SIGTERM or Ctrl-C arrived, the state is saved, and the same command resumes."""

    exit_code = 0


class SandboxError(TutelageError):
    """Code that nobody trusts cannot be run here, because no wall would hold it; nothing was run."""


class StoreError(TutelageError):
    """The database cannot be reached, is damaged, or belongs to another version of the package."""


class NotFound(UsageError):
    """There is no such thing in the store, or it is another person's: the two look the same on purpose."""


class Conflict(UsageError):
    """What was asked for no longer fits the state of the store: a name is taken, a lease went to somebody else."""
