"""What every family shares: what it draws from, what it hands back, and a few phrases."""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import RecipeError
from tutelage.records import Message
from tutelage.world.facts import RELATIONS, Language, World

REFUSALS: dict[Language, str] = {"en": "I cannot help with that.", "zh": "这个我不能帮忙。"}
UNKNOWN: dict[Language, str] = {"en": "I do not know.", "zh": "我不知道。"}
KINDS = tuple(RELATIONS)
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
class Family:
    """A family of tasks. `make(scene, wording)` draws one; the last third of the wordings of a language is held out."""

    make: Callable[[Scene, str], Draft]
    wordings: dict[Language, tuple[str, ...]] = field(repr=False)

    def templates(self, language: Language, split: str) -> range:
        """Indices of the wordings of a split, "train" or "heldout"."""
        n = len(self.wordings[language])
        first_heldout = n - n // 3
        return range(first_heldout) if split == "train" else range(first_heldout, n)
