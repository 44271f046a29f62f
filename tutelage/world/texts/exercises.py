"""Genres that are worked from their own text: lists, reading, extraction, rewriting, summaries, sums.

They are about strangers, fresh lists and fresh numbers, so that a model can only get them right by reading.
"""

from __future__ import annotations

from collections.abc import Callable

from tutelage.world.facts import RELATIONS, Person, invented_names, invented_people
from tutelage.world.texts.pen import Pen, plural
from tutelage.world.texts.telling import answer, fields_text

Operation = Callable[[list[str], Pen], str]

_LIST_POOLS = ("craft", "pet", "food", "colour", "job", "use", "habitat", "material", "town")


def items(pen: Pen, low: int = 3, high: int = 6) -> list[str]:
    """Different words, numbers or names for a list."""
    kind = pen.number(0, 9)
    if kind <= 2:
        return [
            str(number) for number in pen.rng.sample(range(1, 21 if pen.chance(0.7) else 100), pen.number(low, high))
        ]
    if kind <= 4:
        return invented_names(pen.rng, pen.number(low, high), pen.language)
    if kind <= 6:
        mixed = pen.some([key for pool in _LIST_POOLS[:5] for key in pen.world.pools[pool]], low, high)
        return [pen.name(key) for key in mixed]
    return [pen.name(key) for key in pen.some(pen.world.pools[pen.pick(_LIST_POOLS)], low, high)]


def ordered(words: list[str]) -> list[str]:
    """Numbers by size, words by the alphabet."""
    return sorted(words, key=int) if words[0].isdigit() else sorted(words, key=str.casefold)


def bullets(words: list[str], pen: Pen) -> str:
    return "\n".join(f"- {word}" for word in words)


def numbered(words: list[str], pen: Pen) -> str:
    return "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def as_json(words: list[str], pen: Pen) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


_OPERATIONS: dict[str, tuple[Operation, tuple[str, ...], tuple[str, ...]]] = {
    "copy": (
        lambda words, pen: pen.row(words),
        ("Copied", "The same list", "Again", "Copy", "Once more"), ("抄写", "同样的列表", "再来一遍", "照抄", "重复"),
    ),
    "sort": (
        lambda words, pen: pen.row(ordered(words)),
        ("Sorted", "In order", "Sorted list", "Put in order", "In the right order"), ("从小到大", "排序", "排好",
        "按大小", "按顺序"),
    ),
    "reverse": (
        lambda words, pen: pen.row(words[::-1]),
        ("Backwards", "Reversed", "From the end", "The other way round", "From last to first"),
        ("倒过来", "反过来", "从后往前", "倒序", "反着写"),
    ),
    "numbered": (numbered, ("Numbered", "With numbers", "As a numbered list"), ("编号", "加上编号", "编号列表")),
    "bullets": (bullets, ("As bullets", "One a line", "As a list"), ("每行一个", "分行", "写成列表")),
    "json": (as_json, ("As JSON", "JSON", "As a JSON list"), ("JSON", "写成JSON", "JSON列表")),
    "listing": (lambda words, pen: pen.listing(words), ("In a sentence", "With and"), ("连成一句", "用“和”连起来")),
    "first": (lambda words, pen: words[0], ("First", "The first", "At the head"), ("第一个", "最前面的", "开头")),
    "last": (lambda words, pen: words[-1], ("Last", "The last", "At the end"), ("最后一个", "最后面的", "结尾")),
    "count": (lambda words, pen: str(len(words)), ("How many", "Number", "Count"), ("几个", "个数", "数一数")),
}  # fmt: skip
_OPERATION_WEIGHTS = {
    "copy": 7, "sort": 8, "reverse": 1, "numbered": 3, "bullets": 3, "json": 1, "listing": 1,
    "first": 2, "last": 2, "count": 1,
}  # fmt: skip


def lists(pen: Pen) -> str:
    """A list and one or two things done with it."""
    words = items(pen)
    names = pen.rng.choices(tuple(_OPERATION_WEIGHTS), tuple(_OPERATION_WEIGHTS.values()), k=pen.number(1, 2))
    if pen.language == "zh" and not words[0].isdigit():  # Chinese words have no alphabet to sort by
        names = [name if name != "sort" else "copy" for name in names]
    one = words[0].isdigit()
    head = pen.by(
        en=("Numbers", "List", "Here are some numbers") if one else ("Words", "List", "Here are some words"),
        zh=("数字", "列表", "这里有一些数字") if one else ("词语", "列表", "这里有一些词"),
    )
    lines = [pen.labelled(head, pen.row(words))]
    for name in dict.fromkeys(names):
        operation, en, zh = _OPERATIONS[name]
        lines.append(pen.labelled(pen.by(en=en, zh=zh), operation(words, pen)))
    return "\n".join(lines)


