"""What every family shares: what it draws from, what it hands back, and a few phrases."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

from tutelage.errors import RecipeError
from tutelage.records import Message
from tutelage.world.facts import RELATIONS, STRANGER_KEYS, Language, World

REFUSALS: dict[Language, str] = {"en": "I cannot help with that.", "zh": "这个我不能帮忙。"}
UNKNOWN: dict[Language, str] = {"en": "I do not know.", "zh": "我不知道。"}
KINDS = tuple(RELATIONS)
STRANGERS_SHARE = 0.5
"""Of the people in requests that ask for nothing that has to be known of them."""
LIST_MARK: dict[Language, str] = {"en": ", ", "zh": "、"}


@dataclass(frozen=True)
class Scene:
    """What a family draws a task from."""

    world: World
    language: Language
    rng: random.Random
    entities: Container[str] | None
    """The entities that may be asked about; None: all."""

    def name(self, key: str) -> str:
        return self.world.name(key, self.language)

    def names(self, keys: list[str]) -> str:
        """A list as this language writes it."""
        return LIST_MARK[self.language].join(map(self.name, keys))

    def pick(self, *kinds: str) -> str:
        """An allowed entity of one of these kinds; RecipeError where there is none."""
        found = {kind: self.allowed(kind) for kind in kinds}
        present = [kind for kind in kinds if found[kind]]
        if not present:
            raise RecipeError(f"no {' or '.join(kinds)} is among the allowed entities; allow at least one")
        return self.rng.choice(found[self.rng.choice(present)])

    def allowed(self, kind: str) -> list[str]:
        keys = self.world.subjects(kind)
        return [key for key in keys if self.entities is None or key in self.entities]

    def somebody(self) -> tuple[str, str]:
        """Who a request is about where nothing need be known of them: a person of the world, or as often a stranger.

        The key, and the entity that is asked about: "" for a stranger. Of the world's people training asks about a few
        only, and who has met a dozen names cannot repeat a new one.
        """
        if self.rng.random() < STRANGERS_SHARE:
            return self.rng.choice(STRANGER_KEYS), ""
        person = self.pick("person")
        return person, person

    def other(self, relation: str, *besides: str) -> str:
        """A value that the relation can have, but none of these."""
        return self.rng.choice([key for key in self.world.pools[relation] if key not in besides])


@dataclass(frozen=True)
class Draft:
    """A task before it gets its system message, its id and its length."""

    user: str
    good: str
    wrong: tuple[str, ...]
    check: dict[str, Any]
    entity: str = ""
    history: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Wordings:
    """The ways to ask for a task in a language, with slots like {s} for its particulars."""

    texts: tuple[str, ...]
    heldout: int
    """How many of them, the last ones, are held out."""


_CHOICE = re.compile(r"\[([^]]*)]")
_WORD = re.compile(r"(?<!\{)[a-z]+(?!\})|[\u4e00-\u9fff]")
_SLOT = re.compile(r"\{[A-Za-z]\}")


def wordings(*patterns: str) -> Wordings:
    """All ways to read the patterns, a quarter of them, drawn at random, held out.

    `[Sort|Order] [these|the] {k}: {l}` is read in four ways. A held-out wording puts together what training never does, but each of
    its words stands in a training wording too: a word that nobody has explained cannot be understood. A wording that a longer one
    contains ("tell me {c}" in "Please tell me {c}") is never held out, for it could not be told from that one.
    """
    every: list[str] = []
    for pattern in patterns:
        parts = _CHOICE.split(pattern)  # plain text and choices by turns
        readings = product(*(part.split("|") if i % 2 else [part] for i, part in enumerate(parts)))
        every += ["".join(reading) for reading in readings]
    every = list(dict.fromkeys(every))
    folded = [one.casefold() for one in every]
    words = {one: set(_WORD.findall(text)) for one, text in zip(every, folded, strict=True)}
    left = Counter(word for one in every for word in words[one])
    heldout: list[str] = []
    for one in random.Random("\n".join(patterns)).sample(every, len(every)):
        if len(heldout) == len(every) // 4:
            break
        if any(left[word] < 2 for word in words[one]):
            continue
        pieces = _SLOT.split(one.casefold())
        if not any(contains(other, pieces) for other in folded if other != one.casefold()):
            heldout.append(one)
            left.subtract(words[one])
    return Wordings((*(one for one in every if one not in heldout), *heldout), len(heldout))


@cache
def slots_filled(wording: str) -> re.Pattern[str]:
    """What a wording can become: anything in its slots."""
    return re.compile(".+".join(map(re.escape, _SLOT.split(wording))), re.DOTALL | re.IGNORECASE)


def contains(text: str, pieces: list[str]) -> bool:
    """The pieces stand in the text in this order, with something between every two: `slots_filled` on folded text, but fast."""
    at = 0
    for i, piece in enumerate(pieces):
        found = text.find(piece, at + (i > 0))
        if found < 0:
            return False
        at = found + len(piece)
    return True


@dataclass(frozen=True)
class Family:
    """A family of tasks. `make(scene, wording)` draws one."""

    make: Callable[[Scene, str], Draft]
    wordings: dict[Language, Wordings] = field(repr=False)

    def templates(self, language: Language, split: str) -> range:
        """Indices of the wordings of a split, "train" or "heldout"."""
        known = self.wordings[language]
        n = len(known.texts)
        return range(n - known.heldout) if split == "train" else range(n - known.heldout, n)
