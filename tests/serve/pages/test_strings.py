"""The string catalogue: complete, used, and balanced between its languages."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.serve.pages import app, security
from tutelage.serve.pages.strings import LANGUAGES, catalogue, choose_language, strings

FOLDER = Path(app.__file__).parent
SOURCES = {
    path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*") if path.suffix in (".html", ".js", ".py")
}
COMPUTED = {f"theme_{theme}" for theme in ("auto", "light", "dark")} | {"chat", "rank", "settings", "stopped", "failed"}
COMPUTED |= {"user", "assistant", "system"}
"""Keys that templates and scripts put together, and the authors of messages."""


def used() -> set[str]:
    found = set(COMPUTED)
    for path, source in SOURCES.items():
        if path.suffix == ".py":
            found |= set(re.findall(r'"([a-z_]+)"', source)) & catalogue().keys()
        else:
            found |= set(re.findall(r"\bt\.([a-z_]+)", source))
    return found


def test_no_key_is_missing_or_unused() -> None:
    assert used() - catalogue().keys() == set()
    assert catalogue().keys() - used() == set()


@pytest.mark.parametrize("key", catalogue())
def test_both_languages_say_it_with_the_same_placeholders(key: str) -> None:
    texts = catalogue()[key]
    assert tuple(texts) == LANGUAGES
    assert all(isinstance(text, str) and text.strip() == text != "" for text in texts.values())
    fields = {
        language: {field for _, field, _, _ in Formatter().parse(text)} - {None} for language, text in texts.items()
    }
    assert fields["en"] == fields["zh"]


@pytest.mark.parametrize("key", catalogue())
def test_chinese_has_spaces_beside_latin_words(key: str) -> None:
    text = re.sub(r"\{\w+\}", "9", catalogue()[key]["zh"])
    assert not re.search(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]", text), text


def test_password_problems_are_in_the_catalogue() -> None:
    assert {security.password_problem("x"), security.password_problem("x" * 2000)} <= catalogue().keys()


@pytest.mark.parametrize(
    ("setting", "accept", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-GB,zh;q=0.9", "en"),
        (None, "de,zh;q=0.4,en;q=0.5", "en"),
        (None, "zh;q=0,en;q=0.1", "en"),
        (None, "fr", "en"),
        ("en", "zh", "en"),
        ("zh", "en", "zh"),
        ("xx", "zh", "zh"),
        (None, "zh;q=nonsense, en;q=0.1", "en"),
    ],
)
def test_language(setting: str | None, accept: str, language: str) -> None:
    assert choose_language(setting, accept) == language


@given(st.text(max_size=60))
def test_any_header_gives_a_language(accept: str) -> None:
    assert choose_language(None, accept) in LANGUAGES


def test_one_language() -> None:
    assert strings("zh")["rank"] == "排序"
