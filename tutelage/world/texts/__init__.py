"""Texts to pretrain on: they tell the facts of the world in many ways, and teach copying, reading and sums.

`documents(world, count=..., seed=...)` yields short documents in English and Chinese. Document i depends on the world, the
seed and i alone, so a longer corpus begins with the shorter one, and held-out documents are those of another seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import accumulate

from tutelage.records import Document
from tutelage.world.facts import Language, World
from tutelage.world.texts import everyday, exercises, forum, telling
from tutelage.world.texts.pen import Pen

GENRES: dict[str, tuple[float, Callable[[Pen], str]]] = {
    # Facts of the world: a quarter of the documents, and a part of the summaries and translations.
    "biography": (9, telling.biography),
    "questions": (12, telling.questions),
    "note": (5, telling.note),
    "letter": (2, telling.letter),
    "news": (2, telling.news),
    "guide": (1, telling.guide),
    "card": (3, telling.card),
    "two_steps": (3, telling.two_steps),
    "correction": (2, telling.correction),
    "register": (1, telling.register),
    # To be worked from the text itself: three in ten, so that a small model learns to copy from its context.
    "lists": (14, exercises.lists),
    "recital": (12, exercises.recital),
    "words_in_order": (1, exercises.words_in_order),
    "reading": (8, exercises.reading),
    "extraction": (4, exercises.extraction),
    "rewriting": (3, exercises.rewriting),
    "summary": (4, exercises.summary),
    # Requests of every kind with replies: three in ten.
    "forum": (50, forum.forum),
    # Arithmetic: one in fifteen, so that each pair of numbers is likely to occur.
    "sums": (11, exercises.sums),
    # Everyday life: one in eight.
    "story": (4, everyday.story),
    "sentiment": (2, everyday.sentiment),
    "translation": (4, everyday.translation),
    "program": (3, everyday.program),
    "ideas": (2, everyday.ideas),
    "courtesy": (2, everyday.courtesy),
    "limits": (2, everyday.limits),
}
"""Genre -> (weight, writer). A document's source is its genre; weights are shares of documents, not of bytes."""

CHINESE_SHARE = 0.3
"""Share of Chinese documents. A sum in signs has no language and counts as English."""

_HAN = re.compile(r"[\u4e00-\u9fff]")
_NAMES = tuple(GENRES)
_CUMULATIVE = tuple(accumulate(weight for weight, _ in GENRES.values()))


def documents(world: World, *, count: int, seed: int) -> Iterator[Document]:
    """`count` documents with their genre as source and, in meta, their language and the facts they tell ("mira.town")."""
    return (document(world, seed=seed, index=index) for index in range(count))


def document(world: World, *, seed: int, index: int) -> Document:
    """One document of the stream."""
    rng = random.Random(f"{seed}:texts:{index}")
    genre = rng.choices(_NAMES, cum_weights=_CUMULATIVE)[0]
    language: Language = "zh" if rng.random() < CHINESE_SHARE else "en"
    pen = Pen(world, rng, language)
    text = GENRES[genre][1](pen)
    meta: dict[str, object] = {"language": language if _HAN.search(text) else "en"}
    if pen.told:
        meta["facts"] = pen.told
    return Document(text=text, source=genre, meta=meta)
