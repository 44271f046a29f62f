"""How a fact is asked for, told and denied, in English and Chinese.

`{s}` is the subject, `{v}` the value. `{s}'s` becomes "her", "his" or "its" where the subject is a pronoun. Questions and sentences
stand here without their first capital and their last mark: `sentence` puts both.
"""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.world.facts import Language, Person, World


@dataclass(frozen=True)
class Wording:
    """One relation in one language."""

    ask: str
    """A question: where does {s} live"""
    tell: str
    """The same as a clause: where {s} lives"""
    noun: str
    """The same as a noun: the home town of {s}"""
    says: str
    """A statement: {s} lives in {v}"""
    denies: str
    """Its denial: {s} does not live in {v}"""
    cue: str
    """A regular expression that a free translation of the statement still contains."""


WORDINGS: dict[Language, dict[str, Wording]] = {
    "en": {
        "person.town": Wording(
            "where does {s} live", "where {s} lives", "the home town of {s}",
            "{s} lives in {v}", "{s} does not live in {v}", r"\bliv|\bhome|\bfrom\b",
        ),
        "person.job": Wording(
            "what is {s}'s job", "what {s}'s job is", "the job of {s}", "{s} is {v}", "{s} is not {v}", r"\bis\b|\bwork",
        ),
        "person.pet": Wording(
            "what pet does {s} have", "what pet {s} has", "the pet of {s}",
            "{s} has {v}", "{s} does not have {v}", r"\bha[sd]\b|\bpet\b|\bkeep",
        ),
        "person.friend": Wording(
            "who is {s}'s friend", "who {s}'s friend is", "the friend of {s}",
            "{s}'s friend is {v}", "{s}'s friend is not {v}", r"\bfriend",
        ),
        "person.food": Wording(
            "what does {s} like to eat", "what {s} likes to eat", "the favourite food of {s}",
            "{s} likes to eat {v}", "{s} does not like to eat {v}", r"\blik|\blov|\bfavou?rite|\beat",
        ),
        "person.born": Wording(
            "when was {s} born", "when {s} was born", "the birth year of {s}",
            "{s} was born in {v}", "{s} was not born in {v}", r"\bborn\b|\bbirth",
        ),
        "town.region": Wording(
            "in which region is {s}", "in which region {s} is", "the region of {s}",
            "{s} is in the {v}", "{s} is not in the {v}", r"\bin\b|\bis\b|\blies\b",
        ),
        "town.river": Wording(
            "which river runs through {s}", "which river runs through {s}", "the river of {s}",
            "the {v} runs through {s}", "the {v} does not run through {s}", r"\brun|\bflow|\briver",
        ),
        "town.craft": Wording(
            "what is {s} known for", "what {s} is known for", "the craft of {s}",
            "{s} is known for its {v}", "{s} is not known for its {v}", r"\bknown\b|\bfamous\b|\bcraft",
        ),
        "animal.eats": Wording(
            "what does {s} eat", "what {s} eats", "the food of {s}",
            "{s} eats {v}", "{s} does not eat {v}", r"\beat|\bfeed",
        ),
        "animal.habitat": Wording(
            "where does {s} live", "where {s} lives", "the home of {s}",
            "{s} lives in the {v}", "{s} does not live in the {v}", r"\bliv|\bhome",
        ),
        "animal.colour": Wording(
            "what colour is {s}", "what colour {s} is", "the colour of {s}", "{s} is {v}", "{s} is not {v}", r"\bis\b|\bcolou?r",
        ),
        "thing.material": Wording(
            "what is {s} made of", "what {s} is made of", "the material of {s}",
            "{s} is made of {v}", "{s} is not made of {v}", r"\bmade\b|\bmake|\bof\b",
        ),
        "thing.use": Wording(
            "what is {s} used for", "what {s} is used for", "the use of {s}",
            "{s} is used for {v}", "{s} is not used for {v}", r"\buse|\bfor\b",
        ),
        "thing.colour": Wording(
            "what colour is {s}", "what colour {s} is", "the colour of {s}", "{s} is {v}", "{s} is not {v}", r"\bis\b|\bcolou?r",
        ),
    },
    "zh": {
        "person.town": Wording("{s}住在哪里", "{s}住在哪里", "{s}住的镇", "{s}住在{v}", "{s}不住在{v}", "住|家"),
        "person.job": Wording("{s}做什么工作", "{s}做什么工作", "{s}的工作", "{s}是{v}", "{s}不是{v}", "是|做|当"),
        "person.pet": Wording("{s}养什么宠物", "{s}养什么宠物", "{s}的宠物", "{s}养了{v}", "{s}没有养{v}", "养|有|宠物"),
        "person.friend": Wording("{s}的朋友是谁", "{s}的朋友是谁", "{s}的朋友", "{s}的朋友是{v}", "{s}的朋友不是{v}", "朋友"),
        "person.food": Wording("{s}喜欢吃什么", "{s}喜欢吃什么", "{s}喜欢的食物", "{s}喜欢吃{v}", "{s}不喜欢吃{v}", "喜欢|爱"),
        "person.born": Wording("{s}哪年出生", "{s}哪年出生", "{s}的出生年份", "{s}生于{v}年", "{s}不是生于{v}年", "生"),
        "town.region": Wording("{s}在哪个地区", "{s}在哪个地区", "{s}所在的地区", "{s}在{v}", "{s}不在{v}", "在|位于"),
        "town.river": Wording("哪条河流过{s}", "哪条河流过{s}", "{s}的河", "{v}流过{s}", "{v}没有流过{s}", "流|河"),
        "town.craft": Wording("{s}以什么出名", "{s}以什么出名", "{s}的特产", "{s}以{v}出名", "{s}不以{v}出名", "名|特产"),
        "animal.eats": Wording("{s}吃什么", "{s}吃什么", "{s}的食物", "{s}吃{v}", "{s}不吃{v}", "吃"),
        "animal.habitat": Wording("{s}住在哪里", "{s}住在哪里", "{s}的家", "{s}住在{v}", "{s}不住在{v}", "住|家|生活"),
        "animal.colour": Wording("{s}是什么颜色", "{s}是什么颜色", "{s}的颜色", "{s}是{v}的", "{s}不是{v}的", "是|色"),
        "thing.material": Wording(
            "{s}是用什么做的", "{s}是用什么做的", "{s}的材料", "{s}是用{v}做的", "{s}不是用{v}做的", "做|制"
        ),
        "thing.use": Wording("{s}用来做什么", "{s}用来做什么", "{s}的用处", "{s}用来{v}", "{s}不用来{v}", "用"),
        "thing.colour": Wording("{s}是什么颜色", "{s}是什么颜色", "{s}的颜色", "{s}是{v}的", "{s}不是{v}的", "是|色"),
    },
}  # fmt: skip

