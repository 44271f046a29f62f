"""What tasks promise: reproducible, held apart by wording and entity, short, in one language, and JSON."""

import json
import random
import re

import pytest
from judging import WORLD, asked, draw, every

from tutelage.errors import RecipeError
from tutelage.records import Prompt
from tutelage.world.facts import LANGUAGES, RELATIONS
from tutelage.world.reading import tokens_of, units
from tutelage.world.tasks import DECLINE, FAMILIES, make_task
from tutelage.world.tasks.common import Scene, expand, slots_filled
from tutelage.world.tasks.wording import in_language, mistakes
from tutelage.world.wordings import wordings

PARTS = ("requests", "statements", "writing", "lists", "talk", "limits", "code")
ASKED_FOR = (
    "closed_book", "passage_question", "two_hop", "follow_up", "correction", "sum", "sort_list", "copy_list", "summary",
    "rewrite", "grammar",
    "extraction", "sentiment", "translation", "story", "python", "brainstorm", "greeting",
    "harmful", "unknowable", "false_premise", "lookalike",
)  # fmt: skip


def test_all_families_exist() -> None:
    assert set(ASKED_FOR) == set(FAMILIES)
    assert set(DECLINE) < set(FAMILIES)


@every
def test_shape(family: str, language: str) -> None:
    for split in ("train", "heldout"):
        for task in draw(family, language, templates=split):
            meta = task.prompt.meta
            assert set(meta) == {"family", "language", "entity", "template", "check"}
            assert (meta["family"], meta["language"]) == (family, language)
            assert meta["template"] in FAMILIES[family].templates(language, split)
            assert re.fullmatch(rf"{family}-{language}-[0-9a-f]{{12}}", task.prompt.id)
            assert task.wrong
            assert task.good not in task.wrong
            assert len(set(task.wrong)) == len(task.wrong)
            assert not re.search(r"\{[a-zA-Z]\}", asked(task) + task.good + "".join(task.wrong)), "an unfilled slot"
            assert json.loads(json.dumps(meta)) == meta
            assert Prompt.model_validate_json(task.prompt.model_dump_json(exclude_defaults=True)) == task.prompt


@every
def test_same_stream_same_task(family: str, language: str) -> None:
    first, again = draw(family, language), draw(family, language)
    assert first == again
    assert len({task.prompt.id for task in first}) > 25


@every
def test_wordings_are_enough_and_heldout_ones_are_no_training_ones(family: str, language: str) -> None:
    known = FAMILIES[family].wordings[language].texts
    assert len(set(known)) == len(known) >= 60
    train, heldout = (FAMILIES[family].templates(language, split) for split in ("train", "heldout"))
    assert sorted([*train, *heldout]) == list(range(len(known)))
    assert len(known) // 6 <= len(heldout) <= len(known) // 4
    patterns = [slots_filled(known[i]) for i in heldout]
    assert not any(pattern.fullmatch(known[i]) for i in train for pattern in patterns)
    for task in draw(family, language, 150, templates="train"):
        assert not any(pattern.fullmatch(asked(task)) for pattern in patterns), asked(task)


def test_patterns_are_read_in_every_way() -> None:
    patterns = ("[Sort|Order] [these|the] {k}: {l}", "{l}. [Sort|Please sort] them.", "{q}?", "Tell me: {q}?")
    read = expand(*patterns)
    assert sorted(read.texts) == sorted(
        [
            "Sort these {k}: {l}", "Sort the {k}: {l}", "Order these {k}: {l}", "Order the {k}: {l}",
            "{l}. Sort them.", "{l}. Please sort them.", "{q}?", "Tell me: {q}?",
        ]
    )  # fmt: skip
    assert read == expand(*patterns)
    assert read.heldout == 2
    assert not {"{l}. Please sort them.", "{q}?", "Tell me: {q}?"} & set(read.texts[-2:]), (
        "nobody else says please or tell me"
    )


