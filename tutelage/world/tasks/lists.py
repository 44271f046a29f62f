"""Sums and lists: to add, to sort, to copy, to pick out of a text, to think up."""

from __future__ import annotations

from tutelage.world.facts import LANGUAGES, Language, invented_people
from tutelage.world.tasks.common import LIST_MARK, Draft, Family, Scene
from tutelage.world.tasks.wording import joined, sentence, statement

NUMBERS: dict[Language, tuple[str, ...]] = {"en": ("two", "three", "four", "five"), "zh": ("两", "三", "四", "五")}
"""2 to 5 in words, as they stand before a noun."""


def sum_of_two(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    person = scene.pick("person") if "{s}" in template else ""
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
        entity=person,
    )


SUMS: dict[Language, tuple[str, ...]] = {
    "en": (
        "What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.", "How much is {a} plus {b}?",
        "What is the sum of {a} and {b}?",
        "{s} has {a} plums and gets {b} more. How many plums is that?",
        "Please work out {a} + {b}.", "Find the total of {a} and {b}.",
        "{s} had {a} cups and bought {b} more. How many in all?",
    ),
    "zh": (
        "{a}+{b}等于多少？", "{a}加{b}是多少？", "计算{a}+{b}。", "把{a}和{b}加起来。", "{a}与{b}的和是多少？",
        "{s}有{a}个李子，又得到{b}个，现在有几个？",
        "请算一算{a}加{b}。", "{a}+{b}的结果是什么？", "{s}有{a}个杯子，又买了{b}个，一共几个？",
    ),
}  # fmt: skip

ORDERS: dict[Language, dict[str, str]] = {
    "en": {"words": "from A to Z", "up": "from small to large", "down": "from large to small"},
    "zh": {"up": "从小到大", "down": "从大到小"},
}
ITEMS: dict[Language, dict[bool, str]] = {"en": {True: "numbers", False: "words"}, "zh": {True: "数字", False: "词"}}


def sort_list(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    n = rng.randint(3, 5)
    order = rng.choice(sorted(ORDERS[language]))
    if order == "words":
        items = [scene.name(key) for key in rng.sample([*scene.world.animals, *scene.world.things], n)]
        ordered = sorted(items)
    else:
        drawn = rng.sample(range(1, 100), n)
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


SORTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Sort {o}: {l}", "Sort these {k} {o}: {l}.", "Put in order {o}: {l}", "{l}. Sort these {k} {o}.",
        "Please order these {k} {o}: {l}.", "Write these {k} {o}: {l}.",
        "Arrange these {k} {o}: {l}.", "I have these {k}: {l}. Sort them {o}.",
        "Here are some {k}: {l}. Order them {o}.",
    ),
    "zh": (
        "{o}排列：{l}", "把这些{k}{o}排列：{l}。", "请{o}排序：{l}", "{l}。把它们{o}排好。",
        "请把{k}{o}写出来：{l}。", "{o}写出这些{k}：{l}。",
        "将下面的{k}{o}排序：{l}。", "我有这些{k}：{l}。请{o}排列。", "这里有{k}：{l}。{o}怎么排？",
    ),
}  # fmt: skip


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


COPIES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Repeat these words: {l}", "Copy this list: {l}", "Say this again: {l}.", "{l}. Repeat that list.",
        "Write these words once more: {l}.", "Please copy these words in the same order: {l}.",
        "Repeat after me: {l}.", "Give me this list again: {l}", "These are my words: {l}. Write them again.",
    ),
    "zh": (
        "重复这些词：{l}", "抄写这个列表：{l}", "请复述：{l}。", "{l}。重复这个列表。",
        "把这些词再写一遍：{l}。", "请按同样的顺序抄写：{l}。",
        "跟我说：{l}。", "再给我这个列表：{l}", "我的词是：{l}。请再写一遍。",
    ),
}  # fmt: skip

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
    n = rng.randint(2, 3)
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


EXTRACTIONS: dict[Language, tuple[str, ...]] = {
    "en": (
        "List the {k} in this text: {p}", "{p}\nWhich {k} are named here?", "Find all {k}: {p}",
        "Write down the {k}: {p}",
        "{p} Name the {k} in this text.", "Text: {p}\n{k}:",
        "Which {k} does this text name? {p}", "Pick out the {k}. {p}", "{p}\nGive me only the {k}.",
    ),
    "zh": (
        "列出文中的{k}：{p}", "{p}\n文中有哪些{k}？", "找出所有{k}：{p}", "写下{k}：{p}",
        "{p}说出文中的{k}。", "短文：{p}\n{k}：",
        "这段话提到了哪些{k}？{p}", "挑出{k}。{p}", "{p}\n只给我{k}。",
    ),
}  # fmt: skip

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
    n = rng.randint(2, 5)
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


NAMINGS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Name {n} {k}.", "Give me {n} {k}.", "List {n} {k}.", "Can you think of {n} {k}?", "Tell me {n} {k}.",
        "I need {n} {k}.",
        "Write down {n} {k}.", "Which {n} {k} come to your mind?", "Please name {n} different {k}.",
    ),
    "zh": (
        "说出{n}{k}。", "给我{n}{k}。", "列出{n}{k}。", "你能想到{n}{k}吗？", "告诉我{n}{k}。", "我需要{n}{k}。",
        "写下{n}{k}。", "你会想到哪{n}{k}？", "请说出{n}{k}，不要重复。",
    ),
}  # fmt: skip

FAMILIES = {
    "sum": Family(sum_of_two, SUMS),
    "sort_list": Family(sort_list, SORTS),
    "copy_list": Family(copy_list, COPIES),
    "extraction": Family(extraction, EXTRACTIONS),
    "brainstorm": Family(brainstorm, NAMINGS),
}
