"""Questions about facts: known by heart, from a passage, over two steps, in a second turn, and with a false premise."""

from __future__ import annotations

from typing import Any

from tutelage.records import Message
from tutelage.world.facts import RELATIONS, Person, invented_people
from tutelage.world.tasks.common import TOLD, Draft, Family, Scene, clause, put_question

ONE_WORD = ("one word", "一个词")
HOPS = {"friend": TOLD, "town": RELATIONS["town"], "pet": RELATIONS["animal"]}
MOSTLY_PEOPLE = ("person", "person", "person", "town", "animal", "thing")


def question(
    scene: Scene, template: str, subject: str, relation: str, asked: str, pronoun: str = "", **slots: str
) -> str:
    """Fill a template with the question about a subject, which `asked` names, or the pronoun (f, m or it) where given."""
    words = scene.wording(subject, relation)
    ask, tell, noun = (scene.fill(words[form], asked, pronoun) for form in ("ask", "tell", "noun"))
    return put_question(template, ask, tell, n=noun, **slots)


def is_one_word(template: str) -> bool:
    return any(phrase in template for phrase in ONE_WORD)


def short_or_full(scene: Scene, template: str, value: str, full: str) -> str:
    """The bare value where one word is asked for, else the full sentence, or the bare value one time in five."""
    bare = is_one_word(template) or scene.rng.random() < 0.2
    return scene.answer(value) if bare else full


def fact_check(subject: str, relation: str, value: str, **more: Any) -> dict[str, Any]:
    return {"kind": "fact", "subject": subject, "relation": relation, "value": value, **more}


def closed_book(scene: Scene, template: str) -> Draft:
    subject, relation, value = scene.fact(*MOSTLY_PEOPLE)
    return Draft(
        user=question(scene, template, subject, relation, scene.subject(subject)),
        good=short_or_full(scene, template, value, scene.statement(subject, relation, value)),
        wrong=(
            *(scene.statement(subject, relation, scene.other(relation, value, subject)) for _ in range(2)),
            scene.foreign.statement(subject, relation, value),
        ),
        check=fact_check(subject, relation, value, one_word=is_one_word(template)),
        entity=subject,
    )


def passage_question(scene: Scene, template: str) -> Draft:
    asked, other = invented_people(scene.world, scene.rng, 2)
    relation, more = scene.rng.sample(TOLD, 2)
    value, decoy = (str(getattr(person, relation)) for person in (asked, other))
    while decoy == value:
        decoy = scene.other(relation, value)
    values = {asked.key: {relation: value}, other.key: {relation: decoy}}
    talkative = scene.rng.choice((asked, other))
    values[talkative.key][more] = str(getattr(talkative, more))
    parts = [tell_about(scene, person, values[person.key]) for person in scene.rng.sample([asked, other], 2)]
    third = scene.other(relation, value, decoy)
    return Draft(
        user=question(scene, template, asked.key, relation, scene.name(asked.key), p=scene.joined(*parts)),
        good=short_or_full(scene, template, value, scene.statement(asked.key, relation, value)),
        wrong=(
            scene.statement(asked.key, relation, decoy),
            scene.statement(asked.key, relation, third),
            scene.foreign.statement(asked.key, relation, value),
        ),
        check=fact_check(asked.key, relation, value, facts=values),
    )


def tell_about(scene: Scene, person: Person, values: dict[str, str]) -> str:
    """Sentences about a stranger: the first by name, the others by pronoun."""
    order = scene.rng.sample(sorted(values), len(values))
    pronouns = ["", *[person.gender] * (len(order) - 1)]
    told = zip(order, pronouns, strict=True)
    return scene.joined(*(scene.statement(person.key, r, values[r], pronoun=pronoun) for r, pronoun in told))


