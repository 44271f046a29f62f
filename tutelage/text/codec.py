"""Texts to ids with control tokens that only a template may write.

A tokenizer finds its added tokens in any text, whoever wrote it. Here two copies of it stand side by side: one that finds
control tokens, for what a template wrote, and one that does not, for everything else. As long as nobody spells a control
token, ids are those of a plain ``encode`` of the whole, token for token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import tokenizers
from tokenizers import models

from tutelage.errors import UsageError
from tutelage.text.authored import TEMPLATE, Authored, authors_of

# Characters to stand before a text that must not be encoded as the start of one; one of them merges with none of its own.
_CONTEXTS = ("\n", "a", ".", "中", "0")


@dataclass(frozen=True)
class Tokens:
    """Ids, and for each the characters of the text that it stands for: from, up to."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def shifted(self, by: int) -> Tokens:
        """The same tokens of a text that has ``by`` characters more before."""
        return Tokens(self.ids, [(start + by, stop + by) for start, stop in self.spans])


class Codec:
    """Encodes for one backend.

    ``control`` are the ids that only a template may write, ``soft`` those of them that the assistant may write too, such as
    ``<think>``: tokens that the vocabulary does not flag as special. A user who types one gets it spelt out.
    """

    def __init__(self, backend: tokenizers.Tokenizer, control: frozenset[int], soft: frozenset[int]) -> None:
        """Where the model has an id for what it does not know, that one is no control token: any text may come to it."""
        self._backend, self.soft = backend, soft
        self.unknown = _unknown_id(backend)
        self.control = control - {self.unknown}
        self._spelt = backend.id_to_token(self.unknown) if self.unknown in control else None
        self._suspects = control  # with the unknown token: it counts where it is spelt, not where a piece was not known

    @cached_property
    def _written(self) -> tokenizers.Tokenizer:
        """Finds control tokens. Its spans must be whole: some post-processors cut spaces off them."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.post_processor = None
        return copy

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """Finds none of them."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.post_processor = None
        added = copy.get_added_tokens_decoder()
        as_special = []
        for token in (added[i] for i in sorted(self.control) if i in added and not added[i].special):
            token.special = True
            as_special.append(token)
        copy.add_special_tokens(as_special)
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _alone_after_control(self) -> bool:
        """Does the backend encode what follows a control token as if it began the text (with sentencepiece's space before)?"""
        added = self._written.get_added_tokens_decoder()
        for i, token in added.items():
            if i in self.control and not (token.rstrip or token.single_word):
                return bool(self._written.encode(token.content + "a").ids[1:] == self._written.encode("a").ids)
        return True

    def encode(self, text: str) -> list[int]:
        """Ids of a text: never a control id. Raises UsageError for lone surrogates."""
        ids = list(self._plain.encode(checked(text), add_special_tokens=False).ids)
        return ids if self.control.isdisjoint(ids) else self._stretch(text, alone=True).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        encodings = self._plain.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        return [
            ids if self.control.isdisjoint(ids) else self._stretch(text, alone=True).ids
            for ids, text in zip(rows, texts, strict=True)
        ]

    def encode_written(self, texts: Sequence[Authored], assistants: Sequence[str]) -> list[Tokens]:
        """Ids of texts by templates, on all cores. ``assistants[i]`` are the assistant's authors in ``texts[i]``."""
        encodings = self._written.encode_batch([checked(_bare(text)) for text in texts], add_special_tokens=False)
        rows = []
        for text, assistant, encoding in zip(texts, assistants, encodings, strict=True):
            tokens = Tokens(encoding.ids, encoding.offsets)
            if self._forged(tokens, text, assistant):
                tokens = self.encode_apart(text, assistant)
            rows.append(tokens)
        return rows

    def encode_apart(self, text: Authored, assistant: str, cut: int = 0) -> Tokens:
        """The same where others than the template spell control tokens: theirs are encoded as text.

        What is between the control tokens that count is encoded stretch by stretch. No token goes across ``cut``.
        """
        # Put x's for what only looks like a control token, so that the backend finds the others: as many times as it takes,
        # for one may have hidden another.
        masked, tokens = "", self._encode_whole(text)
        while forged := self._forged(tokens, text, assistant):
            masked = masked or _bare(text)
            for start, stop in forged:
                masked = masked[:start] + "x" * (stop - start) + masked[stop:]
            tokens = self._encode_whole(masked)
        ids, spans, place = [], [], 0
        found = self._controls(tokens, masked or _bare(text))
        for start, stop, control in [*found, (len(text), len(text), None)]:
            first = place == 0 or self._alone_after_control
            ends = [cut, start] if place < cut < start else [start]
            for end in ends:
                part = self._stretch(_bare(text[place:end]), alone=first).shifted(place)
                ids += part.ids
                spans += part.spans
                place, first = end, False
            if control is not None:
                ids.append(control)
                spans.append((start, stop))
            place = stop
        return Tokens(ids, spans)

    def _encode_whole(self, text: str) -> Tokens:
        encoding = self._written.encode(_bare(text), add_special_tokens=False)
        return Tokens(encoding.ids, encoding.offsets)

    def places(self, tokens: Tokens) -> list[int]:
        """The indices of the control tokens."""
        return [place for place, i in enumerate(tokens.ids) if i in self.control]

    def _controls(self, tokens: Tokens, text: str) -> list[tuple[int, int, int]]:
        """The control tokens among ``tokens``: (start, stop, id)."""
        places = [place for place, i in enumerate(tokens.ids) if i in self._suspects]
        found = [(*tokens.spans[place], tokens.ids[place]) for place in places]
        return [
            (start, stop, i)
            for start, stop, i in found
            if i != self.unknown or str.__getitem__(text, slice(start, stop)).strip() == self._spelt
        ]

    def _forged(self, tokens: Tokens, text: Authored, assistant: str) -> list[tuple[int, int]]:
        """Where control tokens stand that others than the template wrote, in part or whole; spaces around do not count."""
        authors, forged = authors_of(text), []
        for start, stop, i in self._controls(tokens, text):
            core = str.__getitem__(text, slice(start, stop))
            start, stop = stop - len(core.lstrip()), start + len(core.rstrip())
            wrote = set(authors[start:stop])
            if not (wrote <= {TEMPLATE} or (i in self.soft and wrote <= set(assistant))):
                forged.append((start, stop))
        return forged

    def _stretch(self, text: str, *, alone: bool) -> Tokens:
        """Tokens of a text without control tokens; ``alone`` as the start of a text, else as what goes on from something.

        Some models make a control token out of plain pieces (the lattice of a Unigram knows them all): then the text is
        cut within it.
        """
        if not text:
            return Tokens([], [])
        tokens = self._encode_plain(text) if alone else self._encode_after(text)
        for i, (start, stop) in zip(tokens.ids, tokens.spans, strict=True):
            if i in self.control:
                if stop - start < 2:
                    raise UsageError(f"{text[start:stop]!r} is a control token of the model: take it out of the text")
                left, right = self._stretch(text[: stop - 1], alone=alone), self._stretch(text[stop - 1 :], alone=False)
                right = right.shifted(stop - 1)
                return Tokens(left.ids + right.ids, left.spans + right.spans)
        return tokens

    def _encode_plain(self, text: str) -> Tokens:
        encoding = self._plain.encode(text, add_special_tokens=False)
        return Tokens(encoding.ids, encoding.offsets)

    def _encode_after(self, text: str) -> Tokens:
        """Tokens of a text that does not begin one: with a character before it that no token shares, then taken off."""
        for context in _CONTEXTS:
            before, whole = self._encode_plain(context), self._encode_plain(context + text)
            count = len(before.ids)
            ended = max((stop for _, stop in whole.spans[:count]), default=0) <= 1
            begun = min((start for start, _ in whole.spans[count:]), default=1) >= 1
            if whole.ids[:count] == before.ids and ended and begun:
                return Tokens(whole.ids[count:], whole.spans[count:]).shifted(-1)
        return self._encode_plain(text)


