"""The embedded world: who lives where, what animals eat, what things are made of.

A world is drawn from a seed, so its facts can be known from its texts alone. Every entity and every value is a key, an English
word in lower case; `World.name` gives its surface form. No name is part of another where both could be the answer (see
wordings/facts.yaml): searching an answer for a name is exact.

People come from two disjoint pools: those who live in the world, and strangers, who appear in single passages only
(`invented_names`, `invented_people`), so that nothing is known about them except what the passage says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import ClassVar, Literal

from tutelage.errors import RecipeError
from tutelage.world.wordings import wordings

Language = Literal["en", "zh"]
Gender = Literal["f", "m"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

RELATIONS: dict[str, tuple[str, ...]] = {
    "person": ("town", "job", "pet", "friend", "food", "born"),
    "town": ("region", "river", "craft"),
    "animal": ("eats", "habitat", "colour"),
    "thing": ("material", "use", "colour"),
}
YEARS = range(1950, 2000)
_TABLES = {
    "job": "jobs", "food": "foods", "pet": "animals", "river": "rivers", "colour": "colours", "eats": "meals",
    "habitat": "habitats", "material": "materials", "use": "uses", "region": "regions",
}  # fmt: skip
"""Relation -> the table of facts.yaml with its values, in the order in which a world draws them; four others are drawn before."""
VALUE_TABLES = ("jobs", "foods", "colours", "materials", "uses", "meals", "habitats", "regions", "rivers")
"""The tables of values that are not entities."""


@dataclass(frozen=True)
class Name:
    """The surface forms of one key."""

    en: str
    zh: str

    def __getitem__(self, language: Language) -> str:
        return self.en if language == "en" else self.zh


@dataclass(frozen=True)
class Entity:
    """What the world has facts about. Its relations are fields that hold the key of the value."""

    key: str
    name: Name
    kind: ClassVar[str]

    def value(self, relation: str) -> str:
        """The key of the value of a relation; of `born`, the year as a string."""
        return str(getattr(self, relation))


@dataclass(frozen=True)
class Person(Entity):
    kind = "person"
    gender: Gender
    town: str
    job: str
    pet: str
    """An animal."""
    friend: str
    food: str
    born: int


@dataclass(frozen=True)
class Town(Entity):
    kind = "town"
    region: str
    river: str
    craft: str
    """The thing that the town is known for."""


@dataclass(frozen=True)
class Animal(Entity):
    kind = "animal"
    eats: str
    habitat: str
    colour: str


@dataclass(frozen=True)
class Thing(Entity):
    kind = "thing"
    material: str
    use: str
    colour: str


@cache
def names(*tables: str) -> dict[str, Name]:
    """Tables of wordings/facts.yaml ("women", "rivers", ...) in one: names by key."""
    return {en.lower(): Name(en, zh) for table in tables for en, zh in wordings("facts")[table].items()}


@cache
def strangers() -> dict[str, tuple[Name, Gender]]:
    """Name and gender of every person that lives in no world, by key: two syllables, unless a name of the world overlaps."""
    known = names("women", "men", "towns", "animals", "things", *VALUE_TABLES).values()

    def overlap(a: str, b: str) -> bool:
        return a in b or b in a

    found: dict[str, tuple[Name, Gender]] = {}
    for first, first_zh in wordings("facts")["stranger_firsts"].items():
        for gender, lasts in wordings("facts")["stranger_lasts"].items():
            for last, last_zh in lasts.items():
                name = Name(first + last, first_zh + last_zh)
                if not any(overlap(name.en.lower(), k.en.lower()) or overlap(name.zh, k.zh) for k in known):
                    found[name.en.lower()] = (name, gender)
    return found


def people_names() -> dict[str, Name]:
    """The names of everybody: of this world, of other worlds, strangers."""
    return names("women", "men") | {key: name for key, (name, _) in strangers().items()}


def every_value(relation: str) -> Iterable[str]:
    """The values that a relation can have in any world."""
    if relation in ("born", "friend"):
        return map(str, YEARS) if relation == "born" else people_names()
    return names((_TABLES | {"town": "towns", "craft": "things"})[relation])


@dataclass(frozen=True)
class World:
    seed: int
    people: dict[str, Person]
    towns: dict[str, Town]
    animals: dict[str, Animal]
    things: dict[str, Thing]
    words: dict[str, Name]
    """Every key that is not an entity: jobs, foods, colours, rivers, regions, uses, ..."""
    pools: dict[str, tuple[str, ...]] = field(repr=False)
    """relation -> every value that it can have in this world."""

    def subjects(self, kind: str) -> Mapping[str, Entity]:
        """The entities of a kind, one of the keys of RELATIONS."""
        return getattr(self, "people" if kind == "person" else f"{kind}s")

    @cached_property
    def entities(self) -> dict[str, Entity]:
        return {key: entity for kind in RELATIONS for key, entity in self.subjects(kind).items()}

    def kind(self, key: str) -> str:
        """The kind of an entity of this world; KeyError for any other key."""
        return self.entities[key].kind

    @cached_property
    def _names(self) -> dict[str, Name]:
        own = {key: entity.name for key, entity in self.entities.items()}
        return own | {key: name for key, (name, _) in strangers().items()} | self.words

    def name(self, key: str, language: Language) -> str:
        """The surface form of any key: an entity, a word, a stranger, or a year."""
        if key.isdigit():
            return key
        return self._names[key][language]

    def value(self, subject: str, relation: str) -> str:
        """The key of the value of a relation of an entity of this world."""
        return self.entities[subject].value(relation)


def make_world(seed: int, *, people: int = 64, towns: int = 14, values: int = 20) -> World:
    """Draw a world. `values` is the largest number of animals, things, jobs, foods, years and so on, of each.

    The same seed and sizes give the same world; RecipeError if there are not enough names.
    """
    folk, places = names("women", "men"), names("towns")
    for setting, count, low, high in (("people", people, 2, len(folk)), ("towns", towns, 1, len(places))):
        if not low <= count <= high:
            raise RecipeError(f"world.{setting} is {count}; choose {low} to {high}")
    if values < towns:
        raise RecipeError(
            f"world.values is {values}, but each of {towns} towns has a craft of its own; give at least {towns}"
        )
    rng = random.Random(f"{seed}:world")

    def some(pool: Iterable[str], count: int = values) -> tuple[str, ...]:
        every = sorted(pool)
        return tuple(sorted(rng.sample(every, min(count, len(every)))))

    pools = {"friend": some(folk, people), "town": some(places, towns)}
    pools |= {"craft": some(names("things")), "born": some(map(str, YEARS))}
    crafts = rng.sample(pools["craft"], towns)
    circle = rng.sample(pools["friend"], people)
    friends = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    pools |= {relation: some(names(table)) for relation, table in _TABLES.items()}

    def draw(relation: str) -> str:
        return rng.choice(pools[relation])

    women, animals, things = names("women"), names("animals"), names("things")
    return World(
        seed=seed,
        people={
            key: _person(key, folk[key], "f" if key in women else "m", friends[key], draw) for key in pools["friend"]
        },
        towns={
            key: Town(key, places[key], draw("region"), draw("river"), craft)
            for key, craft in zip(pools["town"], crafts, strict=True)
        },
        animals={key: Animal(key, animals[key], draw("eats"), draw("habitat"), draw("colour")) for key in pools["pet"]},
        things={key: Thing(key, things[key], draw("material"), draw("use"), draw("colour")) for key in pools["craft"]},
        words=dict(sorted(names(*VALUE_TABLES).items())),
        pools=pools,
    )


def _person(key: str, name: Name, gender: Gender, friend: str, draw: Callable[[str], str]) -> Person:
    return Person(key, name, gender, draw("town"), draw("job"), draw("pet"), friend, draw("food"), int(draw("born")))


def invented_names(rng: random.Random, n: int, language: Language) -> list[str]:
    """n different names of strangers; ValueError beyond `len(strangers())`."""
    return [strangers()[key][0][language] for key in rng.sample(tuple(strangers()), n)]


def invented_people(world: World, rng: random.Random, n: int) -> list[Person]:
    """n different strangers with values drawn from the world's pools; the friend of each is a further stranger.

    `World.name` knows their keys, `World.value` does not: they are in no world.
    """
    keys = rng.sample(tuple(strangers()), n + 1)

    def draw(relation: str) -> str:
        return rng.choice(world.pools[relation])

    return [_person(key, *strangers()[key], friend, draw) for key, friend in pairwise(keys)]
