"""A str that knows who wrote each of its characters, kept through what a chat template does to it.

A template makes one string of a conversation. Training needs to know which of its characters are the assistant's, and safety
needs to know which are not the template's: only the template may write control tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

TEMPLATE = "\0"
"""The author of everything that the template itself wrote; message i has the author ``chr(i + 1)``."""
UNKNOWN = "\U0010ffff"
"""The author of what was made of several messages in a way that tells no more whose is what."""


class Authored(str):
    """A str with ``_authors``, a str of the same length: the author of every character.

    What templates do to texts keeps the authors exactly: concatenate, slice, strip, split, join, replace. Anything else goes
    through ``attribute``, which never takes a message's characters for the template's. Names with an underscore are out of
    a template's reach.
    """

    __slots__ = ("_authors",)
    _authors: str

    def __new__(cls, text: str, authors: str = TEMPLATE) -> Authored:
        """``authors`` may be one author for the whole text. Raises ValueError where the lengths differ otherwise."""
        self = super().__new__(cls, text)
        if len(authors) != len(self):
            if len(authors) != 1:
                raise ValueError(f"{len(authors)} authors for {len(self)} characters")
            authors = authors * len(self)
        self._authors = authors
        return self

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Authored:
        return Authored(str.__getitem__(self, key), self._authors[key])

    def __iter__(self) -> Iterator[Authored]:
        return (Authored(c, a) for c, a in zip(str.__iter__(self), self._authors, strict=True))

    def __add__(self, other: object) -> Any:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> Any:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Authored:
        return Authored(str.__mul__(self, times), self._authors * times)

    __rmul__ = __mul__

    def lstrip(self, chars: str | None = None, /) -> Authored:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> Authored:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None, /) -> Authored:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> Authored:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> Authored:
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def _pieces(self, pieces: Iterable[str]) -> list[Any]:
        """Pieces of this text, in their order and without overlap, as parts of it."""
        found, place = [], 0
        for piece in pieces:
            start = str.find(self, piece, place)
            place = start + len(piece)
            found.append(self[start:place])
        return found

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        if sep is None:
            return self._pieces(str.split(self, sep, maxsplit))
        found, start = [], 0
        for piece in str.split(self, sep, maxsplit):
            found.append(self[start : start + len(piece)])
            start += len(piece) + len(sep)
        return found

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        if sep is None:
            return self._pieces(str.rsplit(self, sep, maxsplit))
        found, start = [], 0
        for piece in str.rsplit(self, sep, maxsplit):
            found.append(self[start : start + len(piece)])
            start += len(piece) + len(sep)
        return found

    def splitlines(self, keepends: bool = False) -> list[Any]:
        starts = [0]
        for line in str.splitlines(self, True):
            starts.append(starts[-1] + len(line))
        lines = str.splitlines(self, keepends)
        return [self[start : start + len(line)] for start, line in zip(starts, lines, strict=False)]

    def partition(self, sep: str, /) -> tuple[Any, Any, Any]:
        start = str.find(self, sep)
        if start < 0:
            return self, self[:0], self[:0]
        return self[:start], self[start : start + len(sep)], self[start + len(sep) :]

    def rpartition(self, sep: str, /) -> tuple[Any, Any, Any]:
        start = str.rfind(self, sep)
        if start < 0:
            return self[:0], self[:0], self
        return self[:start], self[start : start + len(sep)], self[start + len(sep) :]

    def replace(self, old: str, new: str, /, count: SupportsIndex = -1) -> Authored:
        if not old:
            return attribute(str.replace(self, old, new, count), (self, new))
        return joined(self.split(old, count), new)

    def join(self, parts: Iterable[str], /) -> Authored:
        return joined(parts, self)


def joined(parts: Iterable[Any], separator: str = "") -> Authored:
    """``separator.join(map(str, parts))`` with the authors of all."""
    parts = [part if isinstance(part, str) else str(part) for part in parts]
    authors = authors_of(separator).join([authors_of(part) for part in parts])
    return Authored(str.join(separator, parts), authors or TEMPLATE)


def authors_of(text: str) -> str:
    """The author of every character: the template's where the text has none."""
    return text._authors if isinstance(text, Authored) else TEMPLATE * len(text)


def attribute(result: Any, sources: Any) -> Any:
    """The result of an operation on ``sources`` that Authored does not follow, with authors.

    Where a source stands in the result as it was, those characters are its own; where it does not, it was rewritten (a
    tojson, an upper), and the whole result is taken for its author's: rather too much than too little.
    """
    if type(result) in (list, tuple):
        return type(result)(attribute(part, sources) for part in result)
    if type(result) is not str or not result:
        return result
    texts = [text for text in _authored(sources) if text]
    if not texts:
        return result
    authors = [TEMPLATE] * len(result)
    for text in texts:
        start = result.find(text)
        if start < 0:
            everybody = set("".join(text._authors for text in texts)) - {TEMPLATE}
            return Authored(result, everybody.pop() if len(everybody) == 1 else UNKNOWN)
        while start >= 0:
            authors[start : start + len(text)] = text._authors
            start = result.find(text, start + len(text))
    return Authored(result, "".join(authors))


def _authored(value: Any, depth: int = 4) -> Iterator[Authored]:
    """All Authored texts with a message's characters in them, in nested lists and dicts too."""
    if isinstance(value, Authored):
        if value._authors.strip(TEMPLATE):
            yield value
    elif depth and isinstance(value, dict):
        for part in value.values():
            yield from _authored(part, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for part in value:
            yield from _authored(part, depth - 1)
