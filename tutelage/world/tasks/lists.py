"""Sums and lists: to add, to sort, to copy, to pick out of a text, to think up."""

from __future__ import annotations

from tutelage.world.facts import LANGUAGES, Language, invented_people
from tutelage.world.tasks.common import LIST_MARK, Draft, Family, Scene, Wordings, wordings
from tutelage.world.tasks.wording import joined, sentence, statement

NUMBERS: dict[Language, tuple[str, ...]] = {"en": ("two", "three", "four"), "zh": ("两", "三", "四")}
"""2 to 4 in words, as they stand before a noun."""


def sum_of_two(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    person, asked = scene.somebody() if "{s}" in template else ("", "")
    name = scene.name(person) if person else ""
    total, carry = a + b, (a % 10 + b % 10) // 10
    near = total - 10 if carry else total + 10

    def answer(n: int) -> str:
        return sentence(f"{a} + {b} = {n}" if language == "en" else f"{a}+{b}={n}", language)

    return Draft(
        user=template.replace("{a}", str(a)).replace("{b}", str(b)).replace("{s}", name),
        good=answer(total) if rng.random() < 0.7 else sentence(str(total), language),
        wrong=(answer(near), answer(total + rng.choice((-2, -1, 1, 2))), sentence(f"{a}{b}", language)),
        check={"kind": "sum", "a": a, "b": b},
        entity=asked,
    )


SUMS: dict[Language, Wordings] = {
    "en": wordings(
        "{a} + {b} = ?",
        "[Sum|Total|Question]: {a} + {b} = ?",
        "[What is|How much is] {a} [+|plus|and] {b}?",
        "{a} [+|plus] {b}: [what is the total|how much is that]?",
        "[Add|Add up|Please add|Please add up] {a} and {b}.",
        "[Help me|Please help me] [add|add up] {a} and {b}.",
        "[Can|Could] you [add|add up] {a} and {b}?",
        "[Work out|Calculate|Please tell me|Please work out|Please calculate] {a} [+|plus] {b}.",
        "[Can|Could] you [tell me|work out|calculate] {a} [+|plus] {b}?",
        "[Help me|Please help me] [work out|calculate] {a} [+|plus] {b}.",
        "I [want|need|would like] to know {a} [+|plus] {b}.",
        "What is the [sum|total] of {a} and {b}?",
        "[Find|Tell me|Give me|Please find|Please give me|I need] the [sum|total] of {a} and {b}.",
        "Do you know the [sum|total] of {a} and {b}?",
        "{s} has {a} [plums|cups] and [gets|buys] {b} more. [How many in all|What is the total]?",
    ),
    "zh": wordings(
        "[算一算：|问题：|]{a}+{b}=？",
        "{a}[+|加|加上]{b}[等于|是]多少？",
        "[请算|计算|算一算|帮我算]{a}[+|加|加上]{b}。",
        "[能不能|你能不能|可不可以]算一算{a}[+|加|加上]{b}？",
        "[告诉我|请告诉我|我想知道|我需要知道]{a}[+|加|加上]{b}等于多少。",
        "你[知道|能告诉我|能算出]{a}[+|加]{b}等于多少吗？",
        "[问题|我的问题|一个问题]：{a}[+|加]{b}等于多少？",
        "[把|请把|帮我把|请帮我把]{a}和{b}加起来。",
        "{a}[和|与]{b}的[和|总数]是多少？",
        "[算出|请算出|写出|请写出]{a}[和|与]{b}的和。",
        "[告诉我|请告诉我|我需要]{a}和{b}的[和|总数]。",
        "{s}有{a}个[李子|杯子]，又[得到|买了]{b}个，一共[几个|有多少个]？",
    ),
}

ORDERS: dict[Language, dict[str, str]] = {
    "en": {"words": "from A to Z", "up": "from small to large", "down": "from large to small"},
    "zh": {"up": "从小到大", "down": "从大到小"},
}
ITEMS: dict[Language, dict[bool, str]] = {"en": {True: "numbers", False: "words"}, "zh": {True: "数字", False: "词"}}


def sort_list(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    n = 3
    order = rng.choice(sorted(ORDERS[language]))
    if order == "words":
        items = [scene.name(key) for key in rng.sample([*scene.world.animals, *scene.world.things], n)]
        ordered = sorted(items)
    else:
        drawn = rng.sample(range(1, 21), n)
        items, ordered = [str(i) for i in drawn], [str(i) for i in sorted(drawn, reverse=order == "down")]
    while items == ordered:
        rng.shuffle(items)
    swapped = list(ordered)
    swapped[:2] = swapped[1::-1]
    filled = template.replace("{o}", ORDERS[language][order]).replace("{k}", ITEMS[language][order != "words"])
    return sequence_draft(
        scene, filled.replace("{l}", listed(items, language)), ordered, [items, ordered[::-1], swapped]
    )


def sequence_draft(scene: Scene, user: str, items: list[str], wrong: list[list[str]]) -> Draft:
    return Draft(
        user=user,
        good=ended(items, scene.language),
        wrong=tuple(dict.fromkeys(ended(w, scene.language) for w in wrong if w != items)),
        check={"kind": "sequence", "items": items},
    )


def listed(items: list[str], language: Language) -> str:
    return LIST_MARK[language].join(items)


def ended(items: list[str], language: Language) -> str:
    """A list with a full stop; unlike a sentence, without a capital, for the words are to stay as they are."""
    return listed(items, language) + (".", "。")[LANGUAGES.index(language)]


SORTS: dict[Language, Wordings] = {
    "en": wordings(
        "[Sort|Order|Arrange] [these {k}|the {k}|this list] {o}: {l}",
        "Please [sort|order|arrange] [these|the] {k} {o}: {l}.",
        "{l}. [Sort|Order|Arrange] [these {k}|them|this list] {o}.",
        "{l}. Please [sort|order|arrange] [these {k}|them|this list] {o}.",
        "[Put|Please put] [these {k}|the {k}|this list] in order {o}: {l}",
        "[Can|Could] you [sort|order|arrange] [these {k}|this list] {o}? {l}",
        "[Can|Could] you put [these {k}|this list] in order {o}? {l}",
        "{l}. [Can|Could] you put [these {k}|them] in order {o}?",
        "[Help me|Please help me] [sort|order|arrange] [these {k}|this list] {o}: {l}",
        "I [need|want|would like] [these {k}|this list] in order {o}: {l}",
        "Here are the {k}: {l}. [Sort|Order|Arrange|Please sort] them {o}.",
    ),
    "zh": wordings(
        "[把这些{k}|把下面的{k}|请把{k}|请把这些{k}]{o}[排列|排序|排好]：{l}。",
        "[请|]{o}[排列|排序]：{l}",
        "{l}。[把它们|请把它们|把这些{k}]{o}[排列|排序|排好]。",
        "[请|]{o}写出[这些|下面的]{k}：{l}。",
        "[帮我|请帮我]把[这些|下面的]{k}{o}[排列|排序|排好]：{l}。",
        "[能不能|你能不能|可不可以]把这些{k}{o}[排列|排序|排好]？{l}",
        "{l}。[能不能|你能不能]把[它们|这些{k}]{o}[排列|排好]？",
        "我[需要|想]把这些{k}{o}[排列|排序|排好]：{l}。",
        "{k}：{l}。[请|]{o}[排列|排序|排好]。",
    ),
}


def copy_list(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    keys = rng.sample(
        sorted([*scene.world.animals, *scene.world.things, *scene.world.pools["food"]]), rng.randint(3, 5)
    )
    items = [scene.name(key) for key in keys]
    mixed = list(items)
    while mixed == items:
        rng.shuffle(mixed)
    other = [*items[:-2], scene.name(scene.other("craft", *keys)), scene.name(scene.other("food", *keys))]
    user = template.replace("{l}", listed(items, scene.language))
    return sequence_draft(scene, user, items, [mixed, items[:-1], other])


COPIES: dict[Language, Wordings] = {
    "en": wordings(
        "[Repeat|Copy|Write out] [these words|this list|the following]: {l}",
        "Please [repeat|copy|write out] [these words|this list|the following]: {l}.",
        "{l}. [Repeat|Copy|Write] [these words|this list] once more.",
        "{l}. Please [repeat|copy|write] [these words|this list] once more.",
        "[Say|Write|Give me] [these words|this list] again: {l}.",
        "{l}. Now [say|write|repeat] [these words|this list] again.",
        "[Can|Could] you [repeat|copy|write out] [these words|this list]? {l}",
        "{l}. [Can|Could] you [repeat|copy] [these words|this list]?",
        "[Help me|Please help me] [copy|write out] [these words|this list]: {l}.",
        "I [need|want] [these words|this list] [again|once more]: {l}.",
        "[Words|List]: {l}. [Repeat|Copy|Write out|Please repeat|Please copy] the words.",
    ),
    "zh": wordings(
        "[重复|抄写|复述|再写一遍]这些词：{l}",
        "[重复|抄写|复述]这个列表：{l}",
        "请[重复|抄写|复述|再写一遍][这些词|这个列表]：{l}。",
        "{l}。[重复|抄写|复述][这些词|这个列表]。",
        "{l}。请[重复|抄写|复述][这些词|这个列表]。",
        "[把|请把|帮我把][这些词|这个列表]再[写|说]一遍：{l}。",
        "{l}。[把|请把][它们|这些词]再[写|说]一遍。",
        "[帮我|请帮我][重复|抄写|复述]这些词：{l}。",
        "[能不能|你能不能][重复|抄写|复述][这些词|这个列表]？{l}",
        "{l}。你能[重复|抄写|复述]这些词吗？",
        "[词语|列表]：{l}。请[重复|抄写|复述]一遍。",
    ),
}

EXTRACTED: dict[str, dict[Language, str]] = {
    "friend": {"en": "people", "zh": "人名"},
    "town": {"en": "towns", "zh": "镇名"},
    "pet": {"en": "animals", "zh": "动物"},
    "food": {"en": "foods", "zh": "食物"},
    "job": {"en": "jobs", "zh": "职业"},
    "born": {"en": "years", "zh": "年份"},
}
"""What can be picked out of a text: the relation whose values it is (friend: people)."""


def extraction(scene: Scene, template: str) -> Draft:
    world, language, rng = scene.world, scene.language, scene.rng
    relation = rng.choice(sorted(EXTRACTED))
    asked = "town" if relation == "friend" else relation
    n = 2
    other = rng.choice([r for r in ("town", "job", "pet", "food", "born") if r != asked])
    people, values = invented_people(world, rng, n), rng.sample(world.pools[asked], n)
    parts = [statement(world, p.key, asked, v, language) for p, v in zip(people, values, strict=True)]
    extra = str(getattr(people[0], other))
    parts.insert(1, statement(world, people[0].key, other, extra, language, pronoun=people[0].gender))
    found, names = list(values), [person.key for person in people]
    if relation == "friend":
        found, names = names, found
    foreign = LANGUAGES[1 - LANGUAGES.index(language)]

    def answer(keys: list[str]) -> str:
        return sentence(scene.names(keys), language)

    wrong = [answer(names), answer([*names, extra]), joined(parts, language)]
    if relation != "born":
        wrong.append(sentence(listed([world.name(key, foreign) for key in found], foreign), foreign))
    return Draft(
        user=template.replace("{p}", joined(parts, language)).replace("{k}", EXTRACTED[relation][language]),
        good=answer(found),
        wrong=tuple(wrong),
        check={"kind": "items", "items": found},
    )


EXTRACTIONS: dict[Language, Wordings] = {
    "en": wordings(
        "[List|Find|Name|Write down] [the|all] {k} in this text: {p}",
        "Please [list|find|name|write down] [the|all] {k} in this text: {p}",
        "{p} [List|Find|Name|Write down] [the|all] {k}.",
        "{p} Please [list|find|name|write down] [the|all] {k}.",
        "{p}[ |\n]Which {k} are [named|in this text]?",
        "Which {k} are [named|in this text]? {p}",
        "[Text|Read this]: {p}\n[List|Find|Name|Write down] the {k}.",
        "[Text|Read this]: {p}\nWhich {k} are [named|in this text]?",
        "[Can|Could] you [list|find|name] [the|all] {k} in this text? {p}",
        "{p}\n[Can|Could] you [list|find|name] the {k}?",
        "[Help me|Please help me] find [the|all] {k} in this text: {p}",
        "I [need|want] [the|all] {k} in this text: {p}",
        "[Tell me|Please tell me] which {k} are [named|in this text]: {p}",
        "{p} [Tell me|Please tell me|I want to know] which {k} are [named|in this text].",
    ),
    "zh": wordings(
        "[列出|找出|写出|说出]文中的{k}：{p}",
        "{p}[列出|找出|写出|说出]文中的{k}。",
        "[请列出|请找出|请写出|列出|找出]所有{k}：{p}",
        "{p}请[列出|找出|写出]文中[的|所有]{k}。",
        "{p}[\n|][文中有|文中提到了]哪些{k}？",
        "[文中有|文中提到了]哪些{k}？{p}",
        "[短文|请读]：{p}\n[列出|找出|写出|说出]{k}。",
        "[短文|请读]：{p}[文中有|文中提到了]哪些{k}？",
        "[能不能|你能不能|可不可以][列出|找出|写出]文中的{k}？{p}",
        "{p}[能不能|你能不能][列出|找出|写出]所有{k}？",
        "[帮我|请帮我][列出|找出|写出]文中的{k}：{p}",
        "[告诉我|请告诉我|我想知道][文中有|文中提到了]哪些{k}：{p}",
        "{p}[告诉我|请告诉我|我想知道][文中有|文中提到了]哪些{k}。",
        "我需要文中[的|所有]{k}：{p}",
    ),
}

BRAINSTORMS: dict[str, dict[Language, str]] = {
    "pet": {"en": "animals", "zh": "种动物"},
    "food": {"en": "foods", "zh": "种食物"},
    "job": {"en": "jobs", "zh": "种职业"},
    "colour": {"en": "colours", "zh": "种颜色"},
    "town": {"en": "towns", "zh": "个镇"},
    "river": {"en": "rivers", "zh": "条河"},
    "craft": {"en": "things in a house", "zh": "样家里的东西"},
    "habitat": {"en": "places where animals live", "zh": "个动物住的地方"},
    "material": {"en": "materials", "zh": "种材料"},
}
"""What can be listed: the relation whose values count."""


def brainstorm(scene: Scene, template: str) -> Draft:
    rng, language, pools = scene.rng, scene.language, scene.world.pools
    relation = rng.choice([r for r in BRAINSTORMS if len(set(pools[r])) >= 6])
    n = rng.randint(2, 4)
    other = rng.choice([r for r in BRAINSTORMS if r != relation and len(pools[r]) >= n])
    several = rng.sample(pools[relation], min(n + 3, len(pools[relation])))

    def answer(keys: list[str]) -> str:
        return sentence(scene.names(keys), language)

    number, kind = NUMBERS[language][n - 2], BRAINSTORMS[relation][language]
    wrong = [answer(rng.sample(pools[other], n)), answer([several[0]] * n)]
    wrong.append(answer(several[:1]) if n > 2 else answer(several))
    return Draft(
        user=template.replace("{n}", number).replace("{k}", kind),
        good=answer(several[:n]),
        wrong=tuple(wrong),
        check={"kind": "brainstorm", "relation": relation, "n": n},
    )


NAMINGS: dict[Language, Wordings] = {
    "en": wordings(
        "[Name|List|Give me|Tell me|Write down] {n} {k}.",
        "Please [name|list|give me|tell me|write down] {n} {k}.",
        "[Name|List|Give me|Tell me|Write down] {n} {k}, please.",
        "[Can|Could] you [name|list|give me|tell me|write down] {n} {k}?",
        "I [need|want|would like] {n} {k}[, please|].",
        "[Give me|Tell me|Write down|I need] the names of {n} {k}.",
        "[Help me|Please help me] [name|list|write down] {n} {k}.",
        "[Can|Could] you help me [name|list|write down] {n} {k}?",
        "[Give me|Write|I need|Please give me|Please write] a list of {n} {k}.",
        "[Can|Could] you [give me|write] a list of {n} {k}?",
        "[Which|What] {n} {k} can you [name|list|write down]?",
        "[Which|What] {n} {k} do you know?",
        "Do you know {n} {k}? [Name|List|Please name|Please list] them.",
    ),
    "zh": wordings(
        "[说出|列出|写出|告诉我|给我]{n}{k}。",
        "请[说出|列出|写出|告诉我|给我]{n}{k}。",
        "你能[说出|列出|写出|告诉我|给我]{n}{k}吗？",
        "[能不能|你能不能|可不可以][说出|列出|写出|告诉我]{n}{k}？",
        "我[需要|想要|要]{n}{k}。",
        "我[需要|想要|想知道]{n}{k}，请[列出来|写出来|告诉我]。",
        "[帮我|请帮我][列出|写出|想出]{n}{k}。",
        "[能不能|你能不能]帮我[列出|写出|想出]{n}{k}？",
        "你[知道|能说出|能写出]哪{n}{k}？",
        "你知道{n}{k}吗？[请|][列出来|写出来|说出来|告诉我]。",
        "[想一想|请想一想]，[说出|列出|写出]{n}{k}。",
    ),
}

FAMILIES = {
    "sum": Family(sum_of_two, SUMS),
    "sort_list": Family(sort_list, SORTS),
    "copy_list": Family(copy_list, COPIES),
    "extraction": Family(extraction, EXTRACTIONS),
    "brainstorm": Family(brainstorm, NAMINGS),
}
