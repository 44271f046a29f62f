"""The chat page and the others in Chromium: a story, the traps of the field, and a look at each for accessibility."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from memory_backend import ANSWER
from playwright.sync_api import Page, expect
from serving import wait_until

from tutelage.serve.pages import endpoints as e

LONG = "\n\n".join(f"Paragraph {n} of a long answer." for n in range(40))
HEAVY = ("serious", "critical")


def send(page: Page, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_value("")


def answers(page: Page):
    return page.locator(".turn.assistant")


def finished(page: Page) -> None:
    """Nothing is asked for or written any more."""
    expect(page.locator("#send:not([hidden]):not([disabled])")).to_be_visible()


def test_the_story(tab) -> None:
    """Sign up, ask, edit, branch, ask again, judge, keep out of training, log out and in."""
    opened = tab(accounts=True)
    page, backend = opened.page, opened.backend
    opened.go("chat")
    expect(page).to_have_url(re.compile("/login$"))
    page.get_by_role("main").get_by_role("link", name="Sign up").click()
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("checkbox").check()
    page.get_by_role("main").get_by_role("button", name="Sign up").click()
    expect(page).to_have_url(re.compile("/chat$"))

    send(page, "What is <b>pi</b>?")
    expect(page.locator(".turn.user .said")).to_have_text("What is <b>pi</b>?")
    finished(page)
    expect(answers(page).locator("strong")).to_have_text("one")
    expect(answers(page).locator("pre .nb")).to_have_text("print")
    expect(answers(page).locator("math")).to_have_count(1)
    expect(answers(page)).to_contain_text("demo-3")
    expect(page).to_have_url(re.compile(r"\?c="))

    backend.next_answers.append(["Second answer."])
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_contain_text("Second answer.")
    finished(page)
    expect(answers(page).locator(".tools")).to_contain_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_contain_text("Here is one answer.")
    expect(answers(page).locator(".tools")).to_contain_text("1/2")

    backend.next_answers.append(["Edited answer."])
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit").fill("What is e?")
    page.get_by_role("button", name="Save and send").click()
    expect(answers(page)).to_contain_text("Edited answer.")
    finished(page)
    expect(page.locator(".turn.user .tools")).to_contain_text("2/2")
    page.locator(".turn.user").get_by_role("button", name="Previous version").click()
    expect(page.locator(".turn.user .said")).to_have_text("What is <b>pi</b>?")
    page.reload()
    expect(page.locator(".turn.user .said")).to_have_text("What is <b>pi</b>?")  # the branch that was seen last

    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("What was good or bad?").fill("too short")
    page.keyboard.press("Enter")
    expect(page.locator(".reason")).to_have_count(0)
    assert [(value, reason) for _, value, reason in backend.thumbs] == [("down", ""), ("down", "too short")]

    page.get_by_role("switch").uncheck()
    finished(page)
    page.reload()
    expect(page.get_by_role("switch")).not_to_be_checked()
    assert [each["training"] for each in backend.dialogues.values()] == [False]

    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/login$"))
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="What is <b>pi</b>?").click()
    expect(page.locator(".turn.user")).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete: What is <b>pi</b>?").click()
    expect(page.locator("#list")).to_contain_text("No conversations yet.")
    assert backend.turns == {}


def test_stop_keeps_exactly_what_was_seen(tab) -> None:
    opened = tab()
    page, backend = opened.go("chat"), opened.backend
    backend.next_answers.append([LONG])
    backend.hold = 200
    send(page, "Go on")
    expect(answers(page)).to_contain_text("Paragraph 5")
    length = "document.querySelector('.turn.assistant .prose').textContent.length"
    wait_until(
        lambda: page.evaluate(length) > 170
    )  # wait_for_function needs eval in the page, which its policy forbids
    seen = answers(page).locator(".prose").inner_text()
    page.get_by_role("button", name="Stop").click()
    finished(page)
    expect(answers(page)).to_contain_text("Stopped")
    assert answers(page).locator(".prose").inner_text().strip() == seen.strip()
    (turn,) = (turn for turn in backend.turns.values() if turn["role"] == "assistant")
    assert (turn["state"], turn["text"]) == ("stopped", LONG[:200])


def test_an_answer_goes_on_when_the_page_is_left(tab) -> None:
    opened = tab()
    page, backend = opened.go("chat"), opened.backend
    backend.next_answers.append([LONG])
    backend.hold = 300
    send(page, "Go on")
    expect(answers(page)).to_contain_text("Paragraph 5")
    address = page.url
    opened.go("settings")
    backend.hold = None
    page.goto(address)
    finished(page)
    expect(answers(page)).to_contain_text("Paragraph 39")
    assert answers(page).locator("p:not(.who)").count() == 40


def test_a_closed_block_stays_the_same_element(tab) -> None:
    """Only the open block is drawn anew: what was selected or scrolled in the others stays so."""
    opened = tab()
    page, backend = opened.go("chat"), opened.backend
    backend.next_answers.append([LONG])
    backend.hold = 150
    send(page, "Go on")
    expect(answers(page)).to_contain_text("Paragraph 3")
    page.evaluate("document.querySelector('.turn.assistant .prose p').marked = true")
    backend.hold = 600
    expect(answers(page)).to_contain_text("Paragraph 15")
    assert page.evaluate("document.querySelector('.turn.assistant .prose p').marked")


def test_two_answers_to_choose_from(tab) -> None:
    opened = tab()
    page, backend = opened.go("chat"), opened.backend
    backend.next_answers.append(["The first one.", "The second one."])
    send(page, "Which?")
    expect(page.get_by_role("button", name="Prefer answer 2")).to_be_visible()
    assert "demo-" not in page.content().split("<main", 1)[1]
    expect(page.locator("#send")).to_be_disabled()
    page.get_by_role("button", name="Prefer answer 2").click()
    expect(answers(page)).to_have_count(1)
    expect(answers(page)).to_contain_text("The second one.")
    expect(answers(page)).to_contain_text("demo-4")
    ((_, choice),) = backend.choices
    assert choice.verdict == "better"
    send(page, "And then?")
    expect(answers(page)).to_have_count(2)
    finished(page)
    backend.next_answers.append(["Left.", "Right."])
    send(page, "Which now?")
    page.get_by_role("button", name="Both bad").click()
    finished(page)
    assert backend.choices[1][1].verdict == "both_bad"
    assert backend.choices[1][1].answer is None


def test_enter_does_not_send_while_a_word_is_composed(tab) -> None:
    opened = tab()
    page = opened.go("chat")
    message = page.get_by_label("Your message")
    message.focus()
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    for code in (13, 229):  # Chromium says isComposing; Safari only the key code
        page.evaluate(
            """([code, composing]) => document.getElementById("message").dispatchEvent(new KeyboardEvent("keydown",
            {key: "Enter", keyCode: code, isComposing: composing, bubbles: true, cancelable: true}))""",
            [code, code == 13],
        )
    session.send("Input.insertText", {"text": "你好"})
    expect(message).to_have_value("你好")
    assert opened.backend.turns == {}
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(message).to_have_value("")
    expect(page.locator(".turn.user .said")).to_have_text("你好\nsecond line")


def test_a_draft_survives_a_reload_and_a_failed_request(tab) -> None:
    opened = tab()
    page, backend = opened.go("chat"), opened.backend
    page.get_by_label("Your message").fill("half a thou")
    page.reload()
    expect(page.get_by_label("Your message")).to_have_value("half a thou")
    working, backend.say = backend.say, lambda person, body: backend.mine(person, "gone")
    page.keyboard.press("Tab")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator("#news")).to_contain_text("That did not work")
    expect(page.get_by_label("Your message")).to_have_value("half a thou")
    assert [error for error in opened.errors if "404" in error]
    opened.errors.clear()
    backend.say = working
    page.get_by_label("Your message").press("Enter")
    expect(page.get_by_label("Your message")).to_have_value("")
    page.reload()
    expect(page.locator(".turn.user")).to_have_count(1)
    expect(page.get_by_label("Your message")).to_have_value("")


def test_settings_change_language_and_theme(tab) -> None:
    opened = tab()
    page = opened.go("settings")
    page.get_by_label("Appearance").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("设置")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    with page.expect_download() as download:
        page.get_by_role("link", name="下载").click()
    assert download.value.suggested_filename == "tutelage-data.json"


def signed_up(opened) -> Page:
    page = opened.go("signup")
    page.locator("input[name=name]").fill("ann")
    page.locator("input[name=password]").fill("correct horse")
    page.get_by_role("checkbox").check()
    page.locator("main button").click()
    expect(page.locator("#message")).to_be_visible()
    return page


def test_an_api_key_is_shown_once_and_revoked(tab) -> None:
    opened = tab(accounts=True)
    page = signed_up(opened)
    opened.go("settings")
    label = "<img src=x onerror=alert(1)> laptop"
    page.get_by_label("What is it for?").fill(label)
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#made")).to_contain_text("tut-abcd-")
    page.reload()
    expect(page.locator("#keys li")).to_have_text(re.compile(re.escape(f"{label} · tut-abcd…")))
    expect(page.locator("#made")).to_be_hidden()
    page.get_by_role("button", name=f"Revoke the key {label}").click()
    expect(page.locator("#keys li")).to_have_count(0)
    assert opened.backend.api_keys == []


def test_inline_script_and_style_are_blocked(tab) -> None:
    opened = tab()
    page = opened.go("chat")
    page.evaluate("""() => {
        const script = document.createElement("script");
        try { script.textContent = "window.ran = 1"; document.body.append(script); } catch (error) { window.refused = error.name; }
        try { document.body.innerHTML += "<img src=x onerror='window.ran = 1'>"; } catch (error) { window.refused = error.name; }
        document.getElementById("turns").setAttribute("style", "color: red");
    }""")
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert page.evaluate("window.refused") == "TypeError"  # trusted types
    assert page.evaluate("getComputedStyle(document.getElementById('turns')).color") != "rgb(255, 0, 0)"
    assert any("Content Security Policy" in error for error in opened.errors)
    opened.errors.clear()


def test_a_table_that_is_too_wide_breaks_no_word(tab) -> None:
    opened = tab(viewport={"width": 390, "height": 844})
    page = opened.go("chat")
    opened.backend.next_answers.append(
        ["| procedure | remembered | sometimes | afterwards |\n|-|-|-|-|\n| a | b | c | d |"]
    )
    send(page, "A table, please")
    finished(page)
    heights = "selector => [...document.querySelectorAll(selector)].map(cell => cell.clientHeight)"
    assert set(page.evaluate(heights, ".prose th")) == set(page.evaluate(heights, ".prose td"))
    table = page.locator(".prose table")
    assert table.evaluate("node => node.scrollWidth > node.clientWidth")  # it scrolls by itself
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def filled(opened, name: str) -> Page:
    """A page with something on it."""
    opened.backend.tasks = [("Name a colour.", ["Red.", "Blue, like the sky.", ANSWER])]
    if name == "settings" and opened.page.url.endswith("signup"):
        signed_up(opened)
        opened.backend.make_key(opened.backend.people["ann"][0], e.MakeKey(label="laptop"))
    page = opened.go(name)
    if page.locator("#keys").count():
        expect(page.locator("#keys li")).to_have_count(1)
    if name == "chat":
        opened.backend.next_answers += [[ANSWER + "\n\n| a | b |\n|-|-|\n| 1 | 2 |"], ["Short.", ANSWER]]
        send(page, "你好 — what is pi?")
        finished(page)
        send(page, "Two, please")
        expect(page.locator(".choice .buttons")).to_be_visible()
    if name == "rank":
        expect(page.locator(".answer")).to_have_count(3)
        for key in ("2", "1", "="):
            page.keyboard.press(key)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(tab, scheme: str, width: int) -> None:
    locale = "zh-CN" if (scheme, width) in (("light", 390), ("dark", 1280)) else "en-GB"
    view = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme, "locale": locale}
    for accounts, names in ((False, ("chat", "rank", "settings")), (True, ("login", "signup", "settings"))):
        opened = tab(accounts=accounts, **view, bypass_csp=True)  # axe itself is an inline script
        for name in names:
            page = filled(opened, name)
            found = [
                (each["id"], each["nodes"][0]["html"])
                for each in Axe().run(page).response["violations"]
                if each["impact"] in HEAVY
            ]
            assert found == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
