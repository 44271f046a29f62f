"""Sampled ids to text while they arrive, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextStream(Protocol):
    """Decodes the ids of one sample: the pieces it returns, joined, are the text of all ids."""

    def push(self, i: int, /) -> str: ...

    def finish(self) -> str: ...


class StreamingTokenizer(Protocol):
    """What a service needs of a tokenizer."""

    def stream(self) -> TextStream: ...


class StopStrings:
    """Finds the first of several strings to be completed in a text that arrives in pieces; of two that are completed by
    the same character, the longer one.

    The result depends on the text alone, not on where the pieces end. The automaton of Knuth, Morris and Pratt (1977)
    keeps the time linear in the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)  # length of the longest beginning of each that ends the text so far
        self._held = ""  # the longest of these beginnings
        self.found = False

    def push(self, piece: str) -> str:
        """Add text; returns what is certainly before a stop string. After one is ``found`` that is nothing."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        for end, char in enumerate(piece, len(self._held) + 1):
            whole = 0
            for i, (stop, borders) in enumerate(self._stops):
                k = self._matched[i]
                while k and stop[k] != char:
                    k = borders[k - 1]
                self._matched[i] = k = k + (stop[k] == char)
                whole = k if k == len(stop) > whole else whole
            if whole:
                self.found = True
                return text[: end - whole]
        sure = len(text) - max(self._matched)
        self._held = text[sure:]
        return text[:sure]

    def finish(self) -> str:
        """The text held back. Call it once, after the last piece."""
        return "" if self.found else self._held


def _borders(stop: str) -> list[int]:
    """For each beginning of ``stop`` the length of its longest proper prefix that is also its suffix."""
    borders = [0]
    for char in stop[1:]:
        k = borders[-1]
        while k and stop[k] != char:
            k = borders[k - 1]
        borders.append(k + (stop[k] == char))
    return borders


class TextWriter:
    """The text of one sample. ``push`` adds ids; ``take`` returns the new text that is certain."""

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream, self._stops = stream, StopStrings(stops)
        self._ready = ""

    def push(self, token: int) -> bool:
        """Add an id; returns whether the text has reached a stop string."""
        self._ready += self._stops.push(self._stream.push(token))
        return self._stops.found

    def take(self) -> str:
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> bool:
        """End the text, without the character that a length limit cut in half; returns whether it reached a stop string."""
        self._ready += self._stops.push(self._stream.finish().rstrip("\ufffd")) + self._stops.finish()
        return self._stops.found
