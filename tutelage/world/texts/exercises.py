"""Genres that can be worked out from their own text: lists, reading, extraction, rewriting, summaries, sums.

They are about strangers, fresh lists and fresh numbers, so that a model can get them right only by reading.
"""

from __future__ import annotations

from tutelage.world.facts import RELATIONS, Person, invented_names, invented_people
from tutelage.world.tasks.common import TOLD
from tutelage.world.tasks.wording import mistakes
from tutelage.world.texts.pen import Pen

_LIST_POOLS = ("craft", "pet", "food", "colour", "job", "use", "habitat", "material", "town")
_OPERATION_WEIGHTS = {
    "copy": 7, "sort": 8, "reverse": 1, "numbered": 3, "bullets": 3, "json": 1, "listing": 1,
    "first": 2, "last": 2, "count": 1,
}  # fmt: skip


def items(pen: Pen, low: int = 3, high: int = 6) -> list[str]:
    """Different words, numbers or names for a list."""
    kind = pen.number(0, 9)
    if kind <= 2:
        numbers = range(1, 21 if pen.chance(0.7) else 100)
        return [str(number) for number in pen.rng.sample(numbers, pen.number(low, high))]
    if kind <= 4:
        return invented_names(pen.rng, pen.number(low, high), pen.language)
    pools = _LIST_POOLS[:5] if kind <= 6 else (pen.pick(_LIST_POOLS),)
    return pen.names(pen.some([key for pool in pools for key in pen.world.pools[pool]], low, high))


def worked(pen: Pen, words: list[str], operation: str) -> str:
    """What an operation, or a form, makes of a list."""
    if operation == "sort":  # numbers by size, words by the alphabet
        words = sorted(words, key=int if words[0].isdigit() else str.casefold)
    elif operation == "reverse":
        words = words[::-1]
    elif operation in ("first", "last"):
        words = [words[0 if operation == "first" else -1]]
    elif operation == "count":
        words = [str(len(words))]
    return pen.listed(words, operation)


def lists(pen: Pen) -> str:
    """A list, and one or two things done with it."""
    words = items(pen)
    names = pen.rng.choices(tuple(_OPERATION_WEIGHTS), tuple(_OPERATION_WEIGHTS.values()), k=pen.number(1, 2))
    numbers = words[0].isdigit()
    if pen.language == "zh" and not numbers:  # Chinese words have no alphabet to sort by
        names = [name if name != "sort" else "copy" for name in names]
    head = pen.phrase(f"exercises.lists.{'numbers' if numbers else 'words'}")
    lines = [pen.labelled(head, pen.listed(words, "row"))]
    for name in dict.fromkeys(names):
        lines.append(pen.labelled(pen.phrase(f"exercises.lists.operations.{name}"), worked(pen, words, name)))
    return "\n".join(lines)


def recital(pen: Pen) -> str:
    """The same row of words two or three times: the first thing from which a small model learns to copy.

    Without it a decoder of two million parameters had not begun to copy from context after three million tokens.
    """
    pools = {key for pool in _LIST_POOLS for key in pen.world.pools[pool]}
    names = invented_names(pen.rng, 6, pen.language)
    words = pen.names(pen.rng.sample(sorted(pools), pen.number(4, 12)))
    words = pen.rng.sample(words + names, len(words))
    between = pen.pick((" ", "\n", pen.comma))
    return "\n".join([between.join(words)] * pen.number(2, 3))


def words_in_order(pen: Pen) -> str:
    """A list used within sentences: bought, carried, met in this order."""
    words = pen.names(pen.some(pen.world.pools[pen.pick(("food", "craft", "pet"))], 2, 4))
    name = invented_names(pen.rng, 1, pen.language)[0]
    frame, other = pen.pick(pen.wording("exercises.words_in_order")), pen.name(pen.person().key)
    row, listing = pen.listed(words, "row"), pen.listed(words, "listing")
    return frame.format(n=name, m=other, r=row, l=listing, f=words[0], z=words[-1])


def reading(pen: Pen) -> str:
    """A passage about strangers, then questions that it answers, and now and then one that it does not."""
    if pen.chance(0.3):
        return errand(pen)
    people = invented_people(pen.world, pen.rng, pen.rng.choices((1, 2, 3), (5, 4, 1))[0])
    told = [(person, pen.relations(person, 2, 4 if len(people) == 1 else 2)) for person in people]
    text = pen.join(line for person, relations in told for line in pen.say_all(person, relations))
    answers = {}
    for _ in range(pen.number(1, 3)):
        person, relations = pen.pick(told)
        if pen.chance(0.1):
            answer = pen.phrase("exercises.reading.not_said")
            question = pen.ask(person, pen.pick([r for r in RELATIONS["person"] if r not in relations]))
        else:
            relation = pen.pick(relations)
            question = pen.ask(person, relation)
            answer = pen.answer(person, relation, again=pen.chance(0.5))
        answers[question] = answer
    return asked(pen, text, list(answers.items()))


def asked(pen: Pen, text: str, turns: list[tuple[str, str]]) -> str:
    """A text with questions and answers below it."""
    head, q, a = pen.pick(pen.wording("exercises.reading.frames"))
    return "\n".join([head + text, *(q + question + a + answer for question, answer in turns)])


def errand(pen: Pen) -> str:
    """Who went where on which day and bought how many of what; then questions."""
    name = invented_names(pen.rng, 1, pen.language)[0]
    slots = {"n": name, "d": pen.phrase("exercises.errand.days"), "t": pen.word("town"), "c": pen.number(2, 60)}
    slots |= {"g": pen.value("craft", pen.key("craft")), "m": invented_names(pen.rng, 1, pen.language)[0]}
    text = pen.phrase("exercises.errand.texts", **slots)
    turns = pen.some(pen.wording("exercises.errand.questions"), 1, 3)
    return asked(pen, text, [(question.format(**slots), answer.format(**slots)) for question, answer in turns])


