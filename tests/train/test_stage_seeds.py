"""What each stage hands to its helpers: a seed for every use of randomness, and the sizes that memory is estimated for."""

from __future__ import annotations

import importlib
import json
import random
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from random_start import PROMPTS, Start, make_start
from recording import recorded
from safetensors.torch import load_file
from test_bad_rows import STAGES
from test_stage_wiring import DEMONSTRATIONS, RANKINGS, reward_job, sft_job
from torch import Tensor

from tutelage.data.formats import write_jsonl
from tutelage.records import Document
from tutelage.text.chat import render, render_answers
from tutelage.train import ppo, pretraining_text


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("seeds"))
    for name, records in (("demonstrations", DEMONSTRATIONS), ("heldout", DEMONSTRATIONS), ("rankings", RANKINGS)):
        write_jsonl(start.folder / f"{name}.jsonl", records)
    write_jsonl(start.folder / "chinese.jsonl", [Document(text="红色的门，蓝色的帽子。") for _ in range(3)])
    return start


def module_of(stage: str) -> ModuleType:
    """The module that starts the loop of a stage."""
    return importlib.import_module(f"tutelage.train.{'rl' if stage in ('ppo', 'grpo') else stage}")


def sequences(begin: Start, stage: str) -> list[list[int]]:
    """What the stage learns from, as it goes through a model."""
    if stage == "sft":
        return [render(begin.tokenizer, one.messages).until_end().ids[:-1] for one in DEMONSTRATIONS]
    packed = []
    for one in (*RANKINGS[:3], *RANKINGS[4:]):  # the fourth ranks the third's answers
        given = [c.text for c in one.completions], [c.finished for c in one.completions]
        prompt, completions = render_answers(begin.tokenizer, one.prompt.messages, *given)
        packed.append([*prompt, *(token for completion in completions for token in completion)])
    return packed


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_every_epoch_and_every_seed_has_an_order_of_its_own(begin, tmp_path, monkeypatch, stage):
    make = {"sft": sft_job, "reward": reward_job}[stage]
    whole = sequences(begin, stage)

    def order(name: str, seed: int) -> list[list[int]]:
        """For each epoch the numbers of what was learned, one step at a time."""
        with recorded(monkeypatch) as record:
            make(begin, tmp_path / name, epochs=3, batch_size=1, lr=1e-9, seed=seed).run()
        chosen = [step.chosen(whole) for step in record.steps]
        assert all(len(numbers) == 1 for numbers in chosen)
        flat = [numbers[0] for numbers in chosen]
        return [flat[i : i + len(whole)] for i in range(0, len(flat), len(whole))]

    one, other, again = order("a", 0), order("b", 1), order("c", 0)
    assert all(sorted(epoch) == list(range(len(whole))) for epoch in (*one, *other))
    assert one == again != other
    assert len({tuple(epoch) for epoch in one}) > 1


def test_the_head_of_a_reward_model_is_drawn_from_the_seed(begin, tmp_path, monkeypatch):
    heads = []
    for number, seed in enumerate((0, 1, 0)):
        with recorded(monkeypatch) as record:
            reward_job(begin, tmp_path / str(number), epochs=1, seed=seed).run()
        heads.append(record.heads[0])
    assert heads[0].equal(heads[2])
    assert not heads[0].allclose(heads[1], atol=1e-3)


def test_answers_to_other_prompts_have_a_stream_of_their_own_in_every_step_and_seed(begin, tmp_path, monkeypatch):
    reward = importlib.import_module("tutelage.train.reward")
    plain, streams = reward.with_noncontextual, []

    def noted(example: Any, others: Any, count: int, longest: int, rng: random.Random) -> Any:
        streams[-1].append((id(rng), rng.getstate()))
        return plain(example, others, count, longest, rng)

    monkeypatch.setattr(reward, "with_noncontextual", noted)
    for number, seed in enumerate((0, 1, 0)):
        streams.append([])
        reward_job(begin, tmp_path / str(number), epochs=2, batch_size=9, noncontextual=1, seed=seed).run()
    # A batch's first call has the state that the step's stream begins with.
    first = [[states[i][1] for i in range(0, len(states), 5)] for states in streams]
    assert first[0] == first[2]
    assert len({*first[0], *first[1]}) == 4


@dataclass
class Drawn:
    """What runs of one stage with the seeds 0, 1 and 0 drew, at next to no learning rate: adapters are as they were drawn."""

    adapters: list[dict[str, Tensor]] = field(default_factory=list)
    dropout: list[int] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)


