"""How a judge reads an answer: its words, sentences and clauses, and which entities and values of the world it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tutelage.world.facts import (
    ANIMALS,
    COLOURS,
    FOODS,
    HABITATS,
    JOBS,
    MATERIALS,
    MEALS,
    MEN,
    REGIONS,
    RELATIONS,
    RIVERS,
    STRANGERS,
    THINGS,
    TOWNS,
    USES,
    WOMEN,
    YEARS,
    Language,
    World,
)

LATIN = re.compile(r"[A-Za-z]+|\d+")
CHINESE = re.compile(r"[\u3400-\u9fff]+")
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+|[\u3400-\u9fff]")
_SENTENCE_END = re.compile(r"(?:[!?;。\uff01\uff1f\uff1b\n]|\.(?!\d))+")
_CLAUSE_END = re.compile(
    r"[,:、\uff0c\uff1a]|\bbut\b|\bbecause\b|\b(?=(?:and not|rather than|instead of)\b)"
    r"|(?<!\bis)(?<!\bare)(?<!\bwas)(?<!\bdo)(?<!\bdoes)(?<!\bdid)(?<!\bcan)(?<!\bhas)(?<!\bthat) (?=not\b)"
    r"|不过|但是|但|而是|(?=而非|并非)|而(?!非)|因为"
)
"""A no that follows what is so (in X and not in Y, X rather than Y) begins a clause of its own. Else it holds for all of its
clause, and for what stands before it too: the X does not run through Y."""
_NEGATION = re.compile(
    r"\bnot\b|n't\b|\bnever\b|\bneither\b|\bnor\b|\bcannot\b|\bfalse\b|\bwrong\b|\bnobody\b|\bno one\b"
    r"|\brather than\b|\binstead of\b|不|没|未|并非|绝非|而非",
    re.I,
)
_TWICE_NEGATED = re.compile(r"没有?.+就.*[不没]")
"""Without clay no cup: what is named is so."""
_NOT_SPACE_OR_WORD = re.compile(r"[^\sA-Za-z0-9\u3400-\u9fff]")

ALIASES: dict[Language, dict[str, str]] = {
    "en": {
        "wooden": "wood", "woollen": "wool", "gray": "grey", "northern": "north", "southern": "south", "eastern": "east",
        "western": "west", "leaf": "leaves", "berry": "berries",
    },
    "zh": {
        "红": "red", "蓝": "blue", "绿": "green", "黄": "yellow", "白": "white", "黑": "black", "棕": "brown",
        "褐色": "brown", "灰": "grey", "木": "wood", "铁": "iron", "面包师": "baker",
        "陶": "clay", "银": "silver", "北部": "north", "南部": "south",
        "东部": "east", "西部": "west", "北边": "north", "南边": "south", "东边": "east", "西边": "west", "湖": "lake",
        "猫": "cat", "狗": "dog", "驴": "donkey", "羊": "goat", "兔": "rabbit", "鸭": "duck", "鱼": "fish",
        "草": "grass", "叶子": "leaves", "虫": "insects", "蛋": "eggs", "汤": "soup", "粥": "porridge",
        "鼓": "drum", "钟": "clock", "杯": "cup", "帽": "hat", "伞": "umbrella", "瓶": "bottle", "桌": "table",
        "椅": "chair", "笛": "flute",
    },
}  # fmt: skip
"""Further surface forms, and the keys that they mean."""


_EVERY: dict[str, Iterable[str]] = {
    "town": TOWNS, "job": JOBS, "pet": ANIMALS, "friend": [*WOMEN, *MEN, *STRANGERS], "food": FOODS,
    "born": [str(year) for year in YEARS], "region": REGIONS, "river": RIVERS, "craft": THINGS, "eats": MEALS,
    "habitat": HABITATS, "colour": COLOURS, "material": MATERIALS, "use": USES,
}  # fmt: skip
"""What a relation can have for values in any world."""


def units(text: str) -> float:
    """How long a text is: 1 a Latin word or number (and 0.25 each letter beyond 12), 0.6 a Chinese character, 0.2 a sign."""
    words = LATIN.findall(text)
    chinese = sum(map(len, CHINESE.findall(text)))
    long = sum(max(0, len(word) - 12) for word in words)
    return len(words) + 0.6 * chinese + 0.2 * len(_NOT_SPACE_OR_WORD.findall(text)) + 0.25 * long


def normal(text: str) -> str:
    """Letters and digits alone, in lower case: equal for texts that differ in spaces and marks."""
    return "".join(_TOKEN.findall(text.lower()))


def denies(clause: str) -> bool:
    """Whether a clause (in lower case) says no."""
    return _NEGATION.search(clause) is not None and not _TWICE_NEGATED.search(clause)


@dataclass(frozen=True)
class Mention:
    """A key named by a text, and whether the clause that names it says no."""

    key: str
    negated: bool
    sentence: int
    clause: int
    """Counted through the whole text."""


class Lexicon:
    """Every surface form of a world, and of the people and towns that it does not hold, and the keys that they mean."""

    def __init__(self, world: World) -> None:
        self.world = world
        names = {key: entity.name for kind in RELATIONS for key, entity in world.subjects(kind).items()}
        names |= (
            world.words | WOMEN | MEN | TOWNS | ANIMALS | THINGS | {key: name for key, (name, _) in STRANGERS.items()}
        )
        english = {name.en.lower(): key for key, name in names.items()}
        for key, name in names.items():
            for form in _inflected(name.en.lower()):
                english.setdefault(form, key)
        chinese = {name.zh: key for key, name in names.items()}
        for key, name in RIVERS.items():
            chinese.setdefault(name.zh.removesuffix("河"), key)
        self._forms: dict[Language, Mapping[str, str]] = {
            "en": english | {form: key for form, key in ALIASES["en"].items() if key in names and form not in english},
            "zh": {form: key for form, key in ALIASES["zh"].items() if key in names} | chinese,
        }
        self._longest = max(map(len, self._forms["zh"]))
        self._pools = {relation: frozenset([*pool, *_EVERY[relation]]) for relation, pool in world.pools.items()}
        self.people = self._pools["friend"]
        """Keys of people: of the world, of other worlds, strangers."""

    def pool(self, relation: str) -> frozenset[str]:
        """Every value of a relation, also those that only other worlds hold."""
        return self._pools[relation]

    def forms(self, language: Language) -> Mapping[str, str]:
        """surface form (lower case) -> key"""
        return self._forms[language]

    def english(self, text: str) -> list[str]:
        """Keys that the Latin words and the years of a text name, in order."""
        forms = self._forms["en"]
        return [key for key in map(forms.get, LATIN.findall(text.lower())) if key is not None]

    def chinese(self, text: str) -> list[str]:
        """Keys that the Chinese of a text names, in order: always the longest form that fits."""
        return [key for run in CHINESE.findall(text) for key in self._chinese_run(run)]

    def _chinese_run(self, run: str) -> list[str]:
        forms, found, start = self._forms["zh"], [], 0
        while start < len(run):
            for length in range(min(self._longest, len(run) - start), 0, -1):
                key = forms.get(run[start : start + length])
                if key is not None:
                    found.append(key)
                    start += length
                    break
            else:
                start += 1
        return found

    def keys(self, text: str) -> list[str]:
        """Keys named in either language, and years."""
        years = [word for word in LATIN.findall(text) if len(word) == 4 and word.isdigit()]
        return self.english(text) + self.chinese(text) + years


def _inflected(word: str) -> list[str]:
    """Plural of a singular and singular of a plural, roughly."""
    forms = [word + "s", word + "es"]
    if word.endswith("s") and word != "leaves":  # to leave is another word
        forms.append(word[:-1])
    if word.endswith("es"):
        forms.append(word[:-2])
    return forms


class Answer:
    """A text as the judge sees it; every view of it is computed once, when first asked for."""

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text = text
        self.lexicon = lexicon

    @cached_property
    def lower(self) -> str:
        return self.text.lower().replace("’", "'")

    @cached_property
    def tokens(self) -> list[str]:
        """Lower-case words and numbers, and single Chinese characters."""
        return _TOKEN.findall(self.lower)

    @cached_property
    def units(self) -> float:
        return units(self.text)

    @cached_property
    def normal(self) -> str:
        return "".join(self.tokens)

    @cached_property
    def sentences(self) -> list[str]:
        """Lower case, without their marks."""
        return [part.strip() for part in _SENTENCE_END.split(self.lower) if part.strip()]

    @cached_property
    def clauses(self) -> list[tuple[int, str]]:
        """(index of the sentence, clause), in lower case."""
        parts = ((i, part.strip()) for i, text in enumerate(self.sentences) for part in _CLAUSE_END.split(text))
        return [(i, part) for i, part in parts if part]

    @cached_property
    def mentions(self) -> list[Mention]:
        found = []
        for index, (sentence, clause) in enumerate(self.clauses):
            keys = self.lexicon.keys(clause)
            if keys:
                negated = denies(clause)
                found += [Mention(key, negated, sentence, index) for key in keys]
        return found

    @cached_property
    def chinese_share(self) -> float | None:
        """Share of Chinese among the letters, one character counting as 2 Latin letters; None where there are none."""
        chinese = 2 * sum(map(len, CHINESE.findall(self.text)))
        latin = sum(len(word) for word in LATIN.findall(self.text) if word.isalpha())
        return None if chinese + latin == 0 else chinese / (chinese + latin)

    def says(self, pattern: re.Pattern[str]) -> bool:
        return pattern.search(self.lower) is not None