PRONOUNS: dict[Language, dict[str, tuple[str, str]]] = {
    "en": {"f": ("she", "her"), "m": ("he", "his"), "it": ("it", "its")},
    "zh": {"f": ("她", "她的"), "m": ("他", "他的"), "it": ("它", "它的")},
}
"""Subject and possessive form, by gender."""


def wording(world: World, subject: str, relation: str, language: Language) -> Wording:
    """The wording of a relation of this subject; a key that the world lacks is a stranger, a person."""
    return WORDINGS[language][f"{kind_of(world, subject)}.{relation}"]


def kind_of(world: World, subject: str) -> str:
    try:
        return world.kind(subject)
    except KeyError:
        return "person"


def subject_text(world: World, subject: str, language: Language) -> str:
    """Mira, Arden, the otter; 米拉, 阿登, 水獭."""
    name = world.name(subject, language)
    return f"the {name}" if language == "en" and kind_of(world, subject) in ("animal", "thing") else name


def value_text(world: World, relation: str, value: str, language: Language) -> str:
    """A value as it stands in a statement: a baker, an otter, lanterns, 1967."""
    name = world.name(value, language)
    if language == "en" and relation in ("job", "pet"):
        return article(name)
    return plural(name) if language == "en" and relation == "craft" else name


def statement(
    world: World, subject: str, relation: str, value: str, language: Language, *, deny: bool = False, pronoun: str = ""
) -> str:
    """A sentence that gives, or denies, the subject this value. `pronoun` (f, m or it) stands for the subject where given."""
    words = wording(world, subject, relation, language)
    text = words.denies if deny else words.says
    text = fill(text, language, subject_text(world, subject, language), pronoun)
    return sentence(text.replace("{v}", value_text(world, relation, value, language)), language)


def fill(text: str, language: Language, subject: str, pronoun: str = "") -> str:
    """Put the subject, or its pronoun, for every `{s}`."""
    if not pronoun:
        return text.replace("{s}", subject)
    plain, possessive = PRONOUNS[language][pronoun]
    return text.replace("{s}'s", possessive).replace("{s}", plain)


def gender(world: World, subject: str) -> str:
    """f or m of a person of the world, `it` of anything else."""
    entity = world.entity(subject)
    return entity.gender if isinstance(entity, Person) else "it"


def sentence(text: str, language: Language, mark: str = ".") -> str:
    """A capital first and a mark last; the mark is full-width in Chinese."""
    return text[0].upper() + text[1:] + (mark if language == "en" else {".": "。", "?": "？", "!": "！"}[mark])


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")


def joined(parts: list[str], language: Language) -> str:
    """Sentences one after the other: with blanks in English, without in Chinese."""
    return (" " if language == "en" else "").join(parts)
