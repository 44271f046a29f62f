"""`tutelage serve`: load a model, open a port, answer until a signal says stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI
from pydantic import Field

from tutelage.assistant.assistant import CHAT, Assistant
from tutelage.errors import Interrupted, TutelageError, UsageError
from tutelage.generate.service import Service
from tutelage.runs.hashes import hash_of
from tutelage.serve.app import create_app
from tutelage.serve.choose import default_model, model_folder, model_id
from tutelage.serve.hook import hook_routes, round_starter, secret_given
from tutelage.serve.keys import Keys, read_keys
from tutelage.serve.limits import Limits
from tutelage.serve.pages.mount import mount_pages
from tutelage.serve.pages.security import is_loopback
from tutelage.serve.served import Served
from tutelage.serve.swap import following
from tutelage.settings import ModelPath
from tutelage.store import models
from tutelage.store.database import Store
from tutelage.store.opening import open_store

GRACE = 20.0
"""Seconds that answers have to finish after a signal; then each ends with an error."""

_HOW = """\
{url} answers as {model}, {whom}; Ctrl-C stops it.

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  question = {{"role": "user", "content": "Hello!"}}
  print(client.chat.completions.create(model="default", messages=[question]).choices[0].message.content)
"""


def serve(
    model: Annotated[
        ModelPath | None,
        Field(
            description="run, checkpoint folder or name on the hub; none: the model that the store promotes, now and later, "
            "or else the demo's best model, or the starter"
        ),
    ] = None,
    *,
    host: Annotated[
        str,
        Field(
            description="address to listen on; with any but this machine's own, people sign up and programs need keys"
        ),
    ] = "127.0.0.1",
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0: any that is free")] = 8000,
    store: Annotated[
        str | None,
        Field(
            description="SQLite file or postgresql:// URL, made if it is missing; none: TUTELAGE_STORE, or store/tutelage.db"
        ),
    ] = None,
    no_pages: Annotated[bool, Field(description="answer programs alone, so that nobody can sign up")] = False,
    compare_rate: Annotated[
        float, Field(ge=0, le=1, description="share of messages on the chat page that get two answers to choose from")
    ] = 0.0,
    max_tokens: Annotated[int, Field(ge=1, description="longest answer on the chat page [tokens]")] = 1024,
    temperature: Annotated[float, Field(ge=0, description="of answers on the chat page")] = CHAT["temperature"],
    api_keys: Annotated[Path | None, Field(description="file with a label and an API key on each line")] = None,
    allowed_hosts: Annotated[
        tuple[str, ...],
        Field(description="names that others call the server by; may be given several times; people sign up then, too"),
    ] = (),
    proxies: Annotated[
        tuple[str, ...],
        Field(description="addresses of proxies whose X-Forwarded-For says who asks; may be given several times"),
    ] = (),
    https: Annotated[bool, Field(description="a proxy with TLS is in front: cookies go over https alone")] = False,
    hook: Annotated[
        Path | None,
        Field(description="settings of a loop: POST /hooks/push, signed, pulls its data folder and starts a round"),
    ] = None,
    max_batch: Annotated[int, Field(ge=1, description="most answers that are written at a time")] = 32,
    max_waiting: Annotated[int, Field(ge=2, description="most answers that wait; one client has at most half")] = 256,
    requests_per_minute: Annotated[
        int, Field(ge=0, description="requests that one API key, or without keys one address, may make; 0: no limit")
    ] = 0,
    tokens_per_minute: Annotated[
        int, Field(ge=0, description="tokens of its prompts and answers, in the same way; 0: no limit")
    ] = 0,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(
            description="auto: fp32 on a CPU, where a seed gives one answer whoever else asks; elsewhere the fastest"
        ),
    ] = "auto",
    weights: Annotated[
        Literal["auto", "bf16", "int8"],
        Field(
            description="what weights are rounded to for decoding on a CPU: less to read per token; auto: not rounded"
        ),
    ] = "auto",
    device: Annotated[str, Field(description="auto, cpu, cuda, mps")] = "auto",
) -> str:
    """Answer in a browser and over an OpenAI-compatible API."""
    others = bool(allowed_hosts) or not is_loopback(host)
    with suppress(Interrupted, KeyboardInterrupt), _listen(host, port) as listener, ExitStack() as stack:
        started_by_push = hook_routes(secret_given(), round_starter(hook, store)) if hook else None
        opened = open_store(store)
        stack.callback(opened.close)
        keys = read_keys(api_keys, opened) if api_keys else Keys({}, opened) if others else None
        chosen = model_folder(model) if model else default_model(opened)

        room: dict[str, Any] = {"max_batch": max_batch, "max_waiting": max_waiting, "weights": weights}

        def load(folder: Path) -> Served:
            return _served(opened, folder, device=device, precision=precision, **room)

        limits = Limits(requests_per_minute, tokens_per_minute)
        if sys.stderr.isatty():
            print(f"loading {chosen} ...", file=sys.stderr, flush=True)
        app = create_app(load(chosen), keys=keys, hosts=[host, *allowed_hosts], limits=limits)
        server = Server(app, proxies=proxies)
        stack.callback(server.close_services)
        written: dict[str, Any] = {"compare_rate": compare_rate, "max_tokens": max_tokens, "temperature": temperature}
        if started_by_push:
            app.include_router(started_by_push)
        if not no_pages:
            mount_pages(app, opened, **written, accounts=others, https=https)
        if not model:
            stack.enter_context(following(app, opened, load, chosen, compare=compare_rate > 0))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        whom = "to programs" if no_pages else "in a browser and to programs"
        whom += f", with weights in {weights}" if weights != "auto" else ""
        print(_HOW.format(url=url, model=model_id(chosen), whom=whom, key="YOUR KEY" if keys else "none"), flush=True)
        _log_to_stderr()
        server.run([listener])
        # Uvicorn raises the signal again, which is ignored where a script started this in its background.
        if not server.signalled:
            raise TutelageError("the server ended by itself")
    return "stopped"


def _served(opened: Store, folder: Path, *, device: str, precision: str, **options: Any) -> Served:
    """A model and the service that runs it; the store learns of it. ``options`` of the service."""
    assistant = Assistant.load(folder, device=device)
    hash = hash_of(folder) if folder.is_dir() else str(folder)
    models.register_model(opened, hash, str(folder.resolve() if folder.is_dir() else folder))
    dtype = "fp32" if precision == "auto" and assistant.device.type == "cpu" else precision
    service = Service(assistant.decoder, assistant.tokenizer, autocast=dtype, **options)  # last: it has a thread
    return Served(model_id(folder), int(time.time()), assistant, service, hash)


class Server(uvicorn.Server):
    """Uvicorn with a shutdown that lets answers finish for ``grace`` seconds, and then ends them with an error."""

    def __init__(self, app: FastAPI, grace: float = GRACE, proxies: Sequence[str] = ()) -> None:
        self.app, self.grace, self.signalled = app, grace, False
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_graceful_shutdown=int(grace) + 10,  # for clients that do not read their answer
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signalled = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_answers())
        await super().shutdown(sockets)
        await ending

    async def _end_answers(self) -> None:
        deadline = time.monotonic() + self.grace
        while self.server_state.tasks and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.close_services)

    def close_services(self) -> None:
        """End what the models are still writing: for the pages as stopped, for clients of the API with an error."""
        state = self.app.state
        if state.pages:
            state.pages.close()
        for service in (state.served.service, *([state.before.service] if state.before else []), *state.retired):
            service.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port that is taken is known before the model is loaded."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port"
        ) from None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("tutelage.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
