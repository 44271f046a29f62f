"""Texts to ids with control tokens that only a template may write.

A tokenizer finds its added tokens in any text, whoever wrote it. A codec holds two copies of it: one that finds control tokens,
for what a template wrote, and one that does not, for everything else. As long as nobody spells a control token, ids are those
of a plain ``encode`` of the whole, token for token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import tokenizers
from tokenizers import models

from tutelage.errors import UsageError
from tutelage.text.imported.marks import TEMPLATE, Written

# Put before a text that must not be encoded as the start of one: a private-use character, with which nothing merges.
_CONTEXT = "\ue000"


@dataclass(frozen=True)
class Tokens:
    """Ids, and for each the characters of the text that it stands for: from, up to."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def shifted(self, by: int) -> Tokens:
        """The same tokens of a text that has ``by`` characters more before."""
        return Tokens(self.ids, [(start + by, stop + by) for start, stop in self.spans])

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.spans + other.spans)


class Codec:
    """Encodes for one backend.

    ``control`` are the ids that only a template may write, ``soft`` those of them that the assistant may write too, such as
    ``<think>``: tokens that the vocabulary does not flag as special. When a user types one, it is encoded as plain text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, control: frozenset[int], soft: frozenset[int]) -> None:
        """The id that the model gives to what it does not know is not a control token: any text may lead to it."""
        self._backend, self.soft = backend, soft
        self.unknown = _unknown_id(backend)
        self.control = control - {self.unknown}
        # The unknown token counts where it is spelt, not where a piece was not known.
        self._suspects = control
        self._spelt = backend.id_to_token(self.unknown) if self.unknown in control else None

    @cached_property
    def _written(self) -> tokenizers.Tokenizer:
        """Finds control tokens. It has no post-processor, because some cut spaces off the spans."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.post_processor = None
        return copy

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """Finds no control tokens: the library skips those flagged as special, so all are."""
        copy = tokenizers.Tokenizer.from_str(self._written.to_str())
        soft = [token for i, token in sorted(copy.get_added_tokens_decoder().items()) if i in self.control]
        soft = [token for token in soft if not token.special]
        for token in soft:
            token.special = True
        copy.add_special_tokens(soft)
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _alone_after_control(self) -> bool:
        """Does the backend encode what follows a control token as if it began the text (with sentencepiece's space before)?"""
        for i, token in self._written.get_added_tokens_decoder().items():
            if i in self.control and not (token.rstrip or token.single_word):
                return bool(self._written.encode(token.content + "a").ids[1:] == self._written.encode("a").ids)
        return True

    def encode(self, text: str) -> list[int]:
        """Ids of a text: never a control id. Raises UsageError for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        encodings = self._plain.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [
            encoding.ids if self.control.isdisjoint(encoding.ids) else self._stretch(text, alone=True).ids
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def encode_written(self, texts: Sequence[Written]) -> list[Tokens]:
        """Ids of texts by templates, on all cores."""
        encodings = self._written.encode_batch([checked(text.text) for text in texts], add_special_tokens=False)
        rows = [Tokens(encoding.ids, encoding.offsets) for encoding in encodings]
        return [
            self.encode_apart(text) if self._forged(tokens, text) else tokens
            for text, tokens in zip(texts, rows, strict=True)
        ]

    def encode_apart(self, written: Written, cut: int = 0) -> Tokens:
        """The same where others than the template spell control tokens: theirs are encoded as text.

        What is between the control tokens that count is encoded stretch by stretch. No token goes across ``cut``.
        """
        # Replace what only looks like a control token by x's, so that the backend finds the others. Repeat, because one may
        # have hidden another.
        text = masked = written.text
        tokens = _encode(self._written, masked)
        while forged := self._forged(tokens, written):
            for start, stop in forged:
                masked = masked[:start] + "x" * (stop - start) + masked[stop:]
            tokens = _encode(self._written, masked)
        found, place = Tokens([], []), 0
        for start, stop, control in [*self._controls(tokens, masked), (len(text), len(text), None)]:
            first = place == 0 or self._alone_after_control
            for end in [cut, start] if place < cut < start else [start]:
                found += self._stretch(text[place:end], alone=first).shifted(place)
                place, first = end, False
            if control is not None:
                found += Tokens([control], [(start, stop)])
            place = stop
        return found

    def _controls(self, tokens: Tokens, text: str) -> list[tuple[int, int, int]]:
        """The control tokens as (start, stop, id), the unknown token too where it is spelt."""
        found = [(*span, i) for i, span in zip(tokens.ids, tokens.spans, strict=True) if i in self._suspects]
        return [one for one in found if one[2] != self.unknown or text[one[0] : one[1]].strip() == self._spelt]

    def _forged(self, tokens: Tokens, written: Written) -> list[tuple[int, int]]:
        """Where control tokens are that others than the template wrote, in part or whole; spaces around do not count."""
        forged = []
        for start, stop, i in self._controls(tokens, written.text):
            core = written.text[start:stop]
            start, stop = stop - len(core.lstrip()), start + len(core.rstrip())
            allowed = TEMPLATE, *(written.assistants if i in self.soft else "")
            if not set(written.authors[start:stop]).issubset(allowed):
                forged.append((start, stop))
        return forged

    def _stretch(self, text: str, *, alone: bool) -> Tokens:
        """Tokens of a text without control tokens; ``alone``: as the start of a text, else as its continuation.

        Some models make a control token from plain pieces (the lattice of a Unigram knows them all): the text is cut within it.
        """
        if not text:
            return Tokens([], [])
        tokens = _encode(self._plain, text) if alone else self._encode_after(text)
        for i, (start, stop) in zip(tokens.ids, tokens.spans, strict=True):
            if i in self.control:
                if stop - start < 2:
                    raise UsageError(f"{text[start:stop]!r} is a control token of the model: take it out of the text")
                left = self._stretch(text[: stop - 1], alone=alone)
                return left + self._stretch(text[stop - 1 :], alone=False).shifted(stop - 1)
        return tokens

    def _encode_after(self, text: str) -> Tokens:
        """Tokens of a text that does not begin one: with a character before it, whose tokens are then taken off."""
        before, whole = _encode(self._plain, _CONTEXT), _encode(self._plain, _CONTEXT + text)
        count = len(before.ids)
        if whole.ids[:count] == before.ids and all(start >= 1 for start, _ in whole.spans[count:]):
            return Tokens(whole.ids[count:], whole.spans[count:]).shifted(-1)
        return _encode(self._plain, text)


def _encode(backend: tokenizers.Tokenizer, text: str) -> Tokens:
    encoding = backend.encode(text, add_special_tokens=False)
    return Tokens(encoding.ids, encoding.offsets)


def _unknown_id(backend: tokenizers.Tokenizer) -> int:
    """The id that the model itself gives to what it has no piece for; -1 where it has a piece for everything."""
    if isinstance(backend.model, models.Unigram):
        found = json.loads(backend.to_str())["model"].get("unk_id")
    else:
        found = backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    return -1 if found is None else int(found)


def control_tokens(
    backend: tokenizers.Tokenizer, named: Iterable[str], literals: Iterable[str]
) -> tuple[frozenset[int], frozenset[int]]:
    """The ids that only a template may write, and those of them that the assistant may write too (see Codec).

    The first are all tokens flagged as special or ``named`` in the tokenizer's configuration. The others are added tokens that
    the template writes (``literals``) or of the form ``<|...|>``, but not spaces (as in Gemma's vocabulary) and plain words.
    """
    added = backend.get_added_tokens_decoder().items()
    written, names = "\0".join(literals), set(named)
    hard = frozenset(i for i, token in added if token.special or token.content in names)
    others = {i: token.content for i, token in added if i not in hard and not token.content.strip().isalnum()}
    soft = frozenset(
        i for i, text in others.items() if text.strip() and (re.fullmatch(r"<\|.*\|>", text, re.S) or text in written)
    )
    return hard | soft, soft


def checked(text: str) -> str:
    """The text. UsageError where it has half of a surrogate pair, which has no bytes: the library's own error does not say so."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"a text has a lone surrogate {text[error.start]!r} at character {error.start}") from None
    return text
