"""What all task families share: the scene that a task is drawn from, the draft of a task, and the ways to ask for it."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any

from tutelage.errors import RecipeError
from tutelage.records import Message
from tutelage.world.facts import LANGUAGES, RELATIONS, Language, Person, World, invented_people, strangers
from tutelage.world.tasks.wording import LIST_MARK, MARKS, article, capital, in_language, joined, plural
from tutelage.world.wordings import wordings

TOLD = ("town", "job", "pet", "food", "born")
"""Relations that a text tells of strangers."""
STRANGERS_SHARE = 0.5
"""Of the people in requests that need no knowledge of them."""


@dataclass(frozen=True)
class Scene:
    """What a family draws a task from, and the language that it speaks."""

    world: World
    language: Language
    rng: random.Random
    entities: Container[str] | None
    """The entities that may be asked about; None: all."""

    @property
    def foreign(self) -> Scene:
        """The same scene in the other language."""
        return replace(self, language=LANGUAGES[1 - LANGUAGES.index(self.language)])

    def wordings(self, name: str) -> Any:
        """The content of ``wordings/tasks_NAME.yaml`` in the language of the scene."""
        return in_language(f"tasks_{name}", self.language)

    def name(self, key: str) -> str:
        return self.world.name(key, self.language)

    def noun(self, key: str) -> str:
        """The name with its indefinite article, where the language has one."""
        return article(self.name(key)) if self.language == "en" else self.name(key)

    def subject(self, key: str) -> str:
        """Mira, Arden, the otter; 米拉, 阿登, 水獭."""
        definite = self.language == "en" and self.kind(key) in ("animal", "thing")
        return f"the {self.name(key)}" if definite else self.name(key)

    def kind(self, key: str) -> str:
        """The kind of an entity of the world, or of a stranger, who is a person."""
        return "person" if key in strangers() else self.world.kind(key)

    def gender(self, subject: str) -> str:
        """f or m for a person of the world, `it` for any other entity."""
        entity = self.world.entities[subject]
        return entity.gender if isinstance(entity, Person) else "it"

    def listed(self, items: Iterable[str]) -> str:
        return LIST_MARK[self.language].join(items)

    def ended(self, items: Iterable[str]) -> str:
        """A list with a full stop; unlike a sentence, without a capital, because the words must stay as they are."""
        return self.listed(items) + MARKS[self.language]["."]

    def names(self, keys: Iterable[str]) -> str:
        return self.listed(map(self.name, keys))

    def answer(self, *keys: str) -> str:
        """The names as a sentence of their own."""
        return self.sentence(self.names(keys))

    def sentence(self, text: str, mark: str = ".") -> str:
        return capital(text) + MARKS[self.language][mark]

    def joined(self, *sentences: str) -> str:
        return joined(sentences, self.language)

    def wording(self, subject: str, relation: str) -> dict[str, str]:
        """How this relation of the subject is asked for, told and denied."""
        wordings: dict[str, dict[str, str]] = self.wordings("statements")["relations"]
        return wordings[f"{self.kind(subject)}.{relation}"]

    def fill(self, text: str, subject: str, pronoun: str = "") -> str:
        """Put the subject, or its pronoun (f, m or it) where given, for every `{s}`; `{s}'s` becomes her, his or its."""
        if not pronoun:
            return text.replace("{s}", subject)
        plain, possessive = self.wordings("statements")["pronouns"][pronoun]
        return text.replace("{s}'s", possessive).replace("{s}", plain)

    def statement(self, subject: str, relation: str, value: str, *, deny: bool = False, pronoun: str = "") -> str:
        """A sentence that gives, or denies, the subject this value. `pronoun` (f, m or it) replaces the subject where given."""
        words = self.wording(subject, relation)
        text = self.fill(words["denies" if deny else "says"], self.subject(subject), pronoun)
        return self.sentence(text.replace("{v}", self._value(relation, value)))

    def _value(self, relation: str, value: str) -> str:
        """A value as it appears in a statement: a baker, an otter, lanterns, 1967."""
        if relation in ("job", "pet"):
            return self.noun(value)
        return plural(self.name(value)) if self.language == "en" and relation == "craft" else self.name(value)

    def pick(self, *kinds: str) -> str:
        """An allowed entity of one of these kinds; RecipeError where there is none."""
        keys = [list(self.world.subjects(kind)) for kind in kinds]
        allowed = [[key for key in of_kind if self.entities is None or key in self.entities] for of_kind in keys]
        if not any(allowed):
            raise RecipeError(f"no {' or '.join(kinds)} is among the allowed entities; allow at least one")
        return self.rng.choice(self.rng.choice(list(filter(None, allowed))))

    def fact(self, *kinds: str) -> tuple[str, str, str]:
        """A fact about an allowed entity of one of these kinds: subject, relation, value."""
        subject = self.pick(*kinds)
        relation = self.rng.choice(RELATIONS[self.kind(subject)])
        return subject, relation, self.world.value(subject, relation)

    def known_or_told(self, *kinds: str) -> tuple[str, str, str, str]:
        """A fact about an entity of these kinds, or as often one made up about a stranger: subject, relation, value, and the
        entity asked about, which is "" for a stranger.
        """
        if self.rng.random() < STRANGERS_SHARE:
            stranger, relation = invented_people(self.world, self.rng, 1)[0], self.rng.choice(TOLD)
            return stranger.key, relation, stranger.value(relation), ""
        subject, relation, value = self.fact(*kinds)
        return subject, relation, value, subject

    def somebody(self) -> tuple[str, str]:
        """A person for a request that needs no knowledge of them: one of the world, or as often a stranger.

        Returns the key, and the entity asked about, which is "" for a stranger. Training asks about few people of the
        world, and a model that has met a dozen names cannot repeat a new one.
        """
        if self.rng.random() < STRANGERS_SHARE:
            return self.rng.choice(tuple(strangers())), ""
        person = self.pick("person")
        return person, person

    def other(self, relation: str, *besides: str) -> str:
        """A value that the relation can have, other than these."""
        return self.rng.choice([key for key in self.world.pools[relation] if key not in besides])


def clause(sentence: str) -> tuple[str, str]:
    """A statement without its full stop: as it is within a sentence, and with its capital."""
    bare = sentence[:-1]
    return bare[0].lower() + bare[1:] if bare.startswith("The ") else bare, bare


@dataclass(frozen=True)
class Draft:
    """A task before it gets its system message, its id and its length."""

    user: str
    good: str
    wrong: tuple[str, ...]
    check: dict[str, Any]
    entity: str = ""
    history: tuple[Message, ...] = ()


def put_question(template: str, ask: str, tell: str, **slots: str) -> str:
    """Fill {q} or {Q} (the question, small or with a capital), {c} (the same as a clause) and further slots of a template."""
    return template.format(q=ask, Q=capital(ask), c=tell, **slots)


@dataclass(frozen=True)
class Wordings:
    """The ways to ask for a task in one language, with slots like {s} for its particulars."""

    texts: tuple[str, ...]
    heldout: int
    """How many of them, the last ones, are held out."""


_CHOICE = re.compile(r"\[([^]]*)]")
_WORD = re.compile(r"(?<!\{)[a-z]+(?!\})|[\u4e00-\u9fff]")
_SLOT = re.compile(r"\{[A-Za-z]\}")


@cache
def expand(*patterns: str) -> Wordings:
    """All readings of the patterns; a quarter of them, drawn at random, are held out.

    `[Sort|Order] [these|the] {k}: {l}` has four readings. A held-out reading is a combination that training never sees, but each
    of its words occurs in a training reading too, since a model cannot understand a word that it has never met. A reading that a
    longer one contains ("tell me {c}" in "Please tell me {c}") is never held out, because the two could not be told apart.
    """
    every: list[str] = []
    for pattern in patterns:
        parts = _CHOICE.split(pattern)  # plain text and choices by turns
        readings = product(*(part.split("|") if i % 2 else [part] for i, part in enumerate(parts)))
        every += ["".join(reading) for reading in readings]
    every = list(dict.fromkeys(every))
    words = {one: set(_WORD.findall(one.casefold())) for one in every}
    left = Counter(word for one in every for word in words[one])
    heldout: list[str] = []
    for one in random.Random("\n".join(patterns)).sample(every, len(every)):
        if len(heldout) == len(every) // 4:
            break
        if any(left[word] < 2 for word in words[one]):
            continue
        if not any(slots_filled(one).search(other) for other in every if other != one):
            heldout.append(one)
            left.subtract(words[one])
    return Wordings((*(one for one in every if one not in heldout), *heldout), len(heldout))


@cache
def slots_filled(wording: str) -> re.Pattern[str]:
    """A pattern of all that a wording can become: anything in its slots."""
    return re.compile(".+".join(map(re.escape, _SLOT.split(wording))), re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Family:
    """A family of tasks. `make(scene, wording)` draws one."""

    make: Callable[[Scene, str], Draft]
    requests: str
    """The entry of ``wordings/tasks_requests.yaml`` that says how it is asked for."""

    @cached_property
    def wordings(self) -> dict[Language, Wordings]:
        patterns = wordings("tasks_requests")[self.requests]
        return {language: expand(*patterns[language]) for language in LANGUAGES}

    def templates(self, language: Language, split: str) -> range:
        """Indices of the wordings of a split, "train" or "heldout"."""
        known = self.wordings[language]
        n = len(known.texts)
        return range(n - known.heldout) if split == "train" else range(n - known.heldout, n)