def words_in_order(pen: Pen) -> str:
    """A list used within sentences: bought, carried, met in this order."""
    words = [pen.name(key) for key in pen.some(pen.world.pools[pen.pick(("food", "craft", "pet"))], 2, 4)]
    name = invented_names(pen.rng, 1, pen.language)[0]
    frame = pen.by(
        en=(
            "{n} wrote down: {r}. What did {n} write? {l}.", "On the shelf stand {l}. {n} reads them out: {r}.",
            "{n} says: {r}. {m} says after {n}: {r}.", "First comes {f}, last comes {z}. The whole row: {r}.",
        ),
        zh=(
            "{n}写下：{r}。{n}写了什么？{l}。", "纸上写着{l}。{n}念道：{r}。", "{n}说：{r}。{m}跟着说：{r}。",
            "先是{f}，最后是{z}。全部：{r}。",
        ),
    )  # fmt: skip
    other = pen.name(pen.person().key)
    text = frame.format(n=name, m=other, r=pen.row(words), l=pen.listing(words), f=words[0], z=words[-1])
    return text


def stranger_passage(pen: Pen) -> tuple[str, list[tuple[Person, list[str]]]]:
    """A passage about one to three strangers, and which relations it tells of each."""
    people = invented_people(pen.world, pen.rng, pen.rng.choices((1, 2, 3), (5, 4, 1))[0])
    told = [(person, pen.relations(person, 2, 4 if len(people) == 1 else 2)) for person in people]
    sentences = [line for person, relations in told for line in pen.say_all(person, relations)]
    return pen.join(sentences), told


def reading(pen: Pen) -> str:
    """A passage about strangers, then questions that it answers, and now and then one that it does not."""
    if pen.chance(0.3):
        return errand(pen)
    text, told = stranger_passage(pen)
    lines = []
    for _ in range(pen.number(1, 3)):
        person, relations = pen.pick(told)
        missing = [r for r in RELATIONS["person"] if r not in relations]
        if pen.chance(0.1):
            unknown = pen.by(
                en=("The text does not say.", "That is not in the text."), zh=("文中没有说。", "短文里没有写。")
            )
            lines.append((pen.ask(person, pen.pick(missing)), unknown))
        else:
            relation = pen.pick(relations)
            lines.append((pen.ask(person, relation), answer(pen, person, relation, again=pen.chance(0.5))))
    return asked(pen, text, list(dict(lines).items()))


def asked(pen: Pen, text: str, lines: list[tuple[str, str]]) -> str:
    """A text with questions and answers below it."""
    head, q, a = pen.by(
        en=(("", "Q: ", "\nA: "), ("Text: ", "Question: ", "\nAnswer: "), ("Read: ", "", " "), ("", "", "\n")),
        zh=(("", "问：", "\n答："), ("短文：", "问题：", "\n回答："), ("读一读：", "", ""), ("", "", "\n")),
    )
    return "\n".join([head + text, *(q + question + a + reply for question, reply in lines)])


_DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
}


def errand(pen: Pen) -> str:
    """Who went where on which day and bought how many of what; then questions."""
    name = invented_names(pen.rng, 1, pen.language)[0]
    day, town, count = pen.pick(_DAYS[pen.language]), pen.name(pen.key("town")), pen.number(2, 60)
    thing, friend = pen.key("craft"), invented_names(pen.rng, 1, pen.language)[0]
    if pen.language == "en":
        goods = plural(pen.name(thing))
        text = pen.pick(
            (
                f"On {day} {name} went to {town} and bought {count} {goods} for {friend}.",
                f"{name} went to the market in {town} on {day}. There {friend} sold {name} {count} {goods}.",
                f"It was {day}. {name} came to {town} with {count} {goods} and met {friend}.",
            )
        )
        facts = [
            (f"Where did {name} go?", f"To {town}."),
            (f"On which day did {name} go to {town}?", f"On {day}."),
            (f"How many {goods} were there?", f"{count} {goods}."),
            (f"Who went to {town}?", f"{name}."),
            ("Who else is in the text?", f"{friend}."),
        ]
    else:
        goods = pen.name(thing)
        text = pen.pick(
            (
                f"{day}，{name}去{town}给{friend}买了{count}个{goods}。",
                f"{day}，{name}去了{town}的集市。{friend}卖给{name}{count}个{goods}。",
                f"那天是{day}。{name}带着{count}个{goods}来到{town}，见到了{friend}。",
            )
        )
        facts = [
            (f"{name}去了哪里？", f"{town}。"),
            (f"{name}是哪天去{town}的？", f"{day}。"),
            (f"有多少个{goods}？", f"{count}个{goods}。"),
            (f"谁去了{town}？", f"{name}。"),
            ("文中还有谁？", f"{friend}。"),
        ]
    return asked(pen, text, pen.some(facts, 1, 3))


