"""A row with its place in a file, how a bad one is reported, and the account of what a reader leaves out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import DataError

_KEPT_EXAMPLES = 1000


@dataclass(frozen=True)
class Skip:
    """A well-formed row that gives no record. The reason is one of few, so that they can be counted."""

    reason: str


class LeftOut(Exception):
    """Raised in the middle of a row to give a Skip with this reason."""


@dataclass(frozen=True)
class Row:
    """One row of a file. ``value`` is a DataError where the row could not be read, a Skip where there is nothing to read."""

    path: object
    line: int
    """Line of a text or JSONL file; position in a JSON array or a table. Counted from 1; 0 is the whole file."""
    value: Any
    in_array: bool = False
    raw: bytes | None = None
    """As it stands in the file; None where it was never a line of text."""

    @property
    def where(self) -> str:
        """The place in words, as error messages begin."""
        if not self.line:
            return str(self.path)
        return f"{self.path}: row {self.line}" if self.in_array else f"{self.path}:{self.line}"

    def text(self) -> str:
        """The row as text: bytes that are not UTF-8 escaped, rows of arrays and tables as JSON."""
        if self.raw is not None:
            return self.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        return "" if isinstance(self.value, DataError | Skip) else json.dumps(self.value, ensure_ascii=False)


class RowError(Exception):
    """A row breaks its format; the reader adds file and line."""

    def __init__(self, problem: str, field: str | None = None, expected: str | None = None, found: Any = None) -> None:
        super().__init__(problem)
        self.problem, self.field, self.expected, self.found = problem, field, expected, found

    def at(self, path: str) -> DataError:
        """The same as an error that names the place."""
        return DataError(self.problem, path=path, field=self.field, expected=self.expected, found=self.found)


def check(good: object, problem: str, field: str | None, expected: str | None, found: Any) -> None:
    """Raises RowError unless ``good`` is true."""
    if not good:
        raise RowError(problem, field, expected, found)


@dataclass
class Rejects:
    """What a reader left out, and why: nothing is dropped in silence."""

    counts: Counter[str] = field(default_factory=Counter)
    """Reason -> number of rows (or files)."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(reason, place and details) of the first thousand."""
    first: dict[str, str] = field(default_factory=dict)
    """Reason -> place and details of the first."""
    sink: Callable[[dict[str, str | None]], None] | None = None
    """Called with each of them: place, reason, problem, text (as in the file, where that is known)."""

    def add(self, reason: str, details: str, place: str = "", text: Callable[[], str] | None = None) -> None:
        """Count one row."""
        self.counts[reason] += 1
        self.first.setdefault(reason, details)
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append((reason, details))
        if self.sink is not None:
            given = text() if text is not None else None
            self.sink({"place": place or details, "reason": reason, "problem": details, "text": given})

    def __str__(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.counts.most_common()) or "nothing"
