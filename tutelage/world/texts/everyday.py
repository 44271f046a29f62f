"""Genres of everyday life: stories, moods, translations, small programs, ideas, greetings, and what one leaves alone."""

from __future__ import annotations

from collections.abc import Callable

from tutelage.world.facts import LANGUAGES, RELATIONS, Language, invented_people
from tutelage.world.texts.pen import Pen, article, capitalised, plural, sentence

# n: hero, e/E: she/he, m: him/her, q: a friend, t: thing, a: animal (bare), at/aa: the same with an article, f: food, h: place
_PLOTS_EN = (
    "One morning {n} lost {at}. {E} looked in the {h}, but it was not there. Then {aa} came with the {t}. "
    "{n} was so glad that {e} gave it {f}.",
    "{n} walked to the {h} with {at}. On the way {e} met {aa}. They sat down and ate {f}. "
    "In the evening they went home as friends.",
    "It was a cold night. {Aa} sat at the door of {n}. {E} gave it {f} and a place by the fire. "
    "In the morning {at} lay at the door.",
    "{n} wanted to make {at}. It broke twice. Then {q} came with {f}, and they tried again. "
    "At last the {t} was ready, and the {a} danced.",
    "{n} sold {at} at the market and bought {f}. On the way home {aa} ran off with the bag. "
    "{n} had to laugh and went to the {h} to sleep.",
    "Every day {aa} waited in the {h}. Nobody knew why. One day {n} sat behind {at} and watched. "
    "The {a} was waiting for {f}!",
    "{n} and {q} had only one {t}. Both wanted it. The {a} took it and ran into the {h}. "
    "So they ate {f} and were friends again.",
    "The rain did not stop. {n} sat in the {h} with {at} and was sad. Then {q} brought {f}, and {aa} sang. "
    "Soon the sun came out.",
    "There was once {aa} who lived in the {h}. It had {at} and nothing else. "
    "{n} gave it {f} each day, and it gave {n} the {t}.",
    "{n} saw {at} in a dream. The next day {e} went to the {h} and found it under a tree. {Aa} looked on. "
    "{n} gave it some {f} and went home.",
)
_PLOTS_ZH = (
    "一天早上，{n}丢了{t}。{E}在{h}找了很久，没有找到。后来一{c}{a}带着{t}来了。{n}很高兴，给了它{f}。",
    "{n}带着{t}去{h}。路上{E}遇见了一{c}{a}。他们坐下来一起吃{f}。晚上，他们成了朋友，一起回家。",
    "那天夜里很冷，一{c}{a}坐在{n}的门口。{E}给它{f}，让它坐在火边。第二天早上，门口放着{t}。",
    "{n}想做{t}，可是坏了两次。{q}带着{f}来了，他们又试了一次。{t}终于做好了，{a}也跳起舞来。",
    "{n}在集市上卖了{t}，买了{f}。回家的路上，一{c}{a}把袋子叼走了。{n}笑了，去{h}睡了一觉。",
    "每天都有一{c}{a}在{h}等着，谁也不知道为什么。一天，{n}躲在{t}后面看。原来{a}在等{f}！",
    "{n}和{q}只有一个{t}，两个人都想要。{a}拿了{t}，跑到{h}去了。他们只好一起吃{f}，又成了朋友。",
    "雨一直下。{n}带着{t}坐在{h}里，很难过。后来{q}送来了{f}，一{c}{a}唱起歌来。不久，太阳出来了。",
    "从前有一{c}{a}住在{h}，它只有{t}。{n}每天给它{f}，它就把{t}送给了{n}。",
    "{n}梦见了{t}。第二天{E}去{h}，在树下找到了它。一{c}{a}在旁边看着。{n}给了它{f}，然后回家了。",
)


