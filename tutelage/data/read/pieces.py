"""Plain text -> documents: a long text is cut at blank lines into pieces that join to the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

PIECE = 16_384
"""Longest document cut from a text file [bytes]."""


def pieces(lines: Iterable[str], limit: int = PIECE) -> Iterator[str]:
    """Cut a text into pieces of at most ``limit`` bytes, most of them over a quarter of that; joined they are the text.

    A piece ends after the last blank line beyond a quarter of the limit, else at the end of a line, else at a space.
    """
    buffer: list[str] = []
    size = cut = cut_size = 0  # bytes held; lines and bytes up to the last good place to cut
    for line in (part for whole in lines for part in _short(whole, limit)):
        length = len(line.encode())
        if size + length > limit:
            if not cut:
                cut, cut_size = len(buffer), size
            yield "".join(buffer[:cut])
            buffer, size, cut, cut_size = buffer[cut:], size - cut_size, 0, 0
            if size + length > limit:  # the rest after a blank line was long itself
                yield "".join(buffer)
                buffer, size = [], 0
        buffer.append(line)
        size += length
        if size >= limit // 4 and not line.strip():
            cut, cut_size = len(buffer), size
    if buffer:
        yield "".join(buffer)


def _short(line: str, limit: int) -> Iterator[str]:
    """The line in parts of at most ``limit`` bytes, cut after spaces where there are any."""
    characters = max(1, limit // 4)  # a character has at most four bytes
    while len(line) > characters and len(line.encode()) > limit:
        space = line.rfind(" ", 0, characters)
        end = space + 1 if space > 0 else characters
        yield line[:end]
        line = line[end:]
    yield line
