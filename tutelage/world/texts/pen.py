"""What every genre writes with: a random stream, a language, and sentences about the world."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from tutelage.world.facts import RELATIONS, Animal, Entity, Language, Person, Thing, Town, World
from tutelage.world.texts.wordings import ASKS, DENIES, LABELS, SAYS, SAYS_I

T = TypeVar("T")
KIND_WEIGHTS = {"person": 384, "town": 56, "animal": 84, "thing": 108}
"""How often each kind is written about: by its number of facts in the default world, animals and things
more, since fewer genres are about them."""
_KINDS, _CUMULATIVE = tuple(KIND_WEIGHTS), tuple(accumulate(KIND_WEIGHTS.values()))
_KIND: dict[type, str] = {Person: "person", Town: "town", Animal: "animal", Thing: "thing"}
_PRONOUNS = {"f": ("She", "she", "her", "Her", "her"), "m": ("He", "he", "him", "His", "his")}
_IT = ("It", "it", "it", "Its", "its")
_PRONOUNS_ZH = {"f": "她", "m": "他"}


@dataclass
class Pen:
    """Writes one document. `told` collects the facts of the world that it tells, as "mira.town"."""

    world: World
    rng: random.Random
    language: Language
    told: list[str] = field(default_factory=list)

    # Choices

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def some(self, options: Sequence[T], low: int, high: int) -> list[T]:
        """low to high different ones in random order, or all where there are fewer."""
        return self.rng.sample(options, min(self.number(low, high), len(options)))

    def person(self) -> Person:
        return self.pick(tuple(self.world.people.values()))

    def entity(self) -> Entity:
        """Any entity of the world, each fact about equally often."""
        kind = self.rng.choices(_KINDS, cum_weights=_CUMULATIVE)[0]
        return self.pick(tuple(self.world.subjects(kind).values()))

    @staticmethod
    def kind(entity: Entity) -> str:
        """The kind of an entity, of the world or invented."""
        return _KIND[type(entity)]

    def relations(self, entity: Entity, low: int, high: int) -> list[str]:
        return self.some(RELATIONS[self.kind(entity)], low, high)

    def key(self, relation: str) -> str:
        """A value that the relation can have."""
        return self.pick(self.world.pools[relation])

    def wrong(self, entity: Entity, relation: str) -> str:
        """A value that the relation could have, but has not."""
        while (key := self.key(relation)) in (str(getattr(entity, relation)), entity.key):
            pass
        return key

    # Words

    def by(self, *, en: Sequence[T], zh: Sequence[T]) -> T:
        """One of the templates of this language."""
        return self.pick(en if self.language == "en" else zh)

    def name(self, key: str) -> str:
        return self.world.name(key, self.language)

    def label(self, relation: str) -> str:
        return LABELS[self.language][relation]

    def text(self, key: str) -> str:
        """A thing, animal or job as one meets it: a kite, an otter, 一只水獭."""
        name = self.name(key)
        if self.language == "en":
            return article(name)
        return f"一{measure_word(key)}{name}" if key in self.world.animals else f"一个{name}"

    def join(self, sentences: Sequence[str]) -> str:
        return (" " if self.language == "en" else "").join(sentences)

    def listing(self, names: Sequence[str]) -> str:
        """a, b and c; in Chinese a、b和c."""
        comma, last = (", ", " and ") if self.language == "en" else ("、", "和")
        return comma.join(names[:-1]) + last + names[-1] if len(names) > 1 else names[0]

    def labelled(self, label: str, text: str) -> str:
        """`label: text`, the text below the label where it has several lines."""
        if "\n" in text:
            return f"{label}{':' if self.language == 'en' else '：'}\n{text}"
        return f"{label}: {text}" if self.language == "en" else f"{label}：{text}"

    def row(self, names: Sequence[str]) -> str:
        """a, b, c; in Chinese a、b、c."""
        return (", " if self.language == "en" else "、").join(names)

    def value(self, relation: str, key: str) -> str:
        """A value as it stands in a statement: a baker, lanterns, 1967, 烘焙师."""
        name = self.name(key)
        if self.language == "en" and relation in ("job", "pet"):
            return article(name)
        return plural(name) if self.language == "en" and relation == "craft" else name

    # Sentences about an entity

    def mark(self, entity: Entity, relation: str) -> None:
        """Note that the document tells this fact, if it is one of the world's."""
        fact = f"{entity.key}.{relation}"
        in_world = not isinstance(entity, Person) or entity.key in self.world.people
        if in_world and fact not in self.told:
            self.told.append(fact)

    def say(self, entity: Entity, relation: str, *, again: bool = False) -> str:
        """A sentence that tells this fact; with `again`, the subject is a pronoun."""
        return sentence(self._clause(entity, relation, again), self.language)

    def say_all(self, entity: Entity, relations: Sequence[str], *, again: bool = False) -> list[str]:
        """A sentence a relation, by name first and by pronoun then; now and then two make one sentence.

        After a friend is named the entity is named again, lest the pronoun be taken for the friend's.
        """
        sentences: list[str] = []
        known = [again, *(relation != "friend" for relation in relations)]
        clauses = [self._clause(entity, relation, it) for relation, it in zip(relations, known, strict=False)]
        i = 0
        while i < len(clauses):
            clause, relation = clauses[i], relations[i]
            i += 1
            # Only a clause with the entity as its subject leads: "her friend is Tom and has a cat" gives Tom the cat.
            leads = relation != "friend" and self._without_subject(entity, clause)
            if i < len(clauses) and leads and self.chance(0.5) and (rest := self._without_subject(entity, clauses[i])):
                clause = f"{clause} and {rest}" if self.language == "en" else f"{clause}，{rest}"
                i += 1
            sentences.append(sentence(clause, self.language))
        return sentences

    def _clause(self, entity: Entity, relation: str, again: bool) -> str:
        self.mark(entity, relation)
        template = self.pick(SAYS[self.language][f"{self.kind(entity)}.{relation}"])
        return self._fill(template, entity, relation, str(getattr(entity, relation)), again)

    def _without_subject(self, entity: Entity, clause: str) -> str:
        """The clause without the name or pronoun that it begins with; nothing where it begins otherwise."""
        for subject in (*self._subjects(entity, True)[:1], *self._subjects(entity, False)[:1]):
            head = f"{subject} " if self.language == "en" else subject
            if clause.startswith(head) and clause[len(head)] != "的":
                return clause[len(head) :]
        return ""

    def deny(self, entity: Entity, relation: str, wrong: str) -> str:
        """A sentence that denies the entity a wrong value."""
        template = DENIES[self.language][f"{self.kind(entity)}.{relation}"]
        return sentence(self._fill(template, entity, relation, wrong, False), self.language)

    def claim(self, entity: Entity, relation: str, key: str) -> str:
        """A clause that gives the entity this value, to stand within a sentence; it is not noted as told."""
        template = SAYS[self.language][f"{self.kind(entity)}.{relation}"][0]
        clause = self._fill(template, entity, relation, key, False)
        return clause[0].lower() + clause[1:] if clause.startswith("The ") else clause

    def ask(self, entity: Entity, relation: str, *, again: bool = False) -> str:
        """A question for this fact."""
        template = self.pick(ASKS[self.language][f"{self.kind(entity)}.{relation}"])
        return sentence(self._fill(template, entity, relation, None, again), self.language, "?")

    def say_of_myself(self, person: Person, relation: str) -> str:
        """The fact as the person would write it."""
        self.mark(person, relation)
        template = self.pick(SAYS_I[self.language][relation])
        return sentence(self._fill(template, person, relation, str(getattr(person, relation)), False), self.language)

    def pronoun(self, person: Person) -> str:
        """She, He, 她, 他."""
        return _PRONOUNS[person.gender][0] if self.language == "en" else _PRONOUNS_ZH[person.gender]

    def _fill(self, template: str, entity: Entity, relation: str, key: str | None, again: bool) -> str:
        value = self.value(relation, key) if key else ""
        head, subject, thing, possessive, own = self._subjects(entity, again)
        if self.language == "zh":
            return template.format(s=subject, v=value, c=measure_word(key or ""))
        they, theirs = ("it", "its")
        if isinstance(entity, Person):
            they, theirs = _PRONOUNS[entity.gender][1], _PRONOUNS[entity.gender][4]
        return template.format(
            S=head, s=subject, o=thing, P=possessive, p=own, r=theirs, e=they,
            v=value, V=capitalised(value), n=self.name(key) if key else "",
        )  # fmt: skip

    def _subjects(self, entity: Entity, again: bool) -> tuple[str, str, str, str, str]:
        """The subject at the head of a sentence, within it, as an object, and as a possessive at either place."""
        if self.language == "zh":
            name = entity.name.zh
            if again:
                name = "这个镇" if isinstance(entity, Town) else "它"
                name = _PRONOUNS_ZH[entity.gender] if isinstance(entity, Person) else name
            return (name,) * 5
        if again:
            if isinstance(entity, Person):
                return _PRONOUNS[entity.gender]
            return ("It", "the town", "the town", "Its", "its") if isinstance(entity, Town) else _IT
        name = entity.name.en if isinstance(entity, Person | Town) else f"the {entity.name.en}"
        return capitalised(name), name, name, f"{capitalised(name)}'s", f"{name}'s"


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentence(clause: str, language: Language, mark: str = ".") -> str:
    """The clause with a capital first and a mark last, full-width in Chinese."""
    return capitalised(clause) + (mark if language == "en" else {".": "。", "?": "？"}[mark])


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")


def measure_word(key: str) -> str:
    """The Chinese measure word of an animal."""
    return "头" if key == "donkey" else "只"
