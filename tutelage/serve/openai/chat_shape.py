"""Answers in the shape of chat completions."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.generate.request import Token
from tutelage.generate.service import Delta
from tutelage.serve.openai.shapes import Choice, Chunked, Object, token_object
from tutelage.text.tokenizer import Tokenizer


class Chat(Chunked):
    """Answers of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, model: str, *, logprobs: bool, wants_usage: bool = False) -> None:
        super().__init__("chatcmpl", model, wants_usage)
        self._tokenizer, self._logprobs = tokenizer, logprobs

    def _choice(self, choice: Choice) -> Object:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        rest = {"logprobs": self._all_logprobs(choice.tokens), "finish_reason": choice.finish_reason}
        return {"index": choice.index, "message": message, **rest}

    def _first(self, index: int) -> Object:
        return self._delta(index, {"role": "assistant", "content": ""})

    def news(self, choice: Choice, delta: Delta) -> bytes:
        data = b""
        if delta.text or (delta.tokens and self._logprobs):
            data += self._chunk(self._delta(choice.index, {"content": delta.text}, self._all_logprobs(delta.tokens)))
        if delta.finish_reason:
            data += self._chunk(self._delta(choice.index, {}, None, delta.finish_reason))
        return data

    def _delta(self, index: int, delta: Object, logprobs: Object | None = None, reason: str | None = None) -> Object:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _all_logprobs(self, tokens: Sequence[Token]) -> Object | None:
        if not self._logprobs:
            return None
        return {"content": [token_object(self._tokenizer, token) for token in tokens], "refusal": None}
