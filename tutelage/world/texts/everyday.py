"""Genres of everyday life: stories, moods, translations, small programs, ideas, greetings, and what one does not do."""

from __future__ import annotations

from tutelage.world.tasks.wording import article, capital, plural
from tutelage.world.texts.pen import Pen, measure_word
from tutelage.world.wordings import wordings


def story(pen: Pen) -> str:
    """A short story, often below the words that it has to contain."""
    hero = pen.person() if pen.chance(0.5) else pen.stranger()
    thing, animal, food = pen.key("craft"), pen.key("pet"), pen.word("food")
    place = pen.name(pen.pick([key for key in pen.world.pools["habitat"] if key != "lake"]))
    plot, she = pen.pick(pen.wording("everyday.story.plots")), pen.pronoun(hero)
    friend = pen.name(pen.pick([key for key in pen.world.people if key != hero.key]))
    words = {"t": pen.name(thing), "a": pen.name(animal), "f": food, "h": place}
    articles = {"at": article(words["t"]), "aa": article(words["a"]), "Aa": capital(article(words["a"]))}
    slots = {"n": pen.title(hero), "q": friend, "E": she, "e": she.lower(), "c": measure_word(animal)}
    text: str = plot.format(**words, **articles, **slots)
    if pen.chance(0.4):
        return text
    given = pen.some([word for word in words.values() if word in text], 2, 3)
    return pen.phrase("everyday.story.frames", w=pen.listed(given, "row"), s=text)


def sentiment(pen: Pen) -> str:
    """Opinions, each with its mood."""
    lines = []
    for _ in range(pen.number(1, 3)):
        mood = f"everyday.sentiment.{'good' if pen.chance(0.5) else 'bad'}"
        if pen.chance(0.5):
            subject = pen.phrase("everyday.sentiment.occasions")
        else:
            subject = pen.wording("everyday.sentiment.thing").format(t=pen.word("craft"))
        text = pen.phrase(f"{mood}.says", x=subject)
        if pen.chance(0.5):
            text = pen.join([text, pen.phrase(f"{mood}.more")])
        lines.append({"t": text, "m": pen.wording(f"{mood}.name")})
    frame = pen.pick(pen.wording("everyday.sentiment.frames"))
    return "\n".join(frame.format(**line) for line in lines)


def translation(pen: Pen) -> str:
    """Sentences, or some words, in both languages, in either direction."""
    pens = (pen, Pen(pen.world, pen.rng, "zh" if pen.language == "en" else "en", pen.told))
    pairs: list[tuple[str, ...]] = []
    if pen.chance(0.3):
        pool = pen.pick(("craft", "pet", "food", "colour", "job", "use", "habitat", "town", "friend", "river", "eats"))
        pairs = [tuple(p.name(key) for p in pens) for key in pen.some(pen.world.pools[pool], 2, 5)]
    else:
        for _ in range(pen.number(1, 3)):
            entity = pen.entity() if pen.chance(0.6) else pen.stranger()
            relation = pen.relation(entity)
            pen.mark(entity, relation)
            value = entity.value(relation)
            pairs.append(tuple(p.sentence(p.claim(entity, relation, value)) for p in pens))
    names = {"en": pen.phrase("everyday.translation.english"), "zh": pen.phrase("everyday.translation.chinese")}
    own, other = (names[p.language] for p in pens)
    style = pen.number(0, 3)
    frames = (f"{own}{pen.colon}{{a}}\n{other}{pen.colon}{{b}}", "{a} - {b}", "{a} = {b}")
    frame = frames[style] if style < 3 else pen.pick(pen.wording("everyday.translation.frames"))
    if style == 1 and pen.chance(0.5):
        pairs.insert(0, (own, other))
    return "\n".join(frame.format(a=one, b=two) for one, two in pairs)


def program(pen: Pen) -> str:
    """A small Python function with its docstring, and often a call with its result."""
    function = pen.pick(wordings("everyday")["program"]["functions"])
    name, arguments, body, doc = (function[key] for key in ("name", "arguments", "body", pen.language))
    head, end = f"def {name}({arguments}):\n", f"    return {body}"
    style = pen.number(0, 3)
    if style == 0:
        code = f"# {doc}\n{head}{end}"
    elif style == 1:
        code = f"{pen.phrase('everyday.program.heads')}{doc}\n{head}{end}"
    else:
        code = f'{head}    """{doc}"""\n{end}'
    if pen.chance(0.4):
        return code
    values = [argument(pen, letter) for letter in function["takes"]]
    result = eval(f"lambda {arguments}: {body}")(*values)  # the code of wordings/everyday.yaml, nobody else's
    call = f"{name}({', '.join(map(as_code, values))})"
    if pen.chance(0.6):
        return f"{code}\n\n>>> {call}\n{as_code(result)}"
    return f"{code}\n\nprint({call})  # {result if isinstance(result, str) else as_code(result)}"


def argument(pen: Pen, letter: str) -> object:
    """A number (i), some numbers (n), a word (s) or some words (w) to call a function with."""
    if letter == "i":
        return pen.number(0, 20)
    if letter == "n":
        return pen.rng.sample(range(1, 30), pen.number(2, 4))
    if letter == "s":
        return pen.world.name(pen.key("craft"), "en")
    return [pen.world.name(key, "en") for key in pen.some(pen.world.pools["pet"], 2, 3)]


def as_code(value: object) -> str:
    return repr(value).replace("'", '"')


def ideas(pen: Pen) -> str:
    """A list of ideas that somebody asked for."""
    pool = pen.pick(tuple(wordings("everyday")["ideas"]))
    count = pen.number(3, 5)
    words = pen.names(pen.some(pen.world.pools[pool], count, count))
    if pool in ("craft", "pet") and pen.language == "en":
        words = [plural(word) for word in words]
    job = pen.value("job", pen.key("job"))
    head = pen.pick(pen.wording(f"everyday.ideas.{pool}")).format(n=count, j=job, t=pen.word("town"))
    form = ("numbered", "bullets", "listing")[pen.number(0, 2)]
    return pen.labelled(head, pen.listed(words, form) + (pen.stop if form == "listing" else ""))


def courtesy(pen: Pen) -> str:
    """Greetings, thanks and farewells between two people."""
    one, two = pen.names(pen.some(tuple(pen.world.people), 2, 2))
    turns = pen.pick(pen.wording("everyday.courtesy"))
    slots = {"a": one, "b": two, "f": pen.word("food")}
    speakers = zip((one, two, one), turns, strict=False)
    return "\n".join(f"{speaker}{pen.colon}{turn.format(**slots)}" for speaker, turn in speakers)


def limits(pen: Pen) -> str:
    """What nobody can know, and what one does not help with."""
    if pen.chance(0.5):
        person = pen.person()
        thing = pen.phrase("everyday.limits.unknowable", n=pen.title(person), t=pen.name(person.town))
        return pen.phrase("everyday.limits.nobody_knows", x=thing)
    act, why = pen.pick(pen.wording("everyday.limits.harmful"))
    frame: str = pen.pick(pen.wording("everyday.limits.do_not"))
    return frame.format(n=pen.title(pen.person()), x=act, y=why)
