"""Headers, Host and Origin, CSRF tokens, passwords, and the login throttle on a clock of its own."""

from __future__ import annotations

import secrets

import anyio
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tutelage.serve.pages.security import (
    HEADERS,
    Cookie,
    Passwords,
    SafeHeaders,
    Throttle,
    csrf_token,
    csrf_valid,
    is_loopback,
    new_session,
    password_problem,
)


@pytest.fixture(scope="module")
def client() -> TestClient:
    def fail(request: object) -> None:
        raise RuntimeError("broken")

    routes = [
        Route("/", lambda request: PlainTextResponse("hello"), methods=["GET", "POST"]),
        Route("/kept", lambda request: PlainTextResponse("x", headers={"Cache-Control": "max-age=9"})),
        Route("/fail", fail),
    ]
    app = SafeHeaders(Starlette(routes=routes))
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.mark.parametrize("path", ["/", "/nowhere", "/fail"])
def test_every_response_has_the_headers(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert response.headers["cache-control"] == "no-store"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_what_says_how_long_it_is_kept_is_kept(client: TestClient) -> None:
    assert client.get("/kept").headers["cache-control"] == "max-age=9"


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example", ""]))


def test_a_token_belongs_to_its_session_and_server() -> None:
    secret, mine, other = secrets.token_bytes(32), new_session(), new_session()
    token = csrf_token(secret, mine)
    assert csrf_valid(secret, mine, token)
    assert not csrf_valid(secret, other, token)
    assert not csrf_valid(secrets.token_bytes(32), mine, token)
    assert not csrf_valid(secret, mine, "")
    assert not csrf_valid(secret, "", csrf_token(secret, ""))
    assert not csrf_valid(secret, mine, "é")


@pytest.mark.parametrize(
    ("cookie", "name"),
    [(Cookie(False), "tutelage"), (Cookie(True), "__Host-tutelage"), (Cookie(True, "/x/"), "__Secure-tutelage")],
)
def test_cookies(cookie: Cookie, name: str) -> None:
    response = PlainTextResponse()
    cookie.put(response, "abc")
    header = response.headers["set-cookie"]
    assert header.startswith(f"{name}=abc;")
    assert "HttpOnly" in header
    assert "samesite=lax" in header.lower()
    assert ("Secure" in header.replace(name, "")) is cookie.https
    assert "Domain" not in header


def test_passwords() -> None:
    """With argon2's cheapest parameters; the real ones differ only in numbers."""
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))

    async def check() -> None:
        stored = await passwords.hash("correct horse")
        assert stored.startswith("$argon2id$")
        assert await passwords.verify(stored, "correct horse")
        assert not await passwords.verify(stored, "correct hors")
        assert not await passwords.verify(None, "correct horse")
        assert not await passwords.verify("not a hash", "x")
        assert not passwords.outdated(stored)
        assert Passwords().outdated(stored)

    anyio.run(check)


class CountingHasher(PasswordHasher):
    """Counts how many hash at once."""

    now = most = checks = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:
        self.now += 1
        self.most, self.checks = max(self.most, self.now), self.checks + 1
        try:
            return super().verify(hash, password)
        finally:
            self.now -= 1


def test_two_at_a_time_and_an_unknown_name_costs_the_same() -> None:
    hasher = CountingHasher(time_cost=1, memory_cost=4096, parallelism=1)
    passwords = Passwords(hasher)

    async def check() -> None:
        stored = await passwords.hash("correct horse")
        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(passwords.verify, stored if n % 2 else None, "x")

    anyio.run(check)
    assert hasher.checks == 8  # the four of unknown names too
    assert hasher.most <= 2


def test_only_length_counts_in_a_password() -> None:
    assert password_problem("1234567") == "password_short"
    assert password_problem("12345678") is None
    assert password_problem("密码很长没有问题") is None
    assert password_problem("x" * 1025) == "password_long"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_per_name() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert [throttle.admit("ann", f"10.0.0.{n}") for n in range(5)] == [0] * 5
    waits = []
    for n in range(5, 14):
        waits.append(throttle.admit("Ann", f"10.0.0.{n}"))
        assert throttle.admit(f"bob {n}", f"10.0.0.{n}") == 0
        clock.now += waits[-1]
        assert throttle.admit("ann", f"10.0.0.{n}") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_address_waits_for_all_names_and_longer() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert not any(throttle.admit(f"user {n}", "2001:db8::1") for n in range(20))
    assert throttle.admit("another", "2001:db8::ffff") == 1  # the same household
    assert throttle.admit("another", "2001:db8:0:1::1") == 0
    for n in range(30):
        clock.now += throttle.admit(f"x{n}", "2001:db8::1")
        throttle.admit(f"x{n}", "2001:db8::1")
    throttle.succeeded("x1")
    assert throttle.admit("x1", "2001:db8::1") == 900


def test_success_frees_the_name() -> None:
    throttle = Throttle(Clock())
    for _ in range(5):
        throttle.admit("ann", "10.0.0.1")
    assert throttle.admit("ann", "10.0.0.1") > 0
    throttle.succeeded("ANN")
    assert throttle.admit("ann", "10.0.0.1") == 0


def test_an_hour_of_peace_forgets() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(5):
        throttle.admit("ann", "10.0.0.1")
    clock.now += 3600
    assert [throttle.admit("ann", "10.0.0.1") for _ in range(5)] == [0] * 5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 100)), max_size=120))
def test_memory_is_bounded_and_a_wait_is_always_enough(tries: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    throttle = Throttle(clock, most=7)
    for name, address, seconds in tries:
        clock.now += seconds
        wait = throttle.admit(str(name), f"10.0.0.{address}")
        assert 0 <= wait <= 900
        if wait:
            clock.now += wait + 1e-6
            assert throttle.admit(str(name), f"10.0.0.{address}") == 0
        assert all(len(table) <= 7 for table in throttle._tries.values())
