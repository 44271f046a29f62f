"""One update of PPO: rollouts, scores, advantages, and clipped steps over minibatches.

``Models`` holds everything that an update reads or changes besides its knobs. The functions below it are the steps in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import ON_BAD, OnBad
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives import ppo
from tutelage.records import Prompt
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, apply_gradients
from tutelage.train.optimizer import Optimizer
from tutelage.train.pretraining_text import Ptx, PtxSettings
from tutelage.train.rl import (
    KLSettings,
    Sums,
    before_update,
    blend,
    check_scorers,
    code_of,
    minibatch_rows,
    over_budget,
    prompt_order,
    scored_answers,
)
from tutelage.train.rollouts import Rollouts, answer_logprobs
from tutelage.train.scorers import Scorer, ScorerSettings
from tutelage.train.settings import LoRA, Machine, require_microbatch, warn_of_warmup


class PPOInputs(Inputs):
    """What PPO reads."""

    checkpoint: ModelPath = Field(description="policy to start from and KL reference: the SFT model")
    reward_model: RewardModelPath = Field(description="reward model; the critic starts from it")
    prompts: Path = Field(description="prompts to answer")
    reward_models: dict[str, RewardModelPath] = Field({}, description="further reward models to score with, by name")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge is the scorer `gold`")
    text: dict[str, Path] = Field({}, description="sources of pretraining text for PPO-ptx, by name")


class PPOSettings(Settings):
    """Knobs of ``tutelage ppo``. A minibatch is one optimiser step."""

    updates: int = Field(60, gt=0, description="batches of rollouts")
    batch_size: int = Field(128, gt=0, description="answers per update")
    minibatch: int = Field(32, gt=0, description="answers per optimiser step")
    microbatch: int = Field(0, ge=0, description="most answers per forward pass; 0: no limit")
    inner_epochs: int = Field(1, gt=0, description="passes over each batch of rollouts (InstructGPT: 1)")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    max_prompt: int = Field(0, ge=0, description="longest prompt; longer are left out; 0: all that fit [tokens]")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-probability")
    missing_end_penalty: float = Field(2.0, ge=0, description="subtracted from the score of an unfinished answer")
    trunk: Literal["separate", "shared"] = Field("separate", description="the critic's network: own, or the policy's")
    lr: float = Field(5e-5, gt=0, description="policy's learning rate")
    value_lr: float = Field(1e-4, gt=0, description="critic's learning rate; of its head only, if the trunk is shared")
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss (it matters for a shared trunk)")
    value_warmup: int = Field(0, ge=0, description="first updates that train the critic alone, before the warm-up")
    warmup: int = Field(3, ge=0, description="updates of linear learning-rate warm-up, of each network's first")
    floor: float = Field(1.0, ge=0, le=1, description="last learning rate as a share of the peak; 1: constant")
    clip: float = Field(0.2, gt=0, description="PPO's clip of the ratio")
    value_clip: float = Field(0.2, ge=0, description="clip of the values' change; 0: none")
    gradient_clip: float = Field(1.0, ge=0, description="largest gradient norm of policy and of critic; 0: no clipping")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's lambda")
    eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    average: float = Field(0.0, ge=0, lt=1, description="decay of saved mean weights (InstructGPT: 0.992); 0: none")
    kl: KLSettings = Field(KLSettings(), description="the penalty for moving away from the SFT model")
    ptx: PtxSettings = Field(PtxSettings(), description="pretraining text in the joint gradient; coef above 0: PPO-ptx")
    scorers: dict[str, ScorerSettings] = Field({}, description="terms of the reward: reward models, functions and gold")
    lora: LoRA = Field(LoRA(), description="adapters instead of all weights, for policy and critic")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of prompt order, sampling and adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _fits_together(self) -> PPOSettings:
        if self.minibatch > self.batch_size:
            raise ValueError(f"minibatch {self.minibatch} is larger than batch_size {self.batch_size}")
        require_microbatch(self.microbatch, self.minibatch, "minibatch")
        if self.value_warmup >= self.updates:
            raise ValueError(
                f"value_warmup {self.value_warmup} leaves none of the {self.updates} updates to the policy"
            )
        self.kl.require_sense(self.batch_size)
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for ptx without text, or a scorer that is neither a function nor a reward model of the inputs."""
        assert isinstance(inputs, PPOInputs)
        self.ptx.check_text(inputs.text)
        for name in ("reward_model", *(["gold"] if inputs.world else [])):
            if name in inputs.reward_models:
                raise RecipeError(
                    f"reward_models.{name}: {name} is a scorer already; give this reward model another name"
                )
        models = ["reward_model", *inputs.reward_models, *(["gold"] if inputs.world else [])]
        check_scorers(self.scorers, models)

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An update needs ``batch_size`` different prompts, and the learning rate some updates after its warm-up."""
        assert isinstance(inputs, PPOInputs)
        count = rows("prompts", inputs.prompts, self.batch_size)
        if count is not None and count < self.batch_size:
            raise RecipeError(
                f"{inputs.prompts} has {count} prompts, fewer than batch_size {self.batch_size}: give more prompts, or a "
                f"batch_size (and minibatch) of at most {count}"
            )
        yield from warn_of_warmup(self.updates - self.value_warmup, self.warmup)

    def code(self) -> dict[str, Path]:
        """The files of the scorers' functions."""
        return code_of(self.scorers)


@dataclass(frozen=True)
class Models:
    """The networks of PPO, and what belongs to them."""

    policy: Decoder
    reference: Decoder
    critic: ScalarModel
    averaged: Decoder  # the running mean of the policy's weights, which is saved
    scorers: Sequence[Scorer]
    optimizer: Optimizer
    kl: ppo.FixedKL
    tokenizer: Tokenizer
    ptx: Ptx | None

    @property
    def shares_trunk(self) -> bool:
        """True if the critic is a head on the policy."""
        return self.critic.decoder is self.policy


