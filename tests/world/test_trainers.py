"""Trainers: their faults come at the stated rates, show in the judge's score, and leave room to improve on."""

import random
from collections import Counter

import pytest
from judging import WORLD, score
from pydantic import ValidationError

from tutelage.records import Conversation
from tutelage.world.tasks import DECLINE, FAMILIES, Task, make_task
from tutelage.world.trainers import CLEAN, TrainerRates, demonstrate, wordy
from tutelage.world.wordings import wordings

RATES = TrainerRates(wrong=0.2, verbose=0.3, missing_refusal=0.4, over_refusal=0.05)


def tasks(per_family: int) -> list[Task]:
    return [
        make_task(
            WORLD, family, "zh" if i % 10 < 3 else "en", random.Random(f"{family}:{i}"), entities=None, templates="train"
        )
        for family in FAMILIES
        for i in range(per_family)
    ]  # fmt: skip


def demonstrations(work: list[Task], rates: TrainerRates) -> list[Conversation]:
    return [demonstrate(task, rates=rates, rng=random.Random(f"demo:{i}")) for i, task in enumerate(work)]


def test_faults_come_at_the_stated_rates() -> None:
    work = tasks(120)
    written = demonstrations(work, RATES)
    declined = [d.meta["flaws"] for d in written if d.meta["family"] in DECLINE]
    plain = [d.meta["flaws"] for d in written if d.meta["family"] not in DECLINE]

    def within(count: int, n: int, rate: float) -> bool:
        return abs(count - n * rate) < 4 * (n * rate * (1 - rate)) ** 0.5

    found, missing = Counter(f for flaws in plain for f in flaws), Counter(f for flaws in declined for f in flaws)
    assert within(found["wrong"], len(plain), 0.2)
    assert within(found["over_refusal"], len(plain), 0.05)
    assert within(found["verbose"] + missing["verbose"], len(written), 0.3)
    assert within(missing["missing_refusal"], len(declined), 0.4)
    assert set(found) == {"wrong", "over_refusal", "verbose"}
    assert set(missing) == {"missing_refusal", "verbose"}
    both = sum("wrong" in flaws and "verbose" in flaws for flaws in plain)  # independent of each other
    assert within(both, len(plain), 0.2 * 0.3)
    assert not any("wrong" in flaws and "over_refusal" in flaws for flaws in plain)


def test_clean_trainers_give_the_good_answer_and_nothing_else() -> None:
    work = tasks(20)
    for task, demonstration in zip(work, demonstrations(work, CLEAN), strict=True):
        assert demonstration.messages[-1].role == "assistant"
        assert demonstration.messages[-1].content == task.good
        assert demonstration.messages[:-1] == task.prompt.messages
        assert demonstration.meta["flaws"] == []
        assert demonstration.meta["check"] == task.prompt.meta["check"]


def test_each_fault_costs_by_the_judge() -> None:
    work = tasks(40)
    written = demonstrations(work, RATES)
    scores: dict[str, list[float]] = {}
    for task, demonstration in zip(work, written, strict=True):
        kind = "+".join(demonstration.meta["flaws"]) or "none"
        scores.setdefault(kind, []).append(score(task, demonstration.messages[-1].content))
    mean = {kind: sum(values) / len(values) for kind, values in scores.items()}
    assert mean["none"] > 0.95
    assert 0.3 < mean["verbose"] < 0.7  # right, but in too many words
    assert mean["wrong"] < 0.2
    assert mean["missing_refusal"] < 0.05
    assert mean["over_refusal"] < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_words_nobody_asked_for_cost_in_every_family(family: str) -> None:
    for language in ("en", "zh"):
        losses = []
        for i in range(30):
            rng = random.Random(f"wordy:{family}:{i}")
            task = make_task(WORLD, family, language, rng, entities=None, templates="train")
            long = wordy(task.good, language, rng)
            assert task.good in long
            losses.append(score(task, task.good) - score(task, long))
        assert sum(losses) / len(losses) > 0.15
        assert min(losses) > 0.0


def test_a_perfect_model_would_win_against_one_that_imitates_the_trainers() -> None:
    work = tasks(30)
    wins: dict[str, list[float]] = {}
    for task, demonstration in zip(work, demonstrations(work, TrainerRates()), strict=True):
        good, written = score(task, task.good), score(task, demonstration.messages[-1].content)
        wins.setdefault(demonstration.meta["family"], []).append(0.5 + 0.5 * (good > written) - 0.5 * (good < written))
    assert sum(map(sum, wins.values())) / len(work) > 0.72
    assert all(sum(values) / len(values) > 0.55 for values in wins.values())


def test_made_up_answers_are_wrong_and_not_refusals() -> None:
    work = tasks(25)
    always = TrainerRates(wrong=1.0, verbose=0.0, missing_refusal=1.0, over_refusal=0.0)
    for task, demonstration in zip(work, demonstrations(work, always), strict=True):
        assert demonstration.messages[-1].content in task.wrong
        assert score(task, demonstration.messages[-1].content) < 0.75 * score(task, task.good)


def test_over_refusals_are_in_the_language_of_the_prompt() -> None:
    work = [task for task in tasks(10) if task.prompt.meta["family"] not in DECLINE]
    always = TrainerRates(wrong=0.0, verbose=0.0, missing_refusal=0.0, over_refusal=1.0)
    for task, demonstration in zip(work, demonstrations(work, always), strict=True):
        assert demonstration.messages[-1].content in wordings("trainers")["refusals"][task.prompt.meta["language"]]


def test_wordy_answers_vary() -> None:
    for language in ("en", "zh"):
        texts = {wordy("42.", language, random.Random(i)) for i in range(200)}
        assert len(texts) > 50
    assert wordy("- a\n- b", "en", random.Random(1)).count("- a\n- b") >= 1


def test_one_stream_one_demonstration() -> None:
    task = tasks(1)[0]
    assert demonstrate(task, rates=RATES, rng=random.Random(5)) == demonstrate(task, rates=RATES, rng=random.Random(5))
    assert len({demonstrate(task, rates=RATES, rng=random.Random(i)).model_dump_json() for i in range(30)}) > 5


@pytest.mark.parametrize("rates", [{"wrong": -0.1}, {"verbose": 1.5}, {"wrong": 0.7, "over_refusal": 0.4}])
def test_rates_are_probabilities(rates: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TrainerRates(**rates)
