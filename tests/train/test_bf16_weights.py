"""The stages with bf16 weights and fp32 masters (machine.weights): what learns, what is saved, and what stays fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from toy_task import MACHINE, assert_reward_rises, ppo_job, pretrain_job, reward_job, rows, sft_job

from tutelage.model.checkpoint import load_scalar
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.models import averaged_of, load_scorer, load_trainable, new_critic
from tutelage.train.settings import LoRA, Machine

HALF = {"machine": MACHINE | {"weights": "bf16"}}
IDS = torch.randint(20, 300, (2, 17), generator=torch.Generator().manual_seed(0))


def types(checkpoint: Path) -> set[str]:
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def half_base(toy, tmp_path_factory) -> Path:
    return pretrain_job(toy, tmp_path_factory.mktemp("half") / "base", **HALF).run()


@pytest.fixture(scope="module")
def half_sft(toy, half_base, tmp_path_factory) -> Path:
    return sft_job(toy, half_base, tmp_path_factory.mktemp("half") / "sft", epochs=3, **HALF).run()


@pytest.fixture(scope="module")
def half_scorer(toy, half_sft, tmp_path_factory) -> Path:
    return reward_job(toy, half_sft, tmp_path_factory.mktemp("half") / "reward", **HALF).run()


def test_pretraining_in_bf16_learns_as_much_as_in_fp32(base, half_base):
    whole, half = (rows(folder)[-1]["bits_per_byte"] for folder in (base, half_base))
    assert half == pytest.approx(whole, rel=0.03)
    assert types(half_base) == {"BF16"}
    assert types(base) == {"F32"}


def test_sft_and_the_reward_model_learn(half_sft, half_scorer):
    losses = [row["heldout_loss"] for row in rows(half_sft) if "heldout_loss" in row]
    assert losses[-1] < losses[0]
    assert types(half_sft) == {"BF16"}
    assert rows(half_scorer)[-1]["heldout_accuracy"] > 0.75


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_ppo_raises_the_reward_and_begins_where_its_reference_is(toy, half_sft, half_scorer, tmp_path, trunk):
    job = ppo_job(toy, half_sft, half_scorer, tmp_path / trunk, trunk=trunk, updates=16, lr=1e-3, **HALF)
    log = rows(job.run())
    assert_reward_rises(log)


def test_heads_and_averaged_weights_stay_fp32(half_sft, half_scorer):
    tokenizer, machine = Tokenizer.load(half_sft), Machine.model_validate(HALF["machine"])
    policy = load_trainable(half_sft, tokenizer, LoRA(), machine)
    judge = load_scorer(half_scorer, policy, half_sft, tokenizer, machine)
    critic = new_critic(judge, LoRA())
    assert {p.dtype for p in policy.parameters()} == {p.dtype for p in judge.decoder.parameters()} == {torch.bfloat16}
    assert judge.head.weight.dtype == critic.head.weight.dtype == torch.float32
    assert {p.dtype for p in averaged_of(policy).parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(judge(IDS), load_scalar(half_scorer)(IDS), atol=0.05, rtol=0.05)


def test_a_saved_head_is_fp32_when_it_is_read_again(half_scorer):
    with safe_open(half_scorer / "model.safetensors", framework="pt") as file:
        assert torch.equal(load_scalar(half_scorer).head.weight, file.get_tensor("score.weight"))
        assert file.get_slice("score.weight").get_dtype() == "F32"
