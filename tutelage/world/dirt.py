"""Deliberate dirt for a data filter to find: each dirty document says in `meta["dirt"]` what is wrong with it.

    duplicate       an earlier document once more, letter by letter
    near_duplicate  an earlier document with a word lost, doubled or added
    boilerplate     the furniture of web pages: cookie banners, menus, "click here", alone or around a document
    garbled         a document read with the wrong encoding, with random characters, or with broken words
    toxic           insults (mild and made up), alone or after a document

The clean documents pass through unchanged and in order; dirty ones are put between them. A few clean documents are equal
by chance (short sums, courtesies), as in any corpus: a filter that finds them is not wrong.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tutelage.errors import RecipeError
from tutelage.records import Document

_MEMORY = 512
"""How many documents back a duplicate's original may lie."""
_MIN_CHARACTERS = {"en": 60, "zh": 24}
"""Shorter documents are not made dirty: a near duplicate of two words would be another text, not a near one."""


def with_dirt(documents: Iterable[Document], *, seed: int, rate: float = 0.05) -> Iterator[Document]:
    """The documents with dirty ones between them, on average `rate` of what comes out; RecipeError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise RecipeError(f"dirt rate is {rate}; choose 0 <= rate < 1")
    recent: deque[Document] = deque(maxlen=_MEMORY)
    for index, document in enumerate(documents):
        yield document
        language = document.meta.get("language", "en")
        if len(document.text) >= _MIN_CHARACTERS.get(language, 60):
            recent.append(document)
        rng = random.Random(f"{seed}:dirt:{index}")
        # One in 1 - rate clean ones is `rate` of the sum; a rate above a half needs more than one after each document.
        expected = rate / (1 - rate)
        for _ in range(int(expected) + (rng.random() < expected % 1)):
            if recent:
                yield dirty(rng.choice(recent), rng.choice(tuple(KINDS)), rng)


def dirty(original: Document, kind: str, rng: random.Random) -> Document:
    """A dirty document of this kind, made from a clean one."""
    language = original.meta.get("language", "en")
    text = KINDS[kind](original.text, language, rng)
    return Document(text=text, source=original.source, meta={"language": language, "dirt": kind})


def duplicate(text: str, language: str, rng: random.Random) -> str:
    return text


def near_duplicate(text: str, language: str, rng: random.Random) -> str:
    parts = re.split(r"(?<=[ \n])", text) if language == "en" else list(text)
    place = rng.randrange(len(parts))
    change = rng.randrange(3)
    if change == 0 and len(parts) > 1:
        changed = parts[:place] + parts[place + 1 :]
    elif change == 1:
        changed = [*parts[: place + 1], *parts[place:]]
    else:
        changed = [*parts, " (copied)" if language == "en" else "（转载）"]
    return "".join(changed)


_BANNERS = {
    "en": (
        "This site uses cookies. Accept all | Settings | Decline", "Click here to read more >>",
        "Home | News | Shop | Login | Help",
        "Subscribe to our newsletter!", "Copyright 2024. All rights reserved.", "Share this page: Mail | Print | Link",
        "You must enable JavaScript to view this page.", "Back to top", "Sign up now and save 20%!",
        "Page 1 of 12 Next >",
    ),
    "zh": (
        "本网站使用Cookie。接受 | 设置 | 拒绝", "点击这里查看更多>>", "首页 | 新闻 | 商店 | 登录 | 帮助",
        "请关注我们的公众号！",
        "版权所有，未经许可不得转载。", "分享到：邮件 | 打印 | 链接", "请开启JavaScript后浏览本页。", "返回顶部",
        "立即注册，优惠20%！",
        "第1页 共12页 下一页",
    ),
}  # fmt: skip


def boilerplate(text: str, language: str, rng: random.Random) -> str:
    banners = rng.sample(_BANNERS[language], rng.randint(2, 5))
    if rng.random() < 0.5:
        banners.insert(rng.randrange(len(banners) + 1), text)
    return "\n".join(banners)


def garbled(text: str, language: str, rng: random.Random) -> str:
    """Chinese read as Windows-1252, or random characters among the letters, or letters lost, swapped and spaced out."""
    if not text.isascii() and rng.random() < 0.6:
        return text.encode().decode("cp1252", errors="replace")
    if rng.random() < 0.5:
        noise = "#@%&*~^|<>{}[]\\\ufffd0123456789xqz"
        return "".join(rng.choice(noise) if rng.random() < 0.4 else letter for letter in text)
    letters = [letter for letter in text if rng.random() > 0.1]
    for i in range(0, len(letters) - 1, 2):
        if rng.random() < 0.5:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letter + " " * (rng.random() < 0.15) for letter in letters)


_INSULTS = {
    "en": (
        "You stupid turnip, shut up!", "What an idiot, go away!", "I hate you, you ugly toad!",
        "Get lost, you dirty old boot!",
        "You are dumb and nobody likes you!", "Only a fool would write such rubbish!", "You are all liars and pigs!",
        "Shut your silly mouth, you worm!",
    ),
    "zh": (
        "你这个笨蛋，闭嘴！", "真是个白痴，滚开！", "我恨你，你这只丑蛤蟆！", "滚吧，你这只破鞋子！",
        "你真蠢，没有人喜欢你！",
        "只有傻瓜才写这种垃圾！", "你们都是骗子，都是猪！", "闭上你的臭嘴，你这条虫！",
    ),
}  # fmt: skip


def toxic(text: str, language: str, rng: random.Random) -> str:
    insults = rng.sample(_INSULTS[language], rng.randint(1, 3))
    line = (" " if language == "en" else "").join(insults)
    return line if rng.random() < 0.4 else f"{text}\n{line}"


KINDS: dict[str, Callable[[str, str, random.Random], str]] = {
    "duplicate": duplicate,
    "near_duplicate": near_duplicate,
    "boilerplate": boilerplate,
    "garbled": garbled,
    "toxic": toxic,
}
"""Kind of dirt -> (text, language, rng) -> dirty text. All kinds are equally frequent."""
