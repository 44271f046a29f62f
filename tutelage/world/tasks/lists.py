"""Sums and lists: to add, to sort, to copy, to pick out of a text, to think up."""

from __future__ import annotations

from tutelage.world.facts import invented_people
from tutelage.world.tasks.common import TOLD, Draft, Family, Scene


def sum_of_two(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    person, asked = scene.somebody() if "{s}" in template else ("", "")
    total, carry = a + b, (a % 10 + b % 10) // 10
    near = total - 10 if carry else total + 10

    def answer(n: int) -> str:
        return scene.sentence(scene.wordings("lists")["sum"].format(a=a, b=b, n=n))

    return Draft(
        user=template.format(a=a, b=b, s=scene.name(person) if person else ""),
        good=answer(total) if rng.random() < 0.7 else scene.sentence(str(total)),
        wrong=(answer(near), answer(total + rng.choice((-2, -1, 1, 2))), scene.sentence(f"{a}{b}")),
        check={"kind": "sum", "a": a, "b": b},
        entity=asked,
    )


def sort_list(scene: Scene, template: str) -> Draft:
    rng, n = scene.rng, 3
    orders, kinds = scene.wordings("lists")["orders"], scene.wordings("lists")["sorted"]
    order = rng.choice(sorted(orders))
    if order == "words":
        items = [scene.name(key) for key in rng.sample([*scene.world.animals, *scene.world.things], n)]
        ordered = sorted(items)
    else:
        drawn = rng.sample(range(1, 21), n)
        items, ordered = [str(i) for i in drawn], [str(i) for i in sorted(drawn, reverse=order == "down")]
    while items == ordered:
        rng.shuffle(items)
    swapped = [ordered[1], ordered[0], *ordered[2:]]
    user = template.format(o=orders[order], k=kinds["words" if order == "words" else "numbers"], l=scene.listed(items))
    return sequence_draft(scene, user, ordered, [items, ordered[::-1], swapped])


def sequence_draft(scene: Scene, user: str, items: list[str], wrong: list[list[str]]) -> Draft:
    return Draft(
        user=user,
        good=scene.ended(items),
        wrong=tuple(dict.fromkeys(scene.ended(w) for w in wrong if w != items)),
        check={"kind": "sequence", "items": items},
    )


def copy_list(scene: Scene, template: str) -> Draft:
    rng, world = scene.rng, scene.world
    keys = rng.sample(sorted([*world.animals, *world.things, *world.pools["food"]]), rng.randint(3, 5))
    items = [scene.name(key) for key in keys]
    mixed = list(items)
    while mixed == items:
        rng.shuffle(mixed)
    other = [*items[:-2], scene.name(scene.other("craft", *keys)), scene.name(scene.other("food", *keys))]
    return sequence_draft(scene, template.format(l=scene.listed(items)), items, [mixed, items[:-1], other])


def extraction(scene: Scene, template: str) -> Draft:
    rng, kinds, n = scene.rng, scene.wordings("lists")["extracted"], 2
    relation = rng.choice(sorted(kinds))
    asked = "town" if relation == "friend" else relation  # people are picked out of a text about towns
    other = rng.choice([r for r in TOLD if r != asked])
    people, values = invented_people(scene.world, rng, n), rng.sample(scene.world.pools[asked], n)
    parts = [scene.statement(p.key, asked, v) for p, v in zip(people, values, strict=True)]
    extra = str(getattr(people[0], other))
    parts.insert(1, scene.statement(people[0].key, other, extra, pronoun=people[0].gender))
    found, rest = values, [person.key for person in people]
    if relation == "friend":
        found, rest = rest, found
    wrong = [scene.answer(*rest), scene.answer(*rest, extra), scene.joined(*parts)]
    if relation != "born":
        wrong.append(scene.foreign.answer(*found))
    return Draft(
        user=template.format(p=scene.joined(*parts), k=kinds[relation]),
        good=scene.answer(*found),
        wrong=tuple(wrong),
        check={"kind": "items", "items": found},
    )


def brainstorm(scene: Scene, template: str) -> Draft:
    rng, pools, kinds = scene.rng, scene.world.pools, scene.wordings("lists")["ideas"]
    relation = rng.choice([r for r in kinds if len(set(pools[r])) >= 6])
    n = rng.randint(2, 4)
    other = rng.choice([r for r in kinds if r != relation and len(pools[r]) >= n])
    several = rng.sample(pools[relation], min(n + 3, len(pools[relation])))
    foreign, repeated = scene.answer(*rng.sample(pools[other], n)), scene.answer(*[several[0]] * n)
    return Draft(
        user=template.format(n=scene.wordings("lists")["numbers"][n - 2], k=kinds[relation]),
        good=scene.answer(*several[:n]),
        wrong=(foreign, repeated, scene.answer(*(several[:1] if n > 2 else several))),
        check={"kind": "brainstorm", "relation": relation, "n": n},
    )


FAMILIES = {
    "sum": Family(sum_of_two, "sums"),
    "sort_list": Family(sort_list, "sorts"),
    "copy_list": Family(copy_list, "copies"),
    "extraction": Family(extraction, "extractions"),
    "brainstorm": Family(brainstorm, "namings"),
}