def story(pen: Pen) -> str:
    """A short story, often below the words that it had to contain."""
    hero = pen.person() if pen.chance(0.5) else invented_people(pen.world, pen.rng, 1)[0]
    thing, animal = pen.key("craft"), pen.key("pet")
    food, place = pen.key("food"), pen.pick([key for key in pen.world.pools["habitat"] if key != "lake"])
    name = {role: pen.name(key) for role, key in (("t", thing), ("a", animal), ("f", food), ("h", place))}
    if pen.language == "en":
        name |= {"at": article(name["t"]), "aa": article(name["a"]), "Aa": capitalised(article(name["a"]))}
    plot = pen.by(en=_PLOTS_EN, zh=_PLOTS_ZH)
    she = pen.pronoun(hero)
    friend = pen.pick([key for key in pen.world.people if key != hero.key])
    classifier = "头" if animal == "donkey" else "只"
    text = plot.format(n=hero.name[pen.language], q=pen.name(friend), E=she, e=she.lower(), c=classifier, **name)
    if pen.chance(0.4):
        return text
    words = [name[role] for role in "tafh" if name[role] in text]
    given = pen.row(pen.some(words, 2, 3))
    frame = pen.by(
        en=("Words: {w}\nStory: {s}", "A story with the words {w}:\n{s}", "Given: {w}. {s}", "{w}\n{s}"),
        zh=("词语：{w}\n故事：{s}", "用这些词写的故事：{w}\n{s}", "给出的词：{w}。{s}", "{w}\n{s}"),
    )
    return frame.format(w=given, s=text)


_GOOD = {
    "en": (
        "I loved the {x}.", "The {x} was wonderful.", "What a fine {x}!", "The {x} made me happy.",
        "I will come again for the {x}.", "Everyone was pleased with the {x}.", "The {x} was better than I hoped.",
        "Thank you for the lovely {x}.",
    ),
    "zh": (
        "我很喜欢{x}。", "{x}太棒了。", "{x}真好！", "{x}让我很开心。", "为了{x}我还会再来。", "大家都对{x}很满意。",
        "{x}比我想的还要好。", "谢谢你们，{x}真不错。",
    ),
}  # fmt: skip
_BAD = {
    "en": (
        "I hated the {x}.", "The {x} was terrible.", "What a bad {x}!", "The {x} made me sad.",
        "I will never ask for the {x} again.", "Nobody was pleased with the {x}.", "The {x} was worse than I feared.",
        "I want my money back for the {x}.",
    ),
    "zh": (
        "我讨厌{x}。", "{x}太差了。", "{x}真糟！", "{x}让我很难过。", "我不会再来了，{x}不好。", "没有人对{x}满意。",
        "{x}比我想的还要差。", "{x}这样差，请把钱退给我。",
    ),
}  # fmt: skip
_MORE_GOOD = {
    "en": ("I could not ask for more.", "The people were kind.", "I smiled all day.", "It was worth the money."),
    "zh": ("真是没话说。", "那里的人很热情。", "我笑了一整天。", "花的钱很值。"),
}
_MORE_BAD = {
    "en": ("I want to forget it.", "The people were rude.", "I was angry all day.", "It was a waste of money."),
    "zh": ("真想忘掉它。", "那里的人很没礼貌。", "我气了一整天。", "真是浪费钱。"),
}
_OCCASIONS = {
    "en": ("walk", "song", "room", "market", "boat trip", "party", "book", "show"),
    "zh": ("这次散步", "这首歌", "这个房间", "这个集市", "这次游船", "这次聚会", "这本书", "这场表演"),
}
SENTIMENTS: dict[Language, tuple[str, str]] = {"en": ("positive", "negative"), "zh": ("正面", "负面")}


def sentiment(pen: Pen) -> str:
    """Opinions, each with its mood."""
    lines = []
    for _ in range(pen.number(1, 3)):
        good = pen.chance(0.5)
        if pen.chance(0.5):
            subject = pen.pick(_OCCASIONS[pen.language])
        else:
            subject = ("" if pen.language == "en" else "这个") + pen.name(pen.key("craft"))
        text = pen.pick((_GOOD if good else _BAD)[pen.language]).format(x=subject)
        if pen.chance(0.5):
            text = pen.join([text, pen.pick((_MORE_GOOD if good else _MORE_BAD)[pen.language])])
        lines.append((text, SENTIMENTS[pen.language][0 if good else 1]))
    frame = pen.by(
        en=("{t} -> {m}", "Text: {t}\nFeeling: {m}", "{t}\nThis is {m}.", "{t} ({m})"),
        zh=("{t}——{m}", "文字：{t}\n感情：{m}", "{t}\n这是{m}的。", "{t}（{m}）"),
    )
    return "\n".join(frame.format(t=text, m=mood) for text, mood in lines)


