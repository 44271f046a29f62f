"""Serving: 32 people ask at once over HTTP, with questions and answers of mixed lengths, and read their answers as streams.

The same client asks every server for chat completions: tokens per second by the servers' own counts, and the 95th percentile of
the time to the first text of an answer.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "Serving"
STREAMS = 32
WORDS = (
    "the",
    "town",
    "is",
    "near",
    "a",
    "river",
    "and",
    "people",
    "live",
    "there",
    "say",
    "that",
    "it",
    "has",
    "an",
    "old",
)
FIRST = "p95 to the first text"
BATCHING = ("--continuous-batching", "--cb-max-memory-percent", "0.1")
"""Its cache would take most of the memory otherwise."""


def cases(prepared: Prepared) -> Iterator[Case]:
    model, gguf = prepared.model("S"), {kind: prepared.gguf("S", kind) for kind in ("bf16", "f32", "q8_0")}
    sides = [
        Side("tutelage", "as shipped", tutelage, {"model": model}),
        Side("tutelage", "bf16", tutelage, {"model": model, "options": ["--precision", "bf16"]}),
        Side("llama.cpp", "as shipped, BF16", llama_cpp, {"gguf": gguf["bf16"]}),
        Side("llama.cpp", "32 slots, BF16", llama_cpp, {"gguf": gguf["bf16"], "slots": STREAMS}),
        Side("llama.cpp", "32 slots, F32", llama_cpp, {"gguf": gguf["f32"], "slots": STREAMS}),
        Side("llama.cpp quantised", "32 slots, Q8_0", llama_cpp, {"gguf": gguf["q8_0"], "slots": STREAMS}),
        Side("transformers serve", "as shipped", transformers, {"model": model}),
        Side(
            "transformers serve",
            "continuous batching",
            transformers,
            {"model": model, "options": BATCHING},
        ),
    ]
    settings = {"streams": STREAMS, "longest": 16 if prepared.quick else 96}
    yield Case(f"S, {STREAMS} streams", "tokens/s", sides, settings, {FIRST: "s, " + FIRST})


def tutelage(model: str, options: tuple[str, ...] = (), **load: int) -> Turn:
    port, store = free_port(), Path(tempfile.mkdtemp()) / "bench.db"
    words = ["-m", "tutelage", "serve", model, "--port", str(port), "--store", str(store), "--no_pages", *options]
    return asking("default", port, [sys.executable, *words], **load)


def llama_cpp(gguf: str, slots: int = 0, **load: int) -> Turn:
    port = free_port()
    return asking(
        "default", port, [sys.executable, "-m", "bench.llama_server", gguf, str(port), str(slots), "256"], **load
    )


def transformers(model: str, options: tuple[str, ...] = (), **load: int) -> Turn:
    port = free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    words = ["serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *options]
    return asking(model, port, [program, *words], **load)


def asking(model: str, port: int, command: list[str], streams: int, longest: int) -> Turn:
    """Start a server; a turn asks it for ``streams`` answers at once."""
    server = subprocess.Popen(command)

    def ask(body: bytes) -> tuple[int, float]:
        try:
            return stream(port, body)
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {server.returncode}") from None
            raise

    small = json.dumps(next(questions(1, 6))[0] | {"model": model}).encode()
    while True:
        try:
            ask(small)
            break
        except OSError:  # not listening yet, or 503 while it loads the model
            time.sleep(0.2)
    pool, each = ThreadPoolExecutor(streams), questions(streams, longest)

    def turn() -> tuple[float, dict[str, float]]:
        bodies = [json.dumps(body | {"model": model}).encode() for body in next(each)]
        found = list(pool.map(ask, bodies))
        firsts = sorted(first for _, first in found)
        return float(sum(tokens for tokens, _ in found)), {FIRST: firsts[round(0.95 * (len(firsts) - 1))]}

    return turn


def questions(streams: int, longest: int) -> Iterator[list[dict[str, Any]]]:
    """For each turn new requests of 4 to 40 words for ``longest`` / 6 to ``longest`` tokens; their lengths stay the same.

    Every server keeps the keys and values of prompts that it has answered, so the same questions again would need no prefill.
    """
    sizes, words = random.Random(0), random.Random(1)
    lengths = [(sizes.randint(4, 40), sizes.randint(longest // 6, longest)) for _ in range(streams)]
    while True:
        yield [
            {
                "messages": [{"role": "user", "content": " ".join(words.choices(WORDS, k=length))}],
                "max_tokens": most, "temperature": 1.0, "seed": number, "stream": True,
                "stream_options": {"include_usage": True},
            }
            for number, (length, most) in enumerate(lengths)
        ]  # fmt: skip


def stream(port: int, body: bytes) -> tuple[int, float]:
    """The number of tokens of an answer, and the seconds to its first text (to its end, if it has none)."""
    began, first, tokens = time.perf_counter(), 0.0, 0
    address = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(f"the server says: {event['error']}")
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter() - began
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return tokens, first or time.perf_counter() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
