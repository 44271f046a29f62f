"""Checks of short pieces of writing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tutelage.world.checks.common import Case, Verdict, one_of, similarity
from tutelage.world.checks.lists import lists_in
from tutelage.world.facts import MEN, STRANGERS, WOMEN, Language
from tutelage.world.reading import CHINESE, LATIN, normal
from tutelage.world.tasks.talk import FEELINGS, GREETINGS
from tutelage.world.tasks.wording import WORDINGS
from tutelage.world.tasks.writing import EVENT_CUES

_CUES: dict[str, dict[str, re.Pattern[str]]] = {
    language: {key: re.compile(words.cue) for key, words in table.items()} for language, table in WORDINGS.items()
}
_EVENTS = {language: {key: re.compile(cue) for key, cue in table.items()} for language, table in EVENT_CUES.items()}
_LABELS: dict[Language, dict[str, re.Pattern[str]]] = {
    language: {key: re.compile(sides[language][1]) for key, sides in FEELINGS.items()} for language in ("en", "zh")
}
_ACTS: dict[Language, dict[str, re.Pattern[str]]] = {
    language: {key: re.compile(sides[language][1]) for key, sides in GREETINGS.items()} for language in ("en", "zh")
}
_ACTS["en"]["bye"] = re.compile(GREETINGS["bye"]["en"][1] + r"|\bgood ?bye")
_SPEAKER = re.compile(r"\b(?:i|me|we|you)\b|[我您你]|让人")
"""Whose feelings nobody asked for: "I am happy to help"; but "I think she is happy" tells of another."""
_ANOTHER = re.compile(r"\b(?:she|he|they|it)\b|\b(?:feeling|mood)\b|[她他它]|心情|感觉是|感受")
TWISTED = 0.3
"""Most that what names everything is worth where it denies it, or swaps who and what."""
_NOT = re.compile(r"\bnot\b|n't\b|\bnever\b|不|没")


def check_summary(case: Case) -> Verdict:
    """The square of what is told of who (0.25), did (0.25), what (0.3) and where (0.2); other things and people cost; at most 0.3
    where it is denied or roles are swapped; the limit of words (English) or characters (Chinese) is a constraint, met or
    missed by the fourth power of limit / length.
    """
    check, answer = case.check, case.answer
    keys = {mention.key for mention in answer.mentions}
    told_of = {check["who"], check["thing"], check["town"]}
    told = 0.25 * (check["who"] in keys) + 0.3 * (check["thing"] in keys) + 0.2 * (check["town"] in keys)
    told += 0.25 * answer.says(_EVENTS[case.language][check["event"]])
    lexicon = case.lexicon
    new = [
        key for key in keys - told_of
        if key in lexicon.people or key in lexicon.pool("craft") or key in lexicon.pool("town")
    ]  # fmt: skip
    success = max(0.02, told**2 * (0.4 if new else 1.0))
    if any(m.negated and m.key in told_of for m in answer.mentions) or _roles_swapped(case):
        success = min(success, TWISTED)
    length = sum(map(len, CHINESE.findall(answer.text))) + len(LATIN.findall(answer.text))
    return Verdict(success, constraints=min(1.0, check["limit"] / max(length, 1)) ** 4)


def _roles_swapped(case: Case) -> bool:
    """Whether the person stands where the town belongs or after the deed, or the thing before the deed; a passive may have both so.

    Where something breaks, it may be named first.
    """
    check, language, text = case.check, case.language, case.answer.lower
    who, town, thing = (case.world.name(check[key], language).lower() for key in ("who", "town", "thing"))
    if re.search(rf"\b(?:in|at) {who}\b" if language == "en" else f"在{who}", text):
        return True
    did = [match.start() for match in _EVENTS[language][check["event"]].finditer(text)]
    if not did or who not in text or _PASSIVE.search(text):
        return False
    what = re.search(rf"\b{thing}" if language == "en" else thing, text)
    late = what is not None and what.start() < did[0] and check["event"] != "break"
    return late or (town in text and text.find(who) > did[-1])


_PASSIVE = re.compile(r"\bby\b|[被把将由]")


def check_format(case: Case) -> Verdict:
    """1 for the format with all its items; else 0.35 times the square of its similarity, and 0.12 times the share of items kept."""
    form, items, text = case.check["form"], case.check["items"], case.answer.text
    right = _FORMS[form](text, items)
    if right == 1.0:
        return Verdict(1.0)
    kept = sum(normal(item) in case.answer.normal for item in items) / len(items)
    return Verdict(max(0.02, 0.35 * right**2 + 0.12 * kept))


def _marked(pattern: str) -> Callable[[str, list[str]], float]:
    mark = re.compile(pattern)

    def right(text: str, items: list[str]) -> float:
        """Of the best run of marked lines."""
        runs: list[list[str]] = [[]]
        for found in map(mark.match, text.split("\n")):
            if found:
                runs[-1].append(normal(found.group(1)))
            elif runs[-1]:
                runs.append([])
        wanted = [normal(item) for item in items]
        return max(similarity(run, wanted) for run in runs)

    return right


def _one_line(text: str, items: list[str]) -> float:
    wanted = [normal(item) for item in items]
    return max((similarity(found, wanted) for line in text.split("\n") for found in lists_in(line)), default=0.0)


def _json(text: str, items: list[str]) -> float:
    """Share of the pairs, of the best object in the text."""
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
    "bullets": _marked(r"\s*[-*•]\s*(.+)"),
    "numbered": _marked(r"\s*\d{1,2}[.)、](?!\d)\s*(.+)"),
    "line": _one_line,
    "json": _json,
    "upper": _upper,
}


def check_translation(case: Case) -> Verdict:
    """1 for every name and value, and the verb, in the target language and nothing else; 0.6 without the verb; 0.3 at most where it
    is denied or said the wrong way round, and 0.45 where the source stands there too; else at most 0.45 times the square of the
    share.
    """
    check, answer = case.check, case.answer
    target: Language = check["target"]
    wanted = set(check["keys"])
    years = {key for key in wanted if key.isdigit()}
    named = case.lexicon.english(answer.text) if target == "en" else case.lexicon.chinese(answer.text)
    found = set(named) | {year for year in years if year in answer.text}
    extra = len(found - wanted)
    if wanted <= found and not extra:
        cue = check.get("cue")
        most = _faithful(case, [key for key in named if key in wanted])
        return Verdict(min(most, 1.0 if cue is None or answer.says(_CUES[target][cue]) else 0.6))
    return Verdict(max(0.02, 0.45 * (len(found & wanted) / len(wanted)) ** 2 / (1 + extra)))


def _faithful(case: Case, named: list[str]) -> float:
    """The most that a translation with every name is worth: `named` are those it names, in order."""
    check, answer = case.check, case.answer
    if any(mention.negated and mention.key in check["keys"] for mention in answer.mentions):
        return TWISTED
    if "cue" not in check:
        return 1.0
    subject, value = check["keys"]
    first = value if check["cue"] == "town.river" else subject
    years = value.isdigit()
    if named and not years and named[0] != first and not _TURNED[check["target"]][first == value].search(answer.lower):
        return TWISTED
    source = case.lexicon.chinese(answer.text) if check["target"] == "en" else case.lexicon.english(answer.text)
    return 0.45 if {subject, value} - {value if years else ""} <= set(source) else 1.0


_TURNED: dict[Language, tuple[re.Pattern[str], re.Pattern[str]]] = {
    "en": (
        re.compile(r"\bis\b.*(?:'s\b|\bof\b)|\bwh(?:ere|at|ich)\b"),
        re.compile(r"^(?!.*\bthrough\b)|^\W*through\b|\bby\b|\bhas\b", re.S),
    ),
    "zh": (re.compile("是.*的"), re.compile(r"[有的边旁]|位于|在")),
}
"""What makes it right to name the value before the subject; and of rivers, the town before the river."""


def check_label(case: Case) -> Verdict:
    """1 for the label alone, less among others, 0.06 for a wrong one. What others feel than those of the request is no label."""
    labels, found = _LABELS[case.language], set()
    asked = set(case.lexicon.keys(case.request.text))
    for sentence, clause in case.answer.clauses:
        if _NOT.search(clause) or _somebody_else(case, clause, case.answer.sentences[sentence], asked):
            continue
        named = {key: match for key, words in labels.items() if (match := words.search(clause))}
        found |= {key for key, match in named.items() if not _is_speakers(case, clause[: match.start()])}
    if case.check["label"] in found:
        return Verdict(one_of(len(found)))
    return Verdict(0.06 if len(found) == 1 else 0.02)


def _somebody_else(case: Case, clause: str, sentence: str, asked: set[str]) -> bool:
    """Whether the clause, or else the sentence, names people, and none whom the request names."""
    for text in (clause, sentence):
        people = case.lexicon.people & set(case.lexicon.keys(text))
        if people or _ANOTHER.search(text):
            return bool(people) and not people & asked
    return False


def _is_speakers(case: Case, before: str) -> bool:
    """Whether the feeling after this text is the speaker's: no other is named since "I" or "you"."""
    speakers = list(_SPEAKER.finditer(before))
    if not speakers:
        return False
    between = before[speakers[-1].end() :]
    return not _ANOTHER.search(between) and not case.lexicon.people & set(case.lexicon.keys(between))