@every
def test_every_word_of_a_heldout_wording_stands_in_a_training_one(family: str, language: str) -> None:
    known = FAMILIES[family].wordings[language].texts
    train, heldout = (FAMILIES[family].templates(language, split) for split in ("train", "heldout"))
    words = re.compile(r"\b[a-z]{2,}" if language == "en" else r"[\u4e00-\u9fff]")
    seen = {word for i in train for word in words.findall(known[i].lower())}
    assert {word for i in heldout for word in words.findall(known[i].lower())} <= seen


def test_a_wording_in_a_longer_one_is_never_held_out() -> None:
    for n in range(20):
        read = expand("{q}?", f"[Tell me|Say] {n}: {{q}}[?| now?]", "[And|So] {q}[?| now?]")
        assert read.heldout == 2
        assert "{q}?" not in read.texts[-2:]


@every
def test_only_allowed_entities_are_asked_about(family: str, language: str) -> None:
    allowed = {list(WORLD.subjects(kind))[i] for kind in RELATIONS for i in (0, 3, 5)}
    seen = {task.prompt.meta["entity"] for task in draw(family, language, 60, entities=allowed)}
    assert seen <= allowed | {""}
    if family in ("closed_book", "two_hop", "follow_up", "false_premise", "sentiment", "greeting"):
        assert ("" in seen) == (family in ("sentiment", "greeting"))  # strangers, of whom nothing need be known
        assert len(seen) >= 3


def test_no_allowed_entity_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no person is among the allowed entities"):
        make_task(WORLD, "two_hop", "en", random.Random(0), entities=set(WORLD.towns), templates="train")


def test_unknown_family_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no task family 'poem'; choose among closed_book"):
        make_task(WORLD, "poem", "en", random.Random(0), entities=None, templates="train")


@every
def test_small_enough_for_a_small_model(family: str, language: str) -> None:
    tasks = draw(family, language, 60)
    prompts = [units(asked(task)) for task in tasks]
    goods = [units(task.good) for task in tasks]
    assert sum(prompts) / len(prompts) < 40
    assert max(prompts) < 60
    assert sum(goods) / len(goods) < 20
    assert max(goods) < 30


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("python", "rewrite")])
def test_chinese_has_chinese_marks(family: str) -> None:
    """Half-width marks in Chinese would be other tokens than those of the Chinese texts."""
    for split in ("train", "heldout"):
        for task in draw(family, "zh", 40, templates=split):
            chinese = [asked(task), *([] if family == "translation" else [task.good])]
            for text in chinese:
                assert not re.search(r"[\u4e00-\u9fff][,?!:;.]", text), text
    for task in draw(family, "en", 40):
        assert not re.search(r"[\uff0c\uff1f\uff01\uff1a\u3002]", asked(task))


def test_a_few_prompts_have_a_system_message() -> None:
    tasks = [task for family in FAMILIES for task in draw(family, "en")]
    share = sum(task.prompt.messages[0].role == "system" for task in tasks) / len(tasks)
    assert 0.04 < share < 0.13


def test_follow_up_asks_by_pronoun_after_two_turns() -> None:
    for task in draw("follow_up", "en"):
        messages = [m for m in task.prompt.messages if m.role != "system"]
        assert [m.role for m in messages] == ["user", "assistant", "user"]
        name = WORLD.name(task.prompt.meta["entity"], "en")
        assert name in messages[0].content
        assert not re.search(rf"\b{name}\b", messages[2].content)
        assert re.search(r"\b(she|he|it|her|his|its)\b", messages[2].content)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_correction_doubts_an_answer_that_is_right_or_not(language: str) -> None:
    tasks = draw("correction", language, 400)
    for task in tasks:
        check, messages = task.prompt.meta["check"], [m.text for m in task.prompt.messages if m.role != "system"]
        value, said = (WORLD.name(check[key], language) for key in ("value", "said"))
        assert [m.role for m in task.prompt.messages][-3:] == ["user", "assistant", "user"]
        assert len(messages) == 3
        assert said in messages[1]
        assert check["claim"].lower() in messages[2].lower()
        assert value in task.good
        if task.prompt.meta["entity"]:
            assert WORLD.value(check["subject"], check["relation"]) == check["value"]
        else:
            assert check["subject"] not in WORLD.people
            assert value in messages[0]
    checks = [task.prompt.meta["check"] for task in tasks]
    mistaken = [check for check in checks if check["said"] != check["value"]]
    assert 0.4 < len(mistaken) / len(checks) < 0.6
    claims = [WORLD.name(check["value"], language) in check["claim"] for check in mistaken if check["claim"]]
    assert 0.5 < sum(claims) / len(claims) < 0.9, "who doubts with reason is not always right about what is true"