def ppo_update(
    step: int, knobs: PPOSettings, models: Models, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]]
) -> Metrics:
    """Sample and score a batch of answers, and take an optimiser step for each of its minibatches. Returns the metrics.

    A batch over the KL budget is measured, and not trained on.
    """
    policy = models.policy
    chosen = [(prompts[i], prompt_ids[i]) for i in prompt_order(len(prompts), knobs.batch_size, step, knobs.seed)]
    rollouts, scores, of_answers = scored_answers(step, policy, models.tokenizer, models.scorers, chosen, knobs)
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.tolist(), knobs, step)
    batch, metrics = experience(rollouts, scores, models, models.kl.coef, knobs, first_pass)
    metrics |= of_answers
    if over_budget(knobs.kl, metrics["kl"]):
        return metrics

    critic_alone = step < knobs.value_warmup
    losses: Metrics = defaultdict(float)
    for number, pieces in enumerate(minibatches):
        stats = minibatch_backward(models, batch, pieces, knobs, critic_alone=critic_alone)
        first_ratio = stats.pop("farthest_ratio")
        if number == 0:
            metrics["first_ratio"] = first_ratio
        if models.ptx and not critic_alone:
            stats["ptx_loss"] = models.ptx.backward(policy, step * len(minibatches) + number)
        for name, value in stats.items():
            losses[name] += value / len(minibatches)
        if critic_alone:
            policy.zero_grad(set_to_none=True)  # of a shared trunk
        critic = models.critic.head if models.shares_trunk else models.critic
        metrics["grad_norm"] = apply_gradients(models.optimizer, knobs.gradient_clip, policy, critic)
    blend(models.averaged, policy, knobs.average)
    if not critic_alone:
        models.kl.update(metrics["kl"], knobs.batch_size)
    return metrics | losses


@dataclass(frozen=True)
class Experience:
    """Rollouts with what the losses need, computed before the first step. All tensors are [b, a]."""

    rollouts: Rollouts
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def select(self, rows: Tensor) -> Experience:
        """Some of the rows, narrowed to their longest answer."""
        part = self.rollouts.select(rows)
        a = part.mask.shape[1]
        fields = (self.logprobs, self.values, self.advantages, self.returns)
        return Experience(part, *(field[rows, :a] for field in fields))


def forward(
    policy: Decoder, critic: ScalarModel, rollouts: Rollouts, temperature: float, dtype: str
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and values, each [b, a], in a single pass if the critic shares the policy's trunk."""
    with autocast(rollouts.ids.device, dtype):
        hidden = policy(rollouts.ids)
        logprobs = answer_logprobs(policy, hidden, rollouts, temperature)
        values = critic.score(hidden) if critic.decoder is policy else critic(rollouts.ids)
    return logprobs, rollouts.at_answer(values.float())


@torch.no_grad()
def experience(
    rollouts: Rollouts, scores: Tensor, models: Models, kl_coef: float, knobs: PPOSettings, pieces: Sequence[Tensor]
) -> tuple[Experience, Metrics]:
    """Old log-probabilities and values, from ``before_update``; rewards; and advantages whitened over the whole batch."""

    def values(hidden: Tensor, part: Rollouts) -> Tensor:
        return models.critic.score(hidden) if models.shares_trunk else models.critic(part.ids)

    mask = rollouts.mask
    before = before_update(rollouts, models.policy, models.reference, pieces, knobs.temperature, knobs.machine, values)
    penalised = scores - knobs.missing_end_penalty * (~rollouts.finished).float()
    rewards = ppo.token_rewards(penalised, before.logprobs, before.ref_logprobs, mask, kl_coef)
    advantages, returns = ppo.gae(rewards, before.values, mask, knobs.gamma, knobs.lam)
    explained = ppo.explained_variance(before.values, returns, mask).item()
    metrics = before.metrics(rollouts) | {"kl_coef": kl_coef, "explained_variance": explained}
    return Experience(rollouts, before.logprobs, before.values, ppo.whiten(advantages, mask), returns), metrics


def minibatch_backward(
    models: Models, batch: Experience, pieces: Sequence[Tensor], knobs: PPOSettings, *, critic_alone: bool = False
) -> Metrics:
    """Add the gradient of policy loss + ``value_coef`` x value loss over one minibatch to the models' gradients.

    ``pieces``: the rows of each forward pass. The losses are means over all tokens of the minibatch. Returns the losses, the
    scalars of ``ppo.policy_loss``, and "farthest_ratio", the ratio farthest from 1 among the tokens.
    """
    count, dtype = batch.rollouts.mask[torch.cat(list(pieces))].sum(), knobs.machine.dtype
    sums = Sums()
    for rows in filter(len, map(parallel.shard, pieces)):
        part = batch.select(rows)
        mask = part.rollouts.mask
        logprobs, values = forward(models.policy, models.critic, part.rollouts, knobs.temperature, dtype)
        policy_loss, stats = ppo.policy_loss(logprobs, part.logprobs, part.advantages, mask, knobs.clip, count)
        value_loss = ppo.value_loss(values, part.values, part.returns, mask, knobs.value_clip or None, count)
        (knobs.value_coef * value_loss if critic_alone else policy_loss + knobs.value_coef * value_loss).backward()
        losses = {"policy_loss": policy_loss, "value_loss": value_loss}
        sums.add(stats | losses, logprobs, part.logprobs, mask)
    return sums.of_all_ranks()
