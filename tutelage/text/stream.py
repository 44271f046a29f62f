"""Ids to text while they are being sampled: each piece of text as soon as no later id can change it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any

import tokenizers


class TextStream:
    """Decodes ids one at a time; all pieces joined are ``decode`` of all ids, exactly, whatever the ids.

    A piece never ends inside a character, and U+FFFD appears only where the whole text has it. The work is linear in the number
    of ids. Text is held back in three cases: the bytes of an unfinished character; a run of sentencepiece's byte tokens, which
    ``decode`` turns into U+FFFD as a whole where it is not UTF-8; and everything, where the decoder is of a kind not known here.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        # A decoder's state is its JSON; the whole tokenizer's would take a millisecond per 2,000 entries.
        steps = _steps(None if backend.decoder is None else json.loads(backend.decoder.__getstate__()))
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if _types(steps) == ["ByteLevel"] else None
        self._holds = _held_tokens(steps)
        self._window: list[int] = []  # the last id whose text is out, and the ids held back
        self._before = 0  # characters of the window's text that are out

    def push(self, i: int) -> str:
        """Add an id; returns the text that it completes, often nothing."""
        token = None if i in self._special else self._backend.id_to_token(i)
        if token is None:  # decode skips it
            return ""
        if self._utf8 is not None:
            return self._utf8.decode(_bytes(token))
        self._window.append(i)
        if self._holds(token):
            return ""
        text = self._rest()
        self._window = [i]
        self._before = len(self._text())
        return text

    def finish(self) -> str:
        """The text held back. Call it once, after the last id."""
        return self._rest() if self._utf8 is None else self._utf8.decode(b"", final=True)

    def _text(self) -> str:
        return str(self._backend.decode(self._window, skip_special_tokens=True))

    def _rest(self) -> str:
        return self._text()[self._before :]


def _held_tokens(steps: list[dict[str, Any]]) -> Callable[[str], bool]:
    """Which tokens wait for the one after them: none, sentencepiece's bytes, or all where a step may look further than that."""
    for step in steps:
        across = step["type"] not in ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")
        across |= step["type"] == "Replace" and len(step["pattern"].get("String", "")) != 1
        across |= step["type"] == "Strip" and (step["start"] > 1 or step["stop"] > 0)
        if across:
            return lambda token: True
    if "ByteFallback" in _types(steps):
        return lambda token: re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token) is not None
    return lambda token: False


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return (
        [inner for step in decoder["decoders"] for inner in _steps(step)]
        if decoder["type"] == "Sequence"
        else [decoder]
    )


def _types(steps: list[dict[str, Any]]) -> list[str]:
    return [step["type"] for step in steps]


# Byte-level BPE writes each byte as one printable character: itself where it has one, else a character from 256 on.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE}
_BYTE_OF |= {chr(256 + n): byte for n, byte in enumerate(b for b in range(256) if b not in _PRINTABLE)}


def _bytes(token: str) -> bytes:
    """The bytes of a byte-level token. An added token with other characters than the 256 is its own text."""
    if all(c in _BYTE_OF for c in token):
        return bytes(_BYTE_OF[c] for c in token)
    return token.encode()
