"""What every request passes first, as pure ASGI: its id and log line, who may ask and from where, and how large a body may be."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
import traceback
import uuid
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.serve.keys import Keys
from tutelage.serve.limits import Limits
from tutelage.serve.metrics import Metrics
from tutelage.serve.openai.errors import ApiError, Forbidden, NotJson, TooLarge, Unauthorized, has_path

MAX_BODY = 4 * 2**20
"""Bytes of the largest body: a million tokens of text."""
_DRAINED, _DRAIN_SECONDS = 16 * MAX_BODY, 5.0
"""Of the body of a request that is refused, so much is read and thrown away: a client that is still sending it might not see
the answer."""
_SANE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_PRIVATE = ("/v1/", "/metrics", "/tokenize", "/detokenize")
_SAFE = ("GET", "HEAD", "OPTIONS")
_log = logging.getLogger("tutelage.serve.access")


class Edge:
    """Gives each request an id, turns what is raised into a response, and writes one line of log: never a text or a query."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _SANE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {}).update(request_id=name, started=began)

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).append("x-request-id", name)
            await send(message)

        body = _Body(receive)
        try:
            await self.app(scope, body.receive, send_named)
        except Exception as error:
            if not isinstance(error, ApiError):  # without its message, which may quote what somebody wrote
                trace = "".join(traceback.format_tb(error.__traceback__))
                _log.error("%s: %s\n%s", name, type(error).__name__, trace)
            if status:  # it has begun, and only a cut connection can say that it is not whole
                raise
            failed = error if isinstance(error, ApiError) else ApiError("the server failed", code="internal_error")
            response = failed.response()
            if not await body.drained():
                response.headers["connection"] = "close"
            await response(scope, receive, send_named)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            took = 1000 * (time.perf_counter() - began)
            _log.info("%s %s %d %.1f ms %s", scope["method"], quote(scope["path"][:200]), status, took, name)


class _Body:
    """Knows whether a body was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.unread = receive, True

    async def receive(self) -> Message:
        message = await self._receive()
        self.unread = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drained(self) -> bool:
        """Read the rest, within limits; returns whether that was all."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self.unread and size <= _DRAINED:
                    size += len((await self.receive()).get("body", b""))
        return not self.unread


class Guard:
    """Refuses a Host that is not the server's own, pages of other origins, bodies that are not JSON, and requests without a key.

    A page whose name an attacker points at this machine (DNS rebinding) sends its own name as Host, so a name must be one of
    ``hosts``; an address cannot be pointed elsewhere. Without ``keys`` anybody may ask, and each connection is a client; ``limits``
    are then those of each address.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], keys: Keys | None, limits: Limits) -> None:
        self.app, self.hosts, self.keys = app, {"localhost", *(host.lower() for host in hosts)}, keys
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_source(scope["method"], headers)
            if scope["path"].startswith(_PRIVATE):
                if has_path(scope, scope["path"]):  # any other is 404, whatever comes with it
                    self._check_kind(scope["method"], headers)
                owner, address = await self._owner(headers), scope.get("client") or ("",)
                scope["state"]["client"] = owner or ":".join(map(str, address))
                scope["state"]["limited"] = limited = (
                    owner or address[0]
                )  # who opens another connection is not another client
                send = self._with_limits(send, limited)
                if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
                    self.limits.admit(limited)
        await self.app(scope, receive, send)

    def _with_limits(self, send: Send, client: str) -> Send:
        async def send_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.limits.headers(client))
            await send(message)

        return send_limits

    def _check_source(self, method: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _name(f"//{host}")
        if name is None or not (name in self.hosts or _is_address(name)):
            said = "this server does not answer to that Host: allow its name with --allowed_hosts"
            raise Forbidden(said, code="host_not_allowed")
        elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and method not in _SAFE
        if elsewhere or (origin is not None and origin.rpartition("://")[2] != host):
            raise Forbidden("pages of another origin may not use this server", code="origin_not_allowed")

    def _check_kind(self, method: str, headers: Headers) -> None:
        """A page elsewhere may send forms and plain text without asking; JSON it may not."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            raise NotJson("the body should be JSON, with the header Content-Type: application/json")
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise NotJson("bodies are read as they are: send it without compression and Content-Encoding")

    async def _owner(self, headers: Headers) -> str | None:
        if self.keys is None:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = scheme.lower() == "bearer"
        owner = await asyncio.to_thread(self.keys.owner, key.strip()) if given else None
        if owner is None:
            said = (
                "there is no such API key"
                if given
                else "an API key is needed: send the header Authorization: Bearer KEY"
            )
            raise Unauthorized(said, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return owner


class BodyLimit:
    """Reads the body, however it is sent, before anything else sees it, and refuses one above ``MAX_BODY``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                raise TooLarge(f"the body is larger than {MAX_BODY:,} bytes")
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, receive_whole, send)


def _name(url: str) -> str | None:
    """The host that a URL names, in lower case; None if it is no URL."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
