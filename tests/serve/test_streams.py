"""Streams, queues and clients that go away: every place comes back, every stream ends with a reason or an error."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
from serving import HELLO, MODEL, Hold, running, tiny_assistant, wait_until

from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service
from tutelage.serve.openai import answering
from tutelage.serve.served import read

LONG: dict[str, Any] = {"model": MODEL, "messages": HELLO, "seed": 1, "logit_bias": {"2": -100}}
"""It never ends by itself: 2 is the end token."""
CHAT = "/v1/chat/completions"


def test_the_end_token_is_the_one_that_is_held_back(server):
    assert server.served.assistant.tokenizer.end_ids == {2}


def test_sixty_clients_at_once_get_what_the_model_gives_alone(server):
    """Streaming and not, of many lengths: none hangs, none gets another's text."""
    rng = random.Random(0)
    asked = [
        {"content": f"{i} the cat " * rng.randint(1, 6), "seed": i, "max_tokens": rng.randint(1, 20), "n": rng.choice([1, 1, 2])}
        for i in range(60)
    ]  # fmt: skip

    def ask(given: dict[str, Any]) -> list[str]:
        messages = [{"role": "user", "content": given["content"]}]
        options = {"model": MODEL, "messages": messages} | {name: given[name] for name in ("seed", "max_tokens", "n")}
        if given["seed"] % 2:
            return [choice.message.content for choice in client.chat.completions.create(**options).choices]
        texts = [""] * given["n"]
        for chunk in client.chat.completions.create(**options, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return texts

    with server.client(timeout=300) as client, ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(ask, asked))
    for given, texts in zip(asked, answers, strict=True):
        sampling = Sampling(seed=given["seed"], max_tokens=given["max_tokens"], n=given["n"])
        alone = server.served.assistant.chat([{"role": "user", "content": given["content"]}], sampling)
        assert [text.strip() for text in texts] == ([alone] if given["n"] == 1 else alone)
    wait_until(server.idle)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("queued", [False, True])
def test_a_client_that_goes_away_frees_its_place(server, stream, queued):
    """While it waits in the queue, and while its answer is written."""
    body = LONG | {"stream": stream, "n": 8}
    before = server.metric("tutelage_requests_total", route=CHAT, status="499" if not stream else "200")

    async def ask_and_leave(there: Any) -> None:
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        if stream:
            await reader.readuntil(b"data: ")
        await asyncio.to_thread(wait_until, there)
        writer.close()

    if queued:
        with Hold(server.served.service):
            asyncio.run(ask_and_leave(lambda: server.served.service.waiting == 8))
        assert server.served.service.is_open
    else:
        asyncio.run(ask_and_leave(lambda: server.served.service.active == 8))
    wait_until(server.idle)
    name = {"route": CHAT, "status": "200" if stream else "499"}
    wait_until(lambda: server.metric("tutelage_requests_total", **name) == before + 1)


def test_a_place_that_was_given_up_was_not_used_to_the_end(server):
    """The answer would fill the context; a client that left early has cost less."""
    before = server.metric("tutelage_generated_tokens_total")
    with server.client() as client:
        stream = client.chat.completions.create(**LONG, n=8, stream=True, logprobs=True)
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        stream.close()
    wait_until(server.idle)
    room = server.served.assistant.context - len(server.served.assistant.encode(HELLO))
    assert server.metric("tutelage_generated_tokens_total") - before < 8 * room


def test_a_full_queue_is_429_and_the_clients_retry_succeeds():
    with running(tiny_assistant(), max_batch=2, max_waiting=4) as server, server.client() as client:
        asked = {"model": MODEL, "messages": HELLO, "max_tokens": 2, "seed": 1}
        alone = client.chat.completions.create(**asked).choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="ask for fewer at once"):
            client.chat.completions.create(**asked, n=3)
        hold = Hold(server.served.service)
        with ThreadPoolExecutor(8) as threads:
            with hold:
                waiting = [threads.submit(client.chat.completions.create, **asked) for _ in range(4)]
                wait_until(lambda: server.served.service.waiting == 4)
                with pytest.raises(openai.RateLimitError) as caught:
                    client.chat.completions.create(**asked)
                assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
                assert caught.value.code == "queue_full"
                refused = server.metric("tutelage_requests_total", route=CHAT, status="429")
                late = threads.submit(server.client(max_retries=2).chat.completions.create, **asked)
                wait_until(lambda: server.metric("tutelage_requests_total", route=CHAT, status="429") > refused)
            assert late.result().choices[0].message.content == alone
            assert [one.result().choices[0].message.content for one in waiting] == [alone] * 4


