"""The time that a run takes for now: one for the whole run, resumed or not, in all its processes.

Chat templates may print the time (``strftime_now``). What they print must not change between two renderings of one prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

_TIME: ContextVar[datetime | None] = ContextVar("time of the run", default=None)


def present_time() -> datetime:
    """The run's time inside ``stopped_at``, else the time."""
    return _TIME.get() or datetime.now()


@contextmanager
def stopped_at(time: datetime | None) -> Iterator[None]:
    """In this context the time is always the same; None changes nothing."""
    token = _TIME.set(time or _TIME.get())
    try:
        yield
    finally:
        _TIME.reset(token)
