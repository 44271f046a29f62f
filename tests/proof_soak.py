"""`make soak`: ten minutes of mixed load on a real server, whose memory must not grow. SECONDS_OF_LOAD=30 for less.

Streams and whole answers, several choices, long prompts with log-probabilities, batches, answers in JSON by schemas that are all
different, calls of functions through /v1/responses, people who leave, requests that are refused. Writes bench/results/soak.json;
exits with 1 where something did not hold. tests/serve/test_load.py runs half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / name) for name in ("", "serve", "store")]
from processes import ServeProcess, faults, serving  # noqa: E402
from proof_load import PATIENCE, SLACK, asked, chat, leave, machine  # noqa: E402
from serving import saved, tiny_assistant, wait_until  # noqa: E402

from tutelage.files import write_atomic  # noqa: E402

CLIENTS = 12
GROWTH = 4 << 20
"""Bytes by which the median of the last third may exceed that of the middle third: what allocators keep back."""


async def one_request(client: httpx2.AsyncClient, port: int, draw: random.Random, refused: Counter[int]) -> str:
    """A request of a random kind; returns the kind."""
    seed, words = draw.randrange(1 << 30), " ".join(draw.choices(["the", "cat", "sea", "好"], k=draw.randint(5, 40)))
    kind = draw.choice(["chat", "choices", "echo", "batch", "schema", "call", "gone", "refused"])
    if kind == "chat":
        await chat(client, asked(seed % 1000, seed, 60), refused)
    elif kind == "choices":
        await chat(client, asked(seed % 1000, seed, 20) | {"n": 3, "temperature": 0.7, "stop": ["e"]}, refused)
    elif kind == "schema":
        await chat(client, asked(seed % 1000, seed, 60) | {"response_format": schema_of(draw)}, refused)
    elif kind == "call":
        parameters = schema_of(draw)["json_schema"]["schema"]
        body: dict[str, Any] = {
            "model": "default",
            "input": words,
            "max_output_tokens": 40,
            "seed": seed,
            "tool_choice": "required",
        }
        body |= {"tools": [{"type": "function", "name": "look", "parameters": parameters}], "stream": bool(seed % 2)}
        reply = await client.post("/v1/responses", json=body)
        assert reply.status_code in (200, 429), reply.text
    elif kind == "gone":
        await leave(port, {"messages": [{"role": "user", "content": words}]}, draw.uniform(0.01, 0.5))
    else:
        body = {"prompt": words, "max_tokens": 8, "seed": seed}
        body |= {"echo": {"echo": True, "logprobs": 3}, "batch": {"prompt": [words, words[:20], "a"]}}.get(kind, {})
        reply = await client.post("/v1/completions", json=body | ({"top_p": 7} if kind == "refused" else {}))
        assert reply.status_code in ((400,) if kind == "refused" else (200, 429)), reply.text
    return kind


def schema_of(draw: random.Random) -> dict[str, Any]:
    """A form for an answer; hardly ever the same twice, so that what is kept of schemas has to be bounded."""
    names = [f"{draw.choice('abcdefgh')}{draw.randrange(1000)}" for _ in range(draw.randint(1, 3))]
    fields = {name: {"type": draw.choice(["integer", "boolean", "string"])} for name in names}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}


def soak(folder: Path, seconds: float) -> dict[str, Any]:
    """Load for so long. AssertionError where memory, descriptors, threads or places do not hold; returns figures."""
    model, counts, refused = saved(folder / "tiny", tiny_assistant()), Counter[str](), Counter[int]()
    sizes: list[int] = []

    async def client_of(server: ServeProcess, number: int, end: float) -> None:
        draw = random.Random(number)
        once = httpx2.Limits(max_keepalive_connections=0)  # one that is kept may be closed just as it is used again
        async with httpx2.AsyncClient(base_url=server.url, verify=False, timeout=PATIENCE, limits=once) as client:
            while time.monotonic() < end:
                counts[await one_request(client, server.port, draw, refused)] += 1

    async def watch(server: ServeProcess, end: float) -> None:
        assert server.process is not None
        statm = Path("/proc") / str(server.process.pid) / "statm"
        while time.monotonic() < end:
            sizes.append(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            await asyncio.sleep(0.25)

    async def everybody(server: ServeProcess, length: float) -> None:
        end = time.monotonic() + length
        await asyncio.gather(watch(server, end), *(client_of(server, number, end) for number in range(CLIENTS)))

    def idle() -> bool:
        return not any(server.holds()[name] for name in ("waiting", "running"))

    words = (str(model), "--store", str(folder / "soak.db"), "--max_batch", "8", "--max_waiting", "64")
    with serving(folder / "soak.log", *words) as server:
        asyncio.run(everybody(server, min(10.0, seconds / 6)))  # pools of threads are filled
        wait_until(idle)
        time.sleep(1)  # connections are closed
        before = server.holds()
        sizes.clear()
        counts.clear()
        asyncio.run(everybody(server, seconds))
        most = {name: count + SLACK.get(name, 0) for name, count in before.items()}
        wait_until(lambda: all(server.holds()[name] <= count for name, count in most.items()))
        after = server.holds()
    third = len(sizes) // 3
    middle, last = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[2 * third :])
    assert faults(folder / "soak.log") == []
    assert last <= middle + GROWTH, f"memory grew by {(last - middle) / 1e6:.1f} MB in {seconds / 3:.0f} s"
    thirds = [round(statistics.median(sizes[i * third : (i + 1) * third]) / 1e6, 1) for i in range(3)]
    return {"seconds": seconds, "requests": dict(counts), "megabytes": thirds, "before": before, "after": after}


def main() -> int:
    """Print and write the figures; 1 if something did not hold."""
    with tempfile.TemporaryDirectory(prefix="tutelage-soak-") as folder:
        try:
            found = soak(Path(folder), float(os.environ.get("SECONDS_OF_LOAD", "600")))
        except AssertionError as error:
            print(f"NOT HELD: {error}")
            return 1
    print(json.dumps(found))
    write_atomic(
        ROOT / "bench" / "results" / "soak.json",
        json.dumps(found | {"machine": machine()}, indent=2).encode() + b"\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
