"""What keeps the pages safe: headers, CSRF tokens, cookies, passwords, and a throttle for logins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 1024
"""Length in characters is the only rule: rules about kinds of characters make passwords worse."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types rendered",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # under no-referrer, browsers send "Origin: null" with our own forms
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
}


class SafeHeaders:
    """ASGI middleware: adds the security headers to every response. Responses are not kept by caches unless they say so."""

    def __init__(self, app: Starlette) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_guarded)


def is_loopback(host: str) -> bool:
    """Whether a server bound to this name or address is reached from its own machine alone: there, no login is needed."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_session() -> str:
    """A fresh session id. Make a new one at login and logout, so that an id planted beforehand is worth nothing."""
    return secrets.token_urlsafe(32)


def csrf_token(secret: bytes, session: str) -> str:
    """The token that forms and scripts of this session send along; another site cannot read it."""
    return hmac.new(secret, b"csrf\0" + session.encode(), hashlib.sha256).hexdigest()


def csrf_valid(secret: bytes, session: str, token: str) -> bool:
    """Whether a request of this session carries its token. Takes the same time wherever they differ."""
    return bool(session) and hmac.compare_digest(csrf_token(secret, session).encode(), token.encode())


@dataclass(frozen=True)
class Cookie:
    """The session's cookie. ``path``: where the pages are mounted, ``/`` or ``/base/``."""

    https: bool
    path: str = "/"

    @cached_property
    def name(self) -> str:
        """With a prefix that makes browsers enforce its safety, where there is one."""
        return ("__Host-" if self.path == "/" else "__Secure-") * self.https + "tutelage"

    def put(self, response: Response, session: str, days: int = 30) -> None:
        """Set the cookie."""
        age = days * 86400
        response.set_cookie(
            self.name, session, max_age=age, path=self.path, secure=self.https, httponly=True, samesite="lax"
        )


class Passwords:
    """Hashes and checks passwords with argon2, two at a time: each takes 64 MiB."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._two = CapacityLimiter(2)
        self._unknown: str | None = None

    async def hash(self, password: str) -> str:
        """The string to store."""
        return await to_thread.run_sync(self._hasher.hash, password, limiter=self._two)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether it is the password. Of an unknown name, whose ``stored`` is None, the answer is no and takes as long."""
        if len(password) > LONGEST_PASSWORD:
            return False
        if self._unknown is None:
            self._unknown = await self.hash(secrets.token_urlsafe())
        matches = await to_thread.run_sync(self._matches, stored or self._unknown, password, limiter=self._two)
        return matches and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether a password that was just verified is to be hashed again, with today's parameters."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def password_problem(password: str) -> str | None:
    """The key in the string catalogue of what is wrong with a new password, or None."""
    if len(password) < SHORTEST_PASSWORD:
        return "password_short"
    return "password_long" if len(password) > LONGEST_PASSWORD else None


@dataclass
class _Tries:
    count: int
    last: float


class Throttle:
    """Slows down guessing: after some free tries, each further one doubles the wait, per name and per address.

    ``clock``: seconds, monotonic. A try counts when it is admitted, so that many at once do not all pass. A name waits a minute at
    most, so that a stranger cannot lock its owner out for long. Memory is bounded: the entries whose last try is oldest go first.
    """

    FREE: ClassVar = {"name": 5, "address": 20}
    LONGEST: ClassVar = {"name": 60.0, "address": 900.0}
    FORGET: ClassVar = 3600.0
    """Seconds without a try after which the count starts anew."""

    def __init__(self, clock: Callable[[], float], most: int = 10_000) -> None:
        self._clock, self._most = clock, most
        self._tries: dict[str, OrderedDict[str, _Tries]] = {"name": OrderedDict(), "address": OrderedDict()}

    def admit(self, name: str, address: str) -> float:
        """0 if a try may go on, which counts it; else the seconds to wait."""
        now = self._clock()
        keys = {"name": hashlib.sha256(name.casefold().encode()).hexdigest(), "address": _network(address)}
        if wait := max(self._wait(kind, key, now) for kind, key in keys.items()):
            return wait
        for kind, key in keys.items():
            table = self._tries[kind]
            before = table.pop(key, _Tries(0, now))
            table[key] = _Tries(before.count + 1 if now - before.last < self.FORGET else 1, now)
            if len(table) > self._most:
                table.popitem(last=False)
        return 0.0

    def succeeded(self, name: str) -> None:
        """Forget the name's tries. Its address keeps them: one good account must not free an address to guess at others."""
        self._tries["name"].pop(hashlib.sha256(name.casefold().encode()).hexdigest(), None)

    def _wait(self, kind: str, key: str, now: float) -> float:
        tries = self._tries[kind].get(key)
        if tries is None or tries.count < self.FREE[kind]:
            return 0.0
        pause = min(self.LONGEST[kind], 2.0 ** min(tries.count - self.FREE[kind], 30))
        return max(0.0, tries.last + pause - now)


def _network(address: str) -> str:
    """An IPv6 address as its /64, which one household or server has whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
