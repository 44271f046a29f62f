"""Answers in the shape of /v1/responses: one response with items, and the events that build it up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from tutelage.generate.request import Token
from tutelage.generate.service import Delta
from tutelage.serve.openai.chat_shape import call_id
from tutelage.serve.openai.errors import ApiError
from tutelage.serve.openai.responses import ResponsesRequest
from tutelage.serve.openai.shapes import Choice, Object, Usage, event, token_object
from tutelage.serve.openai.tools import Calling
from tutelage.text.tokenizer import Tokenizer
from tutelage.text.tools import Piece


class Response:
    """The answer to a request. Its items are a message, or calls of functions, in the order in which they are written."""

    def __init__(self, tokenizer: Tokenizer, model: str, asked: ResponsesRequest, calling: Calling | None) -> None:
        self._id, self._created, self._model, self._asked = f"resp_{uuid.uuid4().hex}", int(time.time()), model, asked
        self._reader = calling.reader() if calling else None
        self._items: list[Object] = []
        self._open = False  # whether the last item is unfinished
        self._events = 0
        self._tokenizer = tokenizer
        self._tokens: list[Token] = []  # whose log-probabilities are wanted, and whose text is not told yet

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Object:
        (choice,) = choices
        self.news(choice, Delta(0, choice.text, tuple(choice.tokens), choice.finish_reason))
        return self._final(choice, usage)

    def opening(self, choices: Sequence[Choice]) -> bytes:
        begun = self._object("in_progress", None)
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def news(self, choice: Choice, delta: Delta) -> bytes:
        self._tokens += delta.tokens if self._asked.ranked is not None else ()
        pieces = [Piece("content", delta.text)] if delta.text else []
        if self._reader is not None:
            pieces = [*self._reader.push(delta.text), *(self._reader.finish() if delta.finish_reason else ())]
        data = b"".join(map(self._take, pieces))
        if delta.finish_reason:
            data += b"" if self._items else self._begin_message()
            data += self._take(Piece("content", "")) if self._tokens else b""
            data += self._finish(self._status(choice))
        return data

    def ending(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        final = self._final(choices[0], usage)
        return self._event(f"response.{final['status']}", response=final)

    def failure(self, error: ApiError) -> bytes:
        """The last event has the error in two places: programs read ``message``, and the official client raises ``error``."""
        said = {"code": error.code or error.type, "message": str(error)}
        failed = {**self._object("failed", None), "error": said}
        return self._event("response.failed", response=failed) + self._event(
            "error", **said, param=error.param, **error.body
        )

    def _take(self, piece: Piece) -> bytes:
        kind, text = piece
        if kind == "name":
            return self._finish("completed") + self._begin_call(text)
        if kind == "arguments":
            item, more = self._items[-1], {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
            item["arguments"] += text
            return self._event("response.function_call_arguments.delta", **more, delta=text)
        data = b""
        if not self._open or self._items[-1]["type"] != "message":
            data = self._finish("completed") + self._begin_message()
        (part,), logprobs = self._items[-1]["content"], [token_object(self._tokenizer, token) for token in self._tokens]
        self._tokens.clear()
        part["text"] += text
        part["logprobs"] += logprobs
        return data + self._event("response.output_text.delta", **self._part, delta=text, logprobs=logprobs)

    @property
    def _part(self) -> Object:
        """Where the text of the last item belongs."""
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, "content_index": 0}

    def _begin(self, item: Object) -> bytes:
        self._items.append(item)
        self._open = True
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _begin_message(self) -> bytes:
        name = f"msg_{uuid.uuid4().hex}"
        item: Object = {"id": name, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        data = self._begin(item)
        item["content"] = [part := {"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
        return data + self._event("response.content_part.added", **self._part, part=part)

    def _begin_call(self, name: str) -> bytes:
        item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress", "call_id": call_id()}
        return self._begin({**item, "name": name, "arguments": ""})

    def _finish(self, status: str) -> bytes:
        """End the item that is open."""
        if not self._open:
            return b""
        self._open, item, place = False, self._items[-1], len(self._items) - 1
        item["status"] = status
        if item["type"] == "message":
            (part,) = item["content"]
            data = self._event("response.output_text.done", **self._part, text=part["text"], logprobs=part["logprobs"])
            data += self._event("response.content_part.done", **self._part, part=part)
        else:
            more = {"item_id": item["id"], "output_index": place, "name": item["name"], "arguments": item["arguments"]}
            data = self._event("response.function_call_arguments.done", **more)
        return data + self._event("response.output_item.done", output_index=place, item=item)

    def _event(self, kind: str, **fields: object) -> bytes:
        self._events += 1
        return event({"type": kind, "sequence_number": self._events - 1, **fields}, kind)

    def _status(self, choice: Choice) -> str:
        """How the response and its last item end: a call that an end token has cut counts as cut by length."""
        cut = self._reader is not None and self._reader.cut
        return "completed" if choice.finish_reason == "stop" and not cut else "incomplete"

    def _final(self, choice: Choice, usage: Usage) -> Object:
        return self._object(self._status(choice), usage)

    def _object(self, status: str, usage: Usage | None) -> Object:
        asked = self._asked
        counts = usage and {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
        given = asked.model_dump(by_alias=True, exclude_none=True, include={"tools", "tool_choice", "text"})
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": (asked.model_extra or {}).get("metadata") or {},
            "model": self._model,
            "output": self._items,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "text": {"format": {"type": "text"}, **given.get("text", {})},
            "tool_choice": given.get("tool_choice", "auto"),
            "tools": given.get("tools", []),
            "top_logprobs": asked.top_logprobs or 0,
            "truncation": "disabled",
            "usage": counts,
        }
