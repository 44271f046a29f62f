"""What people and models write, in a real Chromium: nothing of it runs, loads, or leads where it must not.

First without the Content-Security-Policy, which would hide what the cleaner lets through; then on the page itself, where every
attempt that the policy stops is an error that the tab reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from test_chat_page import answers, finished, send, signed_up
from test_markdown import ATTACKS

from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages.markdown import render

FOUND = """() => {
  for (const node of document.querySelectorAll("body *"))
    for (const kind of ["click", "mouseover", "load", "error", "focus"])
      node.dispatchEvent(new Event(kind, { cancelable: true, bubbles: true }));
  const bad = "script, style, iframe, object, embed, form, input, base, link, meta, svg, [style], [id]";
  return {
    ran: window.ran,
    elements: [...document.querySelectorAll(`body :is(${bad})`)].map((node) => node.outerHTML),
    links: [...document.links].map((link) => link.protocol).filter((name) => !/^(https?|mailto):$/.test(name)),
  };
}"""
SVG = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIG9ubG9hZD0iYWxlcnQoMSkiLz4="
MORE = [
    f"![x]({SVG})",
    f"[x]({SVG})",
    "<svg><script>alert(1)</script></svg>",
    r"$\text{</mtext></math><svg onload=alert(1)>}$",
]
IMG = "<img src=x onerror=alert(1)>"


Shown = Callable[[str], tuple[dict[str, Any], list[str]]]


@pytest.fixture
def shown(browser: Browser) -> Iterator[Shown]:
    """What happens in a page without a policy, and the requests that it makes; the page is empty again before each text."""
    page = browser.new_page()
    asked: list[str] = []
    page.route("**/*", lambda route: (asked.append(route.request.url), route.abort()))

    def show(html: str) -> tuple[dict[str, Any], list[str]]:
        asked.clear()
        page.set_content("<script>window.ran = []; window.alert = (x) => window.ran.push(x)</script><body></body>")
        page.evaluate("html => document.body.innerHTML = html", html)
        page.evaluate("() => new Promise(requestAnimationFrame)")
        return page.evaluate(FOUND), list(asked)

    yield show
    page.close()


def test_rendered_text_does_nothing(shown: Shown) -> None:
    for attack in (*ATTACKS, *MORE):
        found, asked = shown(render(attack))
        assert found == {"ran": [], "elements": [], "links": []}, attack
        assert asked == [], attack


@pytest.mark.parametrize(
    ("html", "kind"),
    [(IMG, "ran"), ("<svg></svg>", "elements"), ("<a href='javascript:alert(1)'>x</a>", "links")],
)
def test_the_harness_sees_harm(shown: Shown, html: str, kind: str) -> None:
    shown(render("Nothing."))
    assert shown(html)[0][kind] != []
    assert shown(render("Nothing."))[0] == {"ran": [], "elements": [], "links": []}


def test_text_and_names_do_nothing_on_the_page(tab) -> None:
    """Answers, messages, titles, the names of model folders, and labels of keys."""
    opened = tab(accounts=True)
    page = signed_up(opened)
    page.add_init_script("window.ran = []; window.alert = (x) => window.ran.push(x)")
    opened.go("chat")
    opened.backend.next_answers += [["\n\n".join([*ATTACKS, *MORE])]]
    opened.backend.speed = 10_000
    send(page, f"{IMG} <script>alert(1)</script> $x$ **b**")
    finished(page)
    for turn in opened.backend.turns.values():
        turn["model"] = f"runs/{IMG}"
    for dialogue in opened.backend.dialogues.values():
        dialogue["title"] = IMG
    page.reload()
    finished(page)
    expect(page.locator(".turn.user .said")).to_have_text(f"{IMG} <script>alert(1)</script> $x$ **b**")
    expect(page.locator("#list")).to_contain_text(IMG)
    expect(answers(page)).to_contain_text(f"runs/{IMG}")
    assert page.evaluate("window.ran") == []
    assert page.locator("main :is(script, iframe, object, embed, svg, base)").count() == 0
    opened.backend.make_key(opened.backend.people["ann"][0], e.MakeKey(label=IMG))
    opened.go("settings")
    expect(page.locator("#keys li")).to_contain_text(IMG)
    assert page.evaluate("window.ran") == []
