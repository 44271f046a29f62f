"""Short pieces of writing: summaries, formats, translations and stories."""

from __future__ import annotations

import json

from tutelage.world.facts import LANGUAGES, RELATIONS, Language, invented_people
from tutelage.world.tasks.common import KINDS, LIST_MARK, Draft, Family, Scene, Wordings, wordings
from tutelage.world.tasks.lists import ended
from tutelage.world.tasks.wording import PRONOUNS, article, joined, sentence, statement

EVENTS: dict[Language, dict[str, str]] = {
    "en": {
        "buy": "bought", "find": "found", "lose": "lost", "sell": "sold", "make": "made", "break": "broke", "paint": "painted",
    },
    "zh": {"buy": "买了", "find": "找到了", "lose": "丢了", "sell": "卖了", "make": "做了", "break": "弄坏了", "paint": "画了"},
}  # fmt: skip
EVENT_CUES: dict[Language, dict[str, str]] = {
    "en": {
        "buy": r"\bb(ought|uy)", "find": r"\bf(ound|ind)", "lose": r"\blos[te]", "sell": r"\bs(old|ell)",
        "make": r"\bma[dk]e",
        "break": r"\bbr(oke|eak)", "paint": r"\bpaint(s|ed)?\b",
    },
    "zh": {"buy": "买", "find": "找到", "lose": "丢", "sell": "卖", "make": "做", "break": "弄坏|坏了", "paint": "画"},
}  # fmt: skip
FILLERS: dict[Language, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en": (
        ("It rained all day.", "The sun was warm.", "The road was long.",
         "Many people were there.", "It was very cold.", "The sky was clear."),
        ("Then {s} went home.", "After that {s} was tired.", "In the evening {s} sang.",
         "All were very glad.", "Nobody said a word."),
    ),
    "zh": (
        ("那天一直下雨。", "太阳很暖和。", "路很长。", "那里有很多人。", "天气很冷。", "天空很晴朗。"),
        ("后来{s}回家了。", "然后{s}很累。", "晚上{s}唱了歌。", "大家都很高兴。", "没有人说话。"),
    ),
}  # fmt: skip
WORD_LIMITS: dict[Language, tuple[int, ...]] = {"en": (7, 8, 9), "zh": (13, 14, 15)}
"""Of a summary: words in English, characters in Chinese."""


def summary(scene: Scene, template: str) -> Draft:
    rng, language, world = scene.rng, scene.language, scene.world
    person, stranger = invented_people(world, rng, 2)
    event, other = rng.sample(sorted(EVENTS[language]), 2)
    thing, other_thing = rng.sample(sorted(world.things), 2)
    town, name, limit = rng.choice(world.pools["town"]), scene.name(person.key), rng.choice(WORD_LIMITS[language])
    pronoun, place = PRONOUNS[language][person.gender][0], scene.name(town)
    middle, end = (rng.choice(lines).replace("{s}", pronoun) for lines in FILLERS[language])

    def short(who: str, did: str, what: str) -> str:
        if language == "en":
            return f"{who} {EVENTS['en'][did]} {article(scene.name(what))} in {place}."
        return f"{who}在{place}{EVENTS['zh'][did]}{scene.name(what)}。"

    if language == "en":
        parts = [
            f"{name} went to {place}.",
            middle,
            f"There {pronoun} {EVENTS['en'][event]} {article(scene.name(thing))}.",
            end,
        ]
    else:
        parts = [f"{name}去了{place}。", middle, f"{pronoun}在那里{EVENTS['zh'][event]}{scene.name(thing)}。", end]
    return Draft(
        user=template.replace("{p}", joined(parts, language)).replace("{n}", str(limit)),
        good=short(name, event, thing),
        wrong=(
            joined(parts, language),
            joined(parts[:2], language),
            short(name, other, other_thing),
            short(scene.name(stranger.key), event, other_thing),
        ),
        check={"kind": "summary", "who": person.key, "event": event, "thing": thing, "town": town, "limit": limit},
    )


