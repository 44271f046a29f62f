"""Answers in the shape of chat completions."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence

from tutelage.generate.request import Token
from tutelage.generate.service import Delta
from tutelage.serve.openai.shapes import Choice, Chunked, Object, token_object
from tutelage.serve.openai.tools import Calling
from tutelage.text.tokenizer import Tokenizer
from tutelage.text.tools import CallReader


def call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class Chat(Chunked):
    """Answers of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: str,
        *,
        logprobs: bool,
        wants_usage: bool = False,
        calling: Calling | None = None,
    ) -> None:
        super().__init__("chatcmpl", model, wants_usage)
        self._tokenizer, self._logprobs, self._calling = tokenizer, logprobs, calling
        self._readers: dict[int, CallReader] = defaultdict(calling.reader) if calling else {}  # by index

    def _choice(self, choice: Choice) -> Object:
        message, reason = self._message(choice)
        rest = {"logprobs": self._all_logprobs(choice.tokens), "finish_reason": reason}
        return {"index": choice.index, "message": message, **rest}

    def _message(self, choice: Choice) -> tuple[Object, str | None]:
        if self._calling is None:
            return {"role": "assistant", "content": choice.text, "refusal": None}, choice.finish_reason
        reader, calls, content = self._calling.reader(), list[Object](), ""
        for kind, text in [*reader.push(choice.text), *reader.finish()]:
            if kind == "content":
                content += text
            elif kind == "name":
                calls.append({"id": call_id(), "type": "function", "function": {"name": text, "arguments": ""}})
            else:
                calls[-1]["function"]["arguments"] += text
        message = {
            "role": "assistant",
            "content": content or (None if calls or self._calling.forced else ""),
            "refusal": None,
        }
        return message | ({"tool_calls": calls} if calls else {}), _ended(reader, choice.finish_reason)

    def _first(self, index: int) -> Object:
        return self._delta(index, {"role": "assistant", "content": None if self._calling else ""})

    def news(self, choice: Choice, delta: Delta) -> bytes:
        index, reason = choice.index, delta.finish_reason
        deltas: list[Object] = [{"content": delta.text}] if delta.text else []
        ended: str | None = reason
        if self._calling is not None:
            reader = self._readers[index]
            pieces = [*reader.push(delta.text), *(reader.finish() if reason else ())]
            deltas, place = [], reader.called - sum(piece.kind == "name" for piece in pieces) - 1
            for kind, text in pieces:
                place += kind == "name"
                deltas.append({"content": text} if kind == "content" else {"tool_calls": [_call(place, kind, text)]})
            if reason and not choice.text and not self._calling.forced:
                deltas.append({"content": ""})  # as in a whole answer; until here it might have become a call
            ended = _ended(reader, reason)
        logprobs = self._all_logprobs(delta.tokens) if delta.tokens else None
        if logprobs and not deltas:
            deltas = [{"content": ""} if self._calling is None else {}]
        parts = [self._delta(index, part, logprobs if i == 0 else None) for i, part in enumerate(deltas)]
        return b"".join(map(self._chunk, [*parts, self._delta(index, {}, None, ended)] if ended else parts))

    def _delta(self, index: int, delta: Object, logprobs: Object | None = None, reason: str | None = None) -> Object:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _all_logprobs(self, tokens: Sequence[Token]) -> Object | None:
        if not self._logprobs:
            return None
        return {"content": [token_object(self._tokenizer, token) for token in tokens], "refusal": None}


def _ended(reader: CallReader, reason: str | None) -> str | None:
    """The finish reason of an answer that may have calls. One that a stop string or an end token cuts counts as cut by length."""
    return reason if reason != "stop" or not reader.called else "length" if reader.cut else "tool_calls"


def _call(place: int, kind: str, text: str) -> Object:
    """A part of a call: its id and name come once, with the first."""
    if kind == "name":
        return {"index": place, "id": call_id(), "type": "function", "function": {"name": text, "arguments": ""}}
    return {"index": place, "function": {"arguments": text}}