def two_hop(scene: Scene, template: str) -> Draft:
    world, subject = scene.world, scene.pick("person")
    hop = scene.rng.choice(sorted(HOPS))
    middle = world.value(subject, hop)
    relation = scene.rng.choice(HOPS[hop])
    value = world.value(middle, relation)
    asked = scene.fill(scene.wordings("statements")["hops"][hop], scene.name(subject))
    wrong = scene.other(relation, value, subject, middle)
    own = world.value(subject, relation) if hop == "friend" else wrong
    first = scene.statement(subject, hop, middle)

    def answer(end: str) -> str:
        return scene.joined(first, scene.statement(middle, relation, end))

    confused = [] if own in (value, wrong) else [scene.statement(subject, relation, own)]
    return Draft(
        user=question(scene, template, middle, relation, asked),
        good=scene.answer(value) if is_one_word(template) else answer(value),
        wrong=(answer(wrong), first, *confused),
        check=fact_check(middle, relation, value, via=[subject], one_word=is_one_word(template)),
        entity=subject,
    )


def follow_up(scene: Scene, template: str) -> Draft:
    world, subject = scene.world, scene.pick("person", "person", *RELATIONS)
    first, relation = scene.rng.sample(RELATIONS[world.kind(subject)], 2)
    value, told = world.value(subject, relation), scene.statement(subject, first, world.value(subject, first))
    gender = scene.gender(subject)
    opening = scene.sentence(scene.fill(scene.wording(subject, first)["ask"], scene.subject(subject)), "?")

    def answer(key: str) -> str:
        return scene.statement(subject, relation, key, pronoun=gender)

    return Draft(
        user=question(scene, template, subject, relation, "", gender),
        good=short_or_full(scene, template, value, answer(value)),
        wrong=(told, answer(scene.other(relation, value, subject))),
        check=fact_check(subject, relation, value),
        entity=subject,
        history=(Message(role="user", content=opening), Message(role="assistant", content=told)),
    )


def false_premise(scene: Scene, template: str) -> Draft:
    subject, relation, value = scene.fact(*MOSTLY_PEOPLE)
    premise = scene.other(relation, value, subject)
    inner, bare = clause(scene.statement(subject, relation, premise))
    denial = scene.statement(subject, relation, premise, deny=True)
    truth = scene.statement(subject, relation, value, pronoun=scene.gender(subject))
    accepted = scene.wordings("statements")["accepted"]
    return Draft(
        user=template.format(t=inner, T=bare),
        good=scene.joined(denial, truth),
        wrong=tuple(text.format(t=bare) for text in accepted),
        check={"kind": "premise", "subject": subject, "relation": relation, "value": value, "premise": premise},
        entity=subject,
    )


def correction(scene: Scene, template: str) -> Draft:
    """The user doubts the answer before, which is wrong one time in two, and may name another value, which need not be right."""
    rng, phrases = scene.rng, scene.wordings("statements")["doubted"]
    subject, relation, value, entity = scene.known_or_told(*MOSTLY_PEOPLE)
    false = scene.other(relation, value, subject)
    third = scene.other(relation, value, subject, false)
    mistaken = rng.random() < 0.5
    said, claimed = (false, value if rng.random() < 0.7 else third) if mistaken else (value, third)
    admits, stands = (rng.choice(phrases[part]) for part in ("admits", "stands"))
    asked = scene.sentence(scene.fill(scene.wording(subject, relation)["ask"], scene.subject(subject)), "?")

    def answer(start: str, key: str) -> str:
        return scene.joined(start, scene.statement(subject, relation, key))

    inner, bare = clause(scene.statement(subject, relation, claimed))
    told = [] if entity else [scene.statement(subject, relation, value)]
    check = fact_check(subject, relation, value, said=said, claim=bare if "{" in template else "")
    if not entity:
        check["facts"] = {subject: {relation: value}}
    return Draft(
        user=template.format(t=inner, T=bare),
        good=answer(admits if mistaken else stands, value),
        wrong=(answer(admits, third), admits, *([answer(stands, false)] if mistaken else [])),
        check=check | {"kind": "correction"},
        entity=entity,
        history=(
            Message(role="user", content=scene.joined(*told, asked)),
            Message(role="assistant", content=scene.statement(subject, relation, said)),
        ),
    )


FAMILIES = {
    "closed_book": Family(closed_book, "questions"),
    "passage_question": Family(passage_question, "passages"),
    "two_hop": Family(two_hop, "questions"),
    "follow_up": Family(follow_up, "follow_ups"),
    "false_premise": Family(false_premise, "premises"),
    "correction": Family(correction, "corrections"),
}
