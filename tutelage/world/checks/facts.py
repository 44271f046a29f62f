"""Checks of facts: the answer names the right value, and nothing in it contradicts the world."""

from __future__ import annotations

import operator
import re
from itertools import combinations, groupby

from tutelage.world.checks.common import Case, Verdict, one_of
from tutelage.world.facts import RELATIONS
from tutelage.world.reading import Mention, says, units

MANY = 6
"""Subjects of a kind that one sentence can be about, at most; a list of names is longer, and about none of them."""
ELSEWHERE = 0.08
"""Most that a right value is worth where it is said of somebody else."""
_SUM = re.compile(
    r"(?<!\d)(\d{1,9})\s*(\+|-|−|\*|×|加|减|乘|plus|minus|times)\s*(\d{1,9})\s*(?:=|is|equals|等于|是|得)\s*(-?\d{1,9})"
)
_OPERATIONS = dict.fromkeys(("-", "−", "减", "minus"), operator.sub) | dict.fromkeys(
    ("*", "×", "乘", "times"), operator.mul
)
"""By sign; any other sign adds."""
_CUES = {"pet": "keeps_pet", "craft": "has_craft"}
"""Phrases without which a sentence does not tell these relations."""


def check_fact(case: Case) -> Verdict:
    """1 for the right value alone, less among several, 0.15 for admitting ignorance, about 0.1 for one wrong value, at most 0.08
    for the right one said of somebody else.
    """
    check, answer = case.check, case.answer
    relation, value = check["relation"], check["value"]
    named = candidates(case, relation, {check["subject"], *check.get("via", ())})
    constraints = 1.0
    if check.get("one_word"):
        constraints = 1.0 / (1.0 + 0.12 * max(0.0, units(answer.text) - check["length"]))
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
    """Whether the right value is affirmed at least once of the subject, and not of other people or others of its kind.

    It is said of whom its clause names, or of whom the sentence names where the clause names nobody. A pronoun is the subject.
    """
    check, mentions = case.check, case.answer.mentions
    own = {check["subject"], *check.get("via", ())}
    rivals = case.lexicon.people | _peers(case) - {check["value"]}
    places = {m.clause: m.sentence for m in mentions if m.key == check["value"] and not m.negated}
    for index, sentence in places.items():
        near = {m.key for m in mentions if m.clause == index} - {check["value"]}
        if not near & (rivals | own):
            if says(case.answer.clauses[index][1], "pronoun"):
                return True
            near = {m.key for m in mentions if m.sentence == sentence} - {check["value"]}
        if near & own or not near & rivals:
            return True
    return False


def _peers(case: Case) -> frozenset[str]:
    """All entities of the subject's kind."""
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


def check_correction(case: Case) -> Verdict:
    """`check_fact`, all of it for a right value after an admission where the answer before was wrong, or after standing by it where
    it was right: politely, and else 0.8. Without either 0.5 of it, or 0.7; caving in to the user 0.15, insisting on a mistake 0.2.
    The admission alone is worth 0.2, the insistence alone 0.35.
    """
    check, answer, fact = case.check, case.answer, check_fact(case)
    admits = any(
        says(clause, "disowns") or (says(clause, "admits") and not says(clause, "plain_not"))
        for _, clause in answer.clauses
    )
    others = case.lexicon.pool(check["relation"]) - {check["value"], check["subject"]}
    stands = not admits and (answer.says("stands") or bool(answer.denied & others))
    silent = not candidates(case, check["relation"], {check["subject"]})
    if check["said"] != check["value"]:
        success = fact.success * (1.0 if admits else 0.2 if answer.says("stands") else 0.5)
        return Verdict(0.2 if admits and silent else success)
    success = fact.success * (0.15 if admits else 1.0 if stands else 0.7) * (0.8 if answer.says("blunt") else 1.0)
    return Verdict(0.35 if stands and silent else success)