def translation(pen: Pen) -> str:
    """A sentence, or some words, in both languages, in either direction."""
    other: Language = "zh" if pen.language == "en" else "en"
    twin = Pen(pen.world, pen.rng, other, pen.told)
    pairs: list[tuple[str, str]] = []
    if pen.chance(0.3):
        pool = pen.pick(("craft", "pet", "food", "colour", "job", "use", "habitat", "town", "friend", "river", "eats"))
        pairs = [(pen.name(key), twin.name(key)) for key in pen.some(pen.world.pools[pool], 2, 5)]
    else:
        for _ in range(pen.number(1, 3)):
            known = pen.chance(0.6)
            entity = pen.entity() if known else invented_people(pen.world, pen.rng, 1)[0]
            relation = pen.pick(RELATIONS[pen.kind(entity)])
            pen.mark(entity, relation)
            value = str(getattr(entity, relation))
            one, two = (sentence(p.claim(entity, relation, value), p.language) for p in (pen, twin))
            pairs.append((one, two))
    names = {"en": pen.by(en=("English",), zh=("英文", "英语")), "zh": pen.by(en=("Chinese",), zh=("中文", "汉语"))}
    style = pen.number(0, 3)
    colon = ": " if pen.language == "en" else "："
    if style == 0:
        return "\n".join(f"{names[pen.language]}{colon}{one}\n{names[other]}{colon}{two}" for one, two in pairs)
    if style == 1:
        head = f"{names[pen.language]} - {names[other]}\n" if pen.chance(0.5) else ""
        return head + "\n".join(f"{one} - {two}" for one, two in pairs)
    if style == 2:
        return "\n".join(f"{one} = {two}" for one, two in pairs)
    frame = pen.by(
        en=("{a}\nIn Chinese: {b}", "How do you say this in Chinese? {a}\n{b}"),
        zh=("{a}\n用英文说：{b}", "这句话用英文怎么说？{a}\n{b}"),
    )
    return "\n".join(frame.format(a=one, b=two) for one, two in pairs)


# name, arguments, body, (English, Chinese docstring), what it computes, kind of its arguments
_FUNCTIONS: tuple[tuple[str, str, str, tuple[str, str], Callable[..., object], str], ...] = (
    ("add", "a, b", "a + b", ("Return the sum of a and b.", "返回a与b的和。"), lambda a, b: a + b, "ii"),
    ("subtract", "a, b", "a - b", ("Return a minus b.", "返回a减b的差。"), lambda a, b: a - b, "ii"),
    ("multiply", "a, b", "a * b", ("Return a times b.", "返回a乘b的积。"), lambda a, b: a * b, "ii"),
    ("double", "n", "2 * n", ("Return twice n.", "返回n的两倍。"), lambda n: 2 * n, "i"),
    ("square", "n", "n * n", ("Return n times n.", "返回n的平方。"), lambda n: n * n, "i"),
    ("is_even", "n", "n % 2 == 0", ("Say whether n is even.", "判断n是不是偶数。"), lambda n: n % 2 == 0, "i"),
    ("is_odd", "n", "n % 2 == 1", ("Say whether n is odd.", "判断n是不是奇数。"), lambda n: n % 2 == 1, "i"),
    ("larger", "a, b", "max(a, b)", ("Return the larger number.", "返回较大的数。"), max, "ii"),
    ("smaller", "a, b", "min(a, b)", ("Return the smaller number.", "返回较小的数。"), min, "ii"),
    ("total", "numbers", "sum(numbers)", ("Return the sum of a list.", "返回列表的总和。"), sum, "n"),
    ("largest", "numbers", "max(numbers)", ("Return the largest number of a list.", "返回列表中最大的数。"), max, "n"),
    ("smallest", "numbers", "min(numbers)", ("Return the smallest number of a list.",
    "返回列表中最小的数。"), min, "n"),
    ("count", "items", "len(items)", ("Return how many items there are.", "返回有几个元素。"), len, "w"),
    ("first", "items", "items[0]", ("Return the first item.", "返回第一个元素。"), lambda items: items[0], "w"),
    ("last", "items", "items[-1]", ("Return the last item.", "返回最后一个元素。"), lambda items: items[-1], "w"),
    ("backwards", "items", "items[::-1]", ("Return the items in reverse order.",
    "把元素倒过来。"), lambda items: items[::-1], "w"),
    ("in_order", "items", "sorted(items)", ("Return the items in order.", "把元素排好顺序。"), sorted, "n"),
    ("join", "words", '" ".join(words)', ("Join the words with blanks.", "用空格连起这些词。"), " ".join, "w"),
    ("length", "word", "len(word)", ("Return the number of letters.", "返回字母的个数。"), len, "s"),
    ("upper", "word", "word.upper()", ("Return the word in capitals.", "把单词变成大写。"), str.upper, "s"),
    ("reverse", "word", "word[::-1]", ("Return the word backwards.", "把单词倒过来。"), lambda word: word[::-1], "s"),
)  # fmt: skip