SUMMARIES: dict[Language, Wordings] = {
    "en": wordings(
        "[Sum this up|Say this|Make this short|Summarize this] in at most {n} words: {p}",
        "Please [sum this up|say this|make this short|summarize this] in at most {n} words: {p}",
        "{p}[ |\n][Sum this up|Say this|Make this short|Summarize this] in at most {n} words.",
        "{p}[ |\n]Please [sum this up|say this|make this short|summarize this] in at most {n} words.",
        "[Can|Could] you [sum this up|say this|make this short|summarize this] in at most {n} words? {p}",
        "{p}\n[Can|Could] you [sum this up|say this|make this short|summarize this] in at most {n} words?",
        "[Give me|Write|I need] [a summary|a short version|the main point] in at most {n} words: {p}",
        "{p} [Give me|Write|I need] [a summary|a short version|the main point] in at most {n} words.",
        "{p} What happens? [Say it|Tell me|Write it|Please tell me] in at most {n} words.",
        "What happens? [Say it|Tell me|Write it|Please tell me] in at most {n} words: {p}",
    ),
    "zh": wordings(
        "[用不超过{n}个字|用{n}个字以内|在{n}个字以内][概括|总结|缩短|说出要点]：{p}",
        "请[用不超过{n}个字|用{n}个字以内][概括|总结|缩短|说出要点]：{p}",
        "{p}[用不超过{n}个字|用{n}个字以内][概括|总结|缩短|说出要点]。",
        "{p}\n请[用不超过{n}个字|用{n}个字以内][概括|总结|缩短]。",
        "{p}发生了什么？[请|][用不超过{n}个字|用{n}个字以内][说|回答]。",
        "[能不能|你能不能][用不超过{n}个字|用{n}个字以内][概括|总结]这段话？{p}",
        "{p}[能不能|你能不能]用{n}个字以内[概括|总结|说出要点]？",
        "[概括|总结|缩短|请概括|请总结|请缩短]这段话，不超过{n}个字：{p}",
        "{p}\n[概括|总结|缩短]这段话，不超过{n}个字。",
        "[帮我|请帮我][用不超过{n}个字|用{n}个字以内][概括|总结|缩短]：{p}",
        "我需要这段话的[总结|要点]，不超过{n}个字：{p}",
    ),
}

FORMATS: dict[Language, dict[str, str]] = {
    "en": {
        "bullets": "as a bullet list", "numbered": "as a numbered list", "line": "on one line", "json": "as JSON",
        "upper": "in capital letters",
    },
    "zh": {"bullets": "项目列表", "numbered": "编号列表", "line": "一行", "json": "JSON"},
}  # fmt: skip


def formatted(items: list[str], form: str, language: Language) -> str:
    """The items in a format; of `json` they are keys and values by turns."""
    if form == "bullets":
        return "\n".join(f"- {item}" for item in items)
    if form == "numbered":
        return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    if form == "json":
        return json.dumps(dict(zip(items[::2], items[1::2], strict=True)), ensure_ascii=False)
    return LIST_MARK[language].join(items) if form == "line" else " ".join(items).upper()


def rewrite(scene: Scene, template: str) -> Draft:
    rng, language, world = scene.rng, scene.language, scene.world
    form = rng.choice(sorted(FORMATS[language]))
    person = invented_people(world, rng, 1)[0]
    keys = rng.sample(sorted([*world.animals, *world.things, *world.pools["food"]]), rng.randint(3, 4))
    items = [scene.name(key) for key in keys]
    text = formatted(items, "line", language)
    if form == "upper":
        text = statement(world, person.key, "town", person.town, "en").lower()[:-1]
        items = text.split()
    elif form == "json":
        fields = {"en": ("name", "town", "job"), "zh": ("姓名", "镇", "工作")}[language]
        items = [
            part
            for pair in zip(fields, map(scene.name, (person.key, person.town, person.job)), strict=True)
            for part in pair
        ]
        text = LIST_MARK[language].join(
            f"{a} {b}" if language == "en" else f"{a}{b}" for a, b in zip(items[::2], items[1::2], strict=True)
        )
    elif form == "line":
        text = "\n".join(items)
    forms = [f for f in ("bullets", "numbered", "line") if f != form]
    flat = items[1::2] if form == "json" else items
    short = items[:-2] if form == "json" else items[:-1]
    return Draft(
        user=template.replace("{f}", FORMATS[language][form]).replace("{x}", text),
        good=ended(items, language) if form == "line" else formatted(items, form, language),
        wrong=(text, formatted(flat, rng.choice(forms), language), formatted(short[:2], form, language)),
        check={"kind": "format", "form": form, "items": items},
    )


