"""Checks of facts: was the right value named, and did nothing that was said contradict the world?"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from itertools import groupby

from tutelage.world.checks.common import Case, Verdict, one_of
from tutelage.world.facts import RELATIONS
from tutelage.world.reading import Mention, phrase, says

MANY = 6
"""Subjects of a kind that one sentence can be about; a list of names goes on for longer, and is about none of them."""
ELSEWHERE = 0.08
"""Most that a right value is worth that is said of somebody else."""
_SUM = re.compile(
    r"(?<!\d)(\d{1,9})\s*(\+|-|−|\*|×|加|减|乘|plus|minus|times)\s*(\d{1,9})\s*(?:=|is|equals|等于|是|得)\s*(-?\d{1,9})"
)
_OPERATIONS = dict.fromkeys(("-", "−", "减", "minus"), operator.sub) | dict.fromkeys(
    ("*", "×", "乘", "times"), operator.mul
)
"""By sign; any other sign adds."""


def check_fact(case: Case) -> Verdict:
    """1 for the right value alone, less among candidates, 0.15 for admitting ignorance, about 0.1 for one wrong value, and for the
    right one said of somebody else.
    """
    check, answer = case.check, case.answer
    relation, value = check["relation"], check["value"]
    named = candidates(case, relation, {check["subject"], *check.get("via", ())})
    constraints = 1.0
    if check.get("one_word"):
        constraints = 1.0 / (1.0 + 0.12 * max(0.0, answer.units - check["length"]))
    ignorant = answer.says("ignorance")
    if value in named:
        most = 1.0 if said_of_subject(case) else ELSEWHERE
        return Verdict(min(most, one_of(len(named)) * (0.5 if ignorant else 1.0)), constraints)
    way = 0.08 if "via" in check and check["subject"] in answer.keys else 0.0
    if named:
        near = 0.04 if relation == "born" and any(year[:3] == value[:3] for year in named) else 0.0
        return Verdict((0.1 + near + way) / len(named), constraints)
    if ignorant:
        return Verdict(0.15 + way, constraints)
    return Verdict(0.02 + way + (0.03 if check["subject"] in answer.keys else 0.0), constraints)


def candidates(case: Case, relation: str, besides: set[str]) -> set[str]:
    """The values of a relation that the answer names without denying them."""
    return (case.answer.affirmed & case.lexicon.pool(relation)) - besides


def said_of_subject(case: Case) -> bool:
    """Whether the right value is said at least once without a no of the subject, and not of others of its kind or other people.

    It is said of those whom its clause names, or where that has a pronoun or nobody, of those whom the sentence names.
    """
    check, mentions = case.check, case.answer.mentions
    own = {check["subject"], *check.get("via", ())}
    rivals = case.lexicon.people | _peers(case) - {check["value"]}
    for index, sentence in {
        m.clause: m.sentence for m in mentions if m.key == check["value"] and not m.negated
    }.items():
        near = {m.key for m in mentions if m.clause == index} - {check["value"]}
        if not near & (rivals | own):
            if phrase("pronoun").search(case.answer.clauses[index][1]):
                return True
            near = {m.key for m in mentions if m.sentence == sentence} - {check["value"]}
        if near & own or not near & rivals:
            return True
    return False


def _peers(case: Case) -> frozenset[str]:
    """Everything of the kind of the subject."""
    kinds = {"town": "town", "animal": "pet", "thing": "craft"}
    return case.lexicon.pool(kinds.get(_kind(case, case.check["subject"]), "friend"))


def check_premise(case: Case) -> Verdict:
    """1 for denying the premise and giving the true value, 0.7 for the value alone, 0.25 to 0.4 for the denial alone."""
    check, answer = case.check, case.answer
    value, premise = check["value"], check["premise"]
    named = candidates(case, check["relation"], {check["subject"]})
    explicit = premise in answer.denied
    others = len(named - {value, premise})
    if premise in named:
        return Verdict(0.1 if value in named else 0.03, truth=0.0)
    if value in named:
        most = 1.0 if said_of_subject(case) else ELSEWHERE
        return Verdict(min(most, (1.0 if explicit or answer.says("not_so") else 0.7) * one_of(1 + others)))
    denial = 0.4 if explicit else 0.25 if answer.says("not_so") else 0.15 if answer.says("ignorance") else 0.03
    return Verdict(denial * (0.3 if others else 1.0))


def truth(case: Case) -> float:
    """Share of true claims among those that the answer makes, a false one counting double; 1 where it makes none."""
    claims = _arithmetic(case)
    if case.check["kind"] in ("fact", "premise"):
        subject = case.check["subject"]
        about = {kind: [subject] if kind == _kind(case, subject) else [] for kind in RELATIONS}
        for index, group in groupby(case.answer.mentions, key=lambda mention: mention.sentence):
            claims += _claims(case, list(group), case.answer.sentences[index], index, about)
    false = claims.count(False)
    return 1.0 if not claims else (len(claims) - false) / (len(claims) + false)


def _arithmetic(case: Case) -> list[bool]:
    """For every calculation in the answer: is it right?"""
    found = _SUM.findall(case.answer.lower)
    return [_OPERATIONS.get(sign, operator.add)(int(a), int(b)) == int(c) for a, sign, b, c in found]


def _kind(case: Case, key: str) -> str:
    """person, town, animal, thing, or "" for a value that is no entity."""
    if key in case.lexicon.people:
        return "person"
    return next((kind for kind in RELATIONS if key in case.world.subjects(kind)), "")


def _value(case: Case, subject: str, relation: str) -> str | None:
    """The value in the passage, or else in the world; where neither tells "" of people, of whom nothing then is known, and None
    of all else.
    """
    facts = case.check.get("facts", {})
    if subject in facts:
        return str(facts[subject].get(relation, ""))
    kind = _kind(case, subject)
    known = relation in RELATIONS.get(kind, ()) and subject in case.world.subjects(kind)
    return case.world.value(subject, relation) if known else "" if kind == "person" else None


def _claims(
    case: Case, mentions: list[Mention], sentence: str, index: int, about: dict[str, list[str]]
) -> Iterable[bool]:
    """For every value that the sentence gives a subject: is it so? `about` carries the subjects on to the next sentence.

    A sentence is about the entities that it names, about those of the sentence before where it has a pronoun, and about their
    friend, town or pet. A value is true if it is true of any of these: the reading is a lenient one, and a claim that it calls
    false is false.
    """
    here: dict[str, list[str]] = {kind: [] for kind in RELATIONS}
    mentions = list(dict.fromkeys(mentions))
    for key in dict.fromkeys(mention.key for mention in mentions):
        kind = _kind(case, key)
        if kind and len(here[kind]) < MANY:
            here[kind].append(key)
    pronoun = says(sentence, "pronoun")
    people = here["person"] or (about["person"] if pronoun else [])
    friend_said = says(sentence, "friend")
    hops = _hop(case, people, "friend") if friend_said else []
    subjects = {
        "person": [*people, *hops],
        "town": here["town"] or _hop(case, people, "town") or about["town"],
        "animal": here["animal"] or _hop(case, [*people, *hops], "pet") or about["animal"],
        "thing": here["thing"] or about["thing"],
    }
    bare = index == 0 and not pronoun
    verdicts: list[bool] = []
    for mention in mentions:
        held = [
            _value(case, subject, relation)
            for kind, relations in RELATIONS.items()
            for relation in relations
            if mention.key in case.lexicon.pool(relation) and relation != "friend"
            and not (relation == "pet" and not says(sentence, "keeps_pet"))
            and not (relation == "craft" and not says(sentence, "has_craft"))
            for subject in subjects[kind] if subject != mention.key
        ]  # fmt: skip
        asked = case.check["relation"]
        if not held and bare and mention.key in case.lexicon.pool(asked) and mention.key != case.check["subject"]:
            held = [_value(case, case.check["subject"], asked)]
        known = [value for value in held if value is not None]
        if any(known) or (known and not mention.negated):
            verdicts.append((mention.key in known) != mention.negated)
    if friend_said:
        friend = _friend_claim(case, mentions, sentence, about["person"] if pronoun else [])
        verdicts += [] if friend is None else [friend]
    for kind, keys in here.items():
        about[kind] = list(dict.fromkeys([*keys, *about[kind]]))[:4]
    return verdicts


def _hop(case: Case, people: list[str], relation: str) -> list[str]:
    return [value for person in people if (value := _value(case, person, relation))]


def _friend_claim(case: Case, mentions: list[Mention], sentence: str, before: list[str]) -> bool | None:
    """Whether the sentence is right about whose friend is who; None where it does not name two people.

    `before` are the people whom a pronoun may mean; [] where there is no pronoun.
    """
    people = [m for m in mentions if m.key in case.lexicon.people]
    keys = list(dict.fromkeys(m.key for m in people))
    if len(keys) == 1:
        right = any(_value(case, person, "friend") == keys[0] for person in before)
        return None if not before else right != people[0].negated
    if len(keys) < 2:
        return None
    ordered = keys[::-1] if says(sentence, "friend_of") else keys
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
    return any(_value(case, a, "friend") == b for a, b in pairs) != any(m.negated for m in people)
