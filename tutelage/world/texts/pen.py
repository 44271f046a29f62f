"""What every genre writes with: a random stream, a language, and sentences about the world."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from tutelage.world.facts import RELATIONS, Entity, Language, Person, Town, World, invented_people
from tutelage.world.tasks.wording import article, capital, plural
from tutelage.world.wordings import wordings

T = TypeVar("T")
KIND_WEIGHTS = {"person": 384, "town": 56, "animal": 84, "thing": 108}
"""How often each kind is written about: as it has facts, and more for animals and things, which fewer genres are about."""


@cache
def wording(path: str, language: Language) -> Any:
    """The entry of a language at a path like "telling.letter.frame": file, then keys."""
    file, *keys = path.split(".")
    found = wordings(file)
    for key in keys:
        found = found[key]
    return found[language]


@dataclass
class Pen:
    """Writes one document: makes choices, finds words, gives lists and cards a form, and says sentences about entities.

    `told` collects the facts of the world that the document tells, as "mira.town".
    """

    world: World
    rng: random.Random
    language: Language
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        marks = (" ", ", ", ": ", ".", "?") if self.language == "en" else ("", "、", "：", "。", "？")
        self.space, self.comma, self.colon, self.stop, self.question = marks

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def some(self, options: Sequence[T], low: int, high: int) -> list[T]:
        """low to high different options in random order, or all if there are fewer."""
        return self.rng.sample(options, min(self.number(low, high), len(options)))

    def wording(self, path: str) -> Any:
        """The entry of this language at a path of the wordings: a text, or options to pick from."""
        return wording(path, self.language)

    def phrase(self, path: str, **slots: object) -> str:
        """One of the texts at a path of the wordings, with its slots filled."""
        return self.pick(wording(path, self.language)).format(**slots)

    def subject(self, kind: str) -> Any:
        return self.pick(tuple(self.world.subjects(kind).values()))

    def person(self) -> Person:
        return self.subject("person")

    def stranger(self) -> Person:
        return invented_people(self.world, self.rng, 1)[0]

    def entity(self) -> Entity:
        """Any entity of the world, each fact about equally often."""
        return self.subject(self.rng.choices(tuple(KIND_WEIGHTS), tuple(KIND_WEIGHTS.values()))[0])

    def relation(self, entity: Entity) -> str:
        return self.pick(RELATIONS[entity.kind])

    def relations(self, entity: Entity, low: int, high: int) -> list[str]:
        return self.some(RELATIONS[entity.kind], low, high)

    def key(self, relation: str) -> str:
        return self.pick(self.world.pools[relation])

    def wrong(self, entity: Entity, relation: str) -> str:
        """A value that the relation could have but does not have."""
        while (key := self.key(relation)) in (entity.value(relation), entity.key):
            pass
        return key

    def name(self, key: str) -> str:
        return self.world.name(key, self.language)

    def names(self, keys: Iterable[str]) -> list[str]:
        return [self.world.name(key, self.language) for key in keys]

    def word(self, relation: str) -> str:
        """The name of a value that the relation can have."""
        return self.name(self.key(relation))

    def label(self, relation: str) -> str:
        return self.wording("relations.labels")[relation]

    def title(self, entity: Entity) -> str:
        """How a heading or a sentence names the entity: Mira, the otter, 米拉."""
        name = entity.name[self.language]
        return name if self.language == "zh" or isinstance(entity, Person | Town) else f"the {name}"

    def value(self, relation: str, key: str) -> str:
        """A value as statements have it: a baker, lanterns, 1967, 烘焙师."""
        name = self.name(key)
        if self.language == "en" and relation in ("job", "pet"):
            return article(name)
        return plural(name) if self.language == "en" and relation == "craft" else name

    def join(self, sentences: Iterable[str]) -> str:
        return self.space.join(sentences)

    def labelled(self, label: str, text: str) -> str:
        """`label: text`, with the text below the label if it has several lines."""
        return f"{label}{self.colon.rstrip()}\n{text}" if "\n" in text else f"{label}{self.colon}{text}"

    def listed(self, words: Sequence[str], form: str) -> str:
        """Words as a listing (a, b and c), bullets, numbered lines, JSON or else a row (a, b, c)."""
        if form == "listing" and len(words) > 1:
            return (" and " if self.language == "en" else "和").join([self.comma.join(words[:-1]), words[-1]])
        if form == "bullets":
            return "\n".join(f"- {word}" for word in words)
        if form == "numbered":
            return "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1))
        if form == "json":
            return "[" + ", ".join(f'"{word}"' for word in words) + "]"
        return self.comma.join(words)

    def fields(self, entity: Entity, relations: Iterable[str]) -> list[tuple[str, str]]:
        """The entity's name and these values, with their labels."""
        named = [(self.label("name"), entity.name[self.language])]
        return named + [(self.label(relation), self.name(entity.value(relation))) for relation in relations]

    def card(self, fields: list[tuple[str, str]], form: str) -> str:
        """Fields on one line, on lines, as bullets, as JSON or as rows of a table."""
        if form == "json":
            return "{" + ", ".join(f'"{label}": "{value}"' for label, value in fields) + "}"
        if form == "table":
            return "\n".join(f"| {label} | {value} |" for label, value in fields)
        lines = [f"{label}{self.colon}{value}" for label, value in fields]
        if form == "line":
            return ("; " if self.language == "en" else "；").join(lines)
        return self.listed(lines, "bullets") if form == "bullets" else "\n".join(lines)

    def mark(self, entity: Entity, relation: str) -> None:
        """Note that the document tells this fact, if it is one of the world's."""
        fact = f"{entity.key}.{relation}"
        if entity.key in self.world.entities and fact not in self.told:
            self.told.append(fact)

    def sentence(self, clause: str, mark: str = "") -> str:
        """The clause with a capital first and a mark last, by default a full stop."""
        return capital(clause) + (mark or self.stop)

    def say(self, entity: Entity, relation: str, *, again: bool = False) -> str:
        """A sentence that tells this fact; with `again`, the subject is a pronoun."""
        return self.sentence(self._clause(entity, relation, again))

    def say_all(self, entity: Entity, relations: Sequence[str], *, again: bool = False) -> list[str]:
        """A sentence per relation, the first by name and the others by pronoun; now and then two make one sentence.

        After a friend is named the entity is named again, so that the pronoun is not taken for the friend's.
        """
        known = [again, *(relation != "friend" for relation in relations)]
        clauses = [self._clause(entity, relation, it) for relation, it in zip(relations, known, strict=False)]
        sentences: list[str] = []
        i = 0
        while i < len(clauses):
            clause, relation = clauses[i], relations[i]
            i += 1
            # Only a clause with the entity as its subject leads: "her friend is Tom and has a cat" gives Tom the cat.
            leads = relation != "friend" and self._without_subject(entity, clause)
            if i < len(clauses) and leads and self.chance(0.5) and (rest := self._without_subject(entity, clauses[i])):
                clause += (" and " if self.language == "en" else "，") + rest
                i += 1
            sentences.append(self.sentence(clause))
        return sentences

    def _clause(self, entity: Entity, relation: str, again: bool) -> str:
        self.mark(entity, relation)
        return self._fill(self.pick(self._options("says", entity, relation)), entity, relation, again=again)

    def _options(self, part: str, entity: Entity, relation: str) -> Any:
        return self.wording(f"relations.{part}.{entity.kind}.{relation}")

    def _without_subject(self, entity: Entity, clause: str) -> str:
        """The clause without the name or pronoun that it begins with; nothing if it begins otherwise."""
        for head in (self.pronoun(entity) + self.space, capital(self.title(entity)) + self.space):
            if clause.startswith(head) and clause[len(head)] != "的":
                return clause[len(head) :]
        return ""

    def deny(self, entity: Entity, relation: str, wrong: str) -> str:
        """A sentence that denies that the entity has a wrong value."""
        return self.sentence(self._fill(self._options("denies", entity, relation), entity, relation, wrong))

    def claim(self, entity: Entity, relation: str, key: str) -> str:
        """A clause that gives the entity this value, for use within a sentence; it is not noted as told."""
        clause = self._fill(self._options("says", entity, relation)[0], entity, relation, key)
        return clause[0].lower() + clause[1:] if clause.startswith("The ") else clause

    def ask(self, entity: Entity, relation: str, *, again: bool = False) -> str:
        """A question for this fact."""
        template = self.pick(self._options("asks", entity, relation))
        return self.sentence(self._fill(template, entity, relation, again=again), self.question)

    def say_of_myself(self, person: Person, relation: str) -> str:
        """The fact as the person would write it."""
        self.mark(person, relation)
        template = self.pick(self._options("of_myself", person, relation))
        return self.sentence(self._fill(template, person, relation))

    def answer(self, entity: Entity, relation: str, *, again: bool = True) -> str:
        """The fact as an answer to a question for it: a sentence, or bare (In Arden. A baker. 烘焙师。)."""
        if not self.chance(0.35):
            return self.say(entity, relation, again=again)
        self.mark(entity, relation)
        template = self.wording("relations.short").get(relation, "{v}")
        return self.sentence(self._fill(template, entity, relation))

    def pronoun(self, entity: Entity) -> str:
        """She, He, It, 她, 他, 它."""
        return self._subject(entity, True)["S"]

    def _fill(self, template: str, entity: Entity, relation: str, key: str = "", *, again: bool = False) -> str:
        """A wording with its slots filled, by default with the value that the entity has."""
        key = key or entity.value(relation)
        value, slots = self.value(relation, key), self._subject(entity, again)
        return template.format(**slots, v=value, V=capital(value), n=self.name(key), c=measure_word(key))

    def _subject(self, entity: Entity, again: bool) -> dict[str, str]:
        """The forms of the subject by their slots (see wordings/relations.yaml); with `again`, those of a pronoun."""
        kind = entity.gender if isinstance(entity, Person) else "town" if isinstance(entity, Town) else "it"
        pronoun: dict[str, str] = self.wording("relations.pronouns")[kind]
        if again:
            return pronoun
        name = self.title(entity)
        head = capital(name)
        return pronoun | {"S": head, "s": name, "o": name, "P": f"{head}'s", "p": f"{name}'s"}


def measure_word(key: str) -> str:
    """The Chinese measure word of an animal."""
    return "头" if key == "donkey" else "只"
