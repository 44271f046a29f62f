"""Characters that name the message that wrote them, for a chat template to carry from its input to its output.

A mark is the character ``author * 2**16 + code``: planes 1 to 16 of Unicode name up to 16 authors of characters from plane 0.
Python's own string operations (``+``, ``%``, ``join``, ``format``, slices) keep marks; ``follow`` is for those that look at the
characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TEMPLATE = "\0"
"""The author of what the template itself wrote; message i has the author ``chr(i + 1)``."""
_MARKED = re.compile("[\U00010000-\U0010ffff]")
_CUTS = {str.strip, str.lstrip, str.rstrip, str.split, str.rsplit, str.splitlines, str.partition, str.rpartition}


class NotFollowed(ValueError):
    """Nothing tells which message wrote which part of a text."""


@dataclass(frozen=True)
class Written:
    """A text, the author of each of its characters, and which authors are the assistant."""

    text: str
    authors: str
    assistants: str

    def place(self, index: int) -> tuple[int, int]:
        """From the first to behind the last character that message ``index`` wrote; (-1, 0) where there is none."""
        return self.authors.find(chr(index + 1)), self.authors.rfind(chr(index + 1)) + 1


def mark(text: str, author: int) -> str:
    """The text with a mark for each character."""
    return _text(author << 16 | _low(_codes(text)))


def authors(text: str, marked: str) -> npt.NDArray[np.uint32]:
    """The author of each character of ``text``, which ``marked`` is with marks; 0 where it has none.

    Raises NotFollowed where ``marked`` is not the same text.
    """
    plain, found = _codes(text), _codes(marked)
    if len(plain) != len(found):
        raise NotFollowed
    is_mark = (found > 0xFFFF) & (found & 0xFFFF == _low(plain))
    if not (is_mark | (found == plain)).all():
        raise NotFollowed
    return np.where(is_mark, found >> 16, 0).astype(np.uint32)


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _text(codes: npt.NDArray[Any]) -> str:
    return codes.astype(np.uint32).tobytes().decode("utf-32-le", "surrogatepass")


def _low(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """What marks have for characters: their code points, and one stand-in for all beyond plane 0."""
    return np.where(codes < 0x10000, codes, 0xFFFE)


def bare(value: Any) -> Any:
    """A value, such as a message, without marks: the characters that they stand for."""
    if isinstance(value, str):
        return _text(_codes(value) & 0xFFFF) if _MARKED.search(value) else value
    if isinstance(value, dict):
        return {bare(key): bare(part) for key, part in value.items()}
    return type(value)(map(bare, value)) if type(value) in (list, tuple) else value


def follow(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)`` as for bare arguments, with marks in the result.

    Where marks do not survive (an ``upper``, a ``tojson`` that escapes), the whole result is its only author's. Raises
    NotFollowed where there are several.
    """
    everybody = _authors_in([*args, *kwargs.values()])
    if not everybody:
        return function(*args, **kwargs)
    plain = function(*bare(args), **bare(kwargs))
    if function in _CUTS:
        return _cut(function, plain, *args, **kwargs)
    if function is str.replace and bare(args[1]):
        text, old, new, *count = args
        return new.join(follow(str.split, text, old, *count))
    if isinstance(plain, int | float):
        return plain
    try:
        marked = function(*args, **kwargs)
    except (TypeError, ValueError):  # a text that is no longer a number
        marked = None
    if not isinstance(plain, str | list | tuple) or bare(marked) == plain:
        return marked
    if not isinstance(plain, str) or len(everybody) > 1:
        raise NotFollowed
    return mark(plain, everybody.pop())


def _cut(function: Callable[..., Any], plain: Any, text: str, sep: str | None = None, *_: Any, **__: Any) -> Any:
    """The marked parts of ``text`` that ``plain`` has: they follow each other in it, with ``sep`` between where it splits."""
    parts, place, whole = [], 0, bare(text)
    gap = len(sep) if sep and function in (str.split, str.rsplit) else 0
    for part in [plain] if isinstance(plain, str) else plain:
        start = place if gap else whole.index(part, place)
        place = start + len(part)
        parts.append(text[start:place])
        place += gap
    return parts[0] if isinstance(plain, str) else parts


def _authors_in(value: Any) -> set[int]:
    if isinstance(value, str):
        return set((_codes(value) >> 16).tolist()) - {0} if _MARKED.search(value) else set()
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return set().union(*map(_authors_in, value)) if isinstance(value, list | tuple) else set()
