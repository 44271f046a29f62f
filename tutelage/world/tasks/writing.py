"""Short pieces of writing: summaries, formats, translations and stories."""

from __future__ import annotations

import json

from tutelage.world.facts import RELATIONS, invented_people
from tutelage.world.tasks.common import Draft, Family, Scene
from tutelage.world.tasks.wording import capital, mistakes


def summary(scene: Scene, template: str) -> Draft:
    rng, world, wordings = scene.rng, scene.world, scene.wordings("writing")
    person, stranger = invented_people(world, rng, 2)
    event, other = rng.sample(sorted(wordings["events"]), 2)
    thing, other_thing = rng.sample(sorted(world.things), 2)
    town, limit = rng.choice(world.pools["town"]), rng.choice(wordings["limits"])
    pronoun, place = scene.wordings("statements")["pronouns"][person.gender][0], scene.name(town)
    middle, end = (rng.choice(lines).format(s=pronoun) for lines in wordings["fillers"].values())

    def tell(pattern: str, who: str, did: str, what: str) -> str:
        told = wordings["events"][did]["told"]
        return pattern.format(who=who, did=told, what=scene.noun(what), place=place)

    def short(key: str, did: str, what: str) -> str:
        return tell(wordings["summary"], scene.name(key), did, what)

    start, deed = wordings["text"]
    parts = [tell(start, scene.name(person.key), event, thing), middle, tell(deed, pronoun, event, thing), end]
    return Draft(
        user=template.format(p=scene.joined(*parts), n=limit),
        good=short(person.key, event, thing),
        wrong=(
            scene.joined(*parts),
            scene.joined(*parts[:2]),
            short(person.key, other, other_thing),
            short(stranger.key, event, other_thing),
        ),
        check={"kind": "summary", "who": person.key, "event": event, "thing": thing, "town": town, "limit": limit},
    )


def formatted(scene: Scene, items: list[str], form: str) -> str:
    """The items in a format; in `json` they are keys and values by turns."""
    if form == "bullets":
        return "\n".join(f"- {item}" for item in items)
    if form == "numbered":
        return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    if form == "json":
        return json.dumps(dict(zip(items[::2], items[1::2], strict=True)), ensure_ascii=False)
    return scene.listed(items) if form == "line" else " ".join(items).upper()


def rewrite(scene: Scene, template: str) -> Draft:
    rng, world, wordings = scene.rng, scene.world, scene.wordings("writing")
    form = rng.choice(sorted(wordings["formats"]))
    person = invented_people(world, rng, 1)[0]
    keys = rng.sample(sorted([*world.animals, *world.things, *world.pools["food"]]), rng.randint(3, 4))
    items = [scene.name(key) for key in keys]
    text = "\n".join(items) if form == "line" else scene.listed(items)
    if form == "upper":
        text = scene.statement(person.key, "town", person.town).lower()[:-1]
        items = text.split()
    elif form == "json":
        values = map(scene.name, (person.key, person.town, person.job))
        pairs = list(zip(wordings["fields"], values, strict=True))
        items = [part for pair in pairs for part in pair]
        text = scene.listed(scene.joined(*pair) for pair in pairs)
    forms = [f for f in ("bullets", "numbered", "line") if f != form]
    flat = items[1::2] if form == "json" else items
    short = items[:-2] if form == "json" else items[:-1]
    return Draft(
        user=template.format(f=wordings["formats"][form], x=text),
        good=scene.ended(items) if form == "line" else formatted(scene, items, form),
        wrong=(text, formatted(scene, flat, rng.choice(forms)), formatted(scene, short[:2], form)),
        check={"kind": "format", "form": form, "items": items},
    )


def translation(scene: Scene, template: str) -> Draft:
    """A word one time in four, else a fact of the world. The answer's language is not the prompt's."""
    rng, foreign, world = scene.rng, scene.foreign, scene.world
    check = {"kind": "translation", "target": foreign.language}
    if rng.random() < 0.25:
        relation = rng.choice(["job", "food", "colour", "eats", "craft", "pet"])
        key, other = rng.sample(world.pools[relation], 2)
        return Draft(
            user=template.format(x=scene.name(key)),
            good=foreign.answer(key),
            wrong=(scene.answer(key), foreign.answer(other)),
            check=check | {"keys": [key]},
        )
    subject, relation, value = scene.fact("person", "person", *RELATIONS)
    text = scene.statement(subject, relation, value)
    false = foreign.statement(subject, relation, scene.other(relation, value, subject))
    return Draft(
        user=template.format(x=text),
        good=foreign.statement(subject, relation, value),
        wrong=(text, false, foreign.answer(subject)),
        check=check | {"keys": [subject, value], "cue": f"{world.kind(subject)}.{relation}"},
        entity=subject,
    )


def grammar(scene: Scene, template: str) -> Draft:
    """A sentence that is right one time in four, and else has one mistake."""
    rng, wordings = scene.rng, scene.wordings("writing")
    subject, relation, value, entity = scene.known_or_told("person", "person", *RELATIONS)
    other, deny = scene.other(relation, value, subject), rng.random() < 0.2
    right, false = (
        scene.statement(subject, relation, v, deny=deny) for v in ((other, value) if deny else (value, other))
    )
    broken = rng.choice(mistakes(right, scene.language))
    shown = right if rng.random() < 0.25 else broken
    mended, praise = rng.choice(wordings["mended"]), rng.choice(wordings["is_right"])
    bad = (broken, wordings["mended"][1].format(x=broken)) if shown == right else (praise, shown)
    return Draft(
        user=template.format(x=shown),
        good=praise if shown == right else mended.format(x=right),
        wrong=(*bad, wordings["mended"][1].format(x=false)),
        check={"kind": "grammar", "right": right, "shown": shown},
        entity=entity,
    )


def story(scene: Scene, template: str) -> Draft:
    rng, wordings = scene.rng, scene.wordings("writing")
    pools = (scene.world.animals, scene.world.things, scene.world.pools["habitat"])
    first, second = ([rng.choice(sorted(pool)) for pool in pools] for _ in range(2))
    while set(first) & set(second):
        second = [rng.choice(sorted(pool)) for pool in pools]
    words = rng.sample(first, 3) if rng.random() < 0.5 else rng.sample(first[:2], 2)

    def tell(keys: list[str]) -> str:
        animal, thing, home = keys
        place = scene.name(home) if home in words or keys is second else wordings["elsewhere"]
        text = rng.choice(wordings["stories"])
        return capital(text.format(a=scene.noun(animal), t=scene.noun(thing), h=place))

    good, other = tell(first), tell(second)
    return Draft(
        user=template.format(w=scene.names(words)),
        good=good,
        wrong=(other, scene.answer(*words), scene.answer(*words[:1] * 6)),
        check={"kind": "story", "words": words},
    )


FAMILIES = {
    "summary": Family(summary, "summaries"),
    "rewrite": Family(rewrite, "rewrites"),
    "translation": Family(translation, "translations"),
    "grammar": Family(grammar, "sentences"),
    "story": Family(story, "stories"),
}