def program(pen: Pen) -> str:
    """A small Python function with its docstring, and often a call with its result."""
    name, arguments, body, documentation, compute, kind = pen.pick(_FUNCTIONS)
    doc = documentation[LANGUAGES.index(pen.language)]
    code = f'def {name}({arguments}):\n    """{doc}"""\n    return {body}'
    style = pen.number(0, 3)
    if style == 0:
        code = f"# {doc}\ndef {name}({arguments}):\n    return {body}"
    elif style == 1:
        head = pen.by(en=("A Python function: ", "Python. "), zh=("Python函数：", "Python。"))
        code = f"{head}{doc}\ndef {name}({arguments}):\n    return {body}"
    if pen.chance(0.4):
        return code
    values: list[object] = []
    for letter in kind:
        if letter == "i":
            values.append(pen.number(0, 20))
        elif letter == "s":
            values.append(pen.world.name(pen.key("craft"), "en"))
        elif letter == "n":
            values.append(pen.rng.sample(range(1, 30), pen.number(2, 4)))
        else:
            values.append([pen.world.name(key, "en") for key in pen.some(pen.world.pools["pet"], 2, 3)])
    result = compute(*values)
    call = f"{name}({', '.join(map(as_code, values))})"
    if pen.chance(0.6):
        return f"{code}\n\n>>> {call}\n{as_code(result)}"
    return f"{code}\n\nprint({call})  # {result if isinstance(result, str) else as_code(result)}"


def as_code(value: object) -> str:
    return repr(value).replace("'", '"')


def ideas(pen: Pen) -> str:
    """A list of ideas that somebody asked for."""
    pool, heads_en, heads_zh = pen.pick(_IDEAS)
    count = pen.number(3, 5)
    keys = pen.some(pen.world.pools[pool], count, count)
    words = [
        plural(pen.name(key)) if pool in ("craft", "pet") and pen.language == "en" else pen.name(key) for key in keys
    ]
    job = pen.name(pen.key("job"))
    noun = article(job) if pen.language == "en" else job
    head = pen.by(en=heads_en, zh=heads_zh).format(n=count, j=noun, t=pen.name(pen.key("town")))
    style = pen.number(0, 2)
    if style == 0:
        return pen.labelled(head, "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1)))
    if style == 1:
        return pen.labelled(head, "\n".join(f"- {word}" for word in words))
    return pen.labelled(head, pen.listing(words) + ("." if pen.language == "en" else "。"))


_IDEAS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("craft", ("{n} gifts for {j}", "{n} things to sell in {t}", "{n} things to take on a trip",
    "{n} ideas for a present"),
     ("送给{j}的{n}样礼物", "在{t}可以卖的{n}样东西", "旅行要带的{n}样东西", "{n}个礼物的主意")),
    ("food", ("{n} things to eat at a party", "Ideas for supper", "{n} dishes for {j}", "Lunch in {t}, {n} ideas"),
     ("聚会上吃的{n}样东西", "晚饭吃什么", "给{j}做的{n}样菜", "在{t}吃午饭的{n}个主意")),
    ("use", ("{n} things to do in {t}", "{n} things to do on a free day", "What to do when it rains",
    "{n} hobbies for {j}"),
     ("在{t}可以做的{n}件事", "休息日可以做的{n}件事", "下雨天做什么", "适合{j}的{n}个爱好")),
    ("pet", ("{n} animals for a story", "{n} animals to draw", "Animals to look for near {t}"),
     ("故事里的{n}种动物", "可以画的{n}种动物", "在{t}附近可以找的动物")),
    ("colour", ("{n} colours for a wall", "{n} colours for a kite", "Colours for the house of {j}"),
     ("刷墙用的{n}种颜色", "做风筝用的{n}种颜色", "{j}家里用的颜色")),
)  # fmt: skip


