"""Texts to pretrain on: they tell the facts of the world in many ways, and teach copying, reading and sums.

`documents(world, count=..., seed=...)` yields short documents in English and Chinese. Document i depends on the world, the
seed and i alone, so a longer corpus begins with the shorter one, and held-out documents are those of another seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache

from tutelage.records import Document
from tutelage.world.facts import Language, World
from tutelage.world.texts import everyday, exercises, forum, telling
from tutelage.world.texts.pen import Pen
from tutelage.world.wordings import wordings

CHINESE_SHARE = 0.3
"""Share of Chinese documents. A sum in signs has no language and counts as English."""

_HAN = re.compile(r"[\u4e00-\u9fff]")
_MODULES = (telling, exercises, forum, everyday)


@cache
def genres() -> dict[str, Callable[[Pen], str]]:
    """Genre -> writer, in the order of wordings/genres.yaml. A document's source is its genre."""
    return {name: next(getattr(m, name) for m in _MODULES if hasattr(m, name)) for name in wordings("genres")}


def documents(world: World, *, count: int, seed: int) -> Iterator[Document]:
    """`count` documents with their genre as source and, in meta, their language and the facts they tell ("mira.town")."""
    return (document(world, seed=seed, index=index) for index in range(count))


def document(world: World, *, seed: int, index: int) -> Document:
    """One document of the stream."""
    rng = random.Random(f"{seed}:texts:{index}")
    genre = rng.choices(tuple(genres()), wordings("genres").values())[0]
    language: Language = "zh" if rng.random() < CHINESE_SHARE else "en"
    pen = Pen(world, rng, language)
    text = genres()[genre](pen)
    meta: dict[str, object] = {"language": language if _HAN.search(text) else "en"}
    if pen.told:
        meta["facts"] = pen.told
    return Document(text=text, source=genre, meta=meta)
