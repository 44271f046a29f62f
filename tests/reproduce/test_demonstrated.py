"""The comparisons of Diamante: by hand, whoever answers, and as two stages learn from them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_start import Start, logprobs_of, make_start, talk
from toy_task import MACHINE, make_job, rows

from tutelage.data.formats import read_conversations, read_rankings, write_jsonl
from tutelage.errors import DataError
from tutelage.model.checkpoint import load_decoder
from tutelage.records import Answers, Completion, Conversation, Prompt, Ranking
from tutelage.reproduce.demonstrated import DemonstratedInputs, DemonstratedSettings, Pair, above_strangers, main
from tutelage.text.chat import render_answers
from tutelage.train import direct, sft

DEMONSTRATIONS = [
    talk("?", "yes"),
    talk("a", "b", "c", "a small text"),
    talk("what?", "another"),
    talk("so?", "and so on"),
    talk("!", "!!"),
]
SAID = {"?": "no", "c": "small", "what?": "another", "!": "a"}
"""Last words of a prompt -> the model's answer: the third says what the demonstration does, the fourth is not there."""


def answers_to(conversations: list[Conversation]) -> list[Answers]:
    found = []
    for one in conversations:
        *before, _ = one.messages
        if before[-1].text in SAID:
            said = (Completion(text=SAID[before[-1].text], finished=before[-1].text != "!"), Completion(text="second"))
            found.append(Answers(prompt=Prompt(messages=tuple(before)), completions=said))
    return found


def step(folder: Path, answers: list[Answers]) -> Path:
    write_jsonl(folder / "demonstrations.jsonl", DEMONSTRATIONS)
    write_jsonl(folder / "answers.jsonl", answers)
    inputs = DemonstratedInputs(demonstrations=folder / "demonstrations.jsonl", answers=folder / "answers.jsonl")
    return main(DemonstratedSettings(), inputs, folder / "made")


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("demonstrated"))
    step(start.folder, answers_to(DEMONSTRATIONS)[::-1])
    return start


def texts(ranking: Ranking) -> list[str]:
    return [ranking.prompt.messages[-1].text, *(one.text for one in ranking.completions)]


def test_the_comparisons_by_hand(begin):
    made = begin.folder / "made"
    rankings = list(read_rankings(made / "rankings.jsonl"))
    assert [texts(one) for one in rankings] == [["?", "yes", "no"], ["c", "a small text", "small"], ["!", "!!", "a"]]
    assert [one.ranks for one in rankings] == [(1, 2)] * 3
    assert [[c.finished for c in one.completions] for one in rankings] == [[True, True], [True, True], [True, False]]
    human = {"?": "yes", "c": "a small text", "!": "!!"}
    strangers = list(read_rankings(made / "strangers.jsonl"))
    assert [one.prompt for one in strangers] == [one.prompt for one in rankings]
    for one in strangers:
        prompt, mine, other = texts(one)
        assert (mine, one.ranks) == (SAID[prompt], (1, 2))
        assert other in set(human.values()) - {human[prompt]}
    learned = list(read_conversations(made / "demonstrations.jsonl"))
    assert [one.messages[-1].text for one in learned] == ["yes", "a small text", "!!"]
    assert [m.text for one in learned for m in one.messages if m.role == "assistant" and not m.learn] == ["b"]
    assert json.loads((made / "done.json").read_text())["left_out"] == 2


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("abc"), st.sampled_from("abc")), max_size=8))
def test_a_stranger_is_to_another_prompt_and_says_something_else(drawn):
    talks = [(talk(prompt, human), model) for prompt, human, model in drawn]
    pairs = [
        Pair(one, Prompt(messages=one.messages[:1]), Completion(text=one.messages[1].text), Completion(text=model))
        for one, model in talks
    ]
    found = list(above_strangers(pairs, random.Random(0)))
    said = {(prompt, human) for prompt, human, _ in drawn}
    for one in found:
        prompt, model, stranger = texts(one)
        assert any(asked != prompt and text == stranger for asked, text in said)
        assert stranger != model
    possible = [
        any(other != prompt and text not in (human, model) for other, text in said) for prompt, human, model in drawn
    ]
    assert len(found) == sum(possible)  # a hundred draws of eight miss one of them about once in 600,000 times


def test_both_models_learn_the_same_tokens(begin, tmp_path):
    """The first step's likelihood, before any update: of the joint loss, of SFT on the demonstrations, and of a plain loop."""
    made, one_step = begin.folder / "made", {"epochs": 1, "batch_size": 8, "warmup": 1, "machine": MACHINE}
    start = {"checkpoint": begin.folder / "sft"}
    rankings = {"rankings": made / "rankings.jsonl", "heldout": made / "rankings.jsonl"}
    joint = make_job(direct.main, tmp_path / "a", start | rankings | one_step, {"loss": "diamante", "max_tokens": 4})
    alone = make_job(sft.main, tmp_path / "b", start | {"demonstrations": made / "demonstrations.jsonl"} | one_step, {})
    model = load_decoder(begin.folder / "sft")
    nats = []
    for ranking in read_rankings(made / "rankings.jsonl"):
        prompt, (best, _) = render_answers(begin.tokenizer, ranking.prompt.messages, [texts(ranking)[1], ""])
        nats += [-p.item() for p in logprobs_of(model, prompt, best)]
    expected = pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert rows(joint.run())[0]["likelihood_loss"] == expected
    assert rows(alone.run())[0]["loss"] == expected


def test_answers_to_other_prompts_are_one_line(tmp_path):
    other = [Answers(prompt=Prompt(messages=talk("x").messages), completions=(Completion(text="y"),))]
    with pytest.raises(DataError, match=r"answers\.jsonl: has no answer to a demonstration's prompt that differs from"):
        step(tmp_path, other)
    assert not (tmp_path / "made").exists()
