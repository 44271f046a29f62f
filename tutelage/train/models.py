"""The models of a stage, trained whole or as LoRA adapters. Heads are fp32 in either case.

With ``lora``, the models share one frozen trunk in memory: the policy is the trunk with adapters, the reference the trunk without.
A reward model trained with LoRA from the same checkpoint is another set of adapters with a head; the critic starts as its copy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.decoder import Decoder
from tutelage.model.device import pick_device
from tutelage.model.heads import ScalarModel, fit_vocabulary
from tutelage.model.lora import adapters, add_adapters, copy_on_trunk, without_adapters
from tutelage.model.peft_format import load_adapter
from tutelage.runs.hashes import hash_of
from tutelage.runs.lineage import LINEAGE, read_lineage
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.settings import LoRA, Machine

ADAPTER = "adapter"
"""Folder in a checkpoint that holds its adapters alone, in peft's format, next to the merged weights."""

TYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def load_trainable(checkpoint: Path, tokenizer: Tokenizer, lora: LoRA, machine: Machine) -> Decoder:
    """The language model that a stage starts from: trainable as a whole, or frozen with new adapters.

    Its embeddings are extended to all tokens of ``tokenizer``. Raises CheckpointError if a weight is not a finite number.
    """
    kind = lora.trunk if lora.r else machine.weights
    decoder = load_decoder(checkpoint, pick_device(machine.device), TYPES[kind])
    for name, weight in decoder.named_parameters():
        if not torch.isfinite(weight).all():
            raise CheckpointError(
                f"{checkpoint}: {name} holds numbers that are not finite: training cannot start from it"
            )
    fit_vocabulary(decoder, tokenizer.vocab_size)
    decoder.recompute = machine.recompute
    return _with_adapters(decoder, lora) if lora.r else decoder


def new_scorer(decoder: Decoder) -> ScalarModel:
    """A reward model to train: a new head on a copy of ``decoder`` without its output layer; a frozen trunk is shared."""
    trunk = copy_on_trunk(decoder)
    trunk.unembed = None
    return ScalarModel(trunk)


def reference_of(policy: Decoder) -> Decoder:
    """A frozen copy of the policy as it is before training."""
    return without_adapters(policy) if adapters(policy) else copy.deepcopy(policy).requires_grad_(False)


def averaged_of(policy: Decoder) -> Decoder:
    """A model for the running mean of the policy's weights. Learned weights are fp32: bf16 would round small changes away."""
    mean = copy_on_trunk(policy)
    for weight in mean.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return mean.requires_grad_(False)


def load_scorer(
    reward_model: Path, policy: Decoder, checkpoint: Path, tokenizer: Tokenizer, machine: Machine
) -> ScalarModel:
    """A reward model for PPO: adapters on the policy's trunk if they were trained on it, else a model of its own."""
    if adapters(policy) and _fits_trunk(reward_model, checkpoint):
        trunk = without_adapters(policy)
        trunk.unembed = None
        scorer = load_adapter(reward_model / ADAPTER, trunk)
        assert isinstance(scorer, ScalarModel)
        return scorer.eval()
    if adapters(policy):
        print(f"{reward_model}: was not trained with LoRA from {checkpoint}, so it needs a trunk of its own in memory")
    own = load_scalar(reward_model, policy.embed.weight.device, TYPES[machine.weights])
    fit_vocabulary(own, tokenizer.vocab_size)
    own.decoder.recompute = machine.recompute
    return own


def load_scoring(
    reward_models: Mapping[str, Path], policy: Decoder, checkpoint: Path, tokenizer: Tokenizer, machine: Machine
) -> dict[str, ScalarModel]:
    """The reward models of a run by name, frozen. CheckpointError for one with another tokenizer than the policy's."""
    found = {}
    for name, path in reward_models.items():
        tokenizer.require_same(path)
        found[name] = load_scorer(path, policy, checkpoint, tokenizer, machine).eval().requires_grad_(False)
    return found


def new_critic(scorer: ScalarModel, lora: LoRA) -> ScalarModel:
    """A trainable critic that starts as a copy of the reward model; with LoRA it shares the reward model's trunk."""
    if not lora.r:
        return copy.deepcopy(scorer).requires_grad_(True)
    if adapters(scorer):
        return copy_on_trunk(scorer)
    scorer.decoder.requires_grad_(False)
    critic = copy_on_trunk(scorer)
    _with_adapters(critic.decoder, lora)
    return critic


def _with_adapters(decoder: Decoder, lora: LoRA) -> Decoder:
    return add_adapters(decoder, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)


def _fits_trunk(reward_model: Path, checkpoint: Path) -> bool:
    """True if the reward model's adapters were trained on exactly this checkpoint."""
    if not (reward_model / ADAPTER).is_dir() or not (reward_model / LINEAGE).is_file():
        return False
    parent = read_lineage(reward_model / LINEAGE)["inputs"].get("checkpoint")
    return parent is not None and parent["sha256"] == hash_of(checkpoint)
