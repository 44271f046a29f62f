"""The model that is served, and the bridge from the service's thread to coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Receive

from tutelage.assistant.assistant import Assistant
from tutelage.generate.service import Delta, Service, Ticket


@dataclass(frozen=True)
class Served:
    """A model that answers. Requests that have begun keep theirs when another takes its place."""

    id: str
    created: int
    """Seconds since 1970."""
    assistant: Assistant
    service: Service
    hash: str = ""
    """Of the checkpoint's content, by which the store knows it."""


class News:
    """Wakes one coroutine when there is news of any of several tickets."""

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self._tickets, self._loop = tickets, asyncio.get_running_loop()
        self._some, self._ended = asyncio.Event(), asyncio.Event()
        self._rung = False  # the loop has been called and has not looked yet: one call is enough
        for ticket in tickets:
            ticket.listen(self._ring)

    def _ring(self) -> None:
        """Called by the service's thread."""
        ended = not any(ticket.running for ticket in self._tickets)
        if ended or not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tell, ended)

    def _tell(self, ended: bool) -> None:
        self._some.set()
        if ended:
            self._ended.set()

    async def some(self, seconds: float) -> bool:
        """Wait for news; False if there was none. Once all tickets have ended there is always news."""
        if not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._some.wait()
        there = self._some.is_set() or self._ended.is_set()
        self._some.clear()
        self._rung = False
        return there

    async def all_ended(self, seconds: float) -> None:
        """Wait until all tickets have ended, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()


async def read(
    tickets: Sequence[Ticket], *, pause: float, patience: float, soon: float | None = None
) -> AsyncIterator[list[tuple[int, Delta]]]:
    """What is new of the tickets, each delta with its ticket's place, until all have ended.

    After news it waits ``pause`` seconds before it looks again, unless all have ended. Yields an empty list whenever nothing
    has come for ``patience`` seconds, the first time for ``soon``. Raises the exception that ended a ticket.
    """
    news, seen = News(tickets), [ticket.unseen() for ticket in tickets]
    wait = patience if soon is None else soon
    while any(seen):
        there = await news.some(wait)
        wait = patience
        if not there:
            yield []
            continue
        deltas = [(place, delta) for place, ticket in enumerate(tickets) for delta in ticket.take(seen[place])]
        if deltas:
            yield deltas
            if pause:
                await news.all_ended(pause)


@asynccontextmanager
async def cancelled_when_gone(receive: Receive, tickets: Sequence[Ticket]) -> AsyncIterator[None]:
    """Cancel the tickets when the client goes away, or when the block is left."""

    def cancel() -> None:
        for ticket in tickets:
            ticket.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        cancel()