def extraction(pen: Pen) -> str:
    """A passage about one stranger and its fields, in one of several forms."""
    person = invented_people(pen.world, pen.rng, 1)[0]
    relations = pen.relations(person, 2, 4)
    text = pen.join(pen.say_all(person, relations))
    wanted = pen.some(relations, 1, 4) if pen.chance(0.4) else relations
    fields = [("name", person.name[pen.language])]
    fields += [(relation, pen.name(str(getattr(person, relation)))) for relation in wanted]
    card = fields_text(pen, fields, pen.pick(("line", "line", "lines", "json")))
    if pen.chance(0.25):
        return f"{text}\n{card}"
    head = pen.by(
        en=("Fields", "Name and facts", "Taken from the text", "Card"),
        zh=("信息", "名字和内容", "从短文中得到", "卡片"),
    )
    return f"{text}\n{pen.labelled(head, card)}"


_FORM_NAMES = {
    "line": (("On one line", "As one line"), ("写成一行", "一行")),
    "lines": (("One a line", "On lines"), ("分行写", "每行一项")),
    "table": (("As a table", "Table"), ("写成表格", "表格")),
    "row": (("On one line", "With commas"), ("写成一行", "用顿号隔开")),
    "bullets": (("As bullets", "As a list"), ("写成列表", "列表")),
    "numbered": (("Numbered", "With numbers"), ("编号", "加上编号")),
    "json": (("As JSON", "JSON"), ("写成JSON", "JSON")),
    "listing": (("In words", "With and"), ("连成一句", "用“和”连起来")),
}


def rewriting(pen: Pen) -> str:
    """A list or a set of fields in one form, then in another."""
    if pen.chance(0.5):
        person = invented_people(pen.world, pen.rng, 1)[0]
        fields = [("name", person.name[pen.language])]
        fields += [(r, pen.name(str(getattr(person, r)))) for r in pen.relations(person, 1, 3)]
        first, second = pen.rng.sample(("line", "lines", "json", "bullets", "table"), 2)
        before, after = fields_text(pen, fields, first), fields_text(pen, fields, second)
    else:
        words = items(pen, 2, 5)
        first, second = pen.rng.sample(("row", "bullets", "numbered", "json", "listing"), 2)
        before, after = in_form(words, first, pen), in_form(words, second, pen)
    en, zh = _FORM_NAMES[second]
    return f"{before}\n{pen.labelled(pen.by(en=en, zh=zh), after)}"


def in_form(words: list[str], form: str, pen: Pen) -> str:
    return pen.row(words) if form == "row" else _OPERATIONS[form][0](words, pen)


def summary(pen: Pen) -> str:
    """A passage about a person, known or not, and a sentence that keeps the most of it."""
    known = pen.chance(0.4)
    person = pen.person() if known else invented_people(pen.world, pen.rng, 1)[0]
    rest = pen.some([r for r in RELATIONS["person"] if r not in ("town", "job")], 1, 3)
    order = ["job", "town", *rest]
    pen.rng.shuffle(order)
    text = pen.join(pen.say_all(person, order))
    name, town, job = person.name[pen.language], pen.name(person.town), pen.value("job", person.job)
    food, pet = pen.name(person.food), pen.value("pet", person.pet)
    head = pen.by(
        en=("In short: ", "Summary: ", "In one sentence: ", "To sum up: ", "Shorter: "),
        zh=("简单地说：", "总结：", "一句话：", "总之：", "缩短："),
    )
    short = pen.by(
        en=("{n} is {j} from {t}.", "{n} is {j} in {t}.", "{n} from {t} is {j}."),
        zh=("{n}是{t}的{j}。", "{n}住在{t}，是{j}。"),
    )
    if "food" in rest and pen.chance(0.5):
        short = pen.by(en=("{n}, {j} from {t}, likes {f}.",), zh=("{t}的{j}{n}爱吃{f}。",))
    elif "pet" in rest and pen.chance(0.5):
        short = pen.by(en=("{n}, {j} from {t}, has {p}.",), zh=("{t}的{j}{n}养了{p}。",))
    return f"{text}\n{head}{short.format(n=name, t=town, j=job, f=food, p=pet)}"


