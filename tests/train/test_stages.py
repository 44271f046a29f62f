"""Every stage, run for real on a toy task: it learns what it is there to learn, and a stopped run ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from real_process import assert_same_end, finish, start
from toy_task import assert_reward_rises, few_documents, ppo_job, pretrain_job, reward_job, rows, sft_job

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import write_jsonl
from tutelage.data.tokens.heldout import HeldoutText
from tutelage.errors import CheckpointError, DataError, RecipeError
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.likelihood import negative_log_likelihood
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking
from tutelage.runs.hashes import hash_of
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.settings import longest_row


def test_pretraining_lowers_bits_per_byte(base):
    log = rows(base)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert 0 < log[-1]["bits_per_byte"] < 3


def test_sft_lowers_heldout_loss_and_says_its_parent(base, tuned):
    measured = [row["heldout_loss"] for row in rows(tuned) if "heldout_loss" in row]
    assert measured[-1] < measured[0] < 5
    lineage = json.loads((tuned / "lineage.json").read_text())
    assert lineage["inputs"]["checkpoint"]["sha256"] == hash_of(base)


def test_reward_model_ranks_heldout_prompts_and_scores_demonstrations_zero(toy, scorer):
    assert rows(scorer)[-1]["heldout_accuracy"] > 0.75
    from tutelage.data.formats import read_conversations

    assistant = Assistant.load(scorer, device="cpu", dtype="fp32")
    demonstrations = [c.messages for c in read_conversations(toy.folder / "demonstrations.jsonl")]
    mean = sum(assistant.scores(demonstrations)) / len(demonstrations)
    assert abs(mean) < 1e-3


def test_answers_to_other_prompts_teach_the_reward_model_what_was_asked(toy, tuned, tmp_path):
    """Two kinds of prompts, each with a good and a bad answer of its own: the good one of the other kind is no answer."""
    kinds = {"What colour is the {}?": ("nobody can know", "it is red"), "Say the word {}.": ("gladly, {}", "no")}
    things = ["door", "hat", "cup", "boat", "kite", "drum", "lamp", "rug"]

    def conversation(kind: str, answer: str, thing: str) -> list[Message]:
        turns = ("user", kind.format(thing)), ("assistant", answer.format(thing))
        return [Message(role=role, content=text) for role, text in turns]

    rankings = []
    for kind, answers in kinds.items():
        for thing in things[:-1]:
            good, bad = (Completion(text=answer.format(thing)) for answer in answers)
            prompt = Prompt(messages=tuple(conversation(kind, good.text, thing)[:1]))
            rankings.append(Ranking(prompt=prompt, completions=(good, bad), ranks=(1, 2)))
    write_jsonl(tmp_path / "rankings.jsonl", rankings)
    job = reward_job(
        toy, tuned, tmp_path / "run", rankings=tmp_path / "rankings.jsonl", heldout=tmp_path / "rankings.jsonl",
        noncontextual=1, epochs=20, demonstrations=None,
    )  # fmt: skip
    scorer = Assistant.load(job.run(), device="cpu", dtype="fp32")
    (one, (good_one, bad_one)), (two, (good_two, bad_two)) = kinds.items()
    for kind, best, *worse in ((one, good_one, bad_one, good_two), (two, good_two, bad_two, good_one)):
        top, *rest = scorer.scores([conversation(kind, answer, things[-1]) for answer in (best, *worse)])
        assert top > max(rest)


def test_weights_in_bf16_leave_the_head_in_fp32(toy, tuned, tmp_path):
    machine = {"device": "cpu", "weights": "bf16"}
    scorer = load_scalar(reward_job(toy, tuned, tmp_path / "run", machine=machine).run())
    assert (scorer.decoder.embed.weight.dtype, scorer.head.weight.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_ppo_raises_the_reward(toy, tuned, scorer, tmp_path, trunk):
    log = rows(ppo_job(toy, tuned, scorer, tmp_path / trunk, trunk=trunk, updates=20, lr=5e-4).run())
    assert_reward_rises(log)


def test_ppo_ptx_keeps_a_lower_loss_on_text_than_ppo(toy, tuned, scorer, tmp_path):
    held = HeldoutText.read(toy.folder / "documents.jsonl", Tokenizer.load(tuned), 64)

    def nats(checkpoint: Path) -> float:
        return negative_log_likelihood(load_decoder(checkpoint).eval(), held.ids, held.targets, "fp32").mean().item()

    with_text, plain = (
        ppo_job(toy, tuned, scorer, tmp_path / f"ptx{coef}", updates=8, lr=1e-3, ptx={"coef": coef}).run()
        for coef in (0.5, 0.0)
    )
    assert nats(with_text) < 0.8 * nats(plain)
    log = rows(with_text)
    assert log[-1]["ptx_loss"] < log[0]["ptx_loss"]


def test_sft_can_choose_its_epoch_by_reward(toy, base, scorer, tmp_path):
    job = sft_job(toy, base, tmp_path / "chosen", reward_model=scorer, prompts=toy.folder / "prompts.jsonl", epochs=2)
    checkpoint = job.run()
    measured = {row["step"]: row["reward"] for row in rows(checkpoint) if "reward" in row}
    closing = json.loads((checkpoint.parent / "done.json").read_text())
    assert closing["best_step"] == max(measured, key=lambda step: measured[step])


def test_text_mixed_into_sft_keeps_what_pretraining_knew(toy, base, tuned, tmp_path):
    text = {"toy": toy.folder / "documents.jsonl"}
    mixed = sft_job(toy, base, tmp_path / "mixed", ptx={"coef": 1.0}, text=text).run()
    held = HeldoutText.read(toy.folder / "documents.jsonl", Tokenizer.load(base), 64)

    def nats(checkpoint: Path) -> float:
        return negative_log_likelihood(load_decoder(checkpoint).eval(), held.ids, held.targets, "fp32").mean().item()

    assert nats(mixed) < 0.8 * nats(tuned)
    lineage = json.loads((mixed / "lineage.json").read_text())
    assert lineage["inputs"]["text.toy"]["sha256"] == hash_of(toy.folder / "documents.jsonl")
    with pytest.raises(RecipeError, match=r"ptx.coef is above 0, but the inputs name no text"):
        sft_job(toy, base, tmp_path / "none", ptx={"coef": 1.0}).run()


def test_a_finished_stage_is_not_run_again(toy, base):
    before = (base.parent / "sessions.jsonl").read_text()
    assert pretrain_job(toy, base.parent).run() == base
    assert (base.parent / "sessions.jsonl").read_text() == before


def test_a_reward_model_with_another_tokenizer_is_refused(toy, tuned, scorer, tmp_path):
    """Its ids would mean other words, and every score would be noise."""
    other = tmp_path / "other"
    shutil.copytree(scorer, other)
    Tokenizer.train(["quite another text, with other merges"] * 9, 320).save(other)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        ppo_job(toy, tuned, other, tmp_path / "out").run()


def test_what_the_context_does_not_hold_is_an_error_before_training(toy, base, tuned, tmp_path):
    assert [longest_row(256, 100), longest_row(64, 100)] == [96, 64]
    text = {"toy": toy.folder / "documents.jsonl"}
    with pytest.raises(RecipeError, match="windows of 500 tokens are longer than the model's context of 128"):
        sft_job(toy, base, tmp_path / "a", ptx={"coef": 1.0, "sequence": 500}, text=text).run()
    with pytest.raises(DataError, match=r"no conversation fits in 4 tokens"):
        sft_job(toy, base, tmp_path / "b", max_length=4).run()
    endless = tmp_path / "endless.jsonl"
    question = Message(role="user", content="and?")
    write_jsonl(endless, [Conversation(messages=(question, Message(role="assistant", content="so"), question))])
    with pytest.raises(DataError, match=r"endless\.jsonl: no demonstration ends with the assistant"):
        reward_job(toy, tuned, tmp_path / "c", demonstrations=endless).run()


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_a_stage_stopped_by_sigterm_ends_as_one_that_ran_through(toy, base, tuned, scorer, tmp_path, stage):
    """SIGTERM to a real process mid-run: exit code 0, state saved; the same command then ends as if nothing had been."""
    few = few_documents(toy, tmp_path)
    make = {
        "pretrain": lambda out: pretrain_job(toy, out, optimizer="muon", heldout=few, steps=60),
        "sft": lambda out: sft_job(toy, base, out, epochs=3, dropout=0.1),
        "reward": lambda out: reward_job(toy, tuned, out),
        "ppo": lambda out: ppo_job(toy, tuned, scorer, out, updates=10, ptx={"coef": 0.1}),
    }[stage]
    whole, stopped = make(tmp_path / "whole"), make(tmp_path / "stopped")
    assert finish(start(whole)) == 0
    process = start(stopped)
    log = stopped.out / "metrics.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 0
    assert (stopped.out / "state.pt").exists(), "it was over before the signal came"
    assert finish(start(stopped)) == 0
    assert_same_end(whole.out, stopped.out)
