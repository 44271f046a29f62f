"""Deliberate dirt for a data filter to find: each dirty document says in `meta["dirt"]` what is wrong with it.

    duplicate       a copy of an earlier document
    near_duplicate  an earlier document with a word lost, doubled or added
    boilerplate     the furniture of web pages: cookie banners, menus, "click here", alone or around a document
    garbled         a document in the wrong encoding, with random characters, or with broken words
    toxic           insults (mild and made up), alone or after a document

Clean documents pass through unchanged and in order, with dirty ones between them. A few are equal by chance, as in any corpus.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tutelage.errors import RecipeError
from tutelage.records import Document
from tutelage.world.wordings import wordings

_MEMORY = 512
"""How many documents back the original of a duplicate may lie."""
_MIN_CHARACTERS = {"en": 60, "zh": 24}
"""Shorter documents are not made dirty: a near duplicate of two words would be another text."""
_NOISE = "#@%&*~^|<>{}[]\\\ufffd0123456789xqz"


def with_dirt(documents: Iterable[Document], *, seed: int, rate: float = 0.05) -> Iterator[Document]:
    """The documents with dirty ones between them, on average `rate` of the result; RecipeError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise RecipeError(f"dirt rate is {rate}; choose 0 <= rate < 1")
    recent: deque[Document] = deque(maxlen=_MEMORY)
    for index, document in enumerate(documents):
        yield document
        if len(document.text) >= _MIN_CHARACTERS[document.meta.get("language", "en")]:
            recent.append(document)
        rng = random.Random(f"{seed}:dirt:{index}")
        # One dirty per 1 / rate - 1 clean ones; a rate above a half needs more than one after each document.
        expected = rate / (1 - rate)
        for _ in range(int(expected) + (rng.random() < expected % 1)):
            if recent:
                original, kind = rng.choice(recent), rng.choice(tuple(KINDS))
                language = original.meta.get("language", "en")
                text = KINDS[kind](original.text, language, rng)
                yield Document(text=text, source=original.source, meta={"language": language, "dirt": kind})


def duplicate(text: str, language: str, rng: random.Random) -> str:
    return text


def near_duplicate(text: str, language: str, rng: random.Random) -> str:
    parts = re.split(r"(?<=[ \n])", text) if language == "en" else list(text)
    place = rng.randrange(len(parts))
    change = rng.randrange(3)
    if change == 0 and len(parts) > 1:
        del parts[place]
    elif change == 1:
        parts.insert(place, parts[place])
    else:
        parts.append(wordings("dirt")["copied"][language])
    return "".join(parts)


def boilerplate(text: str, language: str, rng: random.Random) -> str:
    banners = rng.sample(wordings("dirt")["banners"][language], rng.randint(2, 5))
    if rng.random() < 0.5:
        banners.insert(rng.randrange(len(banners) + 1), text)
    return "\n".join(banners)


def garbled(text: str, language: str, rng: random.Random) -> str:
    """Chinese read as Windows-1252, or random characters among the letters, or letters lost, swapped and spaced out."""
    if not text.isascii() and rng.random() < 0.6:
        return text.encode().decode("cp1252", errors="replace")
    if rng.random() < 0.5:
        return "".join(rng.choice(_NOISE) if rng.random() < 0.4 else letter for letter in text)
    letters = [letter for letter in text if rng.random() > 0.1]
    for i in range(0, len(letters) - 1, 2):
        if rng.random() < 0.5:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letter + " " * (rng.random() < 0.15) for letter in letters)


def toxic(text: str, language: str, rng: random.Random) -> str:
    insults = rng.sample(wordings("dirt")["insults"][language], rng.randint(1, 3))
    line = (" " if language == "en" else "").join(insults)
    return line if rng.random() < 0.4 else f"{text}\n{line}"


KINDS: dict[str, Callable[[str, str, random.Random], str]] = {
    kind.__name__: kind for kind in (duplicate, near_duplicate, boilerplate, garbled, toxic)
}
"""Kind of dirt -> (text, language, rng) -> dirty text. All kinds are equally frequent."""
