"""An answer that is being written, as Server-Sent Events that render only what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio

from tutelage.serve.pages.backend import Answer
from tutelage.serve.pages.endpoints import Piece
from tutelage.serve.pages.markdown import render, split_blocks

INTERVAL = 0.05
"""Seconds between two looks at an answer: 20 updates a second."""
PING = 10.0
"""Seconds of silence after which a comment keeps proxies from closing the connection."""


class View:
    """What a page that watches an answer has been sent. ``after``: the closed blocks that it had before."""

    def __init__(self, after: int = 0) -> None:
        self._skip = after
        self._closed = 0
        self._read = 0  # characters of the answer that are in closed blocks or in the rest
        self._rest = ""
        self._last: tuple[int, str] | None = None

    def piece(self, answer: Answer) -> Piece | None:
        """What is new, or None. After Stop an answer may be shorter than what was sent: then all of it is sent again."""
        text = answer.text
        if answer.state == "writing" and text.endswith("\r"):
            text = text[:-1]  # a line feed may follow, which is the same line end
        if (len(text), answer.state) == self._last:
            return None
        self._last = len(text), answer.state
        if len(text) < self._read:
            self._skip = self._closed = self._read = 0
            self._rest = ""
        blocks, self._rest = split_blocks(self._rest + text[self._read :])
        self._read = len(text)
        if answer.state != "writing":
            blocks, self._rest = [*blocks, self._rest] if self._rest.strip() else blocks, ""
        first = max(0, self._skip - self._closed)
        self._closed += len(blocks)
        return Piece(
            blocks=[render(block) for block in blocks[first:]],
            open=render(self._rest),
            after=self._closed,
            seen=len(text),
            state=answer.state,
        )


async def events(read: Callable[[], Answer], after: int) -> AsyncIterator[str]:
    """The events until the answer is finished. ``read`` is called in a thread."""
    view, silence = View(after), 0.0

    def look() -> tuple[Piece | None, bool]:
        answer = read()
        return view.piece(answer), answer.state != "writing"

    while True:
        piece, finished = await anyio.to_thread.run_sync(look)
        if piece:
            silence = 0.0
            yield f"id: {piece.after}\ndata: {piece.model_dump_json()}\n\n"
        elif silence >= PING:
            silence = 0.0
            yield ": ping\n\n"
        if finished:
            return
        await anyio.sleep(INTERVAL)
        silence += INTERVAL
