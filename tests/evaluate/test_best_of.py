"""Best of n as a policy of the evaluation: which answer is picked, and what is not claimed of it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from random_start import PROMPTS, Start, make_start
from test_measure import SAMPLING, judge, measures

from tutelage.assistant.assistant import Assistant
from tutelage.errors import RecipeError
from tutelage.evaluate.compare import EvaluateInputs, EvaluateSettings, main
from tutelage.evaluate.measure import measure, picked
from tutelage.evaluate.preferences.best_of_n import kl_bound
from tutelage.model.checkpoint import load_scalar
from tutelage.records import Answers, Completion
from tutelage.text.chat import render_answers


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    return make_start(tmp_path_factory.mktemp("best"))


def test_the_answer_is_the_one_that_the_reward_model_scores_highest_by_a_loop(begin):
    found = measure(
        begin.folder / "sft", PROMPTS, SAMPLING, measures(begin, judge=judge, reward_model=begin.folder / "reward"),
        best_of=5,
    )  # fmt: skip
    assistant = Assistant.load(begin.folder / "sft", device="cpu", dtype="fp32")
    every = assistant.answers(PROMPTS, SAMPLING.model_copy(update={"n": 5}))
    scorer = load_scalar(begin.folder / "reward").eval()
    places = []
    for asked, answered in zip(every, found.answers, strict=True):
        scores = []
        for one in asked.completions:
            prompt, (answer,) = render_answers(begin.tokenizer, asked.prompt.messages, [one.text], [one.finished])
            scores.append(scorer(torch.tensor([prompt + answer]))[0, -1].item())
        places.append(scores.index(max(scores)))
        assert answered.completions == (asked.completions[places[-1]],)
    assert len(set(places)) > 1
    pairs = zip(PROMPTS, found.answers, strict=True)
    gold = [judge(p, a.completions[0].text, a.completions[0].finished).score for p, a in pairs]
    assert found.gold == gold


def test_the_score_that_picked_is_not_reported_and_the_kl_is_a_bound(begin):
    found = measure(
        begin.folder / "sft", PROMPTS, SAMPLING,
        measures(begin, judge=judge, reward_model=begin.folder / "reward", reference=begin.folder / "sft"), best_of=4,
    )  # fmt: skip
    assert found.reward is None
    assert "reward" not in found.figures
    assert found.figures["kl"] is None
    assert found.figures["kl_bound"] == pytest.approx(math.log(4) - 0.75)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_bound_is_the_kl_of_answers_that_are_never_the_same(n):
    """Of m answers that are equally likely and all score differently, by counting every draw: it is near for a large m."""
    m = 40
    wins = [0] * m
    for draw in itertools.product(range(m), repeat=n):
        wins[max(draw)] += 1
    exact = sum(w / m**n * math.log(w / m**n * m) for w in wins if w)
    assert exact <= kl_bound(n) + 1e-12
    assert kl_bound(n) == pytest.approx(exact, abs=0.02)


def test_of_equal_scores_the_first_is_picked(begin):
    scorer = Assistant.load(begin.folder / "reward", device="cpu", dtype="fp32")
    same = (Completion(text="a", seed=1), Completion(text="a", seed=2))
    (chosen,) = picked([Answers(prompt=PROMPTS[0], completions=same)], scorer)
    assert chosen.completions == same[:1]


def test_the_step_asks_one_model_for_the_best_and_another_for_one(begin, tmp_path):
    inputs = EvaluateInputs(
        models={"one": begin.folder / "sft", "best": begin.folder / "sft"}, prompts=begin.folder / "prompts.jsonl",
        reward_model=begin.folder / "reward", reference=begin.folder / "sft",
    )  # fmt: skip
    knobs = EvaluateSettings(ask={"best": {"best_of": 3}}, max_tokens=6, device="cpu", dtype="fp32")
    results = json.loads((main(knobs, inputs, tmp_path / "out", judge=judge) / "results.json").read_text())
    one, best = results["models"]["one"], results["models"]["best"]
    assert (one["kl"], best["kl_bound"]) == (pytest.approx(0.0, abs=1e-4), pytest.approx(kl_bound(3)))
    assert best["ask"]["best_of"] == 3
    assert best["same_as"] == "one"


@pytest.mark.parametrize(
    ("given", "knobs", "message"),
    [
        ({}, {}, r"ask\.best\.best_of: the reward model picks the best: give reward_model"),
        ({"reward_model": "r"}, {"against": ("best",)}, "the reward model that picks cannot also decide who wins"),
        ({"reward_model": "r"}, {"temperature": 0.0}, "at temperature 0 all answers are the same"),
    ],
)
def test_what_would_not_be_fair_is_refused(given, knobs, message):
    inputs = EvaluateInputs(models={"best": Path("m")}, prompts=Path("p"), **given)
    with pytest.raises(RecipeError, match=message):
        EvaluateSettings(ask={"best": {"best_of": 2}}, **knobs).check(inputs)