_INTRODUCES: dict[Language, re.Pattern[str]] = {
    "en": re.compile(
        r"\b(?:i am|i'm|my name is|this is|it is|it's|it is me,|call me)(?: (?:your|old|good|friend|a|an))* "
        r"(?:NAMES)\b".replace("NAMES", "|".join([*WOMEN, *MEN, *STRANGERS]))
    ),
    "zh": re.compile(
        "(?:我是|我叫|是我[,\uff0c]|我的名字[是叫]|这里是|叫我)(?:你的|好|老|朋友|住在|隔壁|的)*(?:NAMES)".replace(
            "NAMES", "|".join(name.zh for name in [*WOMEN.values(), *MEN.values(), *(n for n, _ in STRANGERS.values())])
        )
    ),
}
"""Who answers is not who was asked for: "It is me, Leo"."""


def check_greeting(case: Case) -> Verdict:
    """1 for a fitting reply that names the person, 0.35 for the name alone, 0.3 for the reply alone or in the person's own name."""
    act, name, answer = case.check["act"], case.check["name"], case.answer
    acts = {key for key, words in _ACTS[case.language].items() if answer.says(words)}
    people = {mention.key for mention in answer.mentions if mention.key in case.lexicon.people}
    if act in acts and name in people and _INTRODUCES[case.language].search(answer.lower):
        return Verdict(0.3)
    if act in acts and name in people:
        return Verdict(min(1.0, 2 / len(acts)) * one_of(len(people)))
    if name in people:
        return Verdict(0.35 * one_of(len(people)))
    if act in acts:
        return Verdict(0.3 / (1 + len(people)))
    return Verdict(0.1 if acts and not people else 0.03)


