"""Texts to ids with control tokens that only a template may write.

A tokenizer finds its added tokens in any text, whoever wrote it. A codec works with a copy of it in which each control token
has a secret name. It puts these names itself in place of the control tokens that the template wrote, so what anybody else
spells is text. Ids are those of a plain ``encode`` of the whole where nobody else spells a control token.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import tokenizers
from tokenizers import models

from tutelage.errors import UsageError
from tutelage.text.imported.marks import TEMPLATE, Written

_CONTEXT = "\ue000"
"""Put before a text that must not be encoded as the start of one: a private-use character, with which nothing merges."""


@dataclass(frozen=True)
class Tokens:
    """Ids, and for each the characters of the text that it stands for: from, up to."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Codec:
    """Encodes for one backend.

    ``control`` are the ids that only a template may write, ``soft`` those of them that the assistant may write too, such as
    ``<think>``: tokens that the vocabulary does not flag as special. When a user types one, it is encoded as plain text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, control: frozenset[int], soft: frozenset[int]) -> None:
        """The id that the model gives to what it does not know is not a control token: any text may lead to it."""
        self._backend, self.soft = backend, soft
        self.control = control - {_unknown_id(backend)}
        added = backend.get_added_tokens_decoder()  # id_to_token knows only the normalised spelling of some
        self._ids = {added[i].content if i in added else str(backend.id_to_token(i)): i for i in sorted(control)}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or "(?!)")
        # Private-use characters that nobody can guess: 2 ** 100 of them.
        secret = "".join(chr(0xE000 + secrets.randbelow(0x1000)) for _ in range(9))
        self._names = {text: secret + chr(0xF0000 + i) for i, text in enumerate(self._ids)}

    @cached_property
    def _renamed(self) -> tokenizers.Tokenizer:
        """The backend with control tokens renamed, in the model's vocabulary too: no plain pieces make one.

        It has no post-processor, because some cut spaces off the spans.
        """
        names, data = self._names, json.loads(self._backend.to_str())
        model, data["post_processor"] = data["model"], None
        for token in data["added_tokens"]:
            if token["content"] in names:
                token |= {"content": names[token["content"]], "normalized": False}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [(a, b) for a, b in model["merges"] if names.keys().isdisjoint((a, b, a + b))]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return tokenizers.Tokenizer.from_str(json.dumps(data))

    def encode(self, text: str) -> list[int]:
        """Ids of a text: never a control id. Raises UsageError for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        encodings = self._renamed.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_written(self, texts: Sequence[Written]) -> list[Tokens]:
        """Ids of texts by templates, on all cores."""
        named = [self._with_names(written) for written in texts]
        encodings = self._renamed.encode_batch([text for text, _ in named], add_special_tokens=False)
        return [
            Tokens(encoding.ids, [(places[start], places[stop]) for start, stop in encoding.offsets])
            for encoding, (_, places) in zip(encodings, named, strict=True)
        ]

    def encode_cut(self, written: Written, cut: int) -> Tokens:
        """``encode_written`` of one text, with no token across the character ``cut``."""
        halves = [
            Written(written.text[half], written.authors[half], written.assistants)
            for half in (slice(cut), slice(cut, None))
        ]
        start = self.encode_written(halves[:1])[0]
        (before, _), (after, places) = map(self._with_names, halves)
        # What follows a control token is encoded as such: some backends then begin anew.
        context = next((name for name in self._names.values() if before.endswith(name)), _CONTEXT)
        count = len(self._renamed.encode(context, add_special_tokens=False).ids)
        tokens = self._renamed.encode(context + after, add_special_tokens=False)
        spans = [(places[max(0, a - len(context))], places[b - len(context)]) for a, b in tokens.offsets[count:]]
        return Tokens(start.ids + tokens.ids[count:], start.spans + [(cut + a, cut + b) for a, b in spans])

    def _with_names(self, written: Written) -> tuple[str, list[int]]:
        """The text with the template's control tokens by their names, and the place of each character in the original.

        The places have one entry more, for the end of the text.
        """
        text, parts, places = checked(written.text), list[str](), list[int]()
        done = place = 0
        while found := self._pattern.search(text, place):
            start, stop = found.span()
            allowed = (TEMPLATE, *(written.assistants if self._ids[found[0]] in self.soft else ""))
            if set(written.authors[start:stop]).issubset(allowed):
                name = self._names[found[0]]
                parts += [text[done:start], name]
                places += [*range(done, start), *[start] * len(name)]
                done = place = stop
            else:  # another one may begin within it
                place = start + 1
        return "".join([*parts, text[done:]]), [*places, *range(done, len(text) + 1)]


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
