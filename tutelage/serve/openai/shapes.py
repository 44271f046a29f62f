"""Answers in the shapes of chat and text completions, whole and as the events of a stream: functions of texts and tokens."""

from __future__ import annotations

import codecs
import math
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tutelage.generate.request import FinishReason, Token
from tutelage.generate.service import Delta
from tutelage.serve.openai.errors import ApiError, as_json
from tutelage.text.tokenizer import Tokenizer

Object = dict[str, Any]
_LEAST = -9999.0
"""OpenAI's number for a log-probability that is too small to print."""


@dataclass
class Choice:
    """One answer, as far as it is known."""

    index: int
    prompt: int = 0
    """The place of its prompt among several."""
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    echo: tuple[Token, ...] = ()
    """The prompt's tokens from its second on, if they were asked for and once there is a first token."""


class Usage(NamedTuple):
    """Counts of tokens: every prompt once, and all that was sampled, end tokens too."""

    prompt: int
    completion: int
    cached: int
    """Of the prompts' tokens those whose keys and values other requests had left."""

    @property
    def object(self) -> Object:
        return {
            "prompt_tokens": self.prompt,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


class Shape(Protocol):
    """What tells the kinds of answers apart. The parts of a stream are bytes of server-sent events, perhaps none."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Object:
        """The body that has everything."""

    def opening(self, choices: Sequence[Choice]) -> bytes:
        """What a stream begins with, before there is any text."""

    def news(self, choice: Choice, delta: Delta) -> bytes:
        """What is new of a choice, which is up to date."""

    def ending(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """What a stream ends with once every choice has ended."""

    def failure(self, error: ApiError) -> bytes:
        """What a stream ends with instead if it fails."""


def event(value: Object, kind: str = "") -> bytes:
    """One server-sent event."""
    return (f"event: {kind}\n".encode() if kind else b"") + b"data: " + as_json(value) + b"\n\n"


class Chunked:
    """What chat and text completions have in common: a stream is chunks with choices, then ``[DONE]``.

    ``wants_usage``: whether a stream has a last chunk with the counts, and the others say that they have none.
    """

    kind = chunk_kind = ""

    def __init__(self, prefix: str, model: str, wants_usage: bool) -> None:
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._wants_usage = wants_usage

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Object:
        found = [self._choice(choice) for choice in choices]
        return {**self._head, "object": self.kind, "choices": found, "usage": usage.object}

    def opening(self, choices: Sequence[Choice]) -> bytes:
        """An empty chunk of each choice in the order of their indices: the official client needs them so."""
        return b"".join(self._chunk(self._first(choice.index)) for choice in choices)

    def ending(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        last = {**self._head, "object": self.chunk_kind, "choices": [], "usage": usage.object}
        return (event(last) if self._wants_usage else b"") + b"data: [DONE]\n\n"

    def failure(self, error: ApiError) -> bytes:
        return event(error.body)

    def _chunk(self, choice: Object) -> bytes:
        more = {"usage": None} if self._wants_usage else {}
        return event({**self._head, "object": self.chunk_kind, "choices": [choice], **more})

    def _choice(self, choice: Choice) -> Object:
        raise NotImplementedError

    def _first(self, index: int) -> Object:
        raise NotImplementedError


class Completion(Chunked):
    """Answers of /v1/completions.

    ``echoed``: the text of each prompt and those tokens of it that nothing predicts, if the prompts are wanted before the answers.
    """

    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: str,
        *,
        logprobs: bool,
        wants_usage: bool = False,
        echoed: Sequence[tuple[str, Sequence[int]]] = (),
    ) -> None:
        super().__init__("cmpl", model, wants_usage)
        self._tokenizer, self._logprobs, self._echoed = tokenizer, logprobs, echoed
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}  # of each choice, for the offsets of its tokens
        self._lengths: Counter[int] = Counter()

    def _choice(self, choice: Choice) -> Object:
        text, tokens = self._echo(choice)
        return self._object(choice.index, text + choice.text, [*tokens, *choice.tokens], choice.finish_reason)

    def _first(self, index: int) -> Object:
        return self._object(index, "")

    def news(self, choice: Choice, delta: Delta) -> bytes:
        text, tokens = delta.text, list(delta.tokens)
        if self._echoed and choice.index not in self._lengths:
            self._lengths[choice.index] = 0
            before, prompt = self._echo(choice)
            text, tokens = before + text, [*prompt, *tokens]
        data = self._chunk(self._object(choice.index, text, tokens)) if text or (tokens and self._logprobs) else b""
        return data + (
            self._chunk(self._object(choice.index, "", (), delta.finish_reason)) if delta.finish_reason else b""
        )

    def _echo(self, choice: Choice) -> tuple[str, list[Token]]:
        if not self._echoed:
            return "", []
        text, unpredicted = self._echoed[choice.prompt]
        tokens = [*(Token(i, math.nan) for i in unpredicted), *choice.echo]
        first = next(filter(None, (self._tokenizer.token_bytes(token.id) for token in tokens)), b"")
        if first.startswith(b" ") and not text.startswith(" "):
            self._lengths[choice.index] = -1  # sentencepiece begins a text with a space that is not its own
        return text, tokens

    def _object(self, index: int, text: str, tokens: Sequence[Token] = (), reason: str | None = None) -> Object:
        logprobs = self._all_logprobs(index, tokens) if self._logprobs and tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _all_logprobs(self, index: int, tokens: Sequence[Token]) -> Object | None:
        decoder = self._decoders.setdefault(index, codecs.getincrementaldecoder("utf-8")("replace"))
        name, offsets = self._tokenizer, []
        for token in tokens:
            offsets.append(max(0, self._lengths[index]))
            self._lengths[index] += len(decoder.decode(name.token_bytes(token.id)))
        tops = [self._top(token) for token in tokens]
        return {
            "tokens": [token_text(name, token.id) for token in tokens],
            "token_logprobs": [None if math.isnan(token.logprob) else max(token.logprob, _LEAST) for token in tokens],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """The likeliest tokens, and the one that was taken whether it is one of them or not."""
        if not token.top:
            return None
        ranked = sorted(
            {*token.top, (token.id, token.logprob)}, key=lambda pair: pair[1]
        )  # the likelier of one text wins
        return {token_text(self._tokenizer, i): max(p, _LEAST) for i, p in ranked}


def token_text(tokenizer: Tokenizer, i: int) -> str:
    """What a token adds to a text; its bytes as ``bytes:\\xe4`` if they are not whole characters; a control token's name."""
    data = tokenizer.token_bytes(i)
    try:
        return data.decode() if data else tokenizer.name_of(i)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def token_object(tokenizer: Tokenizer, token: Token) -> Object:
    """A token with its log-probability and the likeliest in its place, as chat completions have it."""

    def one(i: int, logprob: float) -> Object:
        data = list(tokenizer.token_bytes(i))
        return {"token": token_text(tokenizer, i), "logprob": max(logprob, _LEAST), "bytes": data}

    return {**one(token.id, token.logprob), "top_logprobs": [one(*pair) for pair in token.top]}