_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but of to in on at by for with from into it its he she they them his her their him i we you who that this "
        "there then so as was were is are had has have not no all one once when where while after before very too also",
    )
)
_VERBS = re.compile(
    r"\b(?:\w+ed|was|were|is|had|has|went|go|goes|came|come|saw|see|found|find|took|take|gave|give|got|made|make|sat|sang|sing|"
    r"lost|kept|ran|ate|slept|told|said|knew|thought|felt|fell|flew|built|brought|bought|sold|left|met|began|stood|woke|held|"
    r"put|let|swam|drew|hid|lived|lives|loves|likes|wants|does|did)\b"
    r"|[是有在去来找看见带住到给送想要说唱跑吃睡走坐拿丢做画听飞回爱玩哭笑买卖藏遇]"
)
_DANGLING = re.compile(r"\b(?:a|an|the|of|and|or|to|in|with|from|was|had|very)$|[的和在把]$")
_CHINESE_PARTICLES = frozenset("的了着过在是有一不和它他她们这那里上中来去把很就也都到给只个从天")


def check_story(case: Case) -> Verdict:
    """(share of the given words)^1.5 times how much of a story it is; words of other stories cost when there are many."""
    wanted = set(case.check["words"])
    keys = {mention.key for mention in case.answer.mentions}
    share = len(wanted & keys) / len(wanted)
    extra = max(0, len(keys - wanted) - 3)
    return Verdict(max(0.02, share**1.5 * prose(case) / (1 + 0.3 * extra)) if case.answer.tokens else 0.0)


def prose(case: Case) -> float:
    """How far a text is made of sentences, in [0, 1]: several of them, each with a verb, not too many or few function words, no
    list of words, none that ends on "the".
    """
    answer = case.answer
    sentences = answer.sentences
    tokens = answer.tokens
    common = _CHINESE_PARTICLES if case.language == "zh" else _FUNCTION_WORDS
    glue = sum(token in common for token in tokens) / max(len(tokens), 1)
    low, high = (0.12, 0.6) if case.language == "zh" else (0.25, 0.75)
    whole = [s for s in sentences if len(s.split() if case.language == "en" else s) >= 4 and _VERBS.search(s)]
    score = len(whole) / max(len(sentences), 1)
    score *= 1.0 if len(whole) >= 2 else 0.7
    score *= 1.0 if low <= glue <= high else 0.4
    short = sum(len(clause.split() if case.language == "en" else clause) <= 2 for _, clause in answer.clauses)
    score *= 0.4 if short > 0.4 * len(answer.clauses) else 1.0
    return score * (0.8 if any(_DANGLING.search(s) for s in sentences) else 1.0)
