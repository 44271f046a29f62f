"""What would differ from one execution of a run to the next: seeds by purpose, each for a stream of its own, and the time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime


def derive(seed: int, purpose: str, *keys: int | str) -> int:
    """A seed in [0, 2^63) for one use of randomness, such as ``derive(seed, "ppo.rollout", step, row)``.

    It depends on its arguments alone. ``purpose`` names the use and appears at one place in the code, so no two uses share
    random numbers.
    """
    text = "\x1f".join([str(seed), purpose, *(str(key) for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


_TIME: ContextVar[datetime | None] = ContextVar("time of the run", default=None)
"""Chat templates may print the time (``strftime_now``), which must not change between two renderings of one prompt."""


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
