"""The pages' application over HTTP: sessions, tokens, accounts, another's data, streams."""

from __future__ import annotations

import json
import re
from typing import get_type_hints

import pytest
from argon2 import PasswordHasher
from memory_backend import ANSWER, MemoryBackend
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tutelage.serve.pages import app as app_module
from tutelage.serve.pages.app import create_pages
from tutelage.serve.pages.backend import Answer
from tutelage.serve.pages.endpoints import ENDPOINTS
from tutelage.serve.pages.markdown import render
from tutelage.serve.pages.security import Passwords
from tutelage.serve.pages.stored import StoredBackend
from tutelage.serve.pages.streaming import View

URL = "http://localhost:8000"
PASSWORD = "correct horse"


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def pages(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> Starlette:
    monkeypatch.setattr(
        app_module.security, "Passwords", lambda: Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    )
    return Starlette(
        routes=[
            Mount("/base", create_pages(backend, secret=b"s" * 32, accounts=True, base="/base/")),
            Mount("/", create_pages(backend, secret=b"s" * 32, accounts=False)),
        ]
    )


def token_in(html: str) -> str:
    return re.search(r'data-csrf="(\w+)"', html)[1]


class Visitor:
    """A browser without scripts."""

    def __init__(self, pages: Starlette, name: str = "") -> None:
        self.http = TestClient(pages, base_url=f"{URL}/base/", follow_redirects=True)
        if name:
            assert self.sign_up(name).url.path == "/base/chat"

    def token(self, page: str = "signup") -> str:
        return token_in(self.http.get(page).text)

    def sign_up(self, name: str, **more: str):
        fields = {"name": name, "password": PASSWORD, "consent": "yes", "csrf": self.token(), **more}
        return self.http.post("signup", data=fields)

    def log_in(self, name: str, password: str = PASSWORD):
        return self.http.post("login", data={"name": name, "password": password, "csrf": self.token("login")})

    def post(self, path: str, body: object):
        return self.http.post(path, json=body, headers={"X-CSRF-Token": self.token("chat")})

    def say(self, text: str, conversation: str | None = None, parent: str | None = None, key: str = "k" * 9):
        return self.post("data/say", {"key": key, "conversation": conversation, "parent": parent, "text": text})


def session_of(visitor: Visitor) -> str:
    return visitor.http.cookies["tutelage"]


def test_every_endpoint_is_a_method_of_the_backend() -> None:
    for name, endpoint in ENDPOINTS.items():
        if name == "stream":
            continue
        hints = get_type_hints(getattr(StoredBackend, name))
        assert hints.pop("return") is endpoint.reply
        expected = ["person", *(["id"] if "{id}" in endpoint.path else []), *(["body"] if endpoint.body else [])]
        assert list(hints) == expected, name
        assert endpoint.body is None or hints["body"] is endpoint.body


def test_sign_up_log_out_and_log_in_change_the_session(pages: Starlette, backend: MemoryBackend) -> None:
    ann = Visitor(pages)
    token = ann.token()
    before = session_of(ann)
    assert (
        ann.http.post("signup", data={"name": "ann", "password": PASSWORD, "consent": "y", "csrf": token}).status_code
        == 200
    )
    inside = session_of(ann)
    assert inside != before
    assert list(backend.sessions) == [inside]
    assert "ann" in backend.people
    assert ann.http.post("logout", data={"csrf": "wrong"}).status_code == 403
    assert ann.http.post("logout", files={"x": b""}, data={"csrf": "wrong"}).status_code in (400, 403)
    assert list(backend.sessions) == [inside]
    assert ann.http.post("logout", data={"csrf": ann.token("chat")}).url.path == "/base/login"
    assert backend.sessions == {}
    assert session_of(ann) != inside
    assert ann.log_in("ann", "wrong horse").status_code == 403
    assert ann.log_in("nobody").status_code == 403
    assert ann.log_in("ann").url.path == "/base/chat"


def test_a_planted_session_is_not_logged_in(pages: Starlette, backend: MemoryBackend) -> None:
    Visitor(pages, "ann")
    victim = Visitor(pages)
    victim.http.cookies.set("tutelage", "planted", domain="localhost.local", path="/base/")
    victim.log_in("ann")
    assert "planted" not in backend.sessions


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": "short"}, "at least 8"),
        ({"password": "x" * 1025}, "at most 1024"),
        ({"consent": ""}, "agree"),
        ({"name": " "}, "1 to 64"),
        ({"name": "a\x07b"}, "1 to 64"),
        ({"name": "ann"}, "taken"),
        ({"csrf": "0" * 64}, "too long"),
    ],
)
def test_a_wrong_sign_up_says_why(pages: Starlette, backend: MemoryBackend, fields: dict[str, str], says: str) -> None:
    Visitor(pages, "ann")
    response = Visitor(pages).sign_up(fields.pop("name", "bob"), **fields)
    assert response.status_code in (400, 403, 409)
    assert says in response.text
    assert list(backend.people) == ["ann"]


