"""Talk about feelings, and greetings."""

from __future__ import annotations

from tutelage.world.facts import Language
from tutelage.world.tasks.common import Draft, Family, Scene, Wordings, wordings
from tutelage.world.tasks.wording import sentence

FEELINGS: dict[str, dict[Language, tuple[str, str, tuple[str, ...]]]] = {
    "happy": {
        "en": (
            "happy",
            r"\b(happy|glad|joyful|joy|cheerful)\b",
            ("laughed and danced", "won a prize", "got a fine present", "smiled all day"),
        ),
        "zh": ("高兴", "高兴|快乐|开心", ("又笑又跳", "得了奖", "收到了好礼物", "整天微笑")),
    },
    "sad": {
        "en": (
            "sad",
            r"\b(sad|unhappy|sadness)\b",
            ("cried all night", "lost a dear friend", "sat alone in tears", "wept over a letter"),
        ),
        "zh": ("难过", "难过|伤心|悲伤", ("哭了一夜", "失去了好朋友", "一个人流泪", "看着信哭了")),
    },
    "angry": {
        "en": (
            "angry",
            r"\b(angry|anger|furious|mad)\b",
            ("shouted and hit the table", "slammed the door", "threw a plate", "yelled at the thief"),
        ),
        "zh": ("生气", "生气|愤怒|发火", ("大喊着拍桌子", "用力摔门", "摔了盘子", "对小偷大叫")),
    },
    "afraid": {
        "en": (
            "afraid",
            r"\b(afraid|scared|fear|frightened)\b",
            ("hid under the bed", "shook in the dark", "ran from a wolf", "did not dare to move"),
        ),
        "zh": ("害怕", "害怕|恐惧|怕", ("躲在床下", "在黑暗中发抖", "见到狼就逃", "不敢动")),
    },
    "tired": {
        "en": (
            "tired",
            r"\b(tired|sleepy|weary|exhausted)\b",
            ("yawned and went to bed", "worked for two days", "could not keep awake", "fell asleep at work"),
        ),
        "zh": ("疲倦", "疲倦|累|困", ("打着哈欠去睡觉", "工作了两天", "眼睛睁不开", "上班时睡着了")),
    },
    "surprised": {
        "en": (
            "surprised",
            r"\b(surprised?|surprise|astonished|amazed)\b",
            ("could not believe it", "stared with open mouth", "had not expected this", "gasped at the news"),
        ),
        "zh": ("惊讶", "惊讶|吃惊|惊奇", ("简直不敢相信", "张大了嘴", "完全没有想到", "听到消息愣住了")),
    },
}
"""The label, the words that name it, and what people do who feel so."""