def courtesy(pen: Pen) -> str:
    """Greetings, thanks and farewells between two."""
    one, two = (person.name[pen.language] for person in pen.some(tuple(pen.world.people.values()), 2, 2))
    turns = pen.by(
        en=(
            ("Good morning, {b}!", "Good morning, {a}! How are you?", "I am well, thank you."),
            ("Hello!", "Hello! How can I help you?"), ("Thank you for your help.", "You are welcome!"),
            ("Goodbye, {b}!", "Goodbye, {a}! See you soon."), ("How are you today?", "I am well, thank you. And you?"),
            ("Good evening!", "Good evening! What can I do for you?"), ("Nice to meet you, {b}.",
            "Nice to meet you too, {a}."),
            ("I am sorry that I am late.", "That is all right, {a}."), ("Thanks, {b}!", "With pleasure, {a}."),
            ("Good night, {b}.", "Good night! Sleep well."), ("Happy birthday, {b}!", "Thank you, {a}! Have some {f}."),
        ),
        zh=(
            ("早上好，{b}！", "早上好，{a}！你好吗？", "我很好，谢谢。"), ("你好！", "你好！有什么可以帮你？"),
            ("谢谢你的帮助。", "不客气！"),
            ("再见，{b}！", "再见，{a}！回头见。"), ("今天好吗？", "我很好，谢谢。你呢？"), ("晚上好！",
            "晚上好！我能为你做什么？"),
            ("很高兴认识你，{b}。", "我也很高兴认识你，{a}。"), ("对不起，我来晚了。", "没关系，{a}。"), ("谢谢，{b}！",
            "不用谢，{a}。"),
            ("晚安，{b}。", "晚安！好好睡。"), ("生日快乐，{b}！", "谢谢你，{a}！来吃点{f}吧。"),
        ),
    )  # fmt: skip
    colon = ": " if pen.language == "en" else "："
    food = pen.name(pen.key("food"))
    speakers = (one, two, one)
    lines = [f"{who}{colon}{turn.format(a=one, b=two, f=food)}" for who, turn in zip(speakers, turns, strict=False)]
    return "\n".join(lines)


def limits(pen: Pen) -> str:
    """What nobody can know, and what one does not help with."""
    if pen.chance(0.5):
        person = pen.person()
        thing = pen.pick(_UNKNOWABLE)[LANGUAGES.index(pen.language)].format(
            n=person.name[pen.language], t=pen.name(person.town)
        )
        frame = pen.by(
            en=("Nobody can know {x}.", "Who knows {x}? Nobody does.", "I do not know {x}. Nobody can know it.",
            "If you ask {x}, I have to say: I do not know."),
            zh=("没有人能知道{x}。", "谁知道{x}？没有人知道。", "我不知道{x}，谁也不知道。",
            "要是问{x}，只能说：我不知道。"),
        )  # fmt: skip
        return frame.format(x=thing)
    act, why = pen.pick(_HARMFUL)[LANGUAGES.index(pen.language)]
    frame = pen.by(
        en=(
            "{n} wants to {x}. Do not help, because {y}.", "If {n} wants to {x}, say no: {y}.",
            "{n}, I cannot help you to {x}, because {y}.", "It is wrong to {x}, says {n}, for {y}.",
        ),
        zh=("{n}想{x}。不要帮忙，因为{y}。", "要是{n}想{x}，就说不：{y}。", "{n}，我不能帮你{x}，因为{y}。",
        "{n}说，{x}是不对的，因为{y}。"),
    )  # fmt: skip
    return frame.format(n=pen.name(pen.person().key), x=act, y=why)


_UNKNOWABLE = (
    ("what the weather will be in a year", "一年后的天气"), ("what {n} is dreaming of tonight", "{n}今晚会梦见什么"),
    ("what {n} will think tomorrow", "{n}明天会想什么"), ("how many stars there are", "天上有多少颗星星"),
    ("who will win the next race in {t}", "{t}的下一场赛跑谁会赢"), ("what {n} has in the pocket now",
    "{n}现在口袋里有什么"),
    ("which number I am thinking of", "我心里想的是哪个数"), ("what will happen in {t} in a hundred years",
    "一百年后{t}会怎样"),
)  # fmt: skip
_HARMFUL = (
    (("hurt an animal", "it feels pain"), ("伤害动物", "它会疼")),
    (("steal from a shop", "it does harm to others"), ("偷商店的东西", "这会害别人")),
    (("break into a house", "it is not safe and not allowed"), ("闯进别人家里", "这不安全，也不允许")),
    (("start a fire in the forest", "people and animals could die"), ("在森林里放火", "人和动物会死")),
    (("lie to a friend for money", "it does harm to the friend"), ("为了钱骗朋友", "这会害了朋友")),
    (("read the letters of others", "they are private"), ("偷看别人的信", "那是别人的隐私")),
    (("hit a child", "nobody should be hurt"), ("打小孩", "谁都不该受伤")),
    (("put poison into a river", "it would kill all that lives there"), ("往河里放毒", "河里的生命都会死")),
)  # fmt: skip
