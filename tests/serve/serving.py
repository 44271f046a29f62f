"""A real server on a tiny model with random weights, in a thread of the test's process or in a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import torch

from tutelage.assistant.assistant import Assistant
from tutelage.errors import TutelageError
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service, Ticket
from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.serve.app import create_app
from tutelage.serve.command import Server, _listen
from tutelage.serve.served import Served
from tutelage.text.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat, 中文你好，天下皆知美之为美, 😀😀 or not 👍🏽", "Who are you? 你是谁？ a small model."]
MODEL = "tests/tiny"
HELLO = [{"role": "user", "content": "Hello, 你好 😀"}]
SECONDS = 60.0
"""Longest wait for what must happen: generous, because the machine may be busy."""


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 4, 320)


def tiny_model(tokenizer: Tokenizer, context: int = 256) -> Decoder:
    """Random weights, so that it writes arbitrary bytes, halves of characters among them; it seldom ends by itself."""
    torch.manual_seed(0)
    config = ModelConfig(
        family="llama", vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4,
        max_position_embeddings=context, init_std=0.3,
    )  # fmt: skip
    return Decoder(config).eval()


def tiny_assistant(context: int = 256) -> Assistant:
    tokenizer = tiny_tokenizer()
    return Assistant(tiny_model(tokenizer, context), tokenizer, "tiny", "fp32")


PARROT = "😀中é abc"
"""What the parrot says: each byte is another one, so that each is a token of its own that leads to the next."""


def parrot(text: str = PARROT, *, endless: bool = False, context: int = 256) -> Assistant:
    """A model whose likeliest answer is a text, one byte per token: after the opening of an answer, and after the text "x".

    ``endless``: it says the text again and again.
    """
    tokenizer = Tokenizer.train(["x"], 262)  # bytes and control tokens alone
    said = tokenizer.encode(text)
    assert len(said) == len(set(said)) == len(text.encode())
    said = [*said, said[0] if endless else tokenizer.end_id]
    model = tiny_model(tokenizer, context)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.zero_()
        for place, (before, after) in enumerate(pairwise(said)):
            model.embed.weight[before, place] = model.unembed.weight[after, place] = 5.0
        for before in (tokenizer.assistant_id, *tokenizer.encode("x")):
            model.embed.weight[before, -1] = 5.0
        model.unembed.weight[said[0], -1] = 5.0
    return Assistant(model, tokenizer, "parrot", "fp32")


def saved(folder: Path, assistant: Assistant) -> Path:
    """A model as a checkpoint."""
    tokenizer = assistant.tokenizer
    save_model(folder, assistant.model, bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


@dataclass
class Running:
    """A server that answers, and what is inside it."""

    url: str
    served: Served
    app: Any
    server: Server
    thread: threading.Thread

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | options)

    def http(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, verify=False, timeout=SECONDS, **options
        )  # no TLS is set up: it takes long

    def metric(self, name: str, **labels: str) -> float:
        return self.app.state.metrics.registry.get_sample_value(name, labels) or 0.0

    def idle(self) -> bool:
        """Whether no place is taken, in the batch or in the queue."""
        return (self.served.service.active, self.served.service.waiting) == (0, 0)


@contextmanager
def running(
    assistant: Assistant, *, max_batch: int = 8, max_waiting: int = 512, grace: float = 5.0, **options: Any
) -> Iterator[Running]:
    """Serve in a thread."""
    torch.set_num_threads(1)
    with (
        _listen("127.0.0.1", 0) as listener,
        Service(
            assistant.decoder, assistant.tokenizer, max_batch=max_batch, max_waiting=max_waiting, autocast="fp32"
        ) as service,
    ):
        served = Served(MODEL, 1, assistant, service)
        app = create_app(served, **options)
        server = Server(app, grace)
        thread = threading.Thread(target=server.run, args=([listener],))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Running(url, served, app, server, thread)
        finally:
            server.should_exit = True
            thread.join()


def wait_until(done: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Poll until it holds; fails after a generous deadline."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Hold:
    """A request whose callback holds the engine until the block is left."""

    def __init__(self, service: Service) -> None:
        self.service, self.reached, self.opened = service, threading.Event(), threading.Event()

    def __enter__(self) -> Hold:
        def wait(ids: list[int]) -> bool:
            self.reached.set()
            return self.opened.wait() and False

        self.ticket: Ticket = self.service.submit(
            Request([1, 2], Sampling(max_tokens=2), stop_when=wait), client="the test"
        )
        assert self.reached.wait(SECONDS)
        return self

    def __exit__(self, *exc: object) -> None:
        self.opened.set()
        with suppress(TutelageError):  # the service was closed
            self.ticket.result()