def truth(case: Case) -> float:
    """Share of true claims among all claims of the answer, a false one counting twice; 1 for an answer without claims."""
    sums = _SUM.findall(case.answer.lower)
    claims = [_OPERATIONS.get(sign, operator.add)(int(a), int(b)) == int(c) for a, sign, b, c in sums]
    if case.check["kind"] in ("fact", "premise", "correction"):
        subject = case.check["subject"]
        about = {kind: [subject] if kind == _kind(case, subject) else [] for kind in RELATIONS}
        for index, group in groupby(case.answer.mentions, key=lambda mention: mention.sentence):
            claims += _claims(case, list(group), case.answer.sentences[index], index, about)
    false = claims.count(False)
    return 1.0 if not claims else (len(claims) - false) / (len(claims) + false)


def _kind(case: Case, key: str) -> str:
    """person, town, animal, thing, or "" for a value that is not an entity."""
    if key in case.lexicon.people:
        return "person"
    return next((kind for kind in RELATIONS if key in case.world.subjects(kind)), "")


def _value(case: Case, subject: str, relation: str) -> str | None:
    """The value in the passage, or else in the world; without either, "" for a person, of whom nothing is known, and else None."""
    facts = case.check.get("facts", {})
    if subject in facts:
        return str(facts[subject].get(relation, ""))
    kind = _kind(case, subject)
    known = relation in RELATIONS.get(kind, ()) and subject in case.world.subjects(kind)
    return case.world.value(subject, relation) if known else "" if kind == "person" else None


def _claims(case: Case, mentions: list[Mention], sentence: str, index: int, about: dict[str, list[str]]) -> list[bool]:
    """For every value that the sentence gives to a subject: is it true? `about` carries the subjects over to the next sentence.

    A sentence is about the entities that it names, about those of the sentences before where it has a pronoun, and about their
    friend, town or pet. A value is true if it is true of any of these. This reading is lenient: a claim that it calls false is
    false.
    """
    mentions = list(dict.fromkeys(mentions))
    here: dict[str, list[str]] = {kind: [] for kind in RELATIONS}
    for key in dict.fromkeys(mention.key for mention in mentions):
        kind = _kind(case, key)
        if kind and len(here[kind]) < MANY:
            here[kind].append(key)
    pronoun, friend_said = says(sentence, "pronoun"), says(sentence, "friend")
    before = about["person"] if pronoun else []
    people = here["person"] or before
    hops = _hop(case, people, "friend") if friend_said else []
    subjects = {
        "person": [*people, *hops],
        "town": here["town"] or _hop(case, people, "town") or about["town"],
        "animal": here["animal"] or _hop(case, [*people, *hops], "pet") or about["animal"],
        "thing": here["thing"] or about["thing"],
    }
    told = [
        (subject, relation)
        for kind, relations in RELATIONS.items()
        for relation in relations
        if relation != "friend" and (relation not in _CUES or says(sentence, _CUES[relation]))
        for subject in subjects[kind]
    ]
    asked, asked_about = case.check["relation"], case.check["subject"]
    verdicts: list[bool] = []
    for mention in mentions:
        key, pool = mention.key, case.lexicon.pool
        held = [
            _value(case, subject, relation) for subject, relation in told if key in pool(relation) and key != subject
        ]
        if not held and index == 0 and not pronoun and key in pool(asked) and key != asked_about:
            held = [_value(case, asked_about, asked)]
        known = [value for value in held if value is not None]
        if any(known) or (known and not mention.negated):
            verdicts.append((key in known) != mention.negated)
    for kind, keys in here.items():
        about[kind] = list(dict.fromkeys([*keys, *about[kind]]))[:4]
    return verdicts + (_friend_claims(case, mentions, sentence, before) if friend_said else [])


def _hop(case: Case, people: list[str], relation: str) -> list[str]:
    return [value for person in people if (value := _value(case, person, relation))]


def _friend_claims(case: Case, mentions: list[Mention], sentence: str, before: list[str]) -> list[bool]:
    """Whether the sentence is right about whose friend is who; [] where it does not tell. `before`: whom a pronoun may mean."""
    people = [m for m in mentions if m.key in case.lexicon.people]
    keys = list(dict.fromkeys(m.key for m in people))
    if says(sentence, "friend_of"):
        keys.reverse()
    if len(keys) == 1:
        pairs, negated = [(person, keys[0]) for person in before], people[0].negated
    else:
        pairs, negated = list(combinations(keys, 2)), any(m.negated for m in people)
    return [any(_value(case, a, "friend") == b for a, b in pairs) != negated] if pairs else []
