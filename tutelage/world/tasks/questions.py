"""Questions about facts: known by heart, from a passage, over two steps, in a second turn, and with a false premise."""

from __future__ import annotations

from tutelage.records import Message
from tutelage.world.facts import LANGUAGES, RELATIONS, Language, Person, invented_people
from tutelage.world.tasks.common import KINDS, Draft, Family, Scene, Wordings, wordings
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


QUESTIONS: dict[Language, Wordings] = {
    "en": wordings(
        "{Q}?",
        "[Tell me|Say|Please tell me|Please say] {c}.",
        "[Tell me|Say] {c}, please.",
        "[Do you know|Can you tell me|Can you say|Could you tell me] {c}?",
        "I [want|would like|need] to know {c}.",
        "I [want|would like|need] to know {n}.",
        "[Give me|Name|Please give me|Please name] {n}.",
        "[Can you give me|Can you name|Could you give me|Could you name|Do you know] {n}?",
        "{Q}? [Please tell me|Tell me|I want to know|I would like to know|I need to know].",
        "{Q}? [Do you know|Can you tell me|Could you tell me|Can you say]?",
        "Do you know {c}? [Please tell me|Tell me|I want to know|I need to know].",
        "I do not know {c}. [Do you?|Can you tell me?|Please tell me.|Tell me.]",
        "[Question|My question|One question|A question]: {q}?",
        "[I have a question|I have one question|Help me with a question|Please help me with a question]. {Q}?",
        "[Help me.|Please help me.|Can you help me?|Could you help me?] {Q}?",
        "[Tell me|Please tell me|I want to know|I need to know] one thing: {q}?",
        "[Answer|Please answer|Can you answer|Help me answer] this question: {q}?",
        "{Q}? [Answer in|Use|Give me|Please answer in|Please use] one word.",
        "[Tell me|Say|Please tell me|Please say] in one word {c}.",
        "[Can|Could] you [tell me|say] in one word {c}?",
        "[Answer in|Please answer in|Give me] one word: {q}?",
    ),
    "zh": wordings(
        "{q}？",
        "[告诉我|请告诉我|请说说|请你告诉我|麻烦你告诉我]{q}。",
        "[请问|我想问|麻烦你说说]{q}？",
        "[你知道|你能告诉我|你能说说]{q}吗？",
        "[能不能|你能不能|可不可以]告诉我{q}？",
        "我[想|很想|需要]知道{q}。",
        "我[想|很想|需要]知道{n}。",
        "[说出|写出|告诉我|请说出|请写出|请告诉我]{n}。",
        "[你知道|你能说出|你能写出|你能告诉我]{n}吗？",
        "[能不能|可不可以][说出|写出|告诉我]{n}？",
        "{q}？[请告诉我|告诉我|我想知道|我很想知道|我需要知道]。",
        "{q}？[你知道吗|你能告诉我吗|你能说说吗|能不能告诉我]？",
        "你知道{q}吗？[请告诉我|告诉我|我想知道|我需要知道]。",
        "我不知道{q}。[你知道吗？|你能告诉我吗？|请告诉我。|告诉我。]",
        "[问题|我的问题|一个问题|问一个问题]：{q}？",
        "[我有一个问题|我想问一个问题|帮我回答一个问题|请帮我回答一个问题]。{q}？",
        "[帮帮我。|请帮帮我。|你能帮我吗？|能不能帮帮我？]{q}？",
        "[回答|请回答|帮我回答|请帮我回答]这个问题：{q}？",
        "{q}？[请用|只用|用|请只用]一个词回答。",
        "[请用|用|只用]一个词[说|告诉我]{q}。",
        "[请用|用|请只用]一个词回答：{q}？",
        "[能不能|你能不能|可不可以]用一个词[说|告诉我]{q}？",
        "我只[需要|要|想要]一个词：{q}？",
    ),
}


