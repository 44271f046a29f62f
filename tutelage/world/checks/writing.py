"""Checks of short pieces of writing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache, partial

from tutelage.world.checks.common import Case, Verdict, expressions, one_of, similarity
from tutelage.world.checks.lists import lists_in
from tutelage.world.facts import Language, people_names
from tutelage.world.reading import CHINESE, LATIN, normal, phrase, says, tokens_of
from tutelage.world.wordings import wordings

TWISTED = 0.3
"""Most that an answer with every name is worth where it denies the fact or swaps who and what."""


def check_summary(case: Case) -> Verdict:
    """The square of the sum of who (0.25), did (0.25), what (0.3) and where (0.2), as far as told; 0.4 of it where other people or
    things are named, at most 0.3 where it is denied or roles are swapped. The limit of words (English) or characters (Chinese)
    is a constraint, worth the fourth power of limit / length.
    """
    check, answer = case.check, case.answer
    told_of = {check["who"], check["thing"], check["town"]}
    told = sum(worth * (check[part] in answer.keys) for part, worth in (("who", 0.25), ("thing", 0.3), ("town", 0.2)))
    told += 0.25 * answer.matches(_event(case))
    new = (answer.keys - told_of) & (case.lexicon.people | case.lexicon.pool("craft") | case.lexicon.pool("town"))
    success = max(0.02, told**2 * (0.4 if new else 1.0))
    if answer.denied & told_of or _roles_swapped(case):
        success = min(success, TWISTED)
    length = sum(map(len, CHINESE.findall(answer.text))) + len(LATIN.findall(answer.text))
    return Verdict(success, constraints=min(1.0, check["limit"] / max(length, 1)) ** 4)


def _event(case: Case) -> re.Pattern[str]:
    """Matches the words that tell what happened."""
    return expressions("tasks_writing", "events", case.language)[case.check["event"]]


def _roles_swapped(case: Case) -> bool:
    """Whether the person is in the town's place or after the deed, or the thing before the deed, unless the answer has a passive.

    A thing that breaks may come first.
    """
    check, language, text = case.check, case.language, case.answer.lower
    who, town, thing = (case.world.name(check[key], language).lower() for key in ("who", "town", "thing"))
    if re.search(rf"\b(?:in|at) {who}\b" if language == "en" else f"在{who}", text):
        return True
    did = [match.start() for match in _event(case).finditer(text)]
    if not did or who not in text or says(text, "passive"):
        return False
    what = re.search(rf"\b{thing}" if language == "en" else thing, text)
    late = what is not None and what.start() < did[0] and check["event"] != "break"
    return late or (town in text and text.find(who) > did[-1])


def check_format(case: Case) -> Verdict:
    """1 for the format with all its items; else 0.35 similarity^2 + 0.12 (share of items kept)."""
    form, items, text = case.check["form"], case.check["items"], case.answer.text
    right = _FORMS[form](text, items)
    if right == 1.0:
        return Verdict(1.0)
    kept = sum(normal(item) in case.answer.normal for item in items) / len(items)
    return Verdict(max(0.02, 0.35 * right**2 + 0.12 * kept))


def _marked(mark: str, text: str, items: list[str]) -> float:
    """Similarity of the best run of marked lines."""
    runs: list[list[str]] = [[]]
    for found in (re.match(mark, line) for line in text.split("\n")):
        if found:
            runs[-1].append(normal(found.group(1)))
        elif runs[-1]:
            runs.append([])
    wanted = [normal(item) for item in items]
    return max(similarity(run, wanted) for run in runs)


def _one_line(text: str, items: list[str]) -> float:
    wanted = [normal(item) for item in items]
    return max((similarity(found, wanted) for line in text.split("\n") for found in lists_in(line)), default=0.0)


def _json(text: str, items: list[str]) -> float:
    """Share of the pairs that the best object in the text has."""
    wanted = {(normal(key), normal(value)) for key, value in zip(items[::2], items[1::2], strict=True)}
    best = 0.0
    for start in [match.start() for match in re.finditer(r"\{", text)][:4]:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start : start + 1000])
        except (ValueError, RecursionError):
            continue
        pairs = {(normal(key), normal(str(value))) for key, value in found.items()}
        best = max(best, len(pairs & wanted) / max(len(pairs | wanted), 1))
    return best


def _upper(text: str, items: list[str]) -> float:
    found = [word for word in LATIN.findall(text) if word.isupper() and len(word) > 1]
    wanted = [item.upper() for item in items]
    whole = any(found[i : i + len(wanted)] == wanted for i in range(len(found)))
    return 1.0 if whole else similarity(found, wanted)


_FORMS: dict[str, Callable[[str, list[str]], float]] = {
    "bullets": partial(_marked, r"\s*[-*•]\s*(.+)"),
    "numbered": partial(_marked, r"\s*\d{1,2}[.)、](?!\d)\s*(.+)"),
    "line": _one_line,
    "json": _json,
    "upper": _upper,
}


def check_translation(case: Case) -> Verdict:
    """1 for every name and value, and the verb, in the target language and nothing else; 0.6 without the verb; at most 0.3 where it
    is denied or turned around, and 0.45 where the source is repeated; else at most 0.45 times the square of the share.
    """
    check, answer = case.check, case.answer
    target: Language = check["target"]
    wanted = set(check["keys"])
    years = {key for key in wanted if key.isdigit()}
    named = case.lexicon.english(answer.text) if target == "en" else case.lexicon.chinese(answer.text)
    found = set(named) | {year for year in years if year in answer.text}
    extra = len(found - wanted)
    if wanted <= found and not extra:
        cue = expressions("tasks_statements", "relations", target).get(check.get("cue", ""))
        most = _faithful(case, [key for key in named if key in wanted])
        return Verdict(min(most, 1.0 if cue is None or answer.matches(cue) else 0.6))
    return Verdict(max(0.02, 0.45 * (len(found & wanted) / len(wanted)) ** 2 / (1 + extra)))


def _faithful(case: Case, named: list[str]) -> float:
    """The most that a translation with every name is worth; `named` are its names in order."""
    check, answer = case.check, case.answer
    if answer.denied & set(check["keys"]):
        return TWISTED
    if "cue" not in check:
        return 1.0
    subject, value = check["keys"]
    first = value if check["cue"] == "town.river" else subject
    years = value.isdigit()
    turned = wordings("checks")["turned"]["value" if first == subject else "town"][check["target"]]
    if named and not years and named[0] != first and not answer.matches(turned):
        return TWISTED
    source = case.lexicon.chinese(answer.text) if check["target"] == "en" else case.lexicon.english(answer.text)
    return 0.45 if {subject, value} - {value if years else ""} <= set(source) else 1.0


def check_grammar(case: Case) -> Verdict:
    """1 for the sentence mended, or for calling a right one right; 0.5 where the mistake is repeated beside it, or a right one only
    repeated; 0.4 for calling right what the answer changes; 0.2 for blaming without mending; else 0.3 similarity^2.
    """
    right, shown = (tokens_of(case.check[key]) for key in ("right", "shown"))
    said = f" {' '.join(case.answer.tokens)} "
    mended, copied = (f" {' '.join(tokens)} " in said for tokens in (right, shown))
    clauses = [clause for _, clause in case.answer.clauses]
    praised = any(says(clause, "sentence_right") for clause in clauses)
    blamed = any(says(c, "sentence_wrong") and not says(c, "sentence_right") for c in clauses)
    near = max((similarity(tokens_of(clause), right) for clause in clauses), default=0.0)
    if right == shown:
        if blamed or not (praised or mended):
            return Verdict(0.03)
        return Verdict(0.5 if not praised else 0.4 if near > 0.6 and not mended else 1.0)
    if praised:
        return Verdict(0.2 if mended else 0.03)
    if mended:
        return Verdict(0.5 if copied else 1.0)
    return Verdict(max(0.02, 0.05 if copied else 0.3 * near**2, 0.2 if blamed and near < 0.5 else 0.0))


def check_label(case: Case) -> Verdict:
    """1 for the label alone, less among others, 0.06 for a wrong one. Feelings of others than the request's people are ignored."""
    feelings, found = expressions("tasks_talk", "feelings", case.language), set()
    asked = set(case.lexicon.keys(case.request.text))
    for sentence, clause in case.answer.clauses:
        if says(clause, "plain_not") or _somebody_else(case, clause, case.answer.sentences[sentence], asked):
            continue
        named = {key: match for key, words in feelings.items() if (match := words.search(clause))}
        found |= {key for key, match in named.items() if not _is_speakers(case, clause[: match.start()])}
    if case.check["label"] in found:
        return Verdict(one_of(len(found)))
    return Verdict(0.06 if len(found) == 1 else 0.02)


