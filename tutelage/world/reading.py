"""How the judge reads an answer: its words, sentences and clauses, and the entities and values of the world that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain

from tutelage.world.facts import RELATIONS, World, every_value, people_names
from tutelage.world.facts import names as every_name
from tutelage.world.wordings import wordings

LATIN = re.compile(r"[A-Za-z]+|\d+")
CHINESE = re.compile(r"[\u3400-\u9fff]+")
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+|[\u3400-\u9fff]")
_SENTENCE_END = re.compile(r"(?:[!?;。\uff01\uff1f\uff1b\n]|\.(?!\d))+")
_CLAUSE_END = re.compile(
    r"[,:、\uff0c\uff1a]|\bbut\b|\bbecause\b|\b(?=(?:and not|rather than|instead of)\b)"
    r"|(?<!\bis)(?<!\bare)(?<!\bwas)(?<!\bdo)(?<!\bdoes)(?<!\bdid)(?<!\bcan)(?<!\bhas)(?<!\bthat) (?=not\b)"
    r"|不过|但是|但|而是|(?=而非|并非)|而(?!非)|因为"
)
"""A "not" that follows what is true (in X and not in Y, X rather than Y) begins a clause of its own. Otherwise it holds for its
whole clause, also for what comes before it: the X does not run through Y."""
_TWICE_NEGATED = re.compile(r"没有?.+就.*[不没]")
"""Without clay there is no cup: a double negation affirms."""
_NOT_SPACE_OR_WORD = re.compile(r"[^\sA-Za-z0-9\u3400-\u9fff]")


@cache
def phrase(name: str) -> re.Pattern[str]:
    """The expression of this name in ``wordings/checks.yaml``, for both languages at once."""
    return re.compile("|".join(chain.from_iterable(wordings("checks")[name].values())))


def says(text: str, *names: str) -> bool:
    """Whether a text in lower case has a phrase of one of these names."""
    return any(phrase(name).search(text) for name in names)


def units(text: str) -> float:
    """The length of a text: 1 per word or number (0.25 more per letter beyond 12), 0.6 per Chinese character, 0.2 per sign."""
    words = LATIN.findall(text)
    chinese = sum(map(len, CHINESE.findall(text)))
    long = sum(max(0, len(word) - 12) for word in words)
    return len(words) + 0.6 * chinese + 0.2 * len(_NOT_SPACE_OR_WORD.findall(text)) + 0.25 * long


def tokens_of(text: str) -> list[str]:
    """Words in lower case, numbers, and single Chinese characters."""
    return _TOKEN.findall(text.lower())


def normal(text: str) -> str:
    """Letters and digits alone, in lower case: equal for texts that differ only in spaces and marks."""
    return "".join(tokens_of(text))


def denies(clause: str) -> bool:
    """Whether a clause (in lower case) is negated."""
    return says(clause, "negation") and not _TWICE_NEGATED.search(clause)


@dataclass(frozen=True)
class Mention:
    """A key that a text names, and whether the clause that names it is negated."""

    key: str
    negated: bool
    sentence: int
    clause: int
    """Index within the whole text."""


class Lexicon:
    """Every surface form of the keys of a world, and of the people, towns, animals and things that it lacks."""

    def __init__(self, world: World) -> None:
        self.world = world
        names = {key: entity.name for kind in RELATIONS for key, entity in world.subjects(kind).items()}
        names |= world.words | people_names() | every_name("towns", "animals", "things")
        english = {name.en.lower(): key for key, name in names.items()}
        for key, name in names.items():
            for form in _inflected(name.en.lower()):
                english.setdefault(form, key)
        chinese = {name.zh: key for key, name in names.items()}
        for key, name in every_name("rivers").items():
            chinese.setdefault(name.zh.removesuffix("河"), key)
        aliases = {
            language: {form: key for form, key in wordings("reading")[language].items() if key in names}
            for language in ("en", "zh")
        }
        self._english, self._chinese = aliases["en"] | english, aliases["zh"] | chinese
        self._longest = max(map(len, self._chinese))
        self._pools = {relation: frozenset([*pool, *every_value(relation)]) for relation, pool in world.pools.items()}
        self.people = self._pools["friend"]
        """Keys of people: of the world, of other worlds, strangers."""

    def pool(self, relation: str) -> frozenset[str]:
        """Every value of a relation, also those that only other worlds hold."""
        return self._pools[relation]

    def english(self, text: str) -> list[str]:
        """Keys that the Latin words and the years of a text name, in order."""
        return [key for key in map(self._english.get, LATIN.findall(text.lower())) if key is not None]

    def chinese(self, text: str) -> list[str]:
        """Keys that the Chinese of a text names, in order; the longest form wins."""
        forms, found = self._chinese, []
        for run in CHINESE.findall(text):
            start = 0
            while start < len(run):
                lengths = range(min(self._longest, len(run) - start), 0, -1)
                length = next((n for n in lengths if run[start : start + n] in forms), 0)
                if length:
                    found.append(forms[run[start : start + length]])
                start += length or 1
        return found

    def keys(self, text: str) -> list[str]:
        """Keys named in either language, and years."""
        years = [word for word in LATIN.findall(text) if len(word) == 4 and word.isdigit()]
        return self.english(text) + self.chinese(text) + years


def _inflected(word: str) -> list[str]:
    """The plural of a singular and the singular of a plural, roughly."""
    forms = [word + "s", word + "es"]
    if word.endswith("s") and word != "leaves":  # to leave is another word
        forms.append(word[:-1])
    if word.endswith("es"):
        forms.append(word[:-2])
    return forms


@dataclass(eq=False)
class Answer:
    """A text as the judge sees it; each view is computed once, at its first use."""

    text: str
    lexicon: Lexicon

    @cached_property
    def lower(self) -> str:
        return self.text.lower().replace("’", "'")

    @cached_property
    def tokens(self) -> list[str]:
        return tokens_of(self.lower)

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
    def keys(self) -> set[str]:
        """All keys that the text names."""
        return {mention.key for mention in self.mentions}

    @cached_property
    def affirmed(self) -> set[str]:
        """Keys that a clause without negation names."""
        return {mention.key for mention in self.mentions if not mention.negated}

    @cached_property
    def denied(self) -> set[str]:
        """Keys that a negated clause names."""
        return {mention.key for mention in self.mentions if mention.negated}

    @cached_property
    def chinese_share(self) -> float | None:
        """Share of Chinese among the letters, a character counting as two Latin letters; None for a text without letters."""
        chinese = 2 * sum(map(len, CHINESE.findall(self.text)))
        latin = sum(len(word) for word in LATIN.findall(self.text) if word.isalpha())
        return None if chinese + latin == 0 else chinese / (chinese + latin)

    def says(self, *names: str) -> bool:
        """Whether the text has a phrase of one of these names."""
        return says(self.lower, *names)

    def matches(self, pattern: re.Pattern[str] | str) -> bool:
        """Whether the text in lower case contains the pattern."""
        return re.search(pattern, self.lower) is not None