def test_guessing_is_slowed_down(pages: Starlette) -> None:
    Visitor(pages, "ann")
    guesser = Visitor(pages)
    statuses = [guesser.log_in("ann", f"guess {n}").status_code for n in range(6)]
    assert statuses == [403] * 5 + [429]
    refused = guesser.log_in("ann")
    assert refused.status_code == 429  # the right password too, else the wait would tell
    assert int(refused.headers["retry-after"]) >= 1


def test_a_new_password_needs_the_old_one_and_ends_other_sessions(pages: Starlette, backend: MemoryBackend) -> None:
    ann, other = Visitor(pages, "ann"), Visitor(pages)
    other.log_in("ann")

    def change(old: str, new: str) -> int:
        fields = {"password": old, "new": new, "csrf": ann.token("settings")}
        return ann.http.post("password", data=fields).status_code

    assert (change("wrong horse", "a new password"), change(PASSWORD, "short")) == (403, 400)
    assert len(backend.sessions) == 2
    before = session_of(ann)
    assert change(PASSWORD, "a new password") == 200
    assert list(backend.sessions) == [session_of(ann)] != [before]
    assert other.http.get("chat").url.path == "/base/login"
    assert other.log_in("ann").status_code == 403
    assert other.log_in("ann", "a new password").url.path == "/base/chat"
    assert [change("guess", "a new password") for _ in range(6)][-1] == 429


def test_all_sessions_of_a_person_end_at_once(pages: Starlette, backend: MemoryBackend) -> None:
    ann, other, bob = Visitor(pages, "ann"), Visitor(pages), Visitor(pages, "bob")
    other.log_in("ann")
    assert ann.http.post("logout", data={"everywhere": "yes", "csrf": "wrong"}).status_code == 403
    assert len(backend.sessions) == 3
    ann.http.post("logout", data={"everywhere": "yes", "csrf": ann.token("settings")})
    assert list(backend.sessions) == [session_of(bob)]
    assert other.http.get("data/conversations").status_code == 401


def test_every_change_needs_the_token(pages: Starlette) -> None:
    """Whatever the route: without the session's token, with another session's, and nothing is done."""
    ann, bob = Visitor(pages, "ann"), Visitor(pages, "bob")
    other = bob.token("chat")
    changes = 0
    for route in pages.routes[0].app.app.routes:  # type: ignore[attr-defined]
        for method in (route.methods if isinstance(route, Route) else None) or ():
            if method in ("GET", "HEAD"):
                continue
            changes += 1
            path = route.path.lstrip("/").replace("{id}", "c1")
            for headers in ({}, {"X-CSRF-Token": other}):
                for content in (
                    {"json": {}},
                    {"data": {"csrf": other}},
                    {"files": {"a": b""}, "data": {"csrf": other}},
                ):
                    if method == "DELETE":
                        content = {}
                    status = ann.http.request(method, path, headers=headers, **content).status_code
                    assert status in (400, 403), (method, path, status)
    assert changes == len(("login", "signup", "logout", "password")) + sum(
        endpoint.method != "GET" for endpoint in ENDPOINTS.values()
    )


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"key": "kkkkkkkkk", "conversation": null, "parent": null, "text": ""}', "application/json", 422),
        (b'{"key": "kkkkkkkkk", "conversation": null, "parent": null, "text": "x", "y": 1}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
    ],
)
def test_a_wrong_body_is_refused(pages: Starlette, backend: MemoryBackend, body: bytes, kind: str, status: int) -> None:
    ann = Visitor(pages, "ann")
    headers = {"Content-Type": kind, "X-CSRF-Token": ann.token("chat")}
    assert ann.http.post("data/say", content=body, headers=headers).status_code == status
    chunks = (body[i : i + 65536] for i in range(0, len(body), 65536))
    assert ann.http.post("data/say", content=chunks, headers=headers).status_code == status
    assert backend.turns == {}


