"""Ids to text while they are being sampled: each piece of text as soon as no later id can change it."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import tokenizers


class Rules:
    """What is fixed about a backend's way from ids to text: asked once, as each question copies tables out of the backend."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.special = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        steps = [] if backend.decoder is None else _steps(json.loads(backend.decoder.__getstate__()))
        self.kinds = [step["type"] for step in steps]
        self.byte_level = self.kinds == ["ByteLevel"]
        self.held = _held_tokens(steps)


class TextStream:
    """Decodes ids one at a time; all pieces joined are ``decode`` of all ids, exactly, whatever the ids.

    A piece never ends inside a character, and U+FFFD appears only where the whole text has it. The work is linear in the number
    of ids. Text is held back in three cases: the bytes of an unfinished character; a run of sentencepiece's byte tokens, which
    ``decode`` turns into U+FFFD as a whole where it is not UTF-8; and everything, where the decoder is of a kind not known here.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if rules.byte_level else None
        self._window: list[int] = []  # the last id whose text is out, and the ids held back
        self._before = 0  # characters of the window's text that are out

    def push(self, i: int) -> str:
        """Add an id; returns the text that it completes, often nothing."""
        rules = self._rules
        token = None if i in rules.special else rules.backend.id_to_token(i)
        if token is None:  # decode skips it
            return ""
        if self._utf8 is not None:
            return self._utf8.decode(_bytes(token))
        self._window.append(i)
        if rules.held.fullmatch(token):
            return ""
        text = self.finish()
        self._window = [i]
        self._before = len(self._text())
        return text

    def finish(self) -> str:
        """The text held back. Call it once, after the last id."""
        return self._text()[self._before :] if self._utf8 is None else self._utf8.decode(b"", final=True)

    def _text(self) -> str:
        return str(self._rules.backend.decode(self._window, skip_special_tokens=True))


def token_bytes(rules: Rules, i: int) -> bytes:
    """What a token adds to a text, which may be a part of a character; nothing for a control token."""
    token = rules.backend.id_to_token(i)
    if token is None or i in rules.special:
        return b""
    if rules.byte_level:
        return _bytes(token)
    if "ByteFallback" in rules.kinds and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    once, twice = (str(rules.backend.decode([i] * times)) for times in (1, 2))  # the first of a text may lose its space
    return twice[len(once) :].encode()


def _held_tokens(steps: list[dict[str, Any]]) -> re.Pattern[str]:
    """Which tokens wait for the one after them: none, sentencepiece's bytes, or all where a step may look further than that."""
    for step in steps:
        across = step["type"] not in ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")
        across |= step["type"] == "Replace" and len(step["pattern"].get("String", "")) != 1
        across |= step["type"] == "Strip" and (step["start"] > 1 or step["stop"] > 0)
        if across:
            return re.compile(".*", re.DOTALL)
    return re.compile("<0x[0-9A-Fa-f]{2}>" if any(step["type"] == "ByteFallback" for step in steps) else "(?!)")


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [inner for step in decoder["decoders"] for inner in _steps(step)]


# Byte-level BPE writes each byte as one printable character: itself where it has one, else a character from 256 on.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}


def _bytes(token: str) -> bytes:
    """The bytes of a byte-level token. An added token with other characters than the 256 is its own text."""
    return bytes(_BYTE_OF[c] for c in token) if _BYTE_OF.keys() >= set(token) else token.encode()
