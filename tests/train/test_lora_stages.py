"""The stages through LoRA, on a model that transformers has written: what learns, what is saved, and what is shared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_task import assert_reward_rises, ppo_job, reward_job, rows, sft_job

from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.heads import ScalarModel
from tutelage.model.lora import adapters
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.models import load_scorer, load_trainable, new_critic, reference_of
from tutelage.train.settings import LoRA, Machine

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")

SMALL = {"r": 8, "alpha": 16.0}
IDS = torch.randint(20, 300, (2, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def imported(base, tmp_path_factory) -> Path:
    """The toy's base model, as transformers saves it."""
    folder = tmp_path_factory.mktemp("imported") / "model"
    transformers.AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder)
    Tokenizer.load(base).save(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(toy, imported, tmp_path_factory) -> Path:
    return sft_job(toy, imported, tmp_path_factory.mktemp("lora") / "sft", lora=SMALL, lr=5e-3, epochs=3).run()


@pytest.fixture(scope="module")
def scorer(toy, tuned, tmp_path_factory) -> Path:
    return reward_job(toy, tuned, tmp_path_factory.mktemp("lora") / "reward", lora=SMALL, lr=5e-3, epochs=8).run()


def test_sft_learns_and_its_adapter_in_peft_is_its_merged_model(imported, tuned):
    measured = [row["heldout_loss"] for row in rows(tuned) if "heldout_loss" in row]
    assert measured[-1] < measured[0]
    whole = transformers.AutoModelForCausalLM.from_pretrained(imported)
    theirs = peft.PeftModel.from_pretrained(whole, tuned / "adapter").eval()
    ours = load_decoder(tuned)
    with torch.no_grad():
        expected = ours.logits(ours(IDS))
        torch.testing.assert_close(theirs(IDS).logits, expected, atol=1e-4, rtol=1e-4)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_only_the_matrices_with_adapters_have_changed(imported, tuned):
    before, after = (load_decoder(folder).state_dict() for folder in (imported, tuned))
    changed = {name.split(".", 2)[-1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight"}


def test_the_reward_models_adapter_scores_in_peft_as_the_merged_one(toy, tuned, scorer):
    assert rows(scorer)[-1]["heldout_accuracy"] > 0.75
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(tuned, num_labels=1)
    theirs = peft.PeftModel.from_pretrained(whole, scorer / "adapter").eval()
    alone = transformers.AutoModelForSequenceClassification.from_pretrained(scorer).eval()
    ours = load_scalar(scorer)
    with torch.no_grad():
        expected = ours(IDS)[:, -1] + ours.offset
        torch.testing.assert_close(theirs(IDS).logits[:, 0], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone(IDS).logits[:, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_ppo_raises_the_reward_through_adapters(toy, tuned, scorer, tmp_path, trunk, capsys):
    job = ppo_job(
        toy, tuned, scorer, tmp_path / trunk, trunk=trunk, updates=16, lr=3e-3, lora=SMALL,
        reward_models={"again": scorer}, scorers={"reward_model": {"weight": 1.0}, "again": {"weight": 0.0}},
    )  # fmt: skip
    log = rows(job.run())
    assert_reward_rises(log)
    assert [row["score_again"] for row in log] == [row["score_reward_model"] for row in log]
    assert "trunk of its own" not in capsys.readouterr().out


def weights(*models: torch.nn.Module) -> int:
    """Numbers in memory, those that several models share counted once."""
    distinct = {id(p): p for model in models for p in model.parameters()}
    return sum(p.numel() for p in distinct.values())


@pytest.mark.parametrize("shared", [False, True])
def test_the_four_models_of_ppo_stand_on_one_trunk(tuned, scorer, shared):
    lora, tokenizer = LoRA.model_validate(SMALL), Tokenizer.load(tuned)
    policy = load_trainable(tuned, tokenizer, lora, Machine(device="cpu"))
    trunk = sum(p.numel() for p in policy.parameters() if not p.requires_grad)
    reference = reference_of(policy)
    judge = load_scorer(scorer, policy, tuned, tokenizer, Machine(device="cpu"))
    critic = ScalarModel(policy) if shared else new_critic(judge, lora)
    learning = {id(p): p for model in (policy, judge, critic) for p in model.parameters() if p.requires_grad}
    assert weights(policy, reference, judge, critic) == trunk + sum(p.numel() for p in learning.values())
    assert not any(p.requires_grad for p in reference.parameters())
    with torch.no_grad():
        plain, whole = load_decoder(tuned), load_scalar(scorer)
        torch.testing.assert_close(reference(IDS), plain(IDS))
        torch.testing.assert_close(judge(IDS), whole(IDS), atol=1e-4, rtol=1e-4)
        if not shared:
            torch.testing.assert_close(critic(IDS), judge(IDS))


def test_the_critic_learns_without_moving_the_reward_model(tuned, scorer):
    lora, tokenizer = LoRA.model_validate(SMALL), Tokenizer.load(tuned)
    policy = load_trainable(tuned, tokenizer, lora, Machine(device="cpu"))
    judge = load_scorer(scorer, policy, tuned, tokenizer, Machine(device="cpu"))
    critic = new_critic(judge, lora)
    judge.requires_grad_(False)
    with torch.no_grad():
        before = judge(IDS)
    critic(IDS).square().mean().backward()
    torch.optim.SGD([p for p in critic.parameters() if p.requires_grad], lr=0.5).step()
    with torch.no_grad():
        assert torch.equal(judge(IDS), before)
        assert not torch.equal(critic(IDS), before)
    assert adapters(critic)


def test_a_reward_model_from_elsewhere_gets_a_trunk_of_its_own_and_says_so(
    toy, imported, tuned, scorer, tmp_path, capsys
):
    other = sft_job(toy, imported, tmp_path / "other", lora=SMALL, epochs=1).run()
    ppo_job(toy, other, scorer, tmp_path / "ppo", updates=1, lora=SMALL).run()
    assert f"was not trained with LoRA from {other}" in capsys.readouterr().out


def test_a_bf16_trunk_stays_bf16_under_fp32_adapters(imported, tuned, scorer):
    lora = LoRA.model_validate(SMALL | {"trunk": "bf16"})
    policy = load_trainable(tuned, Tokenizer.load(tuned), lora, Machine(device="cpu"))
    kinds = {p.requires_grad: p.dtype for p in policy.parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    critic = ScalarModel(policy)
    assert critic.head.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        critic(IDS).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_stage_runs_on_a_bf16_trunk_and_keeps_its_type(toy, imported, tmp_path, dtype):
    some = {"lora": SMALL | {"trunk": "bf16"}, "machine": {"device": "cpu", "dtype": dtype, "recompute": True}}
    tuned = sft_job(toy, imported, tmp_path / "sft", epochs=1, lr=5e-3, **some).run()
    scorer = reward_job(toy, tuned, tmp_path / "reward", epochs=1, lr=5e-3, **some).run()
    aligned = ppo_job(toy, tuned, scorer, tmp_path / "ppo", updates=2, **some).run()
    assert all(abs(row["first_ratio"] - 1) < 1e-5 for row in rows(aligned))
    for checkpoint in (tuned, scorer, aligned):
        assert json.loads((checkpoint / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_dropout_of_adapters_is_off_in_ppo(toy, tuned, scorer, tmp_path):
    """With it the policy would sample, be held to its old self and learn through three different masks."""
    lora = SMALL | {"dropout": 0.5}
    log = rows(ppo_job(toy, tuned, scorer, tmp_path / "ppo", updates=3, lr=3e-3, lora=lora).run())
    assert all(abs(row["first_ratio"] - 1) < 1e-5 for row in log)
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("given", [{"alpha": 8.0}, {"trunk": "bf16"}, {"targets": ["mlp.up"]}])
def test_settings_of_adapters_without_adapters_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} applies to adapters only"):
        LoRA.model_validate(given)


def test_a_target_named_twice_is_adapted_once(tuned):
    lora = LoRA.model_validate({"r": 2, "targets": ["mlp.up", "mlp.up"]})
    policy = load_trainable(tuned, Tokenizer.load(tuned), lora, Machine(device="cpu"))
    assert {name.split(".", 2)[-1] for name in adapters(policy)} == {"mlp.up"}