def _somebody_else(case: Case, clause: str, sentence: str, asked: set[str]) -> bool:
    """Whether the clause, or else the sentence, names people, but nobody whom the request names."""
    for text in (clause, sentence):
        people = case.lexicon.people & set(case.lexicon.keys(text))
        if people or says(text, "another"):
            return bool(people) and not people & asked
    return False


def _is_speakers(case: Case, before: str) -> bool:
    """Whether the feeling after this text is the speaker's: nobody else is named after "I" or "you"."""
    speakers = list(phrase("speaker").finditer(before))
    if not speakers:
        return False
    between = before[speakers[-1].end() :]
    return not says(between, "another") and not case.lexicon.people & set(case.lexicon.keys(between))


@cache
def _introduces(language: Language) -> re.Pattern[str]:
    """An answer that speaks as the person who greets: "It is me, Leo"."""
    names = "|".join(name[language].lower() for name in people_names().values())
    return re.compile(wordings("checks")["introduces"][language].replace("NAMES", names))


def check_greeting(case: Case) -> Verdict:
    """1 for a fitting reply that names the person, 0.35 for the name alone, 0.3 for the reply alone or as that person."""
    act, name, answer = case.check["act"], case.check["name"], case.answer
    greetings = expressions("tasks_talk", "greetings", case.language)
    acts = {key for key, words in greetings.items() if answer.matches(words)}
    people = answer.keys & case.lexicon.people
    if act in acts and name in people and answer.matches(_introduces(case.language)):
        return Verdict(0.3)
    if act in acts and name in people:
        return Verdict(min(1.0, 2 / len(acts)) * one_of(len(people)))
    if name in people:
        return Verdict(0.35 * one_of(len(people)))
    if act in acts:
        return Verdict(0.3 / (1 + len(people)))
    return Verdict(0.1 if acts and not people else 0.03)


