"""Settings of the stages for the toy task, small enough for seconds."""

from __future__ import annotations

from typing import Any

from tutelage.train.ppo import PPOSettings
from tutelage.train.pretrain import PretrainSettings
from tutelage.train.reward import RewardSettings
from tutelage.train.sft import SFTSettings

MACHINE = {"device": "cpu", "dtype": "fp32"}
SHAPE = {"layers": 2, "hidden_size": 64, "heads": 2, "context": 128}


def pretrain_settings(toy, out, **changes: Any) -> PretrainSettings:
    values = {
        "out": out,
        "tokenizer": toy.folder / "tokenizer",
        "sources": {"toy": {"path": toy.folder / "documents.jsonl"}},
        "heldout": toy.folder / "documents.jsonl",
        "model": SHAPE,
        "sequence": 64,
        "batch_size": 8,
        "steps": 120,
        "lr": 5e-3,
        "warmup": 5,
        "machine": MACHINE,
    }
    return PretrainSettings.model_validate(values | changes)


def sft_settings(toy, base, out, **changes: Any) -> SFTSettings:
    values = {
        "out": out,
        "checkpoint": base,
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "heldout": toy.folder / "demonstrations.jsonl",
        "epochs": 2,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "max_new_tokens": 8,
        "machine": MACHINE,
    }
    return SFTSettings.model_validate(values | changes)


def reward_settings(toy, tuned, out, **changes: Any) -> RewardSettings:
    values = {
        "out": out,
        "checkpoint": tuned,
        "rankings": toy.folder / "rankings.jsonl",
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "epochs": 4,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "machine": MACHINE,
    }
    return RewardSettings.model_validate(values | changes)


def ppo_settings(toy, tuned, scorer, out, **changes: Any) -> PPOSettings:
    values = {
        "out": out,
        "checkpoint": tuned,
        "reward_model": scorer,
        "prompts": toy.folder / "prompts.jsonl",
        "batch_size": 32,
        "minibatch": 16,
        "max_new_tokens": 8,
        "lr": 3e-4,
        "value_lr": 1e-3,
        "kl": {"coef": 0.02},
        "ptx_sources": {"toy": {"path": toy.folder / "documents.jsonl"}},
        "ptx_windows": 4,
        "ptx_sequence": 64,
        "machine": MACHINE,
    }
    return PPOSettings.model_validate(values | changes)
