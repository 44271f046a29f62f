"""What the server counts, as Prometheus reads it. No text of anybody's goes in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tutelage.generate.service import Service
from tutelage.serve.openai.errors import LONGEST_WAIT

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_MEMORY = 0.9
"""Weight of the past in the mean time that an answer takes once it has begun: about the last ten count."""


class Metrics:
    """Counters of one application. ``service`` returns the service that is in use."""

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service, self.registry = service, (registry := CollectorRegistry())
        self.requests = Counter(
            "tutelage_requests",
            "Requests that were answered, by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.prompt_tokens = Counter("tutelage_prompt_tokens", "Tokens of prompts", registry=registry)
        self.generated_tokens = Counter("tutelage_generated_tokens", "Tokens that were generated", registry=registry)
        self.first_token = Histogram(
            "tutelage_time_to_first_token_seconds", "From request to first token", buckets=_SECONDS, registry=registry
        )
        Gauge("tutelage_waiting", "Samples that wait for a place", registry=registry).set_function(
            lambda: service().waiting
        )
        Gauge("tutelage_running", "Samples that are being generated", registry=registry).set_function(
            lambda: service().active
        )
        self._mean = 1.0

    def retry_after(self) -> int:
        """Seconds after which the queue has probably moved: from 1, because clients ignore 0, to LONGEST_WAIT."""
        service = self._service()
        return min(LONGEST_WAIT, max(1, math.ceil(self._mean * (1 + service.waiting / service.max_batch))))

    def page(self) -> bytes:
        return generate_latest(self.registry)


class Counting:
    """Counts one request as its answer is read: its tokens, the time to the first, and how long it took.

    ``started``: ``time.perf_counter()`` when the request came.
    """

    def __init__(self, metrics: Metrics, prompt_tokens: int, started: float) -> None:
        self._metrics, self._started = metrics, started
        self._first: float | None = None  # when the first token came
        metrics.prompt_tokens.inc(prompt_tokens)

    def took(self, tokens: int) -> None:
        """Note that so many tokens came."""
        if self._first is None:
            self._first = time.perf_counter()
            self._metrics.first_token.observe(self._first - self._started)
        self._metrics.generated_tokens.inc(tokens)

    def ended(self) -> None:
        """Note that the answer is whole."""
        now = time.perf_counter()
        took = now - (self._first or now)  # without the wait in the queue, which ``retry_after`` makes of it
        self._metrics._mean = _MEMORY * self._metrics._mean + (1 - _MEMORY) * took
