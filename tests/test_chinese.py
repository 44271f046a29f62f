"""The Chinese pages: one term for each English one (docs/glossary.md), spaces round Latin words, the English page's figures."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHINESE = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.zh.md"), *ROOT.glob("docs/**/*.zh.md")))
METHODS = ("docs/method.md", "docs/method.zh.md")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HAN = "\u4e00-\u9fff"


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def english_of(name: str) -> str:
    return text_of(name.replace(".zh.md", ".md"))


@cache
def glossary() -> list[tuple[list[str], str, list[str]]]:
    """English words, the Chinese term, and what is not said instead."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|([^|]*)\|$", text_of("docs/glossary.md"), re.MULTILINE)[1:]
    return [(e.split(", "), c, list(filter(None, n.strip().split("、")))) for e, c, n in rows if set(e) != {"-"}]


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)


def test_there_are_chinese_pages():
    assert {"README.zh.md", "docs/guide.zh.md", "docs/method.zh.md"} <= set(CHINESE)


def test_the_glossary_has_each_word_once_and_contradicts_nothing():
    rows = glossary()
    english, chinese = [word for row in rows for word in row[0]], [row[1] for row in rows]
    assert len(rows) > 60
    assert len(set(english)) == len(english)
    assert len(set(chinese)) == len(chinese)
    assert [row[0][0] for row in rows] == sorted((row[0][0] for row in rows), key=str.lower)
    assert not {
        (variant, term) for _, _, variants in rows for variant in variants for term in chinese if variant in term
    }


def test_every_term_of_the_glossary_is_used():
    pages = "".join(map(text_of, CHINESE))
    assert not [term for _, term, _ in glossary() if term not in pages]


@pytest.mark.parametrize("name", CHINESE)
def test_no_other_word_stands_for_a_term(name):
    for _, term, variants in glossary():
        found = [variant for variant in variants if variant in text_of(name)]
        assert not found, f"say {term} instead"


@pytest.mark.parametrize("name", CHINESE)
def test_there_is_a_space_between_chinese_and_latin(name):
    """Also round inline code; punctuation, Chinese or not, needs none."""
    text = text_of(name).replace("**", "")
    latin = r"[A-Za-z0-9`$%\u0370-\u03ff]"  # with the Greek of the formulas
    outside = re.sub(
        r"`[^`\n]*`", lambda found: re.sub(f"[{HAN}]", "x", found[0]), text
    )  # code may quote Chinese as it is
    quoted = re.sub(r'"[^"\n]*"', '""', outside)
    assert not re.findall(f".{{0,12}}(?:[{HAN}]{latin}|{latin}[{HAN}]).{{0,12}}", quoted)


@pytest.mark.parametrize("name", CHINESE)
def test_chinese_is_punctuated_as_chinese(name):
    prose = CODE.sub("`", text_of(name))
    assert not re.findall(
        f".{{0,8}}(?:[{HAN}][,;!?]|[{HAN}]\\(|\\)[{HAN}]).{{0,8}}", re.sub(r"\]\([^)]*\)", "]", prose)
    )


@pytest.mark.parametrize("name", CHINESE)
def test_headings_use_the_terms_of_the_glossary(name):
    english, chinese = headings(english_of(name)), headings(text_of(name))
    assert len(english) == len(chinese)
    for there, here in zip(english, chinese, strict=True):
        for words, term, _ in glossary():
            if any(re.search(rf"\b{word}(?:s|es)?\b", there, re.IGNORECASE) for word in words):
                assert term in here, f"{there} -> {here}"


def test_the_formulas_are_the_same():
    """To the letter. The rest of the code is compared in `test_docs.py:test_the_translation_is_whole`."""
    english, chinese = (
        re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for text in map(text_of, METHODS)
    )
    assert len(english) > 5
    assert chinese == english


@pytest.mark.parametrize("name", CHINESE)
def test_the_figures_are_those_of_the_english_page(name):
    """Every decimal, percentage and large number, section by section."""

    def figures(text: str) -> list[list[str]]:
        in_millions = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100} million", CODE.sub("", text))
        sections = re.split(r"^#+ .+$", in_millions, flags=re.MULTILINE)
        number = r"(?<![\w.])\d[\d,]*\.\d+%?|(?<![\w.])\d+%|(?<![\w.])\d{1,3}(?:,\d{3})+|(?<![\w.])\d{3,}(?![\w.])"
        return [sorted(set(re.findall(number, section))) for section in sections]

    assert figures(text_of(name)) == figures(english_of(name))
