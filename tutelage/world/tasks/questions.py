"""Questions about facts: known by heart, from a passage, over two steps, in a second turn, and with a false premise."""

from __future__ import annotations

from tutelage.records import Message
from tutelage.world.facts import LANGUAGES, RELATIONS, Language, Person, invented_people
from tutelage.world.tasks.common import KINDS, Draft, Family, Scene
from tutelage.world.tasks.wording import fill, gender, joined, sentence, statement, subject_text, wording

ONE_WORD = ("one word", "一个词")
HOPS = {"friend": ("town", "job", "pet", "food", "born"), "town": RELATIONS["town"], "pet": RELATIONS["animal"]}
HOP_NOUN: dict[Language, dict[str, str]] = {
    "en": {"friend": "{s}'s friend", "town": "{s}'s town", "pet": "{s}'s pet"},
    "zh": {"friend": "{s}的朋友", "town": "{s}住的镇", "pet": "{s}的宠物"},
}


def question(scene: Scene, template: str, subject: str, relation: str, asked: str, pronoun: str = "") -> str:
    """Fill a template's {q} or {Q} (the question, small or capital), {c} (clause) and {n} (noun). `asked` names the subject."""
    words = wording(scene.world, subject, relation, scene.language)
    forms = {"q": words.ask, "c": words.tell, "n": words.noun}
    parts = {slot: fill(text, scene.language, asked, pronoun) for slot, text in forms.items()}
    parts["Q"] = parts["q"][0].upper() + parts["q"][1:]
    for slot, text in parts.items():
        template = template.replace(f"{{{slot}}}", text)
    return template


def is_one_word(template: str) -> bool:
    return any(phrase in template for phrase in ONE_WORD)


def short_or_full(scene: Scene, template: str, value: str, full: str) -> str:
    """The bare value where one word is asked for, else the full sentence, or the bare value one time in five."""
    bare = is_one_word(template) or scene.rng.random() < 0.2
    return sentence(scene.name(value), scene.language) if bare else full


def other_language(scene: Scene, subject: str, relation: str, value: str) -> str:
    language = LANGUAGES[1 - LANGUAGES.index(scene.language)]
    return statement(scene.world, subject, relation, value, language)


