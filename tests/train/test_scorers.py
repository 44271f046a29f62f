"""The reward as a weighted sum of named scorers: by hand, in a run, and what is said of one that does not work."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from toy_task import ppo_job, right, rows

from tutelage.errors import RecipeError, TrainingError
from tutelage.records import Message, Prompt
from tutelage.train import ppo, scorers
from tutelage.train.scorers import Scorer, make_scorers, score
from tutelage.train.settings import Machine

PROMPTS = [Prompt(messages=(Message(role="user", content="?"),), id=name) for name in ("first", "second")]
TEXTS = ["red.", "blue and green."]
ROLLOUTS = SimpleNamespace(ids=torch.zeros(2, 3), finished=torch.tensor([True, False]))


def length(prompt: Prompt, answer: str) -> int:
    return len(answer)


def broken(prompt: Prompt, answer: str) -> float:
    raise ValueError("no such\ncolour")


def undefined(prompt: Prompt, answer: str) -> float:
    return math.nan


def wordy(prompt: Prompt, answer: str) -> float:
    return "good"  # type: ignore[return-value]


NOT_A_FUNCTION = 3


def settings(**functions: object) -> dict[str, scorers.ScorerSettings]:
    return {name: scorers.ScorerSettings.model_validate(one) for name, one in functions.items()}


def test_the_reward_is_the_weighted_sum_and_weight_zero_is_only_logged(monkeypatch):
    """By hand: 1 x reward model + 0.1 x length - 2 x strict; gold and an unweighted function count nothing."""
    models = {"reward_model": "a", "strict": "b"}
    values = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor([0.25, 2.0])}
    monkeypatch.setattr(scorers, "end_scores", lambda model, rollouts, machine: values[model])
    given = settings(
        strict={"weight": -2.0},
        length={"weight": 0.1, "function": "test_scorers:length"},
        seen={"weight": 0.0, "function": "test_scorers:length"},
    )
    terms = make_scorers(given, models, gold=lambda prompt, answer, finished: float(finished))
    reward, by_name = score(terms, ROLLOUTS, PROMPTS, TEXTS, Machine())
    assert {name: scores.tolist() for name, scores in by_name.items()} == {
        "reward_model": [0.5, -1.0], "strict": [0.25, 2.0], "length": [4, 15], "seen": [4, 15], "gold": [1.0, 0.0],
    }  # fmt: skip
    assert reward.tolist() == pytest.approx([0.5 + 0.4 - 0.5, -1.0 + 1.5 - 4.0])
    weighed = make_scorers(settings(gold={"weight": 3.0}), {}, gold=lambda prompt, answer, finished: float(finished))
    assert score(weighed, ROLLOUTS, PROMPTS, TEXTS, Machine())[0].tolist() == [3.0, 0.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"scorer 'rule' failed on a prompt \(first\): ValueError: no such colour"),
        ("undefined", r"scorer 'rule' gave nan for a prompt \(first\): a finite number is needed"),
        ("wordy", r"scorer 'rule' gave 'good' for a prompt \(first\): a finite number is needed"),
    ],
)
def test_a_function_that_fails_is_named_in_one_line(function, message):
    terms = make_scorers(settings(rule={"function": f"test_scorers:{function}"}), {}, None)
    with pytest.raises(TrainingError, match=f"^{message}$"):
        score(terms, ROLLOUTS, PROMPTS, TEXTS, Machine())


def test_an_error_of_ours_in_a_judge_stays_one():
    def judge(prompt: Prompt, answer: str, finished: bool) -> float:
        raise TrainingError("the judge has no facts")

    with pytest.raises(TrainingError, match=r"^the judge has no facts$"):
        score([Scorer("gold", 0.0, function=judge)], ROLLOUTS, PROMPTS, TEXTS, Machine())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("length", "a function is named as module:function, found 'length'"),
        ("nowhere:f", "nowhere:f cannot be imported: No module named 'nowhere'"),
        ("test_scorers:lenght", "test_scorers:lenght cannot be imported: module 'test_scorers' has no attribute"),
        ("test_scorers:NOT_A_FUNCTION", "is a int, not a function"),
        ("unsound:f", r"unsound:f cannot be imported: NameError: name 'x' is not defined"),
    ],
)
def test_a_function_that_cannot_be_had_is_said_with_the_settings(tmp_path, monkeypatch, function, message):
    (tmp_path / "unsound.py").write_text("x + 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        settings(rule={"function": function})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"rewrad_model": {"weight": 2.0}},
            r"scorers.rewrad_model: give a function, .*; did you mean 'reward_model'\?$",
        ),
        ({"gold": {"weight": 2.0}}, r"scorers.gold: give a function, or a reward model of this name among the inputs$"),
        (
            {"reward_model": {"function": "test_scorers:length"}},
            r"scorers.reward_model: .* give the function another name",
        ),
    ],
)
def test_a_name_that_is_no_scorer_is_refused_before_anything_runs(toy, tmp_path, given, problem):
    (tmp_path / "x").mkdir()
    with pytest.raises(RecipeError, match=problem):
        ppo_job(toy, tmp_path / "x", tmp_path / "x", tmp_path / "run", scorers=given).run()
    assert not (tmp_path / "run").exists()


def test_ppo_logs_each_scorer_by_its_name_and_learns_from_their_sum(toy, tuned, scorer, tmp_path):
    """The same reward model twice and a length: each row's reward is the sum of what the row says of each."""
    job = ppo_job(
        toy, tuned, scorer, tmp_path / "run", updates=2, batch_size=8, minibatch=8, reward_models={"again": scorer},
        scorers={
            "again": {"weight": 0.0},
            "length": {"weight": 0.1, "function": "test_scorers:length"},
        },
    )  # fmt: skip
    checkpoint = ppo.main(job.knobs, job.inputs, job.out, gold=lambda prompt, answer, finished: right(prompt, answer))
    for row in rows(checkpoint):
        assert row["score_again"] == pytest.approx(row["score_reward_model"], abs=1e-6)
        assert row["reward"] == pytest.approx(row["score_reward_model"] + 0.1 * row["score_length"], abs=1e-5)
        assert row["score_length"] > 1
        assert 0 <= row["gold"] <= 1
