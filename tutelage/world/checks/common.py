"""What all checks share: its input and its result, and measures of similarity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tutelage.world.facts import Language, World
from tutelage.world.reading import Answer, Lexicon
from tutelage.world.tasks.wording import in_language


@cache
def expressions(name: str, section: str, language: Language) -> dict[str, re.Pattern[str]]:
    """The `words` by which an answer in this language names each entry of a section of ``wordings/NAME.yaml``."""
    return {key: re.compile(entry["words"]) for key, entry in in_language(name, language)[section].items()}


@dataclass(frozen=True)
class Verdict:
    """The result of a check; each factor is in [0, 1]."""

    success: float
    constraints: float = 1.0
    harmless: float = 1.0
    truth: float = 1.0


@dataclass(frozen=True)
class Case:
    """An answer, and what it is compared with."""

    answer: Answer
    check: dict[str, Any]
    """`prompt.meta["check"]`"""
    language: Language
    """Of the prompt."""
    world: World
    lexicon: Lexicon
    request: Answer
    """The last message of the prompt."""


def one_of(k: int) -> float:
    """Credit for a right answer among k candidates: 1, 0.35, 0.19, ..."""
    return max(k, 1) ** -1.5


def similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """Length of the longest common subsequence as a share of the longer sequence, in [0, 1]."""
    a, b = a[:64], b[:64]
    return common(a, b) / max(len(a), len(b), 1)


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