def test_the_doubt_does_not_tell_who_is_right() -> None:
    """Every wording occurs after right and after wrong answers."""
    seen: dict[int, set[bool]] = {}
    for task in draw("correction", "en", 2500):
        check = task.prompt.meta["check"]
        seen.setdefault(task.prompt.meta["template"], set()).add(check["said"] == check["value"])
    assert all(answers == {True, False} for answers in seen.values())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("deny", [False, True])
def test_every_statement_can_be_written_wrong_in_several_ways(language: str, deny: bool) -> None:
    scene = Scene(WORLD, language, random.Random(0), None)
    used = set()
    for subject, entity in WORLD.entities.items():
        for relation in RELATIONS[entity.kind]:
            right = scene.statement(subject, relation, entity.value(relation), deny=deny)
            broken = mistakes(right, language)
            assert len(set(broken)) == len(broken) >= 2, right
            for wrong in broken:
                assert f" {' '.join(tokens_of(right))} " not in f" {' '.join(tokens_of(wrong))} ", (right, wrong)
            used |= {tuple(pair) for pair in in_language("tasks_writing", language)["mistakes"] if pair[0] in right}
    if deny:
        return
    known = {tuple(pair) for pair in in_language("tasks_writing", language)["mistakes"]}
    assert all("not" in right or right[0] in "不没" for right, _ in known - used)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_to_mend_is_right_one_time_in_four(language: str) -> None:
    checks = [task.prompt.meta["check"] for task in draw("grammar", language, 800)]
    assert 0.19 < sum(check["right"] == check["shown"] for check in checks) / len(checks) < 0.31
    assert len({check["right"] for check in checks}) > 500


def test_a_passage_tells_the_answer_and_a_decoy_about_strangers() -> None:
    for task in draw("passage_question", "en"):
        check = task.prompt.meta["check"]
        values = [facts[check["relation"]] for facts in check["facts"].values()]
        assert len(set(values)) == 2
        assert all(WORLD.name(value, "en") in asked(task) for value in values)
        assert not set(check["facts"]) & set(WORLD.people)


def test_a_false_premise_is_false() -> None:
    for task in draw("false_premise", "zh"):
        check = task.prompt.meta["check"]
        assert WORLD.value(check["subject"], check["relation"]) == check["value"] != check["premise"]
        assert WORLD.name(check["premise"], "zh") in asked(task)


@pytest.mark.parametrize("name", ["tasks", "checks", "reading", "trainers", *(f"tasks_{part}" for part in PARTS)])
def test_wordings_are_texts(name: str) -> None:
    """YAML reads an unquoted yes or null as something else; whole numbers are meant."""

    def leaves(node: object) -> list[object]:
        if isinstance(node, dict):
            return [*node, *(leaf for value in node.values() for leaf in leaves(value))]
        return [leaf for item in node for leaf in leaves(item)] if isinstance(node, list) else [node]

    assert {type(leaf) for leaf in leaves(wordings(name))} <= {str, int}


def test_a_language_has_its_own_side_only() -> None:
    orders = {"en": {"words", "up", "down"}, "zh": {"up", "down"}}
    for language in LANGUAGES:
        lists = in_language("tasks_lists", language)
        assert set(lists["orders"]) == orders[language]
        assert lists["numbers"] == wordings("tasks_lists")["numbers"][language]
        assert all(
            isinstance(row[key], str) for row in in_language("tasks_limits", language)["mysteries"] for key in row
        )
