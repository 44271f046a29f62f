"""What the gate is for: a policy that learned from rankings turned round does not pass it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_task import Toy, ppo_job, reward_job, right

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_prompts, read_rankings, write_jsonl
from tutelage.loop import gate

SAME = gate.Measured(length=2.0, refusals=0.0, bits_per_byte=1.0)


def answers(model: Path, toy: Toy, count: int) -> list[bool]:
    """Whether each of so many answers is right; the prompts come in turn."""
    assistant, asked = Assistant.load(model, device="cpu"), list(read_prompts(toy.folder / "prompts.jsonl"))
    turns = [asked[i % len(asked)] for i in range(count)]
    said = (assistant.chat(list(p.messages), seed=i, temperature=1.0, max_tokens=8) for i, p in enumerate(turns))
    return [right(prompt, text) for prompt, text in zip(turns, said, strict=True)]


@pytest.mark.slow
def test_a_model_trained_on_reversed_rankings_is_refused(toy, tuned, tmp_path):
    """And by as much as its mirror image would be promoted: the training did turn it round, so the gate had something to see."""
    turned = (
        row.model_copy(update={"ranks": tuple(max(row.ranks) + 1 - rank for rank in row.ranks)})
        for row in read_rankings(toy.folder / "rankings.jsonl")
    )
    write_jsonl(tmp_path / "turned.jsonl", turned)
    scorer = reward_job(toy, tuned, tmp_path / "reward", rankings=tmp_path / "turned.jsonl").run()
    policy = ppo_job(toy, tuned, scorer, tmp_path / "ppo", updates=12).run()
    planned = gate.plan()
    new, serving = (answers(model, toy, planned.comparisons) for model in (policy, tuned))
    pairs = list(zip(new, serving, strict=True))
    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    ties = planned.comparisons - wins - losses
    found = gate.verdict(planned, (wins, ties, losses), SAME, SAME, SAME, gate.GateSettings())
    assert not found.promote
    assert "not shown to be better" in found.reasons[0]
    assert gate.verdict(planned, (losses, ties, wins), SAME, SAME, SAME, gate.GateSettings()).promote
