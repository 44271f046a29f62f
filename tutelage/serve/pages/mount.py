"""The pages on the server of the API: which models write, the secret of the forms, and the paths that the pages have."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from tutelage.assistant.assistant import CHAT
from tutelage.errors import NotFound, UsageError
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Delta, Ticket
from tutelage.records import Message
from tutelage.seeds import derive
from tutelage.serve.choose import model_id
from tutelage.serve.metrics import Counting, Metrics
from tutelage.serve.openai.errors import has_path
from tutelage.serve.pages.app import create_pages
from tutelage.serve.pages.stored import Policy, StoredBackend
from tutelage.serve.served import Served
from tutelage.store import models
from tutelage.store.database import Store


def mount_pages(
    app: FastAPI,
    store: Store,
    *,
    compare_rate: float = 0.0,
    max_tokens: int = 1024,
    temperature: float = CHAT["temperature"],
    **options: Any,
) -> None:
    """Have the pages answer wherever no route of ``app`` does; paths of the API keep its errors.

    ``compare_rate``: share of messages that get two answers to choose from. ``max_tokens`` and ``temperature``: of
    answers. ``options``: those of ``create_pages``.
    """

    metrics: Metrics = app.state.metrics

    def policies(seed: int, compare: bool) -> list[Policy]:
        drawn = draw_policies(app.state.served, app.state.before, compare_rate * compare, seed)
        return [policy_of(served, metrics, max_tokens, temperature) for served in drawn]

    @cache
    def name(model: str) -> str:
        try:
            return model_id(Path(models.get_model(store, model).folder))
        except NotFound:
            return model[:12]

    backend = StoredBackend(store, policies, name)
    pages = create_pages(backend, secret=read_secret(store), retry_after=metrics.retry_after, **options)
    not_found = app.router.default

    def meant_for_api(scope: Scope) -> bool:
        """Whether it is a program that asks for a path which is not there: its error is JSON, and not a page's."""
        if scope["path"].startswith("/v1/"):
            return True
        if any(route.matches(scope)[0] is not Match.NONE for route in pages.app.routes):
            return False
        return has_path(scope, f"/v1{scope['path']}") or "text/html" not in Headers(scope=scope).get("accept", "")

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        await (not_found if meant_for_api(scope) else pages)(scope, receive, send)

    app.router.default = default
    app.state.pages = backend


def draw_policies(served: Served, before: Served | None, rate: float, seed: int) -> list[Served]:
    """The model that is served or, at this rate, two in the order in which they are shown; the seed decides both.

    The second is the model that served before, or else the same one, which writes with another seed.
    """
    draw = random.Random(derive(seed, "serve.compare"))
    if draw.random() >= rate:
        return [served]
    pair = [served, before or served]
    draw.shuffle(pair)
    return pair


@dataclass(frozen=True)
class Counted:
    """A ticket whose answer counts in the metrics as it is read."""

    ticket: Ticket
    metrics: Metrics
    prompt_tokens: int
    started: float

    def __iter__(self) -> Iterator[Delta]:
        counting = Counting(self.metrics, self.prompt_tokens, self.started)
        for delta in self.ticket:
            counting.took(len(delta.tokens))
            yield delta
        counting.ended()

    def cancel(self) -> None:
        self.ticket.cancel()


def policy_of(served: Served, metrics: Metrics, max_tokens: int, temperature: float) -> Policy:
    """A served model as a writer of answers. An answer that has begun stays with it when another model takes over."""
    how = CHAT | {"temperature": temperature}

    def write(messages: Sequence[Message], seed: int, client: str) -> Counted:
        started, assistant = time.perf_counter(), served.assistant
        ids = assistant.encode(messages)
        room = assistant.context - len(ids)
        if room < 1:
            raise UsageError(
                f"the model reads {assistant.context} tokens and this conversation has {len(ids)}: begin another"
            )
        # A small model may repeat itself without end: it would write for minutes, and leave no room for the next question.
        sampling = Sampling(**how, max_tokens=min(room, max_tokens), seed=seed)
        request = Request(ids=ids, sampling=sampling, stop_ids=assistant.stop_ids(chat=True))
        return Counted(served.service.submit(request, client=client), metrics, len(ids), started)

    return Policy(served.hash, how, write)


def read_secret(store: Store) -> bytes:
    """The 32 bytes that sign the forms' tokens: in a file beside the store for its owner alone, made if it is missing."""
    path = store.ledger.with_name("pages.secret")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=path.parent, buffering=0) as file, suppress(FileExistsError):
            file.write(secrets.token_bytes(32))
            os.fsync(file.fileno())
            os.link(file.name, path)  # unless another server that starts now was quicker
    return path.read_bytes()
