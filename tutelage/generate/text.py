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


class TextWriter:
    """The text of one sample, up to the stop string that is completed first (the longest, if several end there).

    The text does not depend on how it is split into tokens. A suffix that may begin a stop string is held back. From the token
    ``until`` on, stop strings are text like any other.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str] = (), until: int | None = None) -> None:
        self._stream, self._stops, self._until = stream, stops, until
        self._held = self._ready = ""
        self._stopped = False

    def push(self, token: int) -> bool:
        """Add an id; returns whether the text has reached a stop string."""
        if token == self._until:
            self._stops = ()
        return self._add(self._stream.push(token))

    def finish(self) -> bool:
        """End the text, without a character that the length limit cut in half; returns whether a stop string was reached."""
        if not self._add(self._stream.finish().rstrip("\ufffd")):
            self._ready += self._held
        return self._stopped

    def take(self) -> str:
        """The text that has become certain since the last call."""
        ready, self._ready = self._ready, ""
        return ready

    def _add(self, piece: str) -> bool:
        if self._stopped or not piece:
            return self._stopped
        text = self._held + piece
        ends = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        self._stopped = bool(ends)
        # Without a match, hold back the longest suffix that begins a stop string. The search goes over the text and not over
        # the beginnings of the stop string, of which a long one has many.
        begun = (i for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in self._stops))
        certain = min(ends)[1] if ends else next(begun, len(text))
        self._ready += text[:certain]
        self._held = text[certain:]
        return self._stopped