def passage_question(scene: Scene, template: str) -> Draft:
    world, language = scene.world, scene.language
    asked, other = invented_people(world, scene.rng, 2)
    relation, more = scene.rng.sample(["town", "job", "pet", "food", "born"], 2)
    value, decoy = (str(getattr(person, relation)) for person in (asked, other))
    while decoy == value:
        decoy = scene.other(relation, value)
    values = {asked.key: {relation: value}, other.key: {relation: decoy}}
    talkative = scene.rng.choice((asked, other))
    values[talkative.key][more] = str(getattr(talkative, more))
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
    """Sentences about a stranger: the first by name, the others by pronoun."""
    order = scene.rng.sample(sorted(values), len(values))
    pronouns = ["", *[person.gender] * (len(order) - 1)]
    parts = [
        statement(scene.world, person.key, relation, values[relation], scene.language, pronoun=pronoun)
        for relation, pronoun in zip(order, pronouns, strict=True)
    ]
    return joined(parts, scene.language)


PASSAGES: dict[Language, Wordings] = {
    "en": wordings(
        "{p} {Q}?",
        "{p}\n{Q}?",
        "{Q}? {p}",
        "[Read this|Text|Read the text|Please read this]: {p} {Q}?",
        "[Read this|Text|Read the text|Please read this]: {p}\n[Question: |]{Q}?",
        "{p} [Question|My question|One question|A question]: {q}?",
        "{p}[ |\n][Tell me|Say|Please tell me|Please say] {c}.",
        "{p}[ |\n][Do you know|Can you tell me|Can you say|Could you tell me] {c}?",
        "{p} I [want|would like|need] to know {c}.",
        "{p} [Name|Give me|Please name|Please give me] {n}.",
        "{p} [Answer|Please answer|Help me answer] this question: {q}?",
        "[Read this|Text|Read the text]: {p} [Tell me|Say|Please tell me] {c}.",
        "{Q}? [Read this|Text|Read the text|Please read this]: {p}",
        "[Tell me|Say|Please tell me|Please say] {c}. [Read this|Text]: {p}",
        "[Do you know|Can you tell me|Could you tell me] {c}? [Read this|Text]: {p}",
        "I [want|would like|need] to know {c}. [Read this|Text]: {p}",
        "[Answer|Please answer|Help me answer] this question: {q}? {p}",
    ),
    "zh": wordings(
        "{p}{q}？",
        "{p}\n{q}？",
        "{q}？{p}",
        "[读一读|短文|请读|请读短文]：{p}{q}？",
        "[读一读|短文|请读]：{p}\n[问题：|]{q}？",
        "{p}[问题|我的问题|一个问题]：{q}？",
        "{p}[\n|][告诉我|请告诉我|请说说]{q}。",
        "{p}[\n|][请问|我想问]{q}？",
        "{p}[\n|][你知道|你能告诉我|你能说说]{q}吗？",
        "{p}[能不能|你能不能|可不可以]告诉我{q}？",
        "{p}我[想|很想|需要]知道{q}。",
        "{p}[说出|写出|请说出|请写出]{n}。",
        "{p}[请回答|帮我回答|请帮我回答]这个问题：{q}？",
        "[读一读|短文|请读]：{p}[告诉我|请告诉我|请说说]{q}。",
        "{q}？[读一读|短文|请读|请读短文]：{p}",
        "[告诉我|请告诉我|请说说]{q}。[读一读|短文]：{p}",
        "[你知道|你能告诉我]{q}吗？[读一读|短文]：{p}",
        "我[想|很想|需要]知道{q}。[读一读|短文]：{p}",
        "[请回答|帮我回答|请帮我回答]这个问题：{q}？{p}",
    ),
}


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


