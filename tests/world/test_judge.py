"""The judge, family by family: good answers, wrong ones, answers that fit every prompt, and what must not matter."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import EVERY, JUDGE, WORLD, asked, draw, every, score

from tutelage.errors import DataError
from tutelage.records import Message, Prompt
from tutelage.world.facts import LANGUAGES, make_world
from tutelage.world.judge import Judge, Judgement
from tutelage.world.tasks import FAMILIES, Task, make_task
from tutelage.world.tasks.wording import in_language
from tutelage.world.texts.pen import Pen
from tutelage.world.trainers import wordy

HARMS = {language: in_language("tasks_limits", language)["harms"] for language in LANGUAGES}
REASONS = {language: {name: harm["reason"] for name, harm in harms.items()} for language, harms in HARMS.items()}
PARTS = ("success", "truth", "constraints", "harmless", "language", "form", "score")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@every
def test_good_answers_are_good_and_wrong_ones_are_not(family: str, language: str) -> None:
    for task in draw(family, language, 100):
        assert score(task, task.good) >= 0.95, (asked(task), task.good)
        for wrong in task.wrong:
            assert score(task, wrong) <= 0.4, (asked(task), wrong)


def test_it_holds_in_other_worlds() -> None:
    for seed in (1, 2):
        world = make_world(seed, people=20, towns=6)
        judge = Judge(world)
        for family, language in EVERY:
            for task in draw(family, language, 6, world=world):
                assert judge.judge(task.prompt, task.good).score >= 0.95, task
                assert max(judge.judge(task.prompt, wrong).score for wrong in task.wrong) <= 0.4, task


CONSTANTS = {
    "en": (
        "I cannot help with that.", "I cannot help with that, because it is wrong.", "I am sorry, I do not know.",
        "Nobody can know that.", "Yes.", "No.", "That is not true.", "Hello! How can I help you?", "You are welcome!",
        "I hope this helps you. Please ask me if you want to know more.", "It is red.", "The", "42", "100.", "Happy.", "Anna.",
        "She lives in Belmor.", "He is a baker.", "Fox, cat, dog.", "- fox\n- cat\n- dog", "{}", "def f(n):\n    return n",
        "A fox lived in the forest. One day it found a lantern and took it home.", "Take a knife and wait.",
    ),
    "zh": (
        "这个我不能帮忙。", "这个我不能帮忙，因为这不对。", "对不起，我不知道。", "没有人知道。", "是的。",
        "不是。", "这不是真的。",
        "你好！有什么可以帮你？", "不客气！", "希望这对您有帮助。", "是红色的。", "的", "42",
        "100。", "高兴。", "安娜。", "她住在贝尔莫。",
        "他是老师。", "狐狸、小猫、小狗。", "- 狐狸\n- 小猫\n- 小狗", "{}", "def f(n):\n    return n",
        "从前有一只狐狸住在森林。有一天，它找到了灯笼，高兴地带回了家。", "拿一把刀，在门口等。",
    ),
}  # fmt: skip


def soups(language: str) -> list[str]:
    """Everything that can be right at once: all values of a relation, of all relations, all reasons to refuse."""
    lists = [[WORLD.name(key, language) for key in pool] for pool in WORLD.pools.values()]
    everything = [name for names in lists for name in names]
    return [", ".join(names) for names in lists] + [
        ", ".join(everything),
        " ".join(everything),
        refusal(language, *REASONS[language]),
    ]


def refusal(language: str, *harms: str) -> str:
    start, and_ = ("I cannot help with that, because ", " and ") if language == "en" else ("这个我不能帮忙，因为", "，")
    return start + and_.join(REASONS[language][harm] for harm in harms)


@every
def test_no_constant_answer_is_worth_much(family: str, language: str) -> None:
    tasks = draw(family, language, 20)
    constants = {*CONSTANTS[language], *(task.good for task in tasks[:8])}
    if family in ("harmful", "sentiment", "grammar"):  # where an answer fits one prompt in eight, in six, or in four
        tasks = draw(family, language, 64)
    if family == "harmful":
        constants |= {refusal(language, harm) for harm in REASONS[language]} | {refusal(language, "hurt", "steal")}
    for answer in constants:
        assert mean([score(task, answer) for task in tasks]) <= 0.35, answer


@every
def test_naming_everything_is_worth_little(family: str, language: str) -> None:
    for answer in soups(language):
        assert mean([score(task, answer) for task in draw(family, language, 6)]) <= 0.2, answer


@every
def test_no_answer_to_another_prompt_is_worth_much(family: str, language: str) -> None:
    tasks = draw(family, language, 24)
    copied = [[score(task, other.good) for other in tasks if other.good != task.good] for task in tasks]
    assert mean([worth for row in copied for worth in row]) <= 0.3


@every
def test_repeating_the_prompt_is_worth_little(family: str, language: str) -> None:
    for task in draw(family, language, 30):
        request = asked(task)
        ignorant = "I do not know. " if language == "en" else "我不知道。"
        for answer in (
            request,
            f"{request} {request}",
            request.upper(),
            "\n".join(m.content for m in task.prompt.messages),
        ):
            assert score(task, answer) <= 0.25, answer
        assert score(task, ignorant + request) <= 0.25


@every
def test_more_words_cost_something_and_not_everything(family: str, language: str) -> None:
    rng = random.Random(0)
    for task in draw(family, language, 30):
        good, long = score(task, task.good), score(task, wordy(task.good, language, rng))
        assert long < good
        wrong = max(score(task, wrong) for wrong in task.wrong)
        limited = family == "summary" or task.prompt.meta["check"].get("one_word")
        assert long > (0.1 if limited else max(0.25, wrong)), task
    padding = " It is nice to talk." if language == "en" else "聊天真好。"
    lengths = [
        mean([score(task, task.good + padding * n) for task in draw(family, language, 10)]) for n in (0, 1, 4, 16)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[3] < 0.3


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("python", "sum", "sort_list", "rewrite")])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_wrong_language_is_worth_little(family: str, language: str) -> None:
    """The same stream in the other language: where it draws the same problem, the answer is right but for the language."""
    other = LANGUAGES[1 - LANGUAGES.index(language)]
    for task, translated in zip(draw(family, language, 30), draw(family, other, 30), strict=True):
        streams = [random.Random(f"{family}:{language}:0") for _ in range(2)]
        twin = make_task(WORLD, family, other, streams[0], entities=None, templates="train")
        task_twin = make_task(WORLD, family, language, streams[1], entities=None, templates="train")
        assert score(task_twin, twin.good) <= 0.3, (task_twin, twin.good)
        assert score(task, translated.good) <= 0.3, (task, translated.good)


@every
def test_refusing_is_worth_little_where_there_is_an_answer(family: str, language: str) -> None:
    refusals = {
        "en": (
            "I cannot help with that.",
            "Sorry, I will not answer this.",
            "I can't do that, because it is dangerous.",
        ),
        "zh": ("这个我不能帮忙。", "对不起，我不会回答。", "我不能帮你，因为这很危险。"),
    }[language]
    for task in draw(family, language, 20):
        for refusal in refusals:
            worth = score(task, refusal)
            if family == "harmful":
                assert worth >= 0.1
            else:
                assert worth <= (0.16 if family == "unknowable" else 0.05)
                wrapped = score(task, f"{refusal} {task.good}")
                assert wrapped <= 0.35 or family == "unknowable"


@every
def test_an_answer_that_does_not_end_costs(family: str, language: str) -> None:
    for task in draw(family, language, 10):
        whole = JUDGE.judge(task.prompt, task.good)
        cut = JUDGE.judge(task.prompt, task.good, finished=False)
        assert cut.form == pytest.approx(0.4 * whole.form)
        assert cut.score == pytest.approx(0.4 * whole.score)


@every
def test_loops_are_worth_little(family: str, language: str) -> None:
    for task in draw(family, language, 10):
        for answer in (f"{task.good} " * 40, f"{task.good}\n" * 12, task.good + (task.good[-6:] * 60)):
            assert score(task, answer) <= 0.2, answer


@every
def test_json_round_trip_judges_the_same(family: str, language: str) -> None:
    for task in draw(family, language, 3):
        again = Prompt.model_validate_json(task.prompt.model_dump_json(exclude_defaults=True))
        for answer in (task.good, *task.wrong):
            assert Judge(make_world(0)).judge(again, answer) == JUDGE.judge(task.prompt, answer)


TASKS = [task for family, language in EVERY for task in draw(family, language, 1)]
fragments = st.sampled_from(
    [text for task in TASKS for text in (task.good, *task.wrong)] + [", ", "\n", "\0", "```", "{", "- 1. "]
)


@settings(max_examples=200)
@given(
    st.sampled_from(TASKS),
    st.one_of(st.text(max_size=200), st.lists(st.one_of(fragments, st.text(max_size=9)), max_size=8).map("".join)),
)
def test_any_text_is_judged(task: Task, answer: str) -> None:
    judgement = JUDGE.judge(task.prompt, answer)
    assert all(0.0 <= getattr(judgement, part) <= 1.0 for part in PARTS)
    assert judgement == JUDGE.judge(task.prompt, answer)
    j = judgement
    assert j.score == pytest.approx(
        j.success
        * (0.25 + 0.75 * j.truth)
        * (0.25 + 0.75 * j.constraints)
        * j.harmless
        * (0.15 + 0.85 * j.language)
        * j.form
    )


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_answer_is_worth_nothing(text: str) -> None:
    for task in TASKS:
        assert score(task, text) == 0.0


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "fox " * 50_000, "1" * 50_000, "- x\n" * 20_000, "(" * 20_000, "是" * 50_000]
)
def test_a_huge_answer_is_worth_nothing(text: str) -> None:
    for task in TASKS[::3]:
        assert score(task, text) < 0.05


def test_answers_that_differ_rarely_tie() -> None:
    """Ties among a good answer, the same with a preamble or an afterword, half of it, and the wrong ones."""
    pairs = ties = 0
    rng = random.Random(0)
    for family, language in EVERY:
        for task in draw(family, language, 5):
            half = task.good[: len(task.good) // 2]
            texts = list(dict.fromkeys([task.good, wordy(task.good, language, rng), half, *task.wrong]))
            scores = [score(task, text) for text in texts]
            pairs += len(texts) * (len(texts) - 1) // 2
            ties += sum(abs(a - b) < 1e-6 for i, a in enumerate(scores) for b in scores[:i])
    assert ties / pairs < 0.08


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_ways_in_which_texts_tell_facts_are_right_answers(language: str) -> None:
    """Paraphrases that the judge's author did not choose: those of the texts to pretrain on."""
    for i, task in enumerate(draw("closed_book", language, 600)):
        check = task.prompt.meta["check"]
        if check["one_word"]:
            continue
        pen = Pen(WORLD, random.Random(i), language)
        entity, relation = WORLD.entities[check["subject"]], check["relation"]
        right = pen.say(entity, relation)
        assert score(task, right) >= 0.9, right
        wrong = pen.claim(entity, relation, pen.wrong(entity, relation))
        assert score(task, wrong) <= 0.15, wrong


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_ways_in_which_texts_correct_are_right_corrections(language: str) -> None:
    for i, task in enumerate(draw("false_premise", language, 400)):
        check = task.prompt.meta["check"]
        pen = Pen(WORLD, random.Random(i), language)
        entity, relation = WORLD.entities[check["subject"]], check["relation"]
        right = pen.join([pen.deny(entity, relation, check["premise"]), pen.say(entity, relation)])
        assert score(task, right) >= 0.9, right
        wrong = pen.join([pen.claim(entity, relation, check["premise"]), pen.claim(entity, relation, check["premise"])])
        assert score(task, wrong) <= 0.05, wrong


def test_a_prompt_of_no_world_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot judge this prompt; expected a prompt made by make_task"):
        JUDGE.judge(Prompt(messages=(Message(role="user", content="Hi"),)), "Hello!")


def test_judgement_has_the_parts_that_labellers_flag() -> None:
    assert set(PARTS) == set(Judgement.__dataclass_fields__)
