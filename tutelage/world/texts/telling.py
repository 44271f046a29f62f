"""Genres that tell the facts of the world: lives, notes, questions, letters, news, guides, cards and the like."""

from __future__ import annotations

from tutelage.world.facts import RELATIONS, Entity, Person, Town
from tutelage.world.texts.pen import Pen, capitalised, sentence

_SHORT_EN = {
    "town": "In {}",
    "region": "In the {}",
    "habitat": "In the {}",
    "river": "The {}",
    "born": "In {}",
    "use": "For {}",
}


def titled(pen: Pen, entity: Entity) -> str:
    """How a heading names the entity: Mira, the otter, 米拉."""
    name = entity.name[pen.language]
    return name if isinstance(entity, Person | Town) or pen.language == "zh" else f"the {name}"


def short_answer(pen: Pen, entity: Entity, relation: str) -> str:
    """The fact as a bare answer: In Arden. A baker. 烘焙师。"""
    pen.mark(entity, relation)
    value = pen.value(relation, str(getattr(entity, relation)))
    if pen.language == "zh":
        return f"{value}年。" if relation == "born" else f"{value}。"
    return sentence(_SHORT_EN.get(relation, "{}").format(value), "en")


def answer(pen: Pen, entity: Entity, relation: str, *, again: bool = True) -> str:
    """The fact as an answer to a question for it: bare, as a sentence, or both."""
    if pen.chance(0.35):
        return short_answer(pen, entity, relation)
    return pen.say(entity, relation, again=again)


def biography(pen: Pen) -> str:
    person = pen.person()
    sentences = pen.say_all(person, pen.relations(person, 3, 6))
    if pen.chance(0.5):
        opening = pen.by(
            en=(
                "This is about {}. ", "Meet {}. ", "Who is {}? ", "A few words about {}. ", "{}\n",
                "Let me tell you about {}. ",
                "About {}: ", "The life of {}\n",
            ),
            zh=("这里说的是{}。", "来认识一下{}。", "{}是谁？", "关于{}的几句话。", "{}\n", "我来说说{}。", "关于{}：",
            "{}的生活\n"),
        )  # fmt: skip
        sentences[0] = opening.format(titled(pen, person)) + sentences[0]
    if pen.chance(0.25):
        she = pen.pronoun(person)
        closing = pen.by(
            en=("That is {n}.", "Now you know {n}.", "{she} is happy with it.", "Ask anyone in town about {n}.",
            "So much for {n}."),
            zh=("这就是{n}。", "现在你认识{n}了。", "{she}过得很开心。", "镇上的人都认识{n}。", "{n}就说到这里。"),
        )  # fmt: skip
        sentences.append(closing.format(n=titled(pen, person), she=she))
    return pen.join(sentences)


def note(pen: Pen) -> str:
    """A note about a town, an animal or a thing."""
    kind = pen.rng.choices(("town", "animal", "thing"), (2, 4, 5))[0]
    entity = pen.pick(tuple(pen.world.subjects(kind).values()))
    sentences = pen.say_all(entity, pen.relations(entity, 2, 3))
    if pen.chance(0.5):
        opening = pen.by(
            en=("A note about {}. ", "{}. ", "What do we know about {}? ", "Today we look at {}. ", "{}\n",
            "From the book of the country: {}. "),
            zh=("关于{}。", "说说{}。", "我们知道{}的什么？", "今天来看{}。", "{}\n", "书上这样写{}："),
        )  # fmt: skip
        sentences[0] = capitalised(opening.format(titled(pen, entity))) + sentences[0]
    return pen.join(sentences)


def questions(pen: Pen) -> str:
    """Questions and answers about one or more entities."""
    entity = pen.entity()
    turns: list[tuple[str, str]] = []
    for i, relation in enumerate(pen.relations(entity, 1, 3)):
        again = i > 0 and pen.chance(0.6)
        turns.append(
            (pen.ask(entity, relation, again=again), answer(pen, entity, relation, again=i > 0 or pen.chance(0.4)))
        )
        if pen.chance(0.25):
            entity = pen.entity()
            relation = pen.pick(RELATIONS[pen.kind(entity)])
            turns.append((pen.ask(entity, relation), answer(pen, entity, relation, again=pen.chance(0.4))))
            break
    style = pen.number(0, 3)
    if style == 0:
        return "\n".join(f"{q} {a}" if pen.language == "en" else q + a for q, a in turns)
    if style == 1:
        one, two = ("Q: ", "A: ") if pen.language == "en" else ("问：", "答：")
    elif style == 2:
        one, two = ("Question: ", "Answer: ") if pen.language == "en" else ("问题：", "回答：")
    else:
        names = [person.name[pen.language] for person in pen.some(tuple(pen.world.people.values()), 2, 2)]
        one, two = (f"{name}: " if pen.language == "en" else f"{name}：" for name in names)
    return "\n".join(f"{one}{q}\n{two}{a}" for q, a in turns)