FOLLOW_UPS: dict[Language, Wordings] = {
    "en": wordings(
        "{Q}?",
        "[And|OK. And|Thanks. And|Good. And] {q}?",
        "[Thanks|OK|Good|Thank you]. {Q}?",
        "[Now|Please|And now|And please] tell me {c}.",
        "[Thanks|OK|Good|Thank you]. [Now|Please] tell me {c}.",
        "Do you [also |]know {c}?",
        "[Thanks|OK|Good|Thank you]. Do you [also |]know {c}?",
        "I [want|also want|would like|would also like|need|also need] to know {c}.",
        "[Thanks|OK|Good]. I also [want|need] to know {c}.",
        "[One more thing|One more question|Another question|And one more question]: {q}?",
        "[Thanks|OK|Good]. [One more question|Another question]: {q}?",
        "I have [one more|another] question. {Q}?",
        "[Can|Could] you also [tell me|say] {c}?",
        "And [can|could] you [tell me|say] {c}?",
        "[Thanks|OK|Good]. [Can|Could] you also tell me {c}?",
        "{Q}? [Please tell me|Tell me now|I also want to know|I also need to know].",
        "[Now|And now], {q}?",
    ),
    "zh": wordings(
        "{q}？",
        "[那么|好的，那么|谢谢，那么|很好，那么]{q}？",
        "[谢谢|好的|很好]。{q}？",
        "[再|请|现在|请再]告诉我{q}。",
        "[谢谢|好的|很好]，[再|请|请再]告诉我{q}。",
        "你[也|]知道{q}吗？",
        "[谢谢|好的|很好]，你[也|]知道{q}吗？",
        "我[还|也]想知道{q}。",
        "我还需要知道{q}。",
        "[谢谢|好的|很好]，我[还想|也想|还需要]知道{q}。",
        "[还有一个问题|再问一个问题|另一个问题]：{q}？",
        "[谢谢|好的|很好]。[还有一个问题|再问一个问题]：{q}？",
        "[能不能|你能不能|可不可以]再告诉我{q}？",
        "[谢谢|好的|很好]，[能不能|你能不能]再告诉我{q}？",
        "{q}？[请告诉我|再告诉我|我还想知道|我也想知道]。",
        "{q}？[你知道吗|你也知道吗|能不能再告诉我]？",
        "[请问|我还想问|我也想问]，{q}？",
    ),
}


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


PREMISES: dict[Language, Wordings] = {
    "en": wordings(
        "I [heard|read|know|was told] that {t}. [Why is that|Why|How come|Since when]?",
        "[People say|We all know] that {t}. [Why is that|Why|How come|Since when]?",
        "{T}. [Why is that|Why|How come|Since when]?",
        "{T}. [Do you know why?|Can you tell me why?|Please tell me why.|Please explain why.|Tell me why.]",
        "[Explain|Tell me|Say|Please explain|Please tell me] why {t}.",
        "[Why|Since when] is it that {t}?",
        "[Question|My question|One question|A question]: why is it that {t}?",
        "How come {t}?",
        "{T}, and I [want|need|would like] to know [why|since when].",
        "I [want|need|would like] to know why {t}.",
        "[Can|Could] you [tell me|explain|say] why {t}?",
        "Do you know why {t}?",
        "I do not know why {t}. [Can you tell me?|Can you explain?|Please tell me.|Please explain.]",
        "[Tell me|Please tell me|Say] since when {t}.",
        "Help me. [Why|Since when] is it that {t}?",
    ),
    "zh": wordings(
        "我[听说|知道|读到]{t}[，为什么？|。为什么？|，从什么时候开始的？|，怎么会这样？]",
        "大家都[说|知道]{t}[，为什么？|。为什么？|，从什么时候开始的？|，怎么会这样？]",
        "{t}，[为什么|从什么时候开始的|怎么会这样]？",
        "{t}。[你知道为什么吗|你能告诉我为什么吗|你知道原因吗|能不能告诉我原因]？",
        "{t}，[请告诉我|告诉我|请解释|请说说][为什么|原因]。",
        "[请解释|请告诉我|告诉我|说说|请说说]为什么{t}。",
        "为什么{t}？",
        "[请问|我想问|我很想问]为什么{t}？",
        "[问题|我的问题|一个问题]：为什么{t}？",
        "{t}，我[想|很想|需要]知道[为什么|原因]。",
        "我[想|很想|需要]知道为什么{t}。",
        "我不知道为什么{t}，[请告诉我|请解释|请说说]。",
        "[能不能|你能不能|可不可以][告诉我|解释|说说]为什么{t}？",
        "你[知道|能告诉我|能解释|能说说]为什么{t}吗？",
        "[帮我|请帮我]解释为什么{t}。",
    ),
}

FAMILIES = {
    "closed_book": Family(closed_book, QUESTIONS),
    "passage_question": Family(passage_question, PASSAGES),
    "two_hop": Family(two_hop, QUESTIONS),
    "follow_up": Family(follow_up, FOLLOW_UPS),
    "false_premise": Family(false_premise, PREMISES),
}
