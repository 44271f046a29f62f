"""Rate limits per key: OpenAI's headers, 429 when they are reached, and a client that waits as long as it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from serving import HELLO, MODEL, Hold, running, tiny_assistant, wait_until

from tutelage.serve import limits as limits_module
from tutelage.serve.keys import Keys
from tutelage.serve.limits import Limits
from tutelage.serve.openai.errors import Busy

ANNA, BOB = "a" * 20, "b" * 20
ASK: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "seed": 1}


class Clock:
    """A time that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_fills_evenly_and_never_above_its_limit():
    clock = Clock()
    limits = Limits(requests=6, tokens=600, clock=clock)
    for _ in range(6):
        limits.admit("anna")
    with pytest.raises(Busy, match="6 requests per minute is reached: try again in 10 s") as caught:
        limits.admit("anna")
    assert caught.value.headers["retry-after"] == "10"
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    limits.admit("bob")
    clock.now += 10
    limits.admit("anna")
    with pytest.raises(Busy):
        limits.admit("anna")
    clock.now += 1000
    assert limits.headers("anna")["x-ratelimit-remaining-requests"] == "6"
    limits.reserve("anna", prompt=100, answer=500)
    limits.spend("anna", 250)
    assert limits.headers("anna") == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "6",
        "x-ratelimit-reset-requests": "0.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "250",
        "x-ratelimit-reset-tokens": "35.000s",
    }
    with pytest.raises(Busy, match="600 tokens per minute"):
        limits.reserve("anna", prompt=200, answer=60)
    limits.reserve("anna", prompt=200, answer=40)
    clock.now += 60
    limits.reserve("anna", prompt=10**6, answer=0)  # a full bucket is enough for any request
    with pytest.raises(Busy):
        limits.reserve("anna", prompt=1, answer=0)


def test_clients_whose_buckets_are_full_are_forgotten(monkeypatch):
    monkeypatch.setattr(limits_module, "MOST_CLIENTS", 10)
    clock = Clock()
    limits = Limits(requests=60, clock=clock)
    for i in range(100):
        limits.admit(f"client {i}")
        clock.now += 1
    assert len(limits._clients) <= 10
    limits.admit("client 99")
    assert limits.headers("client 99")["x-ratelimit-remaining-requests"] == "59"


def test_a_server_counts_by_key_and_says_so():
    clock = Clock()
    limited = Limits(requests=3, tokens=1000, clock=clock)
    with running(tiny_assistant(), keys=Keys({ANNA: "anna", BOB: "bob"}), limits=limited) as server:
        anna, bob = (server.client(api_key=key) for key in (ANNA, BOB))
        made = anna.chat.completions.with_raw_response.create(**ASK)
        usage = made.parse().usage
        assert made.headers["x-ratelimit-limit-requests"] == "3"
        assert made.headers["x-ratelimit-remaining-requests"] == "2"
        assert made.headers["x-ratelimit-remaining-tokens"] == str(1000 - usage.total_tokens)
        anna.responses.create(model=MODEL, input="Hi", max_output_tokens=2)
        list(anna.completions.create(model=MODEL, prompt="Hi", stream=True, max_tokens=2))
        with pytest.raises(openai.RateLimitError) as caught:
            anna.chat.completions.create(**ASK)
        headers = caught.value.response.headers
        assert (caught.value.code, headers["retry-after"]) == ("rate_limit_exceeded", "20")
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-request-id"]
        assert bob.chat.completions.create(**ASK).choices
        assert anna.models.list().data, "asking which models there are is free"
        clock.now += 20
        assert anna.chat.completions.create(**ASK).choices
        clock.now += 60
        long = {"model": MODEL, "prompt": "x" * 100, "n": 8, "max_tokens": 100, "logit_bias": {"2": -100, "0": -100}}
        anna.completions.create(**long)
        with pytest.raises(openai.RateLimitError, match="tokens per minute") as caught:
            anna.completions.create(**long)
        assert caught.value.response.headers["x-ratelimit-limit-tokens"] == "1000"
        assert server.idle()


def test_without_limits_there_are_no_headers(client):
    made = client.chat.completions.with_raw_response.create(**ASK)
    assert not [name for name in made.headers if name.startswith("x-ratelimit")]
    assert made.headers["x-request-id"]


ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "n": 8, "logit_bias": {"2": -100}},
    "/v1/completions": {
        "prompt": ["Hi"] * 4,
        "n": 2,
        "max_tokens": 200,
        "logit_bias": {"2": -100, "0": -100},
        "echo": True,
    },
    "/v1/responses": {"input": "Hi", "max_output_tokens": 200},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_frees_its_places_when_the_client_goes_away(server, path, stream):
    body = json.dumps({"model": MODEL, "stream": stream, **ENDPOINTS[path]}).encode()
    places = 1 if path == "/v1/responses" else 8

    async def ask_and_leave() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        await asyncio.to_thread(wait_until, lambda: server.served.service.waiting == places)
        writer.close()

    with Hold(server.served.service):
        asyncio.run(ask_and_leave())
    wait_until(server.idle)
    assert server.served.service.is_open
