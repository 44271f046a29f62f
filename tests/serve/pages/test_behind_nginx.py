"""`tutelage serve` under a path of a real nginx, with the very lines that docs/serving.md gives."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest
from browser import Tab
from playwright.sync_api import Browser, expect
from serving import HELLO, parrot, wait_until
from test_chat_page import answers, finished, send
from test_serve import WAIT, saved, serving, stop
from test_serving_docs import PAGES

from tutelage.runs.hashes import hash_of
from tutelage.store import conversations, models, people
from tutelage.store.opening import open_store

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def documented() -> str:
    """The configuration, which is the same in both languages."""
    english, chinese = (re.findall(r"```nginx\n(.*?)```", page, re.DOTALL) for page in PAGES)
    assert english == chinese
    return english[0]


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[str]:
    """In front of a server; yields its address and the path in it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    location = documented().replace("127.0.0.1:8000", upstream)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"""
        {user} daemon off; pid {folder}/pid; error_log {folder}/errors;
        events {{}}
        http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; {location} }} }}
    """)
    process = subprocess.Popen([NGINX, "-e", f"{folder}/errors", "-c", f"{folder}/nginx.conf"])
    try:
        wait_until(lambda: process.poll() is not None or socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        assert process.poll() is None, (folder / "errors").read_text()
        yield f"http://localhost:{port}{re.search(r'location (/[^ ]+/)', location)[1]}"
    finally:
        process.terminate()
        process.wait()


def test_the_story(browser: Browser, tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db")
    folder = saved(tmp_path / "old", parrot("loud ", endless=True, context=8192))
    models.register_model(store, hash_of(folder), str(folder))
    models.promote(store, hash_of(folder), actor="test")
    with (
        serving(store, "--port", "0", "--proxies", "127.0.0.1") as (_, server),
        nginx(tmp_path, server.replace("http://localhost", "127.0.0.1")) as url,
    ):
        chat_in_a_browser(browser, url)
        ann = people.find_user(store, "ann")
        (chat,) = conversations.list_chats(store, ann.id)
        assert [turn.status for turn in conversations.turns(store, ann.id, chat.id)] == ["done", "stopped"]
        _, key = people.create_api_key(store, ann.id)
        a_stream_comes_piece_by_piece(url, key)
        others_are_refused(url, key)
        each_visitor_is_throttled_alone(url)
    store.close()


def chat_in_a_browser(browser: Browser, url: str) -> None:
    context = browser.new_context()
    context.set_default_timeout(WAIT * 1000)
    tab = Tab(context.new_page(), url, None).watch()
    page = tab.page
    page.goto(url.rstrip("/"))
    expect(page).to_have_url(f"{url}login")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.card')).borderTopStyle") == "solid"
    )  # its style is here
    page.get_by_role("link", name="Sign up").last.click()
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("checkbox").check()
    page.get_by_role("main").get_by_role("button", name="Sign up").click()
    expect(page).to_have_url(f"{url}chat")
    expect(page.locator("#list")).to_contain_text("No conversations yet.")  # and its scripts
    send(page, "Tell me everything")
    stop(page)  # once the text has been seen to grow
    finished(page)
    expect(answers(page)).to_contain_text("Stopped")
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page).to_have_url(f"{url}login")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    expect(page.locator("#list a")).to_have_count(1)
    tab.outside = [
        each for each in tab.outside if each != url.rstrip("/")
    ]  # the first, which nginx led to the right place
    tab.check()
    context.close()


def a_stream_comes_piece_by_piece(url: str, key: str) -> None:
    """Pieces are here while the model still writes the answer, which has thousands of tokens."""
    with openai.OpenAI(base_url=f"{url}v1", api_key=key, max_retries=0) as client:
        with client.chat.completions.create(model="default", messages=HELLO, stream=True, max_tokens=8000) as stream:
            pieces = [next(stream) for _ in range(5)]
            metrics = httpx2.get(f"{url}metrics", headers={"authorization": f"Bearer {key}"}).text
        assert "tutelage_running 1.0" in metrics
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces).startswith("loud ")


def others_are_refused(url: str, key: str) -> None:
    own = {"authorization": f"Bearer {key}"}
    assert httpx2.get(f"{url}v1/models").status_code == 401
    assert httpx2.get(f"{url}v1/models", headers=own).status_code == 200
    origin = re.match(r"https?://[^/]+", url)[0]
    for headers, status in (
        ({"origin": origin}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": f"{origin}1"}, 403),
        ({"host": "evil.example"}, 403),
    ):
        for path, known in (("v1/models", own), ("login", {})):
            assert httpx2.get(f"{url}{path}", headers={**known, **headers}).status_code == status, (path, headers)


def each_visitor_is_throttled_alone(url: str) -> None:
    """By the address that nginx saw, whatever a visitor claims."""

    def guess(http: httpx2.Client, name: str) -> int:
        token = re.search(r'data-csrf="(\w+)"', http.get("login").text)[1]
        fields = {"name": name, "password": "correct horse", "csrf": token}
        return http.post("login", data=fields, headers={"x-forwarded-for": f"10.0.0.{name[5:]}"}).status_code

    base = url.replace("localhost", "127.0.0.1")
    with (
        httpx2.Client(
            base_url=base, transport=httpx2.HTTPTransport(local_address="127.0.0.2"), timeout=WAIT
        ) as stranger,
        httpx2.Client(base_url=base, timeout=WAIT) as ann,
    ):
        tries = next(n for n in range(30) if guess(stranger, f"guess{n}") == 429)
        assert tries >= 20
        assert guess(ann, "ann") == 303
