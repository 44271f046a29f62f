"""`tutelage serve`: load a model, open a port, answer until a signal says stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import uvicorn
from fastapi import FastAPI
from pydantic import Field

from tutelage.assistant.assistant import Assistant
from tutelage.errors import Interrupted, TutelageError, UsageError
from tutelage.generate.service import Service
from tutelage.serve.app import create_app
from tutelage.serve.choose import default_model, model_folder, model_id
from tutelage.serve.keys import read_keys
from tutelage.serve.served import Served
from tutelage.serve.swap import following
from tutelage.settings import ModelPath
from tutelage.store.database import Store
from tutelage.store.opening import default_store, open_store

GRACE = 20.0
"""Seconds that answers have to finish after a signal; then each ends with an error."""

_HOW = """\
{url} answers as {model}; Ctrl-C stops it.

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
        str, Field(description="address to listen on; any but this machine's own needs api_keys")
    ] = "127.0.0.1",
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0: any that is free")] = 8000,
    store: Annotated[
        str | None,
        Field(
            description="SQLite file or postgresql:// URL; none: TUTELAGE_STORE, or store/tutelage.db, if it is there"
        ),
    ] = None,
    api_keys: Annotated[Path | None, Field(description="file with a label and an API key on each line")] = None,
    allowed_hosts: Annotated[
        tuple[str, ...], Field(description="names that the server is called by; may be given several times")
    ] = (),
    max_batch: Annotated[int, Field(ge=1, description="most answers that are written at a time")] = 32,
    max_waiting: Annotated[int, Field(ge=2, description="most answers that wait; one client has at most half")] = 256,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(
            description="auto: fp32 on a CPU, where a seed gives one answer whoever else asks; elsewhere the fastest"
        ),
    ] = "auto",
    device: Annotated[str, Field(description="auto, cpu, cuda, mps")] = "auto",
) -> str:
    """Answer over an OpenAI-compatible API."""
    keys = read_keys(api_keys) if api_keys else None
    if keys is None and not _is_loopback(host):
        raise UsageError(
            f"--host {host}: others could reach the server, so it needs --api_keys, a file with their keys"
        )
    with _listen(host, port) as listener, ExitStack() as stack:
        opened = _open(store, stack)
        chosen = model_folder(model) if model else default_model(opened)

        def load(folder: Path) -> Served:
            assistant = Assistant.load(folder, device=device)
            dtype = "fp32" if precision == "auto" and assistant.device.type == "cpu" else precision
            service = Service(
                assistant.decoder, assistant.tokenizer, max_batch=max_batch, max_waiting=max_waiting, autocast=dtype
            )
            return Served(model_id(folder), int(time.time()), assistant, service)

        app = create_app(load(chosen), keys=keys, hosts=[host, *allowed_hosts])
        server = Server(app)
        stack.callback(server.close_services)
        if opened and not model:
            stack.enter_context(following(app, opened, load, chosen))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        print(_HOW.format(url=url, model=model_id(chosen), key="YOUR KEY" if keys else "none"), flush=True)
        _log_to_stderr()
        try:
            server.run([listener])
        except (Interrupted, KeyboardInterrupt):
            return "stopped"
    raise TutelageError("the server ended by itself")


class Server(uvicorn.Server):
    """Uvicorn with a shutdown that lets answers finish for ``grace`` seconds, and then ends them with an error."""

    def __init__(self, app: FastAPI, grace: float = GRACE) -> None:
        self.app, self.grace = app, grace
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(grace) + 10,  # for clients that do not read their answer
        )
        super().__init__(config)

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
        """End what the models are still writing with an error, for clients too."""
        for service in (self.app.state.served.service, *self.app.state.retired):
            service.close()


def _open(where: str | None, stack: ExitStack) -> Store | None:
    """The store that is named, or the default one if it is there already."""
    default = default_store()
    if where is None and "://" not in default and not Path(default).exists():
        return None
    opened = open_store(where)
    stack.callback(opened.close)
    return opened


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port that is taken is known before the model is loaded."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("tutelage.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
