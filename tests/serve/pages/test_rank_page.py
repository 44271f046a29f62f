"""The ranking page in Chromium: by keyboard, by mouse, by touch and by its buttons."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

TASKS = [("Name a colour.", ["Red.", "Blue, like the sky.", "**Green**", "A colour."]), ("Second?", ["Yes.", "No."])]
PAGE_OF_FOUR = "Name a colour."


@pytest.fixture
def ranking(tab):
    opened = tab()
    opened.backend.tasks = list(TASKS)
    opened.go("rank")
    expect(opened.page.locator(".answer")).to_have_count(4)
    return opened


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def groups(page: Page) -> list[list[str]]:
    return page.evaluate(
        "[...document.querySelectorAll('#groups > li')].map(g => [...g.querySelectorAll('.chip')].map(c => c.dataset.id))"
    )


KEYS = {
    "2 1 4 3": ["a1", "a0", "a3", "a2"],
    "1 2 3 4 =": ["a0", "a1", "a2 a3"],
    "1 2 = 3 = 4": ["a0 a1 a2", "a3"],
    "1 2 3 4 = =": ["a0", "a1", "a2", "a3"],
    "1 2 3 4 ArrowUp ArrowUp ArrowUp ArrowUp": ["a3", "a0", "a1", "a2"],
    "1 2 3 4 1 ArrowDown": ["a1", "a0", "a2", "a3"],
    "1 2 3 = ArrowUp 4": ["a0", "a2", "a1", "a3"],
    "1 2 3 = ArrowDown 4": ["a0", "a1", "a2", "a3"],
    "1 2 u 3 2 4": ["a0", "a2", "a1", "a3"],
    "1 = 2 3 4": ["a0", "a1", "a2", "a3"],
    "9 = ArrowUp 4 3 2 1": ["a3", "a2", "a1", "a0"],
    "3 b": ["a2", "a0 a1 a3"],
}
"""Keys pressed -> the groups that they make, best first."""


def test_the_keyboard_places_moves_ties_and_undoes(ranking) -> None:
    for keys, places in KEYS.items():
        ranking.page.reload()
        expect(ranking.page.locator(".answer")).to_have_count(4)
        press(ranking.page, keys)
        expect(ranking.page.locator("#submit")).to_be_enabled()
        assert groups(ranking.page) == [place.split() for place in places], keys


def test_only_a_complete_ranking_is_submitted_and_undo_takes_it_back(ranking) -> None:
    page, backend = ranking.page, ranking.backend
    press(page, "1 2 3 Enter")
    expect(page.locator("#left")).to_contain_text("1 left")
    expect(page.locator("#submit")).to_be_disabled()
    press(page, "4 Enter")
    expect(page.locator("#prompt")).to_contain_text("Second?")
    ((task, ranked),) = backend.rankings
    assert (task, ranked.groups, ranked.all_bad) == ("task0", [["a0"], ["a1"], ["a2"], ["a3"]], False)
    assert ranked.seconds > 0
    press(page, "u")
    expect(page.locator("#prompt")).to_contain_text(PAGE_OF_FOUR)
    assert backend.rankings == []
    expect(page.locator(".answer")).to_have_count(4)
    press(page, "b")
    expect(page.locator("#all-bad")).to_have_attribute("aria-pressed", "true")
    press(page, "Enter")
    expect(page.locator("#prompt")).to_contain_text("Second?")
    assert backend.rankings[0][1].all_bad
    assert backend.rankings[0][1].groups == [["a0", "a1", "a2", "a3"]]
    press(page, "2 1 Enter")
    expect(page.locator("#empty")).to_be_visible()
    assert len(backend.rankings) == 2


def test_skipping_needs_a_reason(ranking) -> None:
    page, backend = ranking.page, ranking.backend
    press(page, "s")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Skip").click()
    assert backend.skips == []  # the browser asks for the reason
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    press(page, "s")
    page.keyboard.type("3 u b unclear")  # no key of the ranking works in here
    dialog.get_by_role("button", name="Skip").click()
    expect(page.locator("#prompt")).to_contain_text("Second?")
    assert backend.skips == [("task0", "3 u b unclear")]


def drag(page: Page, answer: str, to: str, part: float) -> None:
    """Drag an answer's handle or chip to a part of the height of a place."""
    chips = page.locator(f"#groups .chip[data-id={answer}] .name")
    handle = chips if chips.count() else page.locator(f".answer[data-id={answer}] h3")
    handle.scroll_into_view_if_needed()
    start = handle.bounding_box()
    end = page.locator(to).bounding_box()
    page.mouse.move(start["x"] + 10, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + 30, start["y"] + 20, steps=2)
    page.mouse.move(end["x"] + end["width"] / 3, end["y"] + end["height"] * part, steps=4)
    page.mouse.up()


