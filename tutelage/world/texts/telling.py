"""Genres that tell the facts of the world: lives, notes, questions, letters, news, guides, cards and the like."""

from __future__ import annotations

from tutelage.world.facts import RELATIONS
from tutelage.world.tasks.wording import capital
from tutelage.world.texts.pen import Pen


def biography(pen: Pen) -> str:
    person = pen.person()
    sentences = pen.say_all(person, pen.relations(person, 3, 6))
    name = pen.title(person)
    if pen.chance(0.5):
        sentences[0] = pen.phrase("telling.biography.opening", n=name) + sentences[0]
    if pen.chance(0.25):
        sentences.append(pen.phrase("telling.biography.closing", n=name, she=pen.pronoun(person)))
    return pen.join(sentences)


def note(pen: Pen) -> str:
    """A note about a town, an animal or a thing."""
    entity = pen.subject(pen.rng.choices(("town", "animal", "thing"), (2, 4, 5))[0])
    sentences = pen.say_all(entity, pen.relations(entity, 2, 3))
    if pen.chance(0.5):
        sentences[0] = capital(pen.phrase("telling.note.opening", n=pen.title(entity))) + sentences[0]
    return pen.join(sentences)


def questions(pen: Pen) -> str:
    """Questions and answers about one or two entities."""
    entity = pen.entity()
    turns: list[tuple[str, str]] = []
    for i, relation in enumerate(pen.relations(entity, 1, 3)):
        question = pen.ask(entity, relation, again=i > 0 and pen.chance(0.6))
        turns.append((question, pen.answer(entity, relation, again=i > 0 or pen.chance(0.4))))
        if pen.chance(0.25):
            entity = pen.entity()
            relation = pen.relation(entity)
            turns.append((pen.ask(entity, relation), pen.answer(entity, relation, again=pen.chance(0.4))))
            break
    style = pen.number(0, 3)
    if style == 0:
        return "\n".join(question + pen.space + answer for question, answer in turns)
    if style == 3:
        labels = pen.names(pen.some(tuple(pen.world.people), 2, 2))
    else:
        labels = pen.wording("telling.questions.labels")[style - 1]
    lines = [(label, text) for turn in turns for label, text in zip(labels, turn, strict=True)]
    return "\n".join(f"{label}{pen.colon}{text}" for label, text in lines)


def letter(pen: Pen) -> str:
    """A letter to a friend about the writer, and now and then about somebody else too."""
    person = pen.person()
    relations = pen.some([r for r in RELATIONS["person"] if r != "friend"], 2, 4)
    body = [pen.say_of_myself(person, relation) for relation in relations]
    if pen.chance(0.4):
        other = pen.entity()
        body.append(pen.phrase("telling.letter.news") + pen.say(other, pen.relations(other, 1, 1)[0]))
    if pen.chance(0.5):
        body.append(pen.phrase("telling.letter.closing"))
    pen.mark(person, "friend")
    return pen.phrase("telling.letter.frame", f=pen.name(person.friend), b=pen.join(body), n=pen.name(person.key))


def news(pen: Pen) -> str:
    person = pen.person()
    head, event = (pen.pick(pen.wording(f"telling.news.{part}")) for part in ("head", "event"))
    pen.mark(person, "town")
    thing = pen.word("craft")
    relations = [r for r in pen.relations(person, 2, 4) if r != "town"] or ["job"]
    text = head.format(t=pen.name(person.town)) + event.format(n=pen.name(person.key), k=thing)
    text += pen.join(pen.say_all(person, relations, again=True))
    if pen.chance(0.3):
        text += pen.space + pen.say(pen.world.towns[person.town], pen.pick(RELATIONS["town"]))
    return text


def guide(pen: Pen) -> str:
    """A town, its facts, and some who live there."""
    town = pen.subject("town")
    relations = pen.relations(town, 1, 3)
    text = pen.phrase("telling.guide.head", t=pen.title(town)) + pen.join(pen.say_all(town, relations))
    here = [person for person in pen.world.people.values() if person.town == town.key]
    if not here:
        return text
    folk = pen.some(here, 1, 3)
    for person in folk:
        pen.mark(person, "town")
    lives = pen.wording("telling.guide.live" if len(folk) > 1 else "telling.guide.lives")
    text += lives.format(n=pen.listed(pen.names(person.key for person in folk), "listing"))
    if pen.chance(0.5):
        more = [pen.say(person, pen.pick(("job", "pet", "food"))) for person in folk[:2]]
        text += pen.space + pen.join(more)
    return text


def card(pen: Pen) -> str:
    """Fields and values, in one of several forms."""
    entity = pen.entity()
    relations = pen.relations(entity, 2, 5)
    for relation in relations:
        pen.mark(entity, relation)
    return pen.card(pen.fields(entity, relations), pen.pick(("line", "lines", "lines", "json", "bullets", "table")))


def two_steps(pen: Pen) -> str:
    """A fact, a fact about its value, and what follows."""
    person = pen.person()
    hop = pen.pick(("friend", "friend", "town", "pet"))
    middle = pen.world.entities[person.value(hop)]
    relation = pen.pick([r for r in RELATIONS[middle.kind] if r != "friend"])
    label, value = pen.label(relation), pen.name(middle.value(relation))
    whole = pen.wording("telling.two_steps.whole").format(n=pen.name(person.key), hop=pen.label(hop))
    steps = [pen.say(person, hop), pen.say(middle, relation)]
    if pen.chance(0.6):
        steps.append(pen.wording("telling.two_steps.end").format(l=label, whole=whole, v=value))
    ask = pen.wording("telling.two_steps.ask").format(l=label, whole=whole)
    return (ask if pen.chance(0.6) else "") + pen.join(steps)


def correction(pen: Pen) -> str:
    """Somebody is wrong, and is corrected."""
    entity = pen.entity()
    relation = pen.relation(entity)
    wrong = pen.wrong(entity, relation)
    truth = pen.say(entity, relation, again=relation not in ("river", "friend"))
    claim, denial = pen.claim(entity, relation, wrong), pen.deny(entity, relation, wrong)
    return capital(pen.phrase("telling.correction.frame", c=claim, t=truth, d=denial))


def register(pen: Pen) -> str:
    """One relation of several entities: who lives where, who does what."""
    kind = pen.pick(("person", "person", "person", "town", "animal", "thing"))
    relation = pen.pick(RELATIONS[kind])
    entities = pen.some(tuple(pen.world.subjects(kind).values()), 3, 6)
    for entity in entities:
        pen.mark(entity, relation)
    if pen.chance(0.5):
        return "\n".join(pen.say(entity, relation) for entity in entities)
    rows = [f"{entity.name[pen.language]}{pen.colon}{pen.name(entity.value(relation))}" for entity in entities]
    return "\n".join([capital(pen.label(relation)), *rows])
