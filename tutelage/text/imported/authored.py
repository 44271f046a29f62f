"""A str that knows who wrote each of its characters, kept through what a chat template does to it.

A template makes one string of a conversation. Training needs to know which of its characters are the assistant's, and safety
needs to know which are not the template's: only the template may write control tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

TEMPLATE = "\0"
"""The author of everything that the template itself wrote; message i has the author ``chr(i + 1)``."""
UNKNOWN = "\U0010ffff"
"""The author of text made from several messages in a way that does not show which part is whose."""
# Private-use characters, to follow other characters through an operation.
_MARKS = [chr(code) for code in (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))]


class Authored(str):
    """A str with ``_authors``, a str of the same length: the author of every character.

    The operations below keep authors exactly; ``follow`` deals with all others. Templates cannot read names with an underscore.
    """

    __slots__ = ("_authors",)
    _authors: str

    def __new__(cls, text: str, authors: str = TEMPLATE) -> Authored:
        """``authors`` has one author for each character, or one for the whole text."""
        self = super().__new__(cls, text)
        self._authors = authors if len(authors) == len(self) else authors * len(self)
        return self

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Authored:
        return Authored(str.__getitem__(self, key), self._authors[key])

    def __iter__(self) -> Iterator[Authored]:
        return map(Authored, str.__iter__(self), self._authors)

    def __add__(self, other: object) -> Any:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> Any:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def lstrip(self, chars: str | None = None, /) -> Authored:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> Authored:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None, /) -> Authored:
        return self.lstrip(chars).rstrip(chars)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        found, place = [], 0
        for piece in str.split(self, sep, maxsplit):
            start = str.find(self, piece, place) if sep is None else place
            found.append(self[start : start + len(piece)])
            place = start + len(piece) + len(sep or "")
        return found

    def replace(self, old: str, new: str, /, count: SupportsIndex = -1) -> Any:
        if not old:
            return follow(str.replace, self, old, new, count)
        return joined(self.split(old, count), new)

    def join(self, parts: Iterable[str], /) -> Authored:
        return joined(parts, self)


def joined(parts: Iterable[Any], separator: str = "") -> Authored:
    """``separator.join(map(str, parts))`` with the authors of all."""
    parts = [part if isinstance(part, str) else str(part) for part in parts]
    authors = authors_of(separator).join([authors_of(part) for part in parts])
    return Authored(str.join(separator, parts), authors)


def bare(text: str) -> str:
    """The text alone, an exact str."""
    return str.__str__(text)


def authors_of(text: str) -> str:
    """The author of every character: the template's where the text has none."""
    return text._authors if isinstance(text, Authored) else TEMPLATE * len(text)


def follow(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, with authors where the result is plain text made from authored texts.

    The function runs a second time on texts with a mark for each character. Where its result is the same but for the marks,
    they tell the authors. Where it is not (an upper, a tojson that escapes), the whole result is taken for the author's: rather
    too much than too little.
    """
    result = function(*args, **kwargs)
    parts = result if isinstance(result, list | tuple) else [result]
    everybody = set()
    if any(type(part) is str for part in parts):
        everybody = set("".join(_authors_in((args, kwargs)))) - {TEMPLATE}
    if not everybody:
        return result
    author = everybody.pop() if len(everybody) == 1 else UNKNOWN
    if parts is result:
        return type(result)(Authored(part, author) if type(part) is str else part for part in result)
    return Authored(result, _by_marks(function, args, kwargs, result) or author)


def _by_marks(function: Callable[..., Any], args: Any, kwargs: Any, result: str) -> str | None:
    """The authors of ``result``; None where marks do not tell them."""
    marks, meant = iter(_MARKS), dict[str, tuple[str, str]]()

    def marked(value: Any) -> Any:
        if isinstance(value, Authored):
            codes = [next(marks) for _ in range(len(value))]
            meant.update(zip(codes, zip(bare(value), value._authors, strict=True), strict=True))
            return "".join(codes)
        if isinstance(value, dict):
            return {marked(key): marked(part) for key, part in value.items()}
        return type(value)(map(marked, value)) if type(value) in (list, tuple) else value

    try:
        again = [meant.get(c, (c, TEMPLATE)) for c in function(*marked(args), **marked(kwargs))]
    except Exception:  # out of marks, or a text that is no longer a format or a number
        return None
    return "".join(author for _, author in again) if "".join(c for c, _ in again) == result else None


def _authors_in(value: Any) -> Iterator[str]:
    """The authors of all texts in a value, nested lists and dicts too."""
    if isinstance(value, Authored):
        yield value._authors
    elif isinstance(value, dict):
        yield from _authors_in([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _authors_in(part)