def closed_book(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    subject = scene.pick("person", "person", "person", "town", "animal", "thing")
    relation = scene.rng.choice(RELATIONS[world.kind(subject)])
    value = world.value(subject, relation)
    return Draft(
        user=question(scene, template, subject, relation, subject_text(world, subject, language)),
        good=short_or_full(scene, template, value, statement(world, subject, relation, value, language)),
        wrong=(
            *(statement(world, subject, relation, scene.other(relation, value, subject), language) for _ in range(2)),
            other_language(scene, subject, relation, value),
        ),
        check={
            "kind": "fact",
            "subject": subject,
            "relation": relation,
            "value": value,
            "one_word": is_one_word(template),
        },
        entity=subject,
    )


QUESTIONS: dict[Language, tuple[str, ...]] = {
    "en": (
        "{Q}?", "Tell me {c}.", "Give me {n}.", "Do you know {c}?", "Please say {c}.", "{Q}? Answer in one word.",
        "I would like to know {c}.", "Can you tell me {n}?", "In one word: {q}?",
    ),
    "zh": (
        "{q}？", "请告诉我{q}。", "说出{n}。", "你知道{q}吗？", "请问{q}？", "{q}？只用一个词回答。",
        "我想知道{q}。", "能不能说说{n}？", "用一个词回答：{q}？",
    ),
}  # fmt: skip


def passage_question(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    asked, other = invented_people(world, scene.rng, 2)
    relation, *more = scene.rng.sample(["town", "job", "pet", "food", "born"], 3)
    value, decoy = (str(getattr(person, relation)) for person in (asked, other))
    while decoy == value:
        decoy = scene.other(relation, value)
    values = {asked.key: {relation: value, more[0]: str(getattr(asked, more[0]))}}
    values[other.key] = {relation: decoy, more[1]: str(getattr(other, more[1]))}
    parts = [tell_about(scene, person, values[person.key]) for person in scene.rng.sample([asked, other], 2)]
    full = statement(world, asked.key, relation, value, language)
    third = scene.other(relation, value, decoy)
    return Draft(
        user=question(scene, template, asked.key, relation, scene.name(asked.key)).replace(
            "{p}", joined(parts, language)
        ),
        good=short_or_full(scene, template, value, full),
        wrong=(
            statement(world, asked.key, relation, decoy, language),
            statement(world, asked.key, relation, third, language),
            other_language(scene, asked.key, relation, value),
        ),
        check={"kind": "fact", "subject": asked.key, "relation": relation, "value": value, "facts": values},
    )


def tell_about(scene: Scene, person: Person, values: dict[str, str]) -> str:
    """Two sentences about a stranger: the first by name, the second by pronoun."""
    order = scene.rng.sample(sorted(values), len(values))
    pronouns = ["", *[person.gender] * (len(order) - 1)]
    parts = [
        statement(scene.world, person.key, relation, values[relation], scene.language, pronoun=pronoun)
        for relation, pronoun in zip(order, pronouns, strict=True)
    ]
    return joined(parts, scene.language)


PASSAGES: dict[Language, tuple[str, ...]] = {
    "en": (
        "{p} {Q}?", "Read this. {p} {Q}?", "{p}\n{Q}?", "Text: {p}\nQuestion: {Q}?", "{p} Tell me {c}.", "{Q}? {p}",
        "Use this text. {p} Now say {c}.", "Here is a text. {p} Do you know {c}?", "Question: {q}? Text: {p}",
    ),
    "zh": (
        "{p}{q}？", "读一读。{p}{q}？", "{p}\n{q}？", "短文：{p}\n问题：{q}？", "{p}请告诉我{q}。", "{q}？{p}",
        "根据短文回答。{p}请说{q}。", "这是一段话。{p}你知道{q}吗？", "问题：{q}？短文：{p}",
    ),
}  # fmt: skip


def two_hop(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    subject = scene.pick("person")
    hop = scene.rng.choice(sorted(HOPS))
    middle = world.value(subject, hop)
    relation = scene.rng.choice(HOPS[hop])
    value = world.value(middle, relation)
    asked = HOP_NOUN[language][hop].replace("{s}", scene.name(subject))
    wrong = scene.other(relation, value, subject, middle)
    own = world.value(subject, relation) if hop == "friend" else wrong
    first = statement(world, subject, hop, middle, language)

    def answer(end: str) -> str:
        return joined([first, statement(world, middle, relation, end, language)], language)

    return Draft(
        user=question(scene, template, middle, relation, asked),
        good=sentence(scene.name(value), language) if is_one_word(template) else answer(value),
        wrong=(
            answer(wrong),
            first,
            *([statement(world, subject, relation, own, language)] if own not in (value, wrong) else []),
        ),
        check={
            "kind": "fact", "subject": middle, "relation": relation, "value": value, "via": [subject],
            "one_word": is_one_word(template),
        },
        entity=subject,
    )  # fmt: skip


def follow_up(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    subject = scene.pick("person", "person", *KINDS)
    first, relation = scene.rng.sample(RELATIONS[world.kind(subject)], 2)
    value, told = (
        world.value(subject, relation),
        statement(world, subject, first, world.value(subject, first), language),
    )
    sex = gender(world, subject)
    opening = wording(world, subject, first, language).ask
    history = (
        Message(
            role="user",
            content=sentence(fill(opening, language, subject_text(world, subject, language)), language, "?"),
        ),
        Message(role="assistant", content=told),
    )
    return Draft(
        user=question(scene, template, subject, relation, "", sex),
        good=short_or_full(scene, template, value, statement(world, subject, relation, value, language, pronoun=sex)),
        wrong=(
            told,
            statement(world, subject, relation, scene.other(relation, value, subject), language, pronoun=sex),
        ),
        check={"kind": "fact", "subject": subject, "relation": relation, "value": value},
        entity=subject,
        history=history,
    )


FOLLOW_UPS: dict[Language, tuple[str, ...]] = {
    "en": (
        "And {q}?", "{Q}?", "Thanks. {Q}?", "Now tell me {c}.", "OK. And {q}?", "Do you also know {c}?",
        "Good. Please say {c}.", "One more thing: {q}?", "I also want to know {c}.",
    ),
    "zh": (
        "那么{q}？", "{q}？", "谢谢。{q}？", "再告诉我{q}。", "好的，{q}？", "你也知道{q}吗？",
        "很好，请说{q}。", "还有一个问题：{q}？", "我还想知道{q}。",
    ),
}  # fmt: skip


def false_premise(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    subject = scene.pick("person", "person", "person", "town", "animal", "thing")
    relation = scene.rng.choice(RELATIONS[world.kind(subject)])
    value = world.value(subject, relation)
    premise = scene.other(relation, value, subject)
    claim = statement(world, subject, relation, premise, language)
    bare = claim[0].lower() + claim[1:-1] if claim.startswith("The ") else claim[:-1]
    denial = statement(world, subject, relation, premise, language, deny=True)
    truth = statement(world, subject, relation, value, language, pronoun=gender(world, subject))
    accept = {"en": f"{claim[:-1]} because it is good.", "zh": f"因为很好，所以{claim}"}[language]
    since = {"en": f"{claim} It has been so for ten years.", "zh": f"{claim}已经十年了。"}[language]
    return Draft(
        user=template.replace("{t}", bare).replace("{T}", claim[:-1]),
        good=joined([denial, truth], language),
        wrong=(accept, since),
        check={"kind": "premise", "subject": subject, "relation": relation, "value": value, "premise": premise},
        entity=subject,
    )


PREMISES: dict[Language, tuple[str, ...]] = {
    "en": (
        "I heard that {t}. Why is that?", "{T}. Since when?", "Explain why {t}.", "Why is it that {t}?",
        "{T}, and I want to know why.", "How long has it been that {t}?",
        "Tell me the reason why {t}.", "{T}, you know. How come?", "Since {t}, tell me why.",
    ),
    "zh": (
        "我听说{t}，为什么？", "{t}，从什么时候开始的？", "请解释为什么{t}。", "为什么{t}？",
        "{t}，我想知道原因。", "{t}有多久了？",
        "{t}的原因是什么？", "你知道，{t}。怎么会这样？", "既然{t}，请说说缘故。",
    ),
}  # fmt: skip

FAMILIES = {
    "closed_book": Family(closed_book, QUESTIONS),
    "passage_question": Family(passage_question, PASSAGES),
    "two_hop": Family(two_hop, QUESTIONS),
    "follow_up": Family(follow_up, FOLLOW_UPS),
    "false_premise": Family(false_premise, PREMISES),
}