@cache
def _verbs() -> re.Pattern[str]:
    verbs = wordings("checks")["verbs"]
    return re.compile(rf"\b(?:\w+ed|{'|'.join(verbs['en'].split())})\b|[{verbs['zh']}]")


@cache
def _function_words(language: Language) -> frozenset[str]:
    words = wordings("checks")["function_words"][language]
    return frozenset(words.split() if language == "en" else words)


def check_story(case: Case) -> Verdict:
    """(share of the given words)^1.5 times `prose`; more than three names that were not asked for cost."""
    wanted, keys = set(case.check["words"]), case.answer.keys
    share = len(wanted & keys) / len(wanted)
    extra = max(0, len(keys - wanted) - 3)
    return Verdict(max(0.02, share**1.5 * prose(case) / (1 + 0.3 * extra)) if case.answer.tokens else 0.0)


def prose(case: Case) -> float:
    """How far a text consists of sentences, in [0, 1]: several, each with a verb, neither too many nor too few function words, no
    list of words, no sentence that ends in "the".
    """
    sentences, tokens, clauses = case.answer.sentences, case.answer.tokens, case.answer.clauses
    english = case.language == "en"

    def size(text: str) -> int:
        return len(text.split() if english else text)

    glue = sum(token in _function_words(case.language) for token in tokens) / max(len(tokens), 1)
    low, high = (0.25, 0.75) if english else (0.12, 0.6)
    whole = [s for s in sentences if size(s) >= 4 and _verbs().search(s)]
    score = len(whole) / max(len(sentences), 1)
    score *= 1.0 if len(whole) >= 2 else 0.7
    score *= 1.0 if low <= glue <= high else 0.4
    score *= 0.4 if sum(size(clause) <= 2 for _, clause in clauses) > 0.4 * len(clauses) else 1.0
    return score * (0.8 if any(says(s, "dangling") for s in sentences) else 1.0)