@pytest.fixture(scope="module", params=["pretrain", "sft", "reward", "ppo", "direct", "grpo"])
def drawn(request, begin, tmp_path_factory) -> Drawn:
    stage, folder, found = request.param, tmp_path_factory.mktemp(request.param), Drawn()
    still: dict[str, Any] = {"lr": 1e-12, "lora": {"r": 2}}
    if stage == "pretrain":
        still |= {"checkpoint": begin.folder / "sft", "tokenizer": None, "model": {}}
    module = module_of(stage)
    plain = module.Schedule

    def noted(*words: Any, **named: Any) -> Any:
        schedule = plain(*words, **named)
        found.dropout.append(schedule.seed)
        return schedule

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Schedule", noted)
        for number, seed in enumerate((0, 1, 0)):
            checkpoint = STAGES[stage](begin, folder / str(number), seed=seed, **still).run()
            tensors = load_file(next((checkpoint / "adapter").glob("*.safetensors")))
            found.adapters.append({name: tensor for name, tensor in tensors.items() if "lora_A" in name})
            found.log += [json.loads(line) for line in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    return found


def test_dropout_has_a_seed_of_the_run_and_of_the_stage(drawn):
    one, other, again = drawn.dropout
    assert isinstance(one, int)
    assert one == again != other


def test_adapters_are_drawn_from_the_seed(drawn):
    one, other, again = drawn.adapters
    assert all(torch.allclose(one[name], again[name], atol=1e-6) for name in one)
    assert not any(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_every_row_of_the_log_says_how_fast(drawn):
    assert drawn.log
    assert all(row["tokens_per_second"] > 0 for row in drawn.log)


def test_pretraining_text_and_new_adapters_of_a_critic_have_seeds_of_the_run(begin, tmp_path, monkeypatch):
    mixture, critic, texts, critics = pretraining_text.text_mixture, ppo.new_critic, [], []
    monkeypatch.setattr(pretraining_text, "text_mixture", lambda *given: texts.append(given[3]) or mixture(*given))
    monkeypatch.setattr(ppo, "new_critic", lambda *given: critics.append(torch.initial_seed()) or critic(*given))
    for number, seed in enumerate((0, 1, 0)):
        STAGES["ppo"](begin, tmp_path / str(number), seed=seed, lora={"r": 2}).run()
    for drawn in (texts, critics):
        assert isinstance(drawn[0], int)
        assert drawn[0] == drawn[2] != drawn[1]
    assert not set(texts) & set(critics)


def asked(begin: Start) -> list[list[int]]:
    """The prompts as they go through a model."""
    return [render(begin.tokenizer, one.messages, add_generation_prompt=True).ids for one in PROMPTS]


WIDTHS = {
    "pretrain": lambda begin: (5, 8),  # rows of a batch, tokens of a window
    "sft": lambda begin: (5, 64),  # the context, which is shorter than max_length
    "reward": lambda begin: (3, max(map(len, sequences(begin, "reward")))),
    "ppo": lambda begin: (3, 6 + max(map(len, asked(begin)))),  # a microbatch; max_tokens behind the longest prompt
}


@pytest.mark.parametrize("stage", WIDTHS)
def test_memory_is_estimated_for_the_largest_pass(begin, tmp_path, monkeypatch, stage):
    module = module_of(stage)
    said: list[Any] = []
    monkeypatch.setattr(module, "say_memory", lambda *words: said.append(words))
    more: dict[str, Any] = {} if stage == "ppo" else {"optimizer": "muon"}
    job = STAGES[stage](begin, tmp_path / "run", **more)
    job.run()
    ((held, trained, rows, longest, dtype, optimizer),) = said
    assert trained
    assert len(held) >= len(trained)
    assert (rows, longest) == WIDTHS[stage](begin)
    assert (dtype, optimizer) == ("fp32", "adamw" if stage == "ppo" else "muon")
    assert len(trained) == (2 if stage == "ppo" else 1)  # policy and critic
    if stage == "ppo":
        STAGES[stage](begin, tmp_path / "shared", trunk="shared").run()
        assert len(said[-1][1]) == 1
    tight = STAGES[stage](begin, tmp_path / "tight", machine={"pass_tokens": longest, "dtype": "fp32", "device": "cpu"})
    tight.run()
    assert said[-1][2:4] == (1, longest)