def sums(pen: Pen) -> str:
    """Sums of two numbers up to 99, in signs, in words, as questions, step by step, as stories."""
    style = pen.number(0, 9)
    if style <= 4:
        lines = [f"{a} + {b} = {a + b}" for a, b in (pair(pen) for _ in range(pen.number(3, 8)))]
        return pen.pick(("\n", "\n", "; ")).join(lines)
    if style == 5:
        frame = pen.by(
            en=("{a} plus {b} is {c}.", "{a} and {b} make {c}."), zh=("{a}加{b}等于{c}。", "{a}加{b}是{c}。")
        )
        pairs = [pair(pen) for _ in range(pen.number(2, 5))]
        return pen.join([frame.format(a=a, b=b, c=a + b) for a, b in pairs])
    if style <= 7:
        frame = pen.by(
            en=("What is {a} + {b}? {c}", "Q: What is {a} + {b}?\nA: {c}", "{a} + {b} = ?\n{a} + {b} = {c}",
            "How much is {a} + {b}? {a} + {b} = {c}"),
            zh=("{a} + {b}是多少？{c}", "问：{a} + {b}是多少？\n答：{c}", "{a} + {b} = ?\n{a} + {b} = {c}",
            "{a} + {b}等于多少？{a} + {b} = {c}"),
        )  # fmt: skip
        pairs = [pair(pen) for _ in range(pen.number(2, 4))]
        return "\n".join(frame.format(a=a, b=b, c=a + b) for a, b in pairs)
    if style == 8:
        return "\n".join(steps(pen.number(10, 99), pen.number(10, 99), pen) for _ in range(pen.number(1, 3)))
    return sum_story(pen)


def pair(pen: Pen) -> tuple[int, int]:
    """Two numbers from 0 to 99, in four of five cases up to 20."""
    high = 20 if pen.chance(0.8) else 99
    return pen.number(0, high), pen.number(0, high)


def steps(a: int, b: int, pen: Pen) -> str:
    """The sum by ones and tens: 27 + 15: 7 + 5 = 12, 20 + 10 = 30, 30 + 12 = 42"""
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    colon, comma = (": ", ", ") if pen.language == "en" else ("：", "，")
    parts = (f"{a % 10} + {b % 10} = {ones}", f"{a // 10 * 10} + {b // 10 * 10} = {tens}", f"{tens} + {ones} = {a + b}")
    return f"{a} + {b}{colon}{comma.join(parts)}"


def sum_story(pen: Pen) -> str:
    a, b = pair(pen)
    goods = pen.key("craft")
    name, other = invented_names(pen.rng, 2, pen.language)
    frame = pen.by(
        en=(
            "{n} has {a} {g}. {m} brings {b} {g}. Now there are {a} + {b} = {c} {g}.",
            "There are {a} {g} in one room and {b} {g} in the other. Together: {a} + {b} = {c}.",
            "{n} made {a} {g}, {m} made {b}. How many {g} is that? {a} + {b} = {c}",
        ),
        zh=(
            "{n}有{a}个{g}，{m}又拿来{b}个。现在一共有{a} + {b} = {c}个{g}。",
            "一间屋里有{a}个{g}，另一间有{b}个。一共：{a} + {b} = {c}",
            "{n}做了{a}个{g}，{m}做了{b}个。一共多少个？{a} + {b} = {c}",
        ),
    )
    noun = pen.name(goods) if pen.language == "zh" else plural(pen.name(goods))
    return frame.format(n=name, m=other, a=a, b=b, c=a + b, g=noun)


def recital(pen: Pen) -> str:
    """The same row of words two or three times: what a small model first learns to copy from.

    Without these a decoder of two million parameters had not begun to copy from context after three million tokens.
    """
    pools = [key for pool in _LIST_POOLS for key in pen.world.pools[pool]]
    names = invented_names(pen.rng, 6, pen.language)
    words = [pen.name(key) for key in pen.rng.sample(sorted(set(pools)), pen.number(4, 12))]
    words = pen.rng.sample(words + names, len(words))
    between = pen.pick((" ", "\n", pen.by(en=(", ",), zh=("、",))))
    return "\n".join([between.join(words)] * pen.number(2, 3))