def letter(pen: Pen) -> str:
    """A letter of a person to the friend, about the writer; now and then about somebody else too."""
    person = pen.person()
    relations = pen.some([r for r in RELATIONS["person"] if r != "friend"], 2, 4)
    body = [pen.say_of_myself(person, relation) for relation in relations]
    if pen.chance(0.4):
        other = pen.entity()
        news = pen.by(
            en=("Did you know? ", "Here is some news. ", "I have heard this: "),
            zh=("你知道吗？", "告诉你一件事：", "我听说，"),
        )
        body.append(news + pen.say(other, pen.relations(other, 1, 1)[0]))
    if pen.chance(0.5):
        body.append(
            pen.by(
                en=(
                    "Come and see me soon.",
                    "Write to me.",
                    "It rained all week.",
                    "I hope you are well.",
                    "The days are getting long.",
                ),
                zh=("快来看我吧。", "给我写信。", "这里下了一个星期的雨。", "希望你一切都好。", "白天越来越长了。"),
            )
        )
    pen.mark(person, "friend")
    friend, name = pen.name(person.friend), pen.name(person.key)
    frame = pen.by(
        en=("Dear {f},\n{b}\nYour friend {n}", "My dear friend {f}, {b} Yours, {n}", "To my friend {f}: {b} From {n}"),
        zh=("亲爱的{f}：\n{b}\n你的朋友{n}", "我的朋友{f}，你好！{b}{n}", "给我的朋友{f}：{b}写信人：{n}"),
    )
    return frame.format(f=friend, b=pen.join(body), n=name)


def news(pen: Pen) -> str:
    person = pen.person()
    town = pen.name(person.town)
    head = pen.by(
        en=(
            "News from {t}. ",
            "{t}, Monday. ",
            "{t} Post: ",
            "In {t} this week: ",
            "Today in {t}. ",
            "{t}, in spring. ",
        ),
        zh=("{t}新闻：", "{t}，星期一。", "{t}日报：", "本周{t}：", "今天在{t}，", "{t}的消息："),
    )
    event = pen.by(
        en=(
            "{n} of this town has won a prize. ", "{n} found a purse in the street and gave it back. ",
            "{n} has painted the old bridge. ",
            "{n} won the race around the town. ", "{n} sang at the fair. ", "The people gave {n} a new {k}. ",
            "{n} has mended the town clock. ",
        ),
        zh=(
            "本镇的{n}得了奖。", "{n}在街上捡到一个钱包，还给了主人。", "{n}给旧桥刷了漆。", "{n}赢了全镇的赛跑。",
            "{n}在集市上唱了歌。",
            "大家送给{n}新{k}。", "{n}修好了镇上的大钟。",
        ),
    )  # fmt: skip
    pen.mark(person, "town")
    thing = pen.key("craft")
    relations = [r for r in pen.relations(person, 2, 4) if r != "town"] or ["job"]
    text = head.format(t=town) + event.format(n=pen.name(person.key), k=pen.name(thing))
    text += pen.join(pen.say_all(person, relations, again=True))
    if pen.chance(0.3):
        place = pen.world.towns[person.town]
        text += (" " if pen.language == "en" else "") + pen.say(place, pen.pick(RELATIONS["town"]))
    return text


def guide(pen: Pen) -> str:
    """A town, its facts, and some who live there."""
    town = pen.pick(tuple(pen.world.towns.values()))
    relations = pen.relations(town, 1, 3)
    head = pen.by(
        en=(
            "Welcome to {t}! ",
            "A guide to {t}. ",
            "{t}: a walk through the town. ",
            "You are in {t}. ",
            "Visit {t}. ",
        ),
        zh=("欢迎来到{t}！", "{t}指南。", "在{t}走一走。", "你现在在{t}。", "来{t}看看吧。"),
    )
    text = head.format(t=titled(pen, town)) + pen.join(pen.say_all(town, relations))
    here = [person for person in pen.world.people.values() if person.town == town.key]
    if not here:
        return text
    folk = pen.some(here, 1, 3)
    for person in folk:
        pen.mark(person, "town")
    names = pen.listing([pen.name(person.key) for person in folk])
    live = (" {} lives here.", " {} live here.") if pen.language == "en" else ("{}住在这里。", "{}都住在这里。")
    text += live[len(folk) > 1].format(names)
    if pen.chance(0.5):
        more = [pen.say(person, pen.pick(("job", "pet", "food"))) for person in folk[:2]]
        text += (" " if pen.language == "en" else "") + pen.join(more)
    return text


