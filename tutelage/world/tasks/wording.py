"""Reads the wordings of tasks in one language, with the little grammar that English and Chinese sentences need."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from tutelage.world.facts import LANGUAGES, Language
from tutelage.world.wordings import wordings

LIST_MARK: dict[Language, str] = {"en": ", ", "zh": "、"}
MARKS: dict[Language, dict[str, str]] = {"en": {".": ".", "?": "?"}, "zh": {".": "。", "?": "？"}}
"""The marks that end a sentence, by the English one."""


@cache
def in_language(name: str, language: Language) -> Any:
    """The wordings of a file in one language: each mapping of languages becomes its side, and is dropped where it lacks one."""
    return _side(wordings(name), language)


def _side(node: Any, language: Language) -> Any:
    if isinstance(node, list):
        return [_side(item, language) for item in node]
    if not isinstance(node, dict):
        return node
    if node.keys() <= set(LANGUAGES):
        return node.get(language)
    sides = {key: _side(value, language) for key, value in node.items()}
    return {key: side for key, side in sides.items() if side is not None}


def capital(text: str) -> str:
    """The text with a capital first letter and all else unchanged."""
    return text[0].upper() + text[1:]


def joined(parts: Iterable[str], language: Language) -> str:
    """Sentences one after the other: with spaces in English, without in Chinese."""
    return (" " if language == "en" else "").join(parts)


def mistakes(sentence: str, language: Language) -> list[str]:
    """The sentence with one mistake of grammar or spelling, in every way that ``wordings/tasks_writing.yaml`` knows."""
    pairs = in_language("tasks_writing", language)["mistakes"]
    return [sentence.replace(right, wrong, 1) for right, wrong in pairs if right in sentence]


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")
