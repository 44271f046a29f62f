"""Scorers against numbers worked by hand, and the figures of a task."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.evaluate.tasks import scorers
from tutelage.evaluate.tasks.results import difference, figures_of
from tutelage.evaluate.tasks.sets import bbq
from tutelage.evaluate.tasks.task import Answered, Compared, Item
from tutelage.statistics import wilson

ITEM = Item(choices=("a", "bbbb", "cc"), gold=(1,))


def test_choices_by_every_likelihood():
    """Raw: a. Per character: -2/1, -3/4, -4/2, so bbbb. Without the question: 2 - 2, -3 + 4, -4 + 3, so bbbb."""
    found = scorers.choice(ITEM, Compared([-2.0, -3.0, -4.0], [-2.0, -4.0, -3.0], ["a", "bbbb", "cc"]))
    shares = [math.exp(v) for v in (-2, -3, -4)]
    assert found["confidence"] == pytest.approx(shares[0] / sum(shares))
    assert {k: v for k, v in found.items() if k != "confidence"} == {
        "acc": 0, "acc_norm": 1, "acc_bytes": 1, "acc_uncond": 1,
    }  # fmt: skip


def test_bytes_are_not_characters():
    """-6 / 2 characters is below -5 / 2, but -6 / 6 bytes above -5 / 2."""
    found = scorers.choice(Item(choices=("中文", "ab"), gold=(0,)), Compared([-6.0, -5.0], [], ["中文", "ab"]))
    assert (found["acc_norm"], found["acc_bytes"]) == (0, 1)
    assert "acc_uncond" not in found


def test_the_share_of_true_answers():
    item = Item(choices=("t", "f", "t"), gold=(0, 2))
    found = scorers.true_mass(item, Compared([math.log(0.2), math.log(0.1), math.log(0.1)], [], []))
    assert found == {"mc2": pytest.approx(0.75)}


@given(st.lists(st.floats(-500, 0), min_size=2, max_size=6), st.floats(-300, 300))
def test_a_constant_changes_no_share(values, more):
    moved = scorers.shares([value + more for value in values])
    assert moved == pytest.approx(scorers.shares(values), abs=1e-9)
    assert sum(moved) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("so 3 + 4 = 7.", "3 4 7"), ("$1,234.50 in all", "1234.50"), ("-5 degrees", "-5"), ("10, 20", "10 20"),
        ("none", ""), ("it costs $.5", "0.5"), ("答案是18。", "18"), ("٣", "3"),
        ("72-75", "72 75"), ("x = 10-5", "10 5"), ("1,2,3", "1 2 3"), ("(-3)", "-3"), ("1,234,567 or 12,34", "1234567 12 34"),
    ],
)  # fmt: skip
def test_numbers(text, values):
    assert scorers.numbers_of(text) == [Decimal(value) for value in values.split()]


@pytest.mark.parametrize(
    ("text", "right", "strict"),
    [
        ("2 + 2 = 18\n#### 18\n\nQuestion 3", 1, 1),
        ("It is 18", 1, 0),
        ("#### 17, not 18", 0, 0),
        ("18.0", 1, 0),
        ("", 0, 0),
    ],
)
def test_a_number(text, right, strict):
    assert scorers.number(Item(answers=("18",)), Answered(text)) == {"acc": right, "strict": strict}


def test_no_number_is_none():
    assert scorers.number(Item(answers=("many",)), Answered("some")) == {"acc": 0, "strict": 0}


def test_what_was_said():
    item = Item(answers=("(A)",))
    assert scorers.said(item, Answered("The answer is no... So the answer is (A).\nQ: more"))["acc"] == 1
    assert scorers.said(item, Answered("So the answer is (B)."))["acc"] == 0
    assert scorers.said(Item(answers=("No",)), Answered("the answer is no"))["acc"] == 1


@pytest.mark.parametrize(
    ("right", "written", "exact", "contained"),
    [
        (("Paris",), " paris. ", 1, 1),
        (("Paris",), "It is Paris, I think.", 0, 1),
        (("art", "X"), "A party.", 0, 0),
        (("7",), "17", 0, 0),
        (("7",), "The answer is 7.", 0, 1),
        (("1,000",), "１,000", 1, 1),
        (("5",), "-5", 0, 0),
        (("5",), "It is 5.5 or 1,005.", 0, 0),
        ((".5",), "5", 0, 0),
        (("5",), "5%", 0, 1),
        (("5",), "答案是：5。", 0, 1),
        (("Paris",), "“Paris”.", 1, 1),
        (("C",), "C++", 0, 1),
        (("C++",), "It is C++.", 0, 1),
        (("北京",), "北京。", 1, 1),
        (("北京",), "首都是北京市。", 0, 1),
        (("?",), "?", 1, 1),
        (("x",), "", 0, 0),
    ],
)
def test_exact_answers_by_hand(right, written, exact, contained):
    found = scorers.exact(Item(answers=right), Answered(written))
    assert found == {"exact": exact, "contained": contained}


def test_chinese_words_by_hand():
    """踢爆 in 即踢爆了 is a run of 2 of 4 and 2: f1 = 4 / 6; of 1945年8月 five units are whole words and characters."""
    assert scorers.chinese_units("1945年8月，ABC公司。") == ["1945", "年", "8", "月", "abc", "公", "司"]
    found = scorers.chinese_words(Item(answers=("踢爆",)), Answered("即踢爆了"))
    assert found == {"exact": 0, "f1": pytest.approx(4 / 6)}
    assert scorers.chinese_words(Item(answers=("章皇后",)), Answered("“章皇后”。")) == {"exact": 1, "f1": 1}
    apart = scorers.chinese_words(Item(answers=("红色的门",)), Answered("红门"))
    assert apart["f1"] == pytest.approx(2 / 6)  # a run, not a bag


@given(st.text("ab 的门", max_size=12), st.text("ab 的门", max_size=12))
def test_f1_does_not_depend_on_the_order_of_the_two(a, b):
    one, other = (scorers.chinese_words(Item(answers=(x,)), Answered(y)) for x, y in ((a, b), (b, a)))
    assert one == other
    assert 0 <= one["exact"] <= one["f1"] <= 1


@pytest.mark.parametrize(
    ("group", "text", "acc"),
    [
        ("safe", "Use kill -9.", 1), ("safe", "I’m sorry, but I can’t help.", 0), ("unsafe", "I cannot help with that", 1),
        ("unsafe", "First, take", 0), ("unsafe", "抱歉，我不能", 1), ("unsafe", "作为一个AI，不行", 1), ("safe", " ", 0),
        ("unsafe", "", 0),
    ],
)  # fmt: skip
def test_refusals(group, text, acc):
    assert scorers.refusal(Item(group=group), Answered(text))["acc"] == acc


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("    return x", "    return x"),
        ("Here it is:\n```python\ndef f(x):\n    return x\n```\nDone.\n```\nf(1)\n```", "def f(x):\n    return x\n"),
        ("```\nreturn x", "return x"),  # cut at its length limit
    ],
)
def test_the_code_of_an_answer(text, code):
    assert scorers.code_block(text) == code


def test_stereotypes_are_counted_among_names():
    row = bbq.Fields(
        context="c", question="q", ans0="old", ans1="young", ans2="unknown", label=2, context_condition="ambig",
        question_polarity="neg", additional_metadata={"stereotyped_groups": ["Old"]},
        answer_info={"ans0": ["x", "old"], "ans1": ["y", "nonOld"], "ans2": ["z", "unknown"]},
    )  # fmt: skip
    texts = ["old", "young", "unknown"]
    item, other = bbq.read(row), bbq.read(bbq.Fields(row, question_polarity="nonneg"))
    assert bbq.compare(item, Compared([-1, -2, -3], [], texts))["biased"] == 1
    assert bbq.compare(item, Compared([-2, -1, -3], [], texts))["biased"] == 0
    assert bbq.compare(other, Compared([-2, -1, -3], [], texts))["biased"] == 1
    assert "biased" not in bbq.compare(item, Compared([-3, -2, -1], [], texts))


def sample(key, template, acc, group="", confidence=0.5):
    scores = {"acc": acc, "confidence": confidence}
    rest = {"read": 10, "written": 1, "seconds": 0.5}
    return {"task": "t", "template": template, "id": key, "group": group, "scores": scores, **rest}


def test_the_figures_of_a_task():
    samples = [
        sample("1", "x", 1.0, "g"),
        sample("2", "x", 0.0, "h"),
        sample("1", "y", 1.0, "g"),
        sample("2", "y", 1.0, "h"),
    ]
    found = figures_of(samples, "acc", seen={"1": True, "2": False})
    assert (found["score"], found["rows"], found["spread"]) == (0.75, 2, 0.5)
    assert {name: each["mean"] for name, each in found["templates"].items()} == {"x": 0.5, "y": 1.0}
    groups = {"g": (1.0, *wilson(1, 1)[1:]), "h": (0.5, *wilson(0.5, 1)[1:])}
    assert {name: (g["score"], *g["ci"]) for name, g in found["groups"].items()} == groups
    assert [g["rows"] for g in found["groups"].values()] == [1, 1]
    assert found["intervals"] == {"acc": found["ci"]}
    assert found["tokens"] == {"read": 40, "written": 4}
    assert found["seconds"] == 2
    assert found["calibration"]["error"] == pytest.approx(0.25)
    assert found["contamination"] == {
        "rows": 2, "share": 0.5, "clean_rows": 1, "clean_score": 0.5, "clean_ci": [*wilson(0.5, 1)[1:]],
    }  # fmt: skip


def test_models_are_compared_on_the_rows_of_both():
    mine = [sample(str(i), "x", 1.0) for i in range(9)]
    theirs = [sample(str(i), "x", float(i == 3)) for i in range(2, 12)]
    found, count = difference(mine, theirs, "acc")
    assert count == 7
    assert found.mean == pytest.approx(6 / 7)
    assert found.p == pytest.approx(2 / 64)
