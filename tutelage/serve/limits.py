"""How much each client may ask per minute, and the headers that tell it, as OpenAI's API has them.

A bucket per client holds what it may still ask, and fills evenly: a minute's worth in a minute, and never more than that. A request
needs room for its prompt and its longest answer; it is charged for the prompt when it comes, and for the answer as it is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tutelage.serve.openai.errors import LONGEST_WAIT, Busy

MOST_CLIENTS = 10_000
"""Clients that are remembered; beyond, those whose buckets are full are forgotten, which changes nothing for them."""


@dataclass
class Bucket:
    """``limit`` per minute, and ``level`` of it left at the time ``at`` [s]. The level may fall below zero."""

    limit: int
    level: float
    at: float

    def fill(self, now: float) -> None:
        self.level = min(self.limit, self.level + (now - self.at) * self.limit / 60)
        self.at = now

    def wait(self, wanted: float) -> float:
        """Seconds until it holds so much."""
        return max(0.0, (wanted - self.level) * 60 / self.limit)


class Limits:
    """The buckets of all clients. A limit of 0 is none. Used by one thread."""

    def __init__(self, requests: int = 0, tokens: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = {kind: limit for kind, limit in (("requests", requests), ("tokens", tokens)) if limit}
        self._clients: dict[str, dict[str, Bucket]] = {}
        self._clock = clock

    def _buckets(self, client: str) -> dict[str, Bucket]:
        now = self._clock()
        if client not in self._clients and len(self._clients) >= MOST_CLIENTS:
            for name, buckets in list(self._clients.items()):
                for bucket in buckets.values():
                    bucket.fill(now)
                if all(bucket.level == bucket.limit for bucket in buckets.values()):
                    del self._clients[name]
        fresh = {kind: Bucket(limit, limit, now) for kind, limit in self._limits.items()}
        found = self._clients.setdefault(client, fresh)
        for bucket in found.values():
            bucket.fill(now)
        return found

    def admit(self, client: str) -> None:
        """Count a request. Busy if the client has made too many."""
        self._take(client, "requests", 1, 1)

    def reserve(self, client: str, prompt: int, answer: int) -> None:
        """Charge a request for its prompt. Busy if there is not room for its longest answer too [tokens]."""
        self._take(client, "tokens", prompt + answer, prompt)

    def spend(self, client: str, tokens: int) -> None:
        """Charge for tokens that were written."""
        if bucket := self._buckets(client).get("tokens"):
            bucket.level -= tokens

    def _take(self, client: str, kind: str, wanted: int, taken: int) -> None:
        bucket = self._buckets(client).get(kind)
        if bucket is None:
            return
        if wait := bucket.wait(min(wanted, bucket.limit)):  # a full bucket is enough for any request
            said = f"the limit of {bucket.limit} {kind} per minute is reached: try again in {math.ceil(wait)} s"
            headers = {**self.headers(client), "retry-after": str(min(math.ceil(wait), LONGEST_WAIT))}
            raise Busy(said, code="rate_limit_exceeded", headers=headers)
        bucket.level -= taken

    def headers(self, client: str) -> dict[str, str]:
        """What a client may still ask, and when its buckets are full again."""
        found = {}
        for kind, bucket in self._buckets(client).items():
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
            found[f"x-ratelimit-reset-{kind}"] = f"{bucket.wait(bucket.limit):.3f}s"
        return found
