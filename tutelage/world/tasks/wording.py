"""How a fact is asked for, told and denied, and the little grammar that sentences in English and Chinese need."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from tutelage.world.facts import LANGUAGES, Language
from tutelage.world.wordings import wordings

LIST_MARK: dict[Language, str] = {"en": ", ", "zh": "、"}
_FULL_WIDTH = str.maketrans(".?!", "。？！")


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


def relation_wording(relation: str, language: Language) -> dict[str, str]:
    """How a relation, named with the kind of its subject (person.town), is asked for, told and denied."""
    relations: dict[str, dict[str, str]] = in_language("tasks_statements", language)["relations"]
    return relations[relation]


def fill(text: str, language: Language, subject: str, pronoun: str = "") -> str:
    """Put the subject, or its pronoun (f, m or it), for every `{s}`; `{s}'s` becomes her, his or its."""
    if not pronoun:
        return text.replace("{s}", subject)
    plain, possessive = in_language("tasks_statements", language)["pronouns"][pronoun]
    return text.replace("{s}'s", possessive).replace("{s}", plain)


def capital(text: str) -> str:
    """The text with a capital first letter and all else unchanged."""
    return text[0].upper() + text[1:]


def full_stop(text: str, language: Language, mark: str = ".") -> str:
    """The text with this mark at its end, which is full-width in Chinese."""
    return text + (mark if language == "en" else mark.translate(_FULL_WIDTH))


def sentence(text: str, language: Language, mark: str = ".") -> str:
    """The text with a capital and a final mark."""
    return full_stop(capital(text), language, mark)


def joined(parts: Iterable[str], language: Language) -> str:
    """Sentences one after the other: with spaces in English, without in Chinese."""
    return (" " if language == "en" else "").join(parts)


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")