def test_a_stream_whose_engine_fails_ends_with_an_error_and_the_next_request_is_answered():
    """Weights that become NaN while answers are written, as a damaged model's would be."""
    assistant = tiny_assistant()
    weight = assistant.decoder.final_norm.weight
    with running(assistant) as server, server.client() as client:
        with torch.no_grad():
            kept = weight[3].item()
        stream = client.chat.completions.create(**LONG, stream=True, logprobs=True)
        assert next(stream).choices[0].delta.role == "assistant"
        with torch.no_grad():
            weight[3] = math.nan
        with pytest.raises(openai.APIError, match="logits are not finite") as caught:
            for _ in stream:
                pass
        assert caught.value.code == "generation_failed"
        for asked in ({"stream": False}, {"stream": True}):
            with server.http() as http:
                said = http.post(CHAT, json=LONG | asked)
            assert said.status_code == (200 if asked["stream"] else 500)
            assert "[DONE]" not in said.text
            last = json.loads(said.text.strip().split("data: ")[-1])["error"]
            assert (last["type"], last["code"]) == ("server_error", "generation_failed")
        with torch.no_grad():
            weight[3] = kept
        assert client.chat.completions.create(**LONG, max_tokens=3).choices[0].message.content
        assert server.idle()


def test_a_stream_is_served_with_headers_that_proxies_respect_and_ends_with_done(server):
    with server.http() as http:
        said = http.post(CHAT, json=LONG | {"stream": True, "max_tokens": 4, "n": 2})
    assert said.headers["content-type"].startswith("text/event-stream")
    assert said.headers["cache-control"] == "no-cache"
    *chunks, done, empty = said.text.split("\n\n")
    assert (done, empty) == ("data: [DONE]", "")
    bodies = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert [body["choices"][0]["index"] for body in bodies[:2]] == [0, 1]
    assert [body["choices"][0]["finish_reason"] for body in bodies].count("length") == 2


def test_a_stream_that_waits_is_pinged_by_comments(server, monkeypatch):
    monkeypatch.setattr(answering, "PATIENCE", 0.02)
    pinged = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        with Hold(server.served.service):

            def ask() -> list[str]:
                with (
                    server.http() as http,
                    http.stream("POST", CHAT, json=LONG | {"stream": True, "max_tokens": 2}) as said,
                ):
                    lines = []
                    for line in said.iter_lines():
                        lines.append(line)
                        if line == ": ping":
                            pinged.set()
                    return lines

            asked = thread.submit(ask)
            assert pinged.wait(60)
        lines = asked.result()
    assert lines[-2:] == ["data: [DONE]", ""]
    assert {line.partition(" ")[0] for line in lines} == {"data:", ":", ""}


def test_text_comes_in_few_chunks_and_log_probabilities_are_not_held_back(monkeypatch):
    """With a pause longer than the answer takes, all of its text comes in at most two chunks; the end is not waited for."""
    assistant = tiny_assistant()

    async def chunks(pause: float) -> list[int]:
        with Service(assistant.decoder, assistant.tokenizer, autocast="fp32") as service:
            tickets = service.submit_all(
                [answering.Request(assistant.encode(HELLO), Sampling(max_tokens=200, seed=i)) for i in range(3)]
            )
            found = [deltas async for deltas in read(tickets, pause=pause, patience=60)]
        assert sum(len(delta.tokens) for deltas in found for _, delta in deltas) == sum(
            len(sample.ids) for ticket in tickets for sample in ticket.result()
        )
        return [len(deltas) for deltas in found]

    assert len(asyncio.run(chunks(600.0))) <= 2
    assert len(asyncio.run(chunks(0.0))) > 2


def test_whoever_asks_for_log_probabilities_gets_each_token_at_once(monkeypatch):
    """Of the real server, whose pause is longer here than an answer takes, and whose tokens take a while."""
    monkeypatch.setattr(answering, "PAUSE", 600.0)
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")
    with running(tiny_assistant()) as server, server.client() as client:
        asked = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 200,
            "seed": 1,
        }
        texts = sum(
            bool(chunk.choices[0].delta.content) for chunk in client.chat.completions.create(**asked, stream=True)
        )
        ranked = client.chat.completions.create(**asked, stream=True, logprobs=True)
        tokens = [len(chunk.choices[0].logprobs.content) for chunk in ranked if chunk.choices[0].logprobs]
    assert texts <= 2
    assert len(tokens) > 2


def test_a_signal_lets_answers_finish_and_then_ends_streams_with_an_error():
    with running(tiny_assistant(), grace=0.2) as server, server.client() as client, ThreadPoolExecutor(3) as threads:
        with Hold(server.served.service) as hold:
            stream = client.chat.completions.create(**LONG, stream=True)
            assert next(stream).choices[0].delta.role == "assistant"
            whole = threads.submit(client.chat.completions.create, **LONG)
            wait_until(lambda: server.served.service.waiting == 2)
            server.server.should_exit = True
            wait_until(lambda: not server.served.service.is_open)
            hold.opened.set()
        with pytest.raises(openai.APIError, match="shutting down"):
            for _ in stream:
                pass
        with pytest.raises(openai.InternalServerError) as caught:
            whole.result()
        assert caught.value.status_code == 503
        server.thread.join()


def test_a_signal_waits_for_what_ends_in_time():
    with running(tiny_assistant(), grace=60.0) as server, server.client() as client:
        stream = client.chat.completions.create(**LONG, stream=True, max_tokens=20)
        next(stream)
        server.server.should_exit = True
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        server.thread.join()
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
