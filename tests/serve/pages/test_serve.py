"""The circle's near half as people see it: a real `tutelage serve`, a real Chromium, a model with random weights, a store.

What single pages do is tested beside this file; here everything is joined, killed once, and stopped at the end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from browser import Tab
from playwright.sync_api import Browser, Page, expect
from serving import PARROT, SECONDS, parrot, saved, wait_until
from test_chat_page import answers, finished, send
from test_rank_page import drag, groups, press

from tutelage.records import Completion, Message, Prompt
from tutelage.runs.hashes import hash_of
from tutelage.serve.pages.security import HEADERS
from tutelage.store import conversations, feedback, labels, models, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.opening import open_store

WAIT = 4 * SECONDS
ANSWERS = ["Red.", "Blue.", "Green.", "A colour."]
PLACED = [["a1 a0", "a3", "a2"], ["a2", "a0", "a1", "a3"], ["a0 a1 a2 a3"]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """With two models, of which the one that never ends an answer serves."""
    opened = open_store(tmp_path / "s.db")
    for name, assistant in (("old", parrot("loud ", endless=True, context=8192)), ("new", parrot())):
        folder = saved(tmp_path / name, assistant)
        models.register_model(opened, hash_of(folder), str(folder))
    models.promote(opened, hash_of(tmp_path / "old"), actor="test")
    yield opened
    opened.close()


@contextmanager
def serving(store: Store, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tutelage serve` with accounts, and its address. An answer may be so long that it has not ended when it is looked at."""
    words = [sys.executable, "-m", "tutelage", "serve", "--store", str(store.path), "--allowed_hosts", "localhost"]
    words += ["--max_tokens", "8000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (store.path.parent / "log").open("a") as log:
        process = subprocess.Popen(
            [*words, "--device", "cpu", *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        with process:
            try:
                (port,) = re.findall(r"127\.0\.0\.1:(\d+) answers", process.stdout.readline())
                yield process, f"http://localhost:{port}"
            finally:
                process.kill()


def begun(page: Page) -> None:
    """Text is there, and there is more of it later: it streams."""
    expect(page.locator("#stop")).to_be_visible(timeout=WAIT * 1000)
    text = "[...document.querySelectorAll('.prose')].map(node => node.textContent).join('').length"
    wait_until(lambda: page.evaluate(text) > 10, WAIT)
    before = page.evaluate(text)
    wait_until(lambda: page.evaluate(text) > before, WAIT)


def stop(page: Page) -> None:
    begun(page)
    page.get_by_role("button", name="Stop").click()


def test_the_story(browser: Browser, store: Store, tmp_path: Path) -> None:
    old, new = (hash_of(tmp_path / name) for name in ("old", "new"))
    context = browser.new_context()
    context.set_default_timeout(WAIT * 1000)
    page = context.new_page()
    with serving(store, "--port", "0") as (server, url):
        tab = Tab(page, url, None).watch()
        assert page.goto(url).headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
        expect(page).to_have_url(f"{url}/login")
        assert httpx2.get(f"{url}/v1/models").status_code == 401  # others can reach it, so programs need keys
        page.goto(f"{url}/signup")
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill("correct horse")
        page.get_by_role("checkbox").check()
        page.get_by_role("main").get_by_role("button", name="Sign up").click()
        expect(page).to_have_url(f"{url}/chat")
        ann = people.find_user(store, "ann").id
        expect(page.locator("#list")).to_contain_text("No conversations yet.")  # the page's script is at work

        send(page, "Tell me everything")
        stop(page)
        finished(page)
        seen = answers(page).locator(".prose").inner_text()
        expect(answers(page)).to_contain_text("old")
        page.reload()
        expect(answers(page).locator(".prose")).to_have_text(seen, use_inner_text=True)
        (chat,) = conversations.list_chats(store, ann)
        first = conversations.turns(store, ann, chat.id)[1]
        assert (first.status, first.model, first.finish_reason) == ("stopped", old, "cancelled")

        page.get_by_role("button", name="Edit").click()
        page.get_by_role("textbox", name="Edit").fill("Tell me less")
        page.get_by_role("button", name="Save and send").click()
        stop(page)
        finished(page)
        page.get_by_role("button", name="Answer again").click()
        begun(page)
        tree = conversations.turns(store, ann, chat.id)
        assert [turn.parent for turn in tree] == [None, tree[0].id, None, tree[2].id, tree[2].id]
        wait_until(lambda: conversations.get_turn(store, ann, tree[4].id).message.text, WAIT)
        server.kill()
        server.wait()
        assert conversations.get_turn(store, ann, tree[4].id).status == "running"

    with serving(store, "--port", url.rpartition(":")[2], "--compare_rate", "1") as (server, again):
        assert again == url
        page.reload()  # still logged in
        finished(page)
        tab.errors.clear()  # about the connection
        expect(page.locator(".turn.user .said")).to_have_text("Tell me less")
        expect(answers(page)).to_contain_text("Stopped")
        expect(answers(page).locator(".tools")).to_contain_text("2/2")
        left = conversations.get_turn(store, ann, tree[4].id)
        assert left.status == "stopped"
        assert left.message.text

        page.goto(f"{url}/chat")
        send(page, "Which?")
        stop(page)  # both
        page.get_by_role("button", name="Prefer answer 2").click()
        expect(answers(page)).to_have_count(1)
        expect(answers(page)).to_contain_text("old")

        models.promote(store, new, actor="test")
        wait_until(lambda: httpx2.get(f"{url}/health").json()["model"] == "new", WAIT)
        page.goto(f"{url}/chat")
        send(page, "Who is new?")
        stop(page)
        chosen = page.locator(".choice article", has_text=PARROT)
        assert "new" not in chosen.locator(".who").inner_text()
        chosen.get_by_role("button", name="Prefer").click()
        expect(answers(page)).to_have_count(1)
        expect(answers(page)).to_contain_text(PARROT)
        expect(answers(page).locator(".who")).to_contain_text("new")
        chats = conversations.list_chats(store, ann)[:2]
        pairs = [[t for t in conversations.turns(store, ann, c.id) if t.message.role == "assistant"] for c in chats]
        assert [{turn.model for turn in pair} for pair in pairs] == [{old, new}, {old}]
        assert [pair[1].seed - pair[0].seed for pair in pairs] == [1, 1]
        (won,), (second,) = (feedback.list_feedback(store, ann, chat.id) for chat in chats)
        assert [models_of(won)[won.body["better"] == "second"], second.body["better"]] == [new, "second"]

        rank_three(page, url, store, ann)

        page.goto(f"{url}/chat")
        send(page, "And now?")
        page.goto(f"{url}/settings")  # nobody watches the one that never ends
        last = conversations.list_chats(store, ann)[0]
        wait_until(
            lambda: all(t.message.text for t in conversations.turns(store, ann, last.id)), WAIT
        )  # which is saved every second
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT) == 0
        ends = {turn.model: turn.status for turn in conversations.turns(store, ann, last.id) if turn.model}
        assert ends == {old: "stopped", new: "done"}
    tab.check()
    context.close()


def models_of(event: feedback.Event) -> list[str]:
    return [answer["model"] for answer in event.snapshot["answers"]]


def rank_three(page: Page, url: str, store: Store, person: str) -> None:
    """One by keyboard with a tie, one by drag, one all bad; the store has what was meant, whatever the order on the page."""
    for number in range(3):
        prompt = Prompt(messages=(Message(role="user", content=f"Name a colour, {number}."),))
        tasks.create_task(store, prompts.add_prompt(store, prompt), [Completion(text=text) for text in ANSWERS])
    page.goto(f"{url}/rank")
    meant: list[list[int]] = []
    for number in range(3):
        expect(page.locator("#done")).to_contain_text(str(number))
        expect(page.locator(".answer")).to_have_count(4)
        if number == 0:
            press(page, "2 1 = 4 3")
        elif number == 1:
            drag(page, "a2", "#groups", 0.5)
            for answer, place in (("a0", 1), ("a1", 2), ("a3", 3)):
                drag(page, answer, f"#groups li:nth-child({place})", 0.95)
        else:
            press(page, "b")
        placed = [place.split() for place in PLACED[number]]
        assert groups(page) == placed
        shown = page.locator(".answer .prose").all_inner_texts()
        rank_of = {shown[int(name[1:])]: rank for rank, group in enumerate(placed, 1) for name in group}
        meant.append([rank_of[text] for text in ANSWERS])
        page.locator("#submit").click()
    expect(page.locator("#done")).to_contain_text("3")
    bodies = [label.body for label in sorted(labels.labels_of(store, person), key=lambda label: label.id)]
    assert [(body["ranks"], body["all_bad"]) for body in bodies] == list(zip(meant, [False, False, True], strict=True))