def _unknown_id(backend: tokenizers.Tokenizer) -> int:
    """The id that the model itself gives to what it has no piece for; -1 where it has a piece for everything."""
    if isinstance(backend.model, models.Unigram):
        unknown = json.loads(backend.to_str())["model"].get("unk_id")
        return -1 if unknown is None else int(unknown)
    name = getattr(backend.model, "unk_token", None)
    i = None if name is None else backend.token_to_id(name)
    return -1 if i is None else int(i)


def control_tokens(
    backend: tokenizers.Tokenizer, named: Iterable[str], literals: Iterable[str]
) -> tuple[frozenset[int], frozenset[int]]:
    """The ids that only a template may write, and those of them that the assistant may write too (see Codec).

    Control tokens are all that are flagged as special or named in the tokenizer's configuration; and of the other added tokens
    those that the template writes and those that look it: ``<|...|>``. Spaces (Gemma's newlines are added tokens) and plain
    words stay what they are.
    """
    written, names = "\0".join(literals), set(named)
    hard, soft = set(), set()
    for i, token in backend.get_added_tokens_decoder().items():
        text, looks_it = token.content, token.content.startswith("<|") and token.content.endswith("|>")
        ordinary = not text.strip() or text.strip().isalnum()
        if token.special or text in names:
            hard.add(i)
        elif not ordinary and (looks_it or text in written):
            soft.add(i)
    return frozenset(hard | soft), frozenset(soft)


def checked(text: str) -> str:
    """Half of a surrogate pair is no character and has no bytes: say so here, the library's own error says nothing."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"a text has a lone surrogate {text[error.start]!r} at character {error.start}") from None
    return text


def _bare(text: str) -> str:
    return str.__str__(text)