def test_dragging_with_a_mouse(ranking) -> None:
    page = ranking.page
    drag(page, "a2", "#groups", 0.5)
    drag(page, "a0", "#groups li:nth-child(1)", 0.1)
    assert groups(page) == [["a0"], ["a2"]]
    drag(page, "a1", "#groups li:nth-child(2)", 0.5)
    assert groups(page) == [["a0"], ["a2", "a1"]]
    drag(page, "a3", "#groups li:nth-child(2)", 0.95)
    assert groups(page) == [["a0"], ["a2", "a1"], ["a3"]]
    drag(page, "a0", "#groups li:nth-child(3)", 0.95)
    assert groups(page) == [["a2", "a1"], ["a3"], ["a0"]]
    drag(page, "a1", "#groups li:nth-child(3)", 0.1)
    assert groups(page) == [["a2"], ["a3"], ["a1"], ["a0"]]
    drag(page, "a1", "#prompt", 0.5)  # dropped outside: nothing happens
    assert groups(page) == [["a2"], ["a3"], ["a1"], ["a0"]]
    press(page, "u")
    assert groups(page) == [["a2", "a1"], ["a3"], ["a0"]]
    page.locator("#submit").click()
    expect(page.locator("#prompt")).to_contain_text("Second?")
    assert ranking.backend.rankings[0][1].groups == [["a2", "a1"], ["a3"], ["a0"]]


def test_dragging_by_touch_on_a_phone(tab) -> None:
    opened = tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    opened.backend.tasks = list(TASKS)
    page = opened.go("rank")
    touch = page.context.new_cdp_session(page)

    def finger(kind: str, *points: tuple[float, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    for answer in ("a3", "a1"):
        handle = page.locator(f".answer[data-id={answer}] .handle")
        handle.scroll_into_view_if_needed()
        page.evaluate("id => document.querySelector(`.answer[data-id=${id}]`).scrollIntoView()", answer)
        box, end = handle.bounding_box(), page.locator("#ranking").bounding_box()
        x, y = box["x"] + 40, box["y"] + box["height"] / 2
        finger("touchStart", (x, y))
        for part in (0.2, 0.6, 1):
            finger("touchMove", (x, y + part * (end["y"] + end["height"] - 60 - y)))
        finger("touchEnd")
    assert groups(page) == [["a3"], ["a1"]]


def test_buttons_do_all_that_keys_do(ranking) -> None:
    page = ranking.page
    for number in (4, 2, 1, 3):
        page.get_by_role("button", name=f"Place answer {number}").click()
    page.get_by_role("button", name="Move answer 3 up").click()
    page.get_by_role("button", name="Tie answer 2 with the one above").click()
    assert groups(page) == [["a3", "a1"], ["a2"], ["a0"]]
    expect(page.locator("#news")).to_contain_text("Answer 2: place 1")


def test_the_page_names_no_model_and_keeps_its_answers_in_place(ranking) -> None:
    page = ranking.page
    before = page.locator(".answer").evaluate_all("nodes => nodes.map(n => n.dataset.id)")
    press(page, "3 1 2 4 ArrowUp")
    assert (
        page.locator(".answer").evaluate_all("nodes => nodes.map(n => n.dataset.id)")
        == before
        == ["a0", "a1", "a2", "a3"]
    )


def test_whose_words_are_shown_is_said_in_the_pages_language(tab) -> None:
    opened = tab(locale="zh-CN")
    opened.backend.tasks = list(TASKS)
    opened.go("rank")
    expect(opened.page.locator("#prompt .who")).to_have_text("用户")