def test_a_repeated_message_is_said_once(pages: Starlette, backend: MemoryBackend) -> None:
    ann = Visitor(pages, "ann")
    assert ann.say("hello").json() == ann.say("hello").json()
    assert len(backend.turns) == 2


def test_one_user_mode_has_no_accounts(pages: Starlette) -> None:
    http = TestClient(pages, base_url=f"{URL}/")
    page = http.get("chat")
    assert page.status_code == 200
    assert "logout" not in page.text
    assert http.get("login").status_code == 404
    assert http.post("data/say", json={}).status_code == 403  # other sites' pages reach loopback too
    said = http.post(
        "data/say",
        json={"key": "k" * 9, "conversation": None, "parent": None, "text": "x"},
        headers={"X-CSRF-Token": token_in(page.text)},
    )
    assert said.status_code == 200


def test_pages_name_no_other_machine_and_have_nothing_inline(pages: Starlette) -> None:
    ann = Visitor(pages, "ann")
    for name in ("chat", "rank", "settings"):
        html = ann.http.get(name).text
        assert not re.search(r"""(?:src|href|action)=["'](?:https?:|/)""", html), name
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html), name
    html = Visitor(pages).http.get("login", headers={"Accept-Language": "zh-CN"}).text
    assert '<html lang="zh-Hans"' in html
    assert "登录" in html


def test_a_name_is_text_everywhere(pages: Starlette) -> None:
    ann = Visitor(pages, "<img src=x>{seconds}\"'")
    for name in ("chat", "settings"):
        assert "<img src=x>" not in ann.http.get(name).text


def pieces(response) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data: ")]


def test_a_stream_joined_is_the_answer_from_wherever_it_is_taken_up(pages: Starlette, backend: MemoryBackend) -> None:
    ann = Visitor(pages, "ann")
    answer = ann.say("hello").json()["answers"][0]
    whole = pieces(ann.http.get(f"data/turns/{answer}/stream"))
    assert [piece["state"] for piece in whole] == ["writing"] * (len(whole) - 1) + ["done"]
    assert "".join(html for piece in whole for html in piece["blocks"]) == render(ANSWER)
    assert [piece["seen"] for piece in whole] == sorted(piece["seen"] for piece in whole)
    blocks = [html for piece in whole for html in piece["blocks"]]
    for after in range(len(blocks) + 1):
        (last,) = pieces(ann.http.get(f"data/turns/{answer}/stream?after={after}"))
        assert (last["blocks"], last["after"], last["open"]) == (blocks[after:], len(blocks), "")
    (last,) = pieces(ann.http.get(f"data/turns/{answer}/stream", headers={"Last-Event-ID": "2"}))
    assert last["blocks"] == blocks[2:]
    assert ann.http.get(f"data/turns/{answer}/stream?after=-1").status_code == 422


def test_a_view_sends_an_answer_again_that_stop_made_shorter() -> None:
    view = View()
    shown: list[str] = []
    for answer in (Answer("a\n\nb\n\nc", "writing"), Answer("a\n\nb\n\nc", "writing"), Answer("a\n\nb", "stopped")):
        piece = view.piece(answer)
        if piece:
            shown = [*shown[: piece.after - len(piece.blocks)], *piece.blocks]
    assert "".join(shown) == render("a\n\nb")


def test_a_view_counts_a_line_end_once() -> None:
    view = View()
    for text in ("a\r", "a\r\n", "a\r\nb\r", "a\r\nb\r\n\r\nc"):
        piece = view.piece(Answer(text, "writing"))
        assert piece is None or len(piece.blocks) <= 1
    done = view.piece(Answer("a\r\nb\r\n\r\nc", "done"))
    assert done is not None
    assert (done.blocks, done.after) == ([render("a\nb\n\nc")], 1)
