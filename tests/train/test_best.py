"""Rejection sampling: which answers become demonstrations, by a loop over a recording of the run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from random_start import PROMPTS, Start, make_start
from recording import recorded
from test_grpo_wiring import rewarded_by
from test_ppo_wiring import gold, prompt_of, scores_of
from toy_task import MACHINE, Job, make_job

from tutelage.data.formats import read_conversations
from tutelage.errors import DataError, RecipeError
from tutelage.model.checkpoint import load_scalar
from tutelage.train import best
from tutelage.train.best import BestSettings, demonstrations


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    return make_start(tmp_path_factory.mktemp("best"))


def best_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "reward_models": {"reward_model": begin.folder / "reward"},
        "prompts": begin.folder / "prompts.jsonl", "completions": 6, "temperature": 0.9, "max_tokens": 6, "seed": 3,
        "scorers": {
            "reward_model": {"weight": 0.5}, "place": {"weight": -0.1, "function": "test_ppo_wiring:place"},
        },
        "machine": MACHINE,
    }  # fmt: skip
    return make_job(best.main, out, values, changes)


@pytest.mark.parametrize("count", [1, 2])
def test_the_best_finished_answers_are_kept_by_a_loop(begin, tmp_path, monkeypatch, count):
    """Batches of two prompts, and different randomness in each."""
    monkeypatch.setattr(best, "BATCH", 12)
    job = best_job(begin, tmp_path / "run", best=count)
    with recorded(monkeypatch) as record:
        best.main(job.knobs, job.inputs, job.out, gold=gold)
    scorer = load_scalar(begin.folder / "reward").eval()
    expected: dict[str, list[str]] = {}
    rewards, golds = [], []
    for drawn in record.drawn:
        by_name = scores_of(begin, drawn, scorer)
        golds += by_name["gold"]
        scores = [0.5 * model - 0.1 * place for model, place, _ in zip(*by_name.values(), strict=True)]
        rewards += scores
        for start in range(0, len(scores), 6):
            here = range(start, start + 6)
            (name,) = {prompt_of(begin, drawn.requests[i].ids).id for i in here}
            texts = {i: begin.tokenizer.decode(drawn.answers[i]).strip() for i in here}
            order = sorted((i for i in here if drawn.finished[i] and texts[i]), key=lambda i: -scores[i])
            expected[name] = list(dict.fromkeys(texts[i] for i in order))[:count]
    assert [len(drawn.requests) for drawn in record.drawn] == [12, 12, 12, 6]
    assert len({request.sampling.seed for drawn in record.drawn for request in drawn.requests}) == 42
    found: dict[str, list[str]] = {prompt.id: [] for prompt in PROMPTS}
    ids = {prompt.messages: prompt.id for prompt in PROMPTS}
    for one in read_conversations(job.out / "demonstrations.jsonl"):
        found[ids[one.messages[:-1]]].append(one.messages[-1].text)
    assert found == expected
    done = json.loads((job.out / "done.json").read_text())
    assert done["demonstrations"] == sum(map(len, expected.values()))
    assert (done["reward"], done["gold"]) == (pytest.approx(fmean(rewards), abs=1e-4), pytest.approx(fmean(golds)))
    assert max(map(len, expected.values())) == count


def test_answers_that_did_not_end_or_are_empty_or_again_the_same_are_not_demonstrations():
    texts = ["best", "good", "good ", "  ", "fair", "poor"]
    scores, finished = torch.tensor([9.0, 5.0, 5.0, 7.0, 4.0, 1.0]), torch.tensor([False] + [True] * 5)
    knobs = BestSettings(completions=6, best=3)
    found = demonstrations(PROMPTS[:1], texts, scores, finished, knobs)
    assert [one.messages[-1].text for one in found] == ["good", "fair", "poor"]


def test_only_the_first_prompts_are_answered(begin, tmp_path):
    job = best_job(begin, tmp_path / "run", most=3)
    job.run()
    assert json.loads((job.out / "done.json").read_text())["prompts"] == 3


def test_what_cannot_be_is_said_in_one_line(begin, tmp_path):
    with pytest.raises(RecipeError, match="nothing adds to the reward"):
        rewarded_by(best_job(begin, tmp_path / "a"), place={"weight": 0.0, "function": "test_ppo_wiring:place"}).run()
    with pytest.raises(ValueError, match="best 2 of 2 completions rejects none"):
        best_job(begin, tmp_path / "b", completions=2, best=2)
    with pytest.raises(DataError, match="no answer ended, so none can be a demonstration: raise max_tokens"):
        best_job(begin, tmp_path / "c", max_tokens=1, temperature=0.01, most=1).run()