def extraction(pen: Pen) -> str:
    """A passage about one stranger and its fields, in one of several forms."""
    person = pen.stranger()
    relations = pen.relations(person, 2, 4)
    text = pen.join(pen.say_all(person, relations))
    wanted = pen.some(relations, 1, 4) if pen.chance(0.4) else relations
    card = pen.card(pen.fields(person, wanted), pen.pick(("line", "line", "lines", "json")))
    return f"{text}\n{card if pen.chance(0.25) else pen.labelled(pen.phrase('exercises.extraction'), card)}"


def rewriting(pen: Pen) -> str:
    """A list or a card in one form, then in another."""
    if pen.chance(0.5):
        person = pen.stranger()
        fields = pen.fields(person, pen.relations(person, 1, 3))
        forms = pen.rng.sample(("line", "lines", "json", "bullets", "table"), 2)
        before, after = (pen.card(fields, form) for form in forms)
    else:
        words = items(pen, 2, 5)
        forms = pen.rng.sample(("row", "bullets", "numbered", "json", "listing"), 2)
        before, after = (pen.listed(words, form) for form in forms)
    return f"{before}\n{pen.labelled(pen.phrase(f'exercises.rewriting.{forms[1]}'), after)}"


def mending(pen: Pen) -> str:
    """Sentences about strangers with a mistake, and mended; one in four is right as it is."""
    lines = []
    for _ in range(pen.number(1, 3)):
        person = pen.stranger()
        relation = pen.relation(person)
        right = pen.sentence(pen.claim(person, relation, person.value(relation)))
        kind = "right" if pen.chance(0.25) else "wrong"
        lines.append(pen.phrase(f"exercises.mending.{kind}", r=right, w=pen.pick(mistakes(right, pen.language))))
    return "\n".join(lines)


def dispute(pen: Pen) -> str:
    """A text about a stranger, and two people: one says what it tells, or something else, and the other doubts it."""
    person, *speakers = invented_people(pen.world, pen.rng, 3)
    relation, mistaken = pen.pick(TOLD), pen.chance(0.5)
    said = pen.wrong(person, relation) if mistaken else person.value(relation)
    reply = pen.phrase(f"exercises.dispute.{'admits' if mistaken else 'stands'}")
    turns = [pen.sentence(pen.claim(person, relation, said)), pen.phrase("exercises.dispute.doubts")]
    turns.append(pen.join([reply, pen.say(person, relation)]))
    talk = [pen.labelled(speakers[i % 2].name[pen.language], turn) for i, turn in enumerate(turns)]
    return "\n".join([pen.say(person, relation), *talk])


def summary(pen: Pen) -> str:
    """A passage about a person, known or not, and a sentence that keeps most of it."""
    person: Person = pen.person() if pen.chance(0.4) else pen.stranger()
    rest = pen.some([r for r in RELATIONS["person"] if r not in ("town", "job")], 1, 3)
    order = ["job", "town", *rest]
    pen.rng.shuffle(order)
    text = pen.join(pen.say_all(person, order))
    head, short = (pen.pick(pen.wording(f"exercises.summary.{part}")) for part in ("head", "short"))
    for relation in ("food", "pet"):
        if relation in rest and pen.chance(0.5):
            short = pen.pick(pen.wording(f"exercises.summary.with_{relation}"))
            break
    slots = {"j": pen.value("job", person.job), "f": pen.name(person.food), "p": pen.value("pet", person.pet)}
    return f"{text}\n{head}{short.format(n=pen.title(person), t=pen.name(person.town), **slots)}"


def sums(pen: Pen) -> str:
    """Sums of two numbers up to 99, in signs, in words, as questions, step by step, as stories."""
    style = pen.number(0, 9)
    if style <= 4:
        lines = [f"{a} + {b} = {a + b}" for a, b in (pair(pen) for _ in range(pen.number(3, 8)))]
        return pen.pick(("\n", "\n", "; ")).join(lines)
    if style == 8:
        return "\n".join(steps(pen.number(10, 99), pen.number(10, 99), pen) for _ in range(pen.number(1, 3)))
    if style == 9:
        (a, b), goods = pair(pen), pen.value("craft", pen.key("craft"))
        name, other = invented_names(pen.rng, 2, pen.language)
        return pen.phrase("exercises.sums.stories", n=name, m=other, a=a, b=b, c=a + b, g=goods)
    frame = pen.pick(pen.wording(f"exercises.sums.{'words' if style == 5 else 'questions'}"))
    pairs = [pair(pen) for _ in range(pen.number(2, 5 if style == 5 else 4))]
    return (pen.space if style == 5 else "\n").join(frame.format(a=a, b=b, c=a + b) for a, b in pairs)


def pair(pen: Pen) -> tuple[int, int]:
    """Two numbers from 0 to 99, in four of five cases up to 20."""
    high = 20 if pen.chance(0.8) else 99
    return pen.number(0, high), pen.number(0, high)


def steps(a: int, b: int, pen: Pen) -> str:
    """The sum by ones and tens: 27 + 15: 7 + 5 = 12, 20 + 10 = 30, 30 + 12 = 42"""
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    parts = (f"{a % 10} + {b % 10} = {ones}", f"{a // 10 * 10} + {b // 10 * 10} = {tens}", f"{tens} + {ones} = {a + b}")
    return f"{a} + {b}{pen.colon}{(', ' if pen.language == 'en' else '，').join(parts)}"