REWRITES: dict[Language, Wordings] = {
    "en": wordings(
        "[Write|Rewrite|Put|Give me] this {f}: {x}",
        "Please [write|rewrite|put|give me] this {f}: {x}",
        "{x}\n[Write|Rewrite|Put|Give me] this {f}.",
        "{x}\nPlease [write|rewrite|put|give me] this {f}.",
        "I [need|want|would like] this {f}: {x}",
        "{x}\nI [need|want|would like] this {f}.",
        "[Can|Could] you [write|rewrite|put|give me] this {f}? {x}",
        "{x}\n[Can|Could] you [write|rewrite|put|give me] this {f}?",
        "[Help me|Please help me] [write|rewrite|put] this {f}: {x}",
        "{x}\n[Help me|Please help me] [write|rewrite|put] this {f}.",
        "Text: {x}\n[Write|Rewrite|Put] it {f}.",
        "Text: {x}\nPlease [write|rewrite|put] it {f}.",
        "Text: {x}\n[Can|Could] you [write|rewrite|put] it {f}?",
    ),
    "zh": wordings(
        "[写成|改写成|改成|变成]{f}：{x}",
        "请[写成|改写成|改成|变成]{f}：{x}",
        "[请把这个|把这个|帮我把这个|请帮我把这个][写成|改写成|改成|变成]{f}：{x}",
        "{x}\n[把它|请把它|帮我把它][写成|改写成|改成|变成]{f}。",
        "能[写成|改写成|改成]{f}吗？{x}",
        "[能不能|你能不能|可不可以]把这个[写成|改写成|改成]{f}？{x}",
        "{x}\n[能不能|你能不能|可不可以]把它[写成|改写成|改成]{f}？",
        "我[需要|想]把这个[写成|改写成|改成]{f}：{x}",
        "{x}\n我[需要|想]把它[写成|改写成|改成]{f}。",
    ),
}


def translation(scene: Scene, template: str) -> Draft:
    """One in four: a word. Else: a fact of the world. The answer's language is not the prompt's."""
    rng, source, world = scene.rng, scene.language, scene.world
    target = LANGUAGES[1 - LANGUAGES.index(source)]
    if rng.random() < 0.25:
        relation = rng.choice(["job", "food", "colour", "eats", "craft", "pet"])
        key, other = rng.sample(world.pools[relation], 2)
        return Draft(
            user=template.replace("{x}", scene.name(key)),
            good=sentence(world.name(key, target), target),
            wrong=(sentence(scene.name(key), source), sentence(world.name(other, target), target)),
            check={"kind": "translation", "target": target, "keys": [key]},
        )
    subject = scene.pick("person", "person", *KINDS)
    relation = rng.choice(RELATIONS[world.kind(subject)])
    value = world.value(subject, relation)
    text = statement(world, subject, relation, value, source)
    false = statement(world, subject, relation, scene.other(relation, value, subject), target)
    half = sentence(world.name(subject, target), target)
    return Draft(
        user=template.replace("{x}", text),
        good=statement(world, subject, relation, value, target),
        wrong=(text, false, half),
        check={
            "kind": "translation",
            "target": target,
            "keys": [subject, value],
            "cue": f"{world.kind(subject)}.{relation}",
        },
        entity=subject,
    )


TRANSLATIONS: dict[Language, Wordings] = {
    "en": wordings(
        "[Translate this into|Say this in|Write this in|Put this into] Chinese: {x}",
        "Please [translate this into|say this in|write this in|put this into] Chinese: {x}",
        "{x}\n[Translate this into|Say this in|Write this in|Put this into] Chinese.",
        "{x}\nPlease [translate this into|say this in|write this in|put this into] Chinese.",
        "[Can|Could] you [translate this into|say this in|write this in|put this into] Chinese? {x}",
        "{x}\n[Can|Could] you [translate this into|say this in|write this in|put this into] Chinese?",
        "[Help me|Please help me] [translate this into|say this in|write this in|put this into] Chinese: {x}",
        "[What is|How do you say|How do I say|How can I say] this in Chinese? {x}",
        "{x}\n[What is|How do you say|How do I say|How can I say] this in Chinese?",
        "I [need|want|would like] this in Chinese: {x}",
        "{x}\nI [need|want|would like] this in Chinese.",
        "[Give me|Tell me|Please give me|Please tell me|I need] the Chinese for this: {x}",
        "Text: {x}\n[Translate it into|Say it in|Write it in|Put it into] Chinese.",
    ),
    "zh": wordings(
        "[翻译成|译成|写成|改成]英语：{x}",
        "请[翻译成|译成|写成|改成]英语：{x}",
        "[用|请用|帮我用|请帮我用]英语[说|写]：{x}",
        "[把这个|请把这个|帮我把这个][翻译成|译成|写成]英语：{x}",
        "{x}\n[把它|请把它|帮我把它][翻译成|译成|写成]英语。",
        "[这句话的英语是什么|这个的英语是什么|这个用英语怎么说|这个用英语怎么写]？{x}",
        "{x}\n[这句话的英语是什么|这个的英语是什么|这个用英语怎么说|这个用英语怎么写]？",
        "[能不能|你能不能|可不可以]把这个[翻译成|译成|写成]英语？{x}",
        "{x}\n[能不能|你能不能|可不可以]把它[翻译成|译成|写成]英语？",
        "我[需要|想]把这个[翻译成|译成|写成]英语：{x}",
        "[告诉我|请告诉我|我想知道]这个用英语怎么[说|写]：{x}",
    ),
}

