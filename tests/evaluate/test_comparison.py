"""Win rates between stages, and the shots that a base model is asked with."""

from __future__ import annotations

import pytest

from tutelage.evaluate.stages import StageResult, compare, shots_like
from tutelage.records import Answers, Completion, Conversation, Message, Prompt


def stage(gold: list[float] | None, reward: list[float] | None = None) -> StageResult:
    asked = [Prompt(messages=(Message(role="user", content=f"{i}?"),)) for i in range(len(gold or reward or []))]
    answers = [Answers(prompt=prompt, completions=(Completion(text="a"),)) for prompt in asked]
    return StageResult(answers, gold=gold, reward=reward)


def test_equal_scores_tie_and_a_trifle_is_a_win_but_no_clear_one():
    results = {"sft": stage([0.5, 0.5, 0.5, 0.5]), "ppo": stage([0.5, 0.55, 0.9, 0.1])}
    compare(results, clear=0.10)
    figures = results["ppo"].figures
    assert figures["record_vs_sft"] == {"wins": 2, "ties": 1, "losses": 1}
    assert figures["win_rate_vs_sft"] == pytest.approx(2.5 / 4)
    assert figures["clear_record_vs_sft"] == {"wins": 1, "ties": 2, "losses": 1}
    assert figures["clear_win_rate_vs_sft"] == 0.5
    assert figures["win_rate_ci"] == figures["win_rate_vs_sft_ci"]
    assert results["sft"].figures["win_rate_vs_sft"] == 0.5


def test_a_reward_models_scores_have_no_clear_difference():
    results = {"sft": stage(None, [0.0]), "ppo": stage(None, [0.01])}
    compare(results, clear=0.10)
    assert results["ppo"].figures["win_rate_vs_sft"] == 1.0
    assert "clear_win_rate_vs_sft" not in results["ppo"].figures


def chat(*texts: str, **meta: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)), meta=meta)


def test_shots_are_of_the_family_and_language_dialogues_of_two_turns_too():
    follow_up = [chat("a?", "b.", f"{i}?", "c.", family="follow_up", language="zh") for i in range(5)]
    stories = [chat("tell", "once", family="story", language="en") for _ in range(5)]
    choose = shots_like([*stories, *follow_up], 2, 0)
    asked = Prompt(messages=follow_up[0].messages[:3], meta={"family": "follow_up", "language": "zh"})
    assert len(choose(asked)) == 2
    assert all(shot in follow_up for shot in choose(asked))
    assert choose(asked) == choose(asked)


def test_shots_of_unknown_families_or_long_dialogues_are_the_shortest_there_are():
    long = [chat("q" * (700 + i), "a") for i in range(100)]
    choose = shots_like(long, 3, 0)
    chosen = choose(Prompt(messages=(Message(role="user", content="x"),), meta={"family": "never seen"}))
    assert len(chosen) == 3
    assert all(shot in long[:64] for shot in chosen)
