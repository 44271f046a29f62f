import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import RecipeError
from tutelage.world import facts
from tutelage.world.facts import (
    LANGUAGES,
    RELATIONS,
    Person,
    World,
    invented_names,
    invented_people,
    make_world,
    names,
    strangers,
)


def facts_of(world: World) -> list[tuple[str, str, str]]:
    """Every (subject, relation, value) of the world."""
    entities = world.entities.items()
    return [(key, relation, entity.value(relation)) for key, entity in entities for relation in RELATIONS[entity.kind]]


def test_the_seed_decides_the_world() -> None:
    assert make_world(1) == make_world(1)
    assert make_world(1).people != make_world(2).people


def test_a_world_has_the_sizes_that_were_asked_for() -> None:
    world = make_world(0)
    assert (len(world.people), len(world.towns), len(world.animals), len(world.things)) == (64, 14, 16, 20)
    small = make_world(0, people=5, towns=2)
    assert (len(small.people), len(small.towns)) == (5, 2)


@pytest.mark.parametrize("sizes", [{"people": 1}, {"people": 97}, {"towns": 0}, {"towns": 21}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="choose"):
        make_world(0, **sizes)


def test_a_world_of_few_values_has_no_more_of_anything() -> None:
    world = make_world(0, people=16, towns=6, values=8)
    assert {len(world.pools[r]) for r in world.pools if r not in ("town", "friend", "region", "material")} == {8}
    assert [len(pool) for pool in (world.animals, world.things)] == [8, 8]
    assert [len(world.pools[relation]) for relation in ("region", "material")] == [4, 7]
    assert all(value in world.pools[relation] for _, relation, value in facts_of(world))


def test_fewer_values_than_towns_is_an_error() -> None:
    with pytest.raises(
        RecipeError, match=r"world\.values is 8, but each of 14 towns has a craft of its own; give at least 14"
    ):
        make_world(0, values=8)


@settings(max_examples=15)
@given(st.integers(), st.integers(2, 96), st.integers(1, 20))
def test_every_fact_has_one_of_the_possible_values(seed: int, people: int, towns: int) -> None:
    world = make_world(seed, people=people, towns=towns)
    told = facts_of(world)
    assert len(told) == 6 * people + 3 * towns + 3 * 16 + 3 * 20
    for subject, relation, value in told:
        assert world.value(subject, relation) == value
        assert world.pools[relation].count(value) == 1
        assert world.name(value, "en").isascii()
        assert value.isdigit() or not world.name(value, "zh").isascii()
    for person in world.people.values():
        assert person.friend in world.people
        assert person.friend != person.key
        assert person.town in world.towns
        assert person.pet in world.animals
    assert len({town.craft for town in world.towns.values()}) == towns


def test_values_are_spread_over_their_pools() -> None:
    """The commonest value of a relation must not be a good guess for it."""
    world = make_world(0)
    for relation in ("town", "job", "pet", "food"):
        values = [world.value(key, relation) for key in world.people]
        assert max(map(values.count, values)) <= len(values) / 4


def test_kinds_and_surface_forms() -> None:
    world = make_world(0)
    assert world.kind("otter") == "animal"
    assert world.kind("lantern") == "thing"
    assert world.name("otter", "zh") == "水獭"
    assert world.name("baker", "en") == "baker"
    assert world.name("1967", "zh") == "1967"
    with pytest.raises(KeyError):
        world.kind("baker")
    with pytest.raises(KeyError):
        world.name("nobody", "en")


def overlaps(words: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for a, b in combinations(words, 2) if a in b or b in a]


def test_no_name_is_part_of_another() -> None:
    """So that a name found in an answer is that name and no other."""
    proper = names("women", "men", "towns", "rivers")
    common = names("animals", "things", *(table for table in facts.VALUE_TABLES if table != "rivers"))
    for pick in (lambda name: name.en.lower(), lambda name: name.zh):
        named = [pick(name) for name in proper.values()]
        assert overlaps(named) == []
        assert [(a, b) for a in named for b in map(pick, common.values()) if a in b or b in a] == []
    world = make_world(0)
    for relation, pool in world.pools.items():
        for language in ("en", "zh"):
            assert overlaps([world.name(key, language).lower() for key in pool]) == [], relation


def test_strangers_are_in_no_world() -> None:
    living = names("women", "men", "towns", "rivers").values()
    assert len(strangers()) > 60
    for language in LANGUAGES:
        unknown = [name[language].lower() for name, _ in strangers().values()]
        assert len(set(unknown)) == len(unknown)
        known = [name[language].lower() for name in living]
        assert [(a, b) for a in unknown for b in known if a in b or b in a] == []
        drawn = invented_names(random.Random(0), 40, language)
        assert len(set(drawn)) == 40
        assert {name.lower() for name in drawn} <= set(unknown)


def test_invented_people_have_values_but_no_facts() -> None:
    world = make_world(0)
    people = invented_people(world, random.Random(3), 4)
    assert people == invented_people(world, random.Random(3), 4)
    assert [person.friend for person in people[:-1]] == [person.key for person in people[1:]]
    for person in people:
        assert isinstance(person, Person)
        assert person.key not in world.people
        assert world.name(person.key, "zh") == person.name.zh
        for relation in RELATIONS["person"]:
            if relation != "friend":
                assert str(getattr(person, relation)) in world.pools[relation]
        with pytest.raises(KeyError):
            world.value(person.key, "town")