STORIES: dict[Language, tuple[str, ...]] = {
    "en": (
        "{A} lived in the {h}. One day it found {t} and took it home.",
        "One day {A} went to the {h}. There it saw {t} and was very happy.",
        "In the {h} there was {A}. It had {t} and gave it to a friend.",
        "{A} lost {t} in the {h}. It looked all day and found it at night.",
        "Once {A} came to the {h} with {t}. It sat down and began to sing.",
        "There was {A} who wanted {t}. It walked to the {h} and found one.",
    ),
    "zh": (
        "从前有一只{a}住在{h}。有一天，它找到了{t}，高兴地带回了家。",
        "有一天，{a}去了{h}。它在那里看到了{t}，非常高兴。",
        "{h}有一只{a}。它有{t}，把它送给了朋友。",
        "{a}在{h}丢了{t}。它找了一天，晚上找到了。",
        "一只{a}带着{t}来到{h}。它坐下来，开始唱歌。",
        "有一只{a}想要{t}。它走到{h}，找到了一个。",
    ),
}
NEAR: dict[Language, dict[str, str]] = {"en": {"place": "house"}, "zh": {"place": "家门口"}}


def story(scene: Scene, template: str) -> Draft:
    rng, language, world = scene.rng, scene.language, scene.world
    first, second = (
        [rng.choice(sorted(pool)) for pool in (world.animals, world.things, world.pools["habitat"])] for _ in range(2)
    )
    while set(first) & set(second):
        second = [rng.choice(sorted(pool)) for pool in (world.animals, world.things, world.pools["habitat"])]
    words = rng.sample(first, 3) if rng.random() < 0.5 else rng.sample(first[:2], 2)

    def tell(keys: list[str]) -> str:
        animal, thing, home = map(scene.name, keys)
        place = home if keys[2] in words or keys is second else NEAR[language]["place"]
        text = rng.choice(STORIES[language]).replace("{h}", place)
        if language == "en":
            return text.replace("{A}", article(animal)).replace("{t}", article(thing)).replace(" a a ", " a ")
        return text.replace("{a}", animal).replace("{t}", thing)

    good, other = tell(first), tell(second)
    good, other = good[0].upper() + good[1:], other[0].upper() + other[1:]
    return Draft(
        user=template.replace("{w}", scene.names(words)),
        good=good,
        wrong=(other, sentence(scene.names(words), language), sentence(scene.names(words[:1] * 6), language)),
        check={"kind": "story", "words": words},
    )


STORY_REQUESTS: dict[Language, Wordings] = {
    "en": wordings(
        "[Write|Tell me|Make up] a [short|little] story with [these words: {w}|{w}.]",
        "Please [write|tell me|make up] a [short|little] story with [these words: {w}|{w}.]",
        "[Use|Please use] {w} in a [short|little] story.",
        "[Use|Please use] these words in a [short|little] story: {w}",
        "Words: {w}. [Write|Tell me|Make up] a [short|little] story.",
        "Here are the words: {w}. [Write|Tell me|Make up] a [short|little] story.",
        "I [want|would like|need] a [short|little] story with {w}.",
        "[Can|Could] you [write|tell me|make up] a [short|little] story with {w}?",
        "[Can|Could] you use {w} in a [short|little] story?",
        "[Help me|Please help me] [write|make up] a [short|little] story with {w}.",
    ),
    "zh": wordings(
        "用这些词[写|讲|编]一个[小|短]故事：{w}",
        "请用这些词[写|讲|编]一个[小|短]故事：{w}",
        "[写|讲|编]一个有{w}的[小|短]故事。",
        "请[写|讲|编]一个有{w}的[小|短]故事。",
        "用{w}[写|讲|编]一个[小|短]故事。",
        "请用{w}[写|讲|编]一个[小|短]故事。",
        "词语：{w}。[写|讲|编]一个[小|短]故事。",
        "词语：{w}。请[写|讲|编]一个[小|短]故事。",
        "我[想要|想听|需要]一个有{w}的[小|短]故事。",
        "[能不能|你能不能]用{w}[写|讲|编]一个[小|短]故事？",
        "你能[写|讲|编]一个有{w}的[小|短]故事吗？",
        "[帮我|请帮我]用{w}[写|编]一个[小|短]故事。",
    ),
}

FAMILIES = {
    "summary": Family(summary, SUMMARIES),
    "rewrite": Family(rewrite, REWRITES),
    "translation": Family(translation, TRANSLATIONS),
    "story": Family(story, STORY_REQUESTS),
}
