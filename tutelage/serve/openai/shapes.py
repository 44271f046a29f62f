"""Answers in OpenAI's shapes, whole and as chunks: pure functions of texts and tokens."""

from __future__ import annotations

import codecs
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tutelage.generate.request import FinishReason, Token
from tutelage.text.tokenizer import Tokenizer

Object = dict[str, Any]
_LEAST = -9999.0
"""OpenAI's number for a log-probability that is too small to print."""


@dataclass
class Choice:
    """One answer, as far as it is known."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Shape(Protocol):
    """What tells chat and text completions apart."""

    id: str
    object: str
    chunk_object: str

    def whole(self, choice: Choice) -> Object:
        """A choice of the body that has everything."""

    def opening(self, index: int) -> Object:
        """A choice's first chunk, before there is any text."""

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> Object:
        """A choice's chunk with what is new."""

    def end(self, index: int, reason: str) -> Object:
        """A choice's last chunk."""


class Chat:
    """Choices of /v1/chat/completions."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, logprobs: bool) -> None:
        self.id, self._tokenizer, self._logprobs = f"chatcmpl-{uuid.uuid4().hex}", tokenizer, logprobs

    def whole(self, choice: Choice) -> Object:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        rest = {"logprobs": self._all_logprobs(choice.tokens), "finish_reason": choice.finish_reason}
        return {"index": choice.index, "message": message, **rest}

    def opening(self, index: int) -> Object:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> Object:
        return self._chunk(index, {"content": text}, self._all_logprobs(tokens))

    def end(self, index: int, reason: str) -> Object:
        return self._chunk(index, {}, None, reason)

    def _chunk(self, index: int, delta: Object, logprobs: Object | None = None, reason: str | None = None) -> Object:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _all_logprobs(self, tokens: Sequence[Token]) -> Object | None:
        if not self._logprobs:
            return None
        content = [
            {**self._one(token.id, token.logprob), "top_logprobs": [self._one(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, i: int, logprob: float) -> Object:
        return {
            "token": token_text(self._tokenizer, i),
            "logprob": max(logprob, _LEAST),
            "bytes": list(self._tokenizer.token_bytes(i)),
        }


class Completion:
    """Choices of /v1/completions."""

    object = chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, logprobs: bool) -> None:
        self.id, self._tokenizer, self._logprobs = f"cmpl-{uuid.uuid4().hex}", tokenizer, logprobs
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}  # of each choice, for the offsets of its tokens
        self._lengths: Counter[int] = Counter()

    def whole(self, choice: Choice) -> Object:
        return {**self.piece(choice.index, choice.text, choice.tokens), "finish_reason": choice.finish_reason}

    def opening(self, index: int) -> Object:
        return self._chunk(index, "")

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> Object:
        return self._chunk(index, text, self._all_logprobs(index, tokens))

    def end(self, index: int, reason: str) -> Object:
        return self._chunk(index, "", None, reason)

    def _chunk(self, index: int, text: str, logprobs: Object | None = None, reason: str | None = None) -> Object:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _all_logprobs(self, index: int, tokens: Sequence[Token]) -> Object | None:
        if not self._logprobs:
            return None
        decoder = self._decoders.setdefault(index, codecs.getincrementaldecoder("utf-8")("ignore"))
        name, offsets = self._tokenizer, []
        for token in tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(decoder.decode(name.token_bytes(token.id)))
        tops = [{token_text(name, i): max(p, _LEAST) for i, p in reversed(token.top)} for token in tokens]
        return {
            "tokens": [token_text(name, token.id) for token in tokens],
            "token_logprobs": [max(token.logprob, _LEAST) for token in tokens],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }


def token_text(tokenizer: Tokenizer, i: int) -> str:
    """What a token adds to a text; its bytes as ``bytes:\\xe4`` if they are not whole characters; a control token's name."""
    data = tokenizer.token_bytes(i)
    try:
        return data.decode() if data else tokenizer.name_of(i)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(prompt_tokens: int, completion_tokens: int) -> Object:
    """Counts of tokens: every prompt once, and all that was sampled, end tokens too."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
