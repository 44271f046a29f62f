"""Checks of sums and lists."""

from __future__ import annotations

import re

from tutelage.world.checks.common import Case, Verdict, one_of, similarity
from tutelage.world.reading import LATIN, denies, normal, phrase, says
from tutelage.world.wordings import wordings

_STEP = re.compile(r"(\d{1,9})\s*\+\s*(\d{1,9})\s*=\s*(\d{1,9})")
_OTHER_STEP = re.compile(
    r"(?<!\d)\d{1,9}\s*(?:[-−*×减乘]|minus|times)\s*\d{1,9}\s*(?:=|is|equals|等于|是|得)\s*-?\d{1,9}", re.I
)
"""Differences and products, which are not sums."""
_NUMBER = re.compile(r"(?:(?<![\d\s])|(?<!\S))[-−]\d{1,9}|\d{1,9}")
_BREAK = re.compile(r"[.!?](?:\s|$)|[。\uff01\uff1f:\uff1a\n]")
_COMMA = re.compile(r"[,;、\uff0c\uff1b]|\band\b|和")
_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)](?!\d)|\d{1,2}、(?=[^\d\s]))\s*")
_ARTICLE = re.compile(r"^\s*(?:an?|the)\s+", re.I)


def check_sum(case: Case) -> Verdict:
    """1 for the sum as the only result, less among others; up to 0.12 for a number near it. Intermediate steps are
    not results, nor is what the answer denies, subtracts or multiplies.
    """
    a, b = case.check["a"], case.check["b"]
    total = a + b
    text = _OTHER_STEP.sub(" ", " ; ".join(clause for _, clause in case.answer.clauses if not denies(clause)))
    steps = [match for match in _STEP.finditer(text) if {match[1], match[2]} != {str(a), str(b)}]
    for step in steps:
        text = text.replace(step[0], " ")
    found = {int(number.replace("−", "-")) for number in _NUMBER.findall(text)} - {a, b}
    if not found and steps:
        found = {int(steps[-1][3])}
    if total in found:
        return Verdict(one_of(len(found)))
    if len(found) != 1:
        return Verdict(0.02)
    off = abs(found.pop() - total)
    return Verdict(0.12 if off in (1, 10) else 0.09 if off % 10 == 0 or off <= 3 else 0.05 if off <= 20 else 0.03)


def lists_in(text: str) -> list[list[str]]:
    """All lists that the text can be read as: its lines, each sentence, and what follows "is" or "are" in a sentence, split at
    commas or else at spaces.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    found = [[_item(line) for line in lines]] if len(lines) > 1 else []
    marked = [_item(line) for line in lines if _MARK.match(line)]
    if len(marked) > 1:
        found.append(marked)
    parts = _BREAK.split(_MARK.sub("", text))
    for part in [*parts, *(part[match.end() :] for part in parts if (match := phrase("copula").search(part)))]:
        items = [_item(item) for item in _COMMA.split(part) if item.strip()]
        found.append([_item(item) for item in part.split()] if len(items) == 1 else items)
    return [items for items in found if any(items)]


def _item(text: str) -> str:
    return normal(_ARTICLE.sub("", _MARK.sub("", text)))


def check_sequence(case: Case) -> Verdict:
    """1 for the list in its order; 0.4 times the square of its similarity for another; less where several orders are given."""
    expected = [normal(item) for item in case.check["items"]]
    lists = lists_in(case.answer.text)
    wanted = sorted(expected)
    orders = {tuple(items) for items in lists if sorted(items) == wanted}
    best = max((similarity(items, expected) for items in lists), default=0.0)
    if tuple(expected) in orders:
        return Verdict(one_of(len(orders)))
    return Verdict(0.4 * best**2 * one_of(len(orders)))


def check_items(case: Case) -> Verdict:
    """1 for exactly the items that were to be found; 0.45 F1^2 for others (F1: harmonic mean of precision and recall). An item
    that the answer calls absent does not count as found.
    """
    expected, answer = set(case.check["items"]), case.answer
    denied = {i for i, sentence in enumerate(answer.sentences) if says(sentence, "not_there")}
    found = {m.key for m in answer.mentions if not m.negated and m.sentence not in denied}
    if found == expected:
        return Verdict(1.0)
    f1 = 2 * len(found & expected) / (len(found) + len(expected))
    return Verdict(max(0.02, 0.45 * f1**2))


def check_brainstorm(case: Case) -> Verdict:
    """1 for n different things of the kind and nothing else; 0.8 (share found)^1.5 precision for others; n is a constraint, in
    which unknown items count too.
    """
    relation, n, lexicon = case.check["relation"], case.check["n"], case.lexicon
    pool, more = lexicon.pool(relation), wordings("tasks_lists")["more_ideas"].get(relation, {})
    common = set(" ".join(more.values()).split())
    words = {item for items in lists_in(case.answer.lower)[:4] for item in items if item in common}
    keys = {word: next(iter(lexicon.keys(word)), word) for word in words}
    mentions = case.answer.affirmed
    found = (mentions & pool) | set(keys.values())
    strange = _unknown_items(case, words)
    foreign, count = len(mentions - found) + strange, len(found)
    if count == n and not foreign:
        return Verdict(1.0)
    share, precision = min(count, n) / n, count / max(count + foreign, 1)
    return Verdict(max(0.02, 0.8 * share**1.5 * precision), constraints=min(1.0, n / max(count + strange, 1)) ** 2)


def _unknown_items(case: Case, known: set[str]) -> int:
    """How many short entries (one or two words, up to four Chinese characters) of the answer's lists name nothing known.

    An entry that is a sentence of its own is an exclamation, and the first of these is free.
    """
    strange: set[str] = set()
    loose: set[str] = set()
    for line in case.answer.lower.split("\n"):
        marked = _MARK.match(line) is not None
        for part in _BREAK.split(_MARK.sub("", line)):
            entries = [entry for entry in map(_plain, _COMMA.split(part)) if entry]
            if len(entries) == 1:
                entries = _words_of_list(case, entries[0], known)
            named = [entry for entry in entries if _is_known(case, entry, known)]
            unknown = {entry for entry in entries if entry not in named and _is_short(entry)}
            if not named and not all(map(_is_short, entries)):
                continue  # So, to say it again
            (strange if marked or len(entries) > 1 else loose).update(unknown)
    return len(strange | set(sorted(loose - strange)[1:]))


def _words_of_list(case: Case, entry: str, known: set[str]) -> list[str]:
    """The words of an entry that is a list without commas: at least two are known, and none belongs to grammar."""
    words = entry.split()
    is_list = not says(entry, "grammar") and sum(_is_known(case, word, known) for word in words) >= 2
    return words if is_list else [entry]


def _plain(entry: str) -> str:
    return _ARTICLE.sub("", entry).strip(" \t*-•\"'()!~")


def _is_short(entry: str) -> bool:
    words = LATIN.findall(entry)
    if phrase("filler").fullmatch(entry) or entry.isdigit():
        return False
    return len(words) <= 2 if words else 0 < len(entry) <= 4


def _is_known(case: Case, entry: str, known: set[str]) -> bool:
    """Whether an entry names anything; what is of another kind counts as foreign already."""
    return normal(entry) in known or bool(case.lexicon.keys(entry))
