"""Characters that name the message that wrote them, for a chat template to carry from its input to its output.

A mark is the character ``author * 2**16 + code``: planes 1 to 16 of Unicode name up to 16 authors of characters from plane 0.
Operations that only move texts (``+``, ``join``, slices) keep marks. ``follow`` is for functions that look at characters,
``percent`` for format strings, and ``printed`` for lists and objects that become text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TEMPLATE = "\0"
"""The author of what the template itself wrote; message i has the author ``chr(i + 1)``."""
_MARKED = re.compile("[\U00010000-\U0010ffff]")
_FROM_LEFT, _FROM_RIGHT = {str.lstrip, str.removeprefix}, {str.rstrip, str.removesuffix}
_SPLITS = {str.split, str.rsplit, str.splitlines, str.partition, str.rpartition}
_SPECIFIER = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<how>[#0\- +]*\d*(?:\.\d+)?[hlL]?[diouxXeEfFgGcrsa%])")


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
    return np.where(codes < 0x10000, codes, 0xFFFD)


def bare(value: Any) -> Any:
    """A value, such as a message, without marks: the characters that they stand for."""
    if isinstance(value, str):
        return _text(_codes(value) & 0xFFFF) if _MARKED.search(value) else value
    if isinstance(value, dict):
        return {bare(key): bare(part) for key, part in value.items()}
    return type(value)(map(bare, value)) if type(value) in (list, tuple) else value


def follow(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)`` as for bare arguments, with marks in the result.

    Where marks do not survive the function (as in ``str.upper``), each stretch of one author is rewritten on its own, white
    space around the text is left out of account, or characters are matched one to one. Where none of these gives the result, the
    whole is its only author's. Raises NotFollowed where there are several.
    """
    everybody = _authors_in([*args, *kwargs.values()])
    if not everybody:
        return function(*args, **kwargs)
    plain = function(*bare(args), **bare(kwargs))
    if function in _SPLITS or function in _FROM_LEFT or function in _FROM_RIGHT or function is str.strip:
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
    if isinstance(plain, str) and args and isinstance(args[0], str):
        runs = _runs(args[0])
        parts = [function(text, *bare(args[1:]), **bare(kwargs)) for _, text in runs]
        if "".join(parts) == plain:
            return "".join(mark(part, author) for part, (author, _) in zip(parts, runs, strict=True))
        before, _, after = plain.partition(bare(args[0]))
        if len(before + after) + len(args[0]) == len(plain) and not (before + after).strip():
            return before + args[0] + after
        if len(plain) == len(args[0]):
            return _text(_codes(args[0]) & ~np.uint32(0xFFFF) | _low(_codes(plain)))
    if not isinstance(plain, str) or len(everybody) > 1:
        raise NotFollowed
    return mark(plain, everybody.pop())


def percent(form: str, values: Any, show: Callable[[Any], str]) -> str:
    """``form % values`` with marks; ``show`` makes a text of a value, as ``str`` does."""
    plain: str = bare(form) % bare(values)
    given = iter(values if isinstance(values, tuple) else (values,))

    def filled(found: re.Match[str]) -> str:
        key, how = found["key"], found["how"]
        if how.endswith("%"):
            return "%"
        value = next(given) if key is None else bare(values) and values[key]
        if how == "s":
            return show(value)
        if how.endswith(("r", "a")) or not isinstance(value, str):
            return printed(f"%{how}" % (bare(value),), value)
        return str(follow(lambda text: f"%{how}" % (text,), value))

    marked = _SPECIFIER.sub(filled, form)
    if bare(marked) != plain:
        raise NotFollowed
    return marked


def printed(plain: str, value: Any, encode: Callable[[str], str] = repr, *, by_key: bool = False) -> str:
    """``plain``, which is ``value`` as text, with marks; each text in the value is there as ``encode`` writes it.

    The brackets and commas are the only author's, or where there are several the template's. ``by_key``: objects are printed
    in the order of their keys.
    """
    everybody = _authors_in(value)
    if len(everybody) < 2:
        return mark(plain, everybody.pop()) if everybody else plain
    parts, place = [], 0
    for text in _texts_in(value, by_key):
        piece = encode(bare(text))
        start = plain.find(piece, place)
        owners = {author for author, _ in _runs(text)}
        if start < 0 or len(owners) > 1:
            raise NotFollowed
        parts += [plain[place:start], mark(piece, *owners) if owners else piece]
        place = start + len(piece)
    return "".join(parts) + plain[place:]


def _texts_in(value: Any, by_key: bool) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=bare) if by_key else value:
            yield from _texts_in([key, value[key]], by_key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part, by_key)


def _runs(text: str) -> list[tuple[int, str]]:
    """The stretches of one author each, bare, with the author; 0 is the template."""
    found = (_codes(text) >> 16).tolist()
    bounds = [i for i in range(len(found)) if i == 0 or found[i] != found[i - 1]]
    plain, ends = bare(text), [*bounds[1:], len(found)]
    return [(found[i], plain[i:end]) for i, end in zip(bounds, ends, strict=False)]


def _cut(function: Callable[..., Any], plain: Any, text: str, sep: str | None = None, *_: Any, **__: Any) -> Any:
    """The marked parts of ``text`` that ``plain`` has: they follow each other in it, with ``sep`` between where it splits."""
    parts, place, whole = [], 0, bare(text)
    if function in _FROM_LEFT:
        return text[len(whole) - len(plain) :]
    if function in _FROM_RIGHT:
        return text[: len(plain)]
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