def sentiment(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    feeling, *others = rng.sample(sorted(FEELINGS), 3)
    person, asked = scene.somebody()
    name = scene.name(person)
    first, second = rng.sample(FEELINGS[feeling][language][2], 2)
    text = f"{name} {first}. {name} {second}." if language == "en" else f"{name}{first}。{name}{second}。"

    def answer(key: str) -> str:
        label = FEELINGS[key][language][0]
        return f"{name} is {label}." if language == "en" else f"{name}很{label}。"

    return Draft(
        user=template.replace("{p}", text).replace("{s}", name),
        good=answer(feeling) if rng.random() < 0.7 else sentence(FEELINGS[feeling][language][0], language),
        wrong=(answer(others[0]), answer(others[1]), text),
        check={"kind": "label", "label": feeling},
        entity=asked,
    )


FEELING_QUESTIONS: dict[Language, Wordings] = {
    "en": wordings(
        "{p}[ |\n][How does {s} feel|What does {s} feel|In what mood is {s}|What is the feeling]?",
        "[How does {s} feel|What does {s} feel|In what mood is {s}|What is the feeling] in this text? {p}",
        "{p} [Name|Say|Tell me|Please name|Please tell me] the [feeling|mood].",
        "[Name|Say|Tell me|Please name|Please tell me] the [feeling|mood] in this text: {p}",
        "[Text|Read this]: {p}\n[Feeling|Mood]:",
        "[Text|Read this]: {p} [How does {s} feel|What does {s} feel|In what mood is {s}]?",
        "{p} [Tell me|Say|Please tell me] [how {s} feels|what {s} feels|in what mood {s} is].",
        "[Tell me|Say|Please tell me] [how {s} feels|what {s} feels|in what mood {s} is]: {p}",
        "[Can|Could] you [tell me|say] [how {s} feels|what {s} feels]? {p}",
        "{p} [Do you know|Can you tell me|Can you say|Could you tell me] [how {s} feels|what {s} feels]?",
        "{p} I [want|need|would like] to know how {s} feels.",
    ),
    "zh": wordings(
        "{p}[\n|]{s}[感觉怎么样|是什么心情|心情怎么样|有什么感觉]？",
        "文中{s}[感觉怎么样|是什么心情|心情怎么样|有什么感觉]？{p}",
        "{p}[说出|写出|告诉我|请说出|请写出|请告诉我]这种[心情|感觉]。",
        "[说出|写出|请说出|请写出]文中的[心情|感觉]：{p}",
        "[短文|读一读|请读]：{p}\n[心情|感觉]：",
        "[短文|读一读|请读]：{p}{s}[感觉怎么样|是什么心情|有什么感觉]？",
        "{p}[告诉我|请告诉我|我想知道]{s}[是什么心情|有什么感觉]。",
        "[告诉我|请告诉我|我想知道]文中{s}[是什么心情|有什么感觉]：{p}",
        "{p}[你知道|你能告诉我|你能说说]{s}[是什么心情|有什么感觉]吗？",
        "[能不能|你能不能]告诉我文中{s}[是什么心情|心情怎么样|有什么感觉]？{p}",
        "{p}[请问|我想问]{s}[是什么心情|心情怎么样|有什么感觉]？",
    ),
}

GREETINGS: dict[str, dict[Language, tuple[str, str, str]]] = {
    "hello": {
        "en": ("Hello!", r"\bhello|\bhi\b", "Hello, {s}! How can I help you?"),
        "zh": ("你好！", "你好|您好", "你好，{s}！有什么可以帮你？"),
    },
    "morning": {
        "en": ("Good morning!", r"\bmorning", "Good morning, {s}! How can I help you?"),
        "zh": ("早上好！", "早", "早上好，{s}！有什么可以帮你？"),
    },
    "evening": {
        "en": ("Good evening!", r"\bevening", "Good evening, {s}! How can I help you?"),
        "zh": ("晚上好！", "晚上好", "晚上好，{s}！有什么可以帮你？"),
    },
    "night": {
        "en": ("Good night!", r"\bnight|\bsleep", "Good night, {s}! Sleep well."),
        "zh": ("晚安！", "晚安", "晚安，{s}！睡个好觉。"),
    },
    "thanks": {
        "en": ("Thank you!", r"\bwelcome|\bpleasure", "You are welcome, {s}!"),
        "zh": ("谢谢！", "不客气|不用谢", "不客气，{s}！"),
    },
    "bye": {
        "en": ("Goodbye!", r"\bbye|\bsee you|\bfarewell", "Goodbye, {s}! See you soon."),
        "zh": ("再见！", "再见|回头见", "再见，{s}！期待再见到你。"),
    },
    "how": {
        "en": ("How are you?", r"\bfine\b|\bi am (well|good)", "I am fine, {s}. How can I help you?"),
        "zh": ("你好吗？", "很好|不错", "我很好，{s}。有什么可以帮你？"),
    },
}
"""What people say first, the words of a fitting reply, and a reply."""


def greeting(scene: Scene, template: str) -> Draft:
    rng, language = scene.rng, scene.language
    act, other, third = rng.sample(sorted(GREETINGS), 3)
    person, asked = scene.somebody()
    name, wrong_name = scene.name(person), scene.name(scene.other("friend", person))
    said, _, reply = GREETINGS[act][language]
    return Draft(
        user=template.replace("{g}", said).replace("{s}", name),
        good=reply.replace("{s}", name),
        wrong=(
            GREETINGS[other][language][2].replace("{s}", wrong_name),
            reply.replace("{s}", wrong_name),
            GREETINGS[third][language][2].replace(", {s}", "").replace("，{s}", ""),
        ),
        check={"kind": "greeting", "act": act, "name": person},
        entity=asked,
    )


HELLOS: dict[Language, Wordings] = {
    "en": wordings(
        "{g} [I am|My name is|This is|It is me,|People call me|Please call me|You can call me] {s}.",
        "[I am|My name is|This is|It is me,|People call me|Please call me|You can call me] {s}. {g}",
        "{g} [I am|This is|It is me,|It is] {s}, [a friend|your friend|an old friend|from next door].",
        "[I am|This is|It is me,|It is] {s}, [a friend|your friend|an old friend|from next door]. {g}",
        "{g} [I am|This is|It is] [your friend|your old friend|your good friend] {s}.",
        "[I am|This is|It is] [your friend|your old friend|your good friend] {s}. {g}",
    ),
    "zh": wordings(
        "{g}[我是|我叫|是我，|我的名字是|我的名字叫|这里是|大家叫我|大家都叫我|请叫我|你可以叫我]{s}。",
        "[我是|我叫|是我，|我的名字是|我的名字叫|这里是|大家叫我|大家都叫我|请叫我|你可以叫我]{s}。{g}",
        "{g}[我是|我叫]{s}，[是你的朋友|是你的好朋友|是你的老朋友|住在隔壁|就住在隔壁]。",
        "[我是|我叫]{s}，[是你的朋友|是你的好朋友|是你的老朋友|住在隔壁|就住在隔壁]。{g}",
        "{g}[我是|这里是][你的朋友|你的好朋友|你的老朋友|住在隔壁的|隔壁的]{s}。",
        "[我是|这里是][你的朋友|你的好朋友|你的老朋友|住在隔壁的|隔壁的]{s}。{g}",
    ),
}

FAMILIES = {"sentiment": Family(sentiment, FEELING_QUESTIONS), "greeting": Family(greeting, HELLOS)}