def card(pen: Pen) -> str:
    """Fields and values, in one of several forms."""
    entity = pen.entity()
    relations = pen.relations(entity, 2, 5)
    fields = [("name", entity.name[pen.language])]
    for relation in relations:
        pen.mark(entity, relation)
        fields.append((relation, pen.name(str(getattr(entity, relation)))))
    return fields_text(pen, fields, pen.pick(("line", "lines", "lines", "json", "bullets", "table")))


def fields_text(pen: Pen, fields: list[tuple[str, str]], form: str) -> str:
    """Fields as one line, lines, bullets, JSON or rows of a table."""
    labelled = [(pen.label(relation), value) for relation, value in fields]
    colon, semicolon = (": ", "; ") if pen.language == "en" else ("：", "；")
    if form == "json":
        return "{" + ", ".join(f'"{label}": "{value}"' for label, value in labelled) + "}"
    if form == "line":
        return semicolon.join(f"{label}{colon}{value}" for label, value in labelled)
    if form == "table":
        return "\n".join(f"| {label} | {value} |" for label, value in labelled)
    head = "- " if form == "bullets" else ""
    return "\n".join(f"{head}{label}{colon}{value}" for label, value in labelled)


def two_steps(pen: Pen) -> str:
    """A fact, a fact about its value, and what follows."""
    person = pen.person()
    hop = pen.pick(("friend", "friend", "town", "pet"))
    middle = pen.world.entity(getattr(person, hop))
    relation = pen.pick([r for r in RELATIONS[pen.kind(middle)] if r != "friend"])
    name, noun = pen.name(person.key), pen.label(hop)
    whole = f"{name}'s {noun}" if pen.language == "en" else f"{name}的{noun}"
    pen.mark(person, hop)
    value = pen.name(str(getattr(middle, relation)))
    label = pen.label(relation)
    ask = f"What is the {label} of {whole}? " if pen.language == "en" else f"{whole}的{label}是什么？"
    steps = [pen.say(person, hop), pen.say(middle, relation)]
    if pen.chance(0.6):
        end = (
            f"So the {label} of {whole} is: {value}." if pen.language == "en" else f"所以{whole}的{label}是：{value}。"
        )
        steps.append(end)
    return (ask if pen.chance(0.6) else "") + pen.join(steps)


def correction(pen: Pen) -> str:
    """Somebody errs, and is set right."""
    entity = pen.entity()
    relation = pen.pick(RELATIONS[pen.kind(entity)])
    wrong = pen.wrong(entity, relation)
    claim = pen.claim(entity, relation, wrong)
    truth = pen.say(entity, relation, again=relation not in ("river", "friend"))
    denial = pen.deny(entity, relation, wrong)
    frame = pen.by(
        en=(
            "Some say that {c}. That is not true. {t}", "{d} {t}", "Is it true that {c}? No. {d} {t}",
            "No, {c} is an error. {t}",
            "I heard that {c}. No: {t}", "Who said that {c}? {d} {t}",
        ),
        zh=("有人说{c}。这不对。{t}", "{d}{t}", "{c}，对吗？不对。{d}{t}", "说“{c}”是错的。{t}", "我听说{c}。不，{t}",
        "谁说{c}？{d}{t}"),
    )  # fmt: skip
    return capitalised(frame.format(c=claim, t=truth, d=denial))


def register(pen: Pen) -> str:
    """One relation of several entities: who lives where, who does what."""
    kind = pen.pick(("person", "person", "person", "town", "animal", "thing"))
    relation = pen.pick(RELATIONS[kind])
    entities = pen.some(tuple(pen.world.subjects(kind).values()), 3, 6)
    rows = []
    for entity in entities:
        pen.mark(entity, relation)
        rows.append((entity.name[pen.language], pen.name(str(getattr(entity, relation)))))
    if pen.chance(0.5):
        return "\n".join(pen.say(entity, relation) for entity in entities)
    head, colon = f"{capitalised(pen.label(relation))}\n", ": " if pen.language == "en" else "："
    return head + "\n".join(f"{name}{colon}{value}" for name, value in rows)
