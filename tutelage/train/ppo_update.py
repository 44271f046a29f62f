"""One update of PPO: rollouts, scores, advantages, and clipped steps over minibatches.

``Models`` holds everything that an update reads or changes besides its knobs. The functions below it are the steps in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives import ppo
from tutelage.settings import Inputs, RewardModelPath, Rows
from tutelage.train import parallel
from tutelage.train.loop import Metrics, apply_gradients
from tutelage.train.rl import (
    Asked,
    Networks,
    Sums,
    before_update,
    blend,
    minibatch_rows,
    over_budget,
    over_minibatches,
    prompt_order,
    scored_answers,
)
from tutelage.train.rl_settings import RLInputs, RLSettings, check_reward
from tutelage.train.rollouts import Rollouts, answer_logprobs
from tutelage.train.settings import warn_of_warmup


class PPOInputs(RLInputs):
    """What PPO reads."""

    reward_model: RewardModelPath = Field(description="reward model; the critic starts from it")


class PPOSettings(RLSettings):
    """Knobs of ``tutelage ppo``. A minibatch is one optimiser step."""

    batch_size: int = Field(128, gt=0, description="answers per update")
    trunk: Literal["separate", "shared"] = Field("separate", description="the critic's network: own, or the policy's")
    value_lr: float = Field(1e-4, gt=0, description="critic's learning rate; of its head only, if the trunk is shared")
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss (it matters for a shared trunk)")
    value_warmup: int = Field(0, ge=0, description="first updates that train the critic alone, before the warm-up")
    value_clip: float = Field(0.2, ge=0, description="clip of the values' change; 0: none")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's lambda")

    @model_validator(mode="after")
    def _fits_together(self) -> PPOSettings:
        self.require_sense(self.batch_size, "batch_size")
        if self.value_warmup >= self.updates:
            raise ValueError(
                f"value_warmup {self.value_warmup} leaves none of the {self.updates} updates to the policy"
            )
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for ptx without text, an unknown scorer, or a reward to which nothing adds."""
        assert isinstance(inputs, PPOInputs)
        self.ptx.check_text(inputs.text)
        check_reward(self.scorers, inputs.reward_models, inputs.world, own=["reward_model"])

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An update needs ``batch_size`` different prompts, and the learning rate some updates after its warm-up."""
        assert isinstance(inputs, PPOInputs)
        self.check_prompts(inputs, rows, self.batch_size, "batch_size")
        yield from warn_of_warmup(self.updates - self.value_warmup, self.warmup)


@dataclass(frozen=True, kw_only=True)
class Models(Networks):
    """The networks of PPO."""

    critic: ScalarModel

    @property
    def shares_trunk(self) -> bool:
        """True if the critic is a head on the policy."""
        return self.critic.decoder is self.policy


def ppo_update(step: int, knobs: PPOSettings, models: Models, prompts: Asked) -> Metrics:
    """Sample and score a batch of answers, and take an optimiser step for each of its minibatches. Returns the metrics.

    A batch over the KL budget is measured, and not trained on.
    """
    policy = models.policy
    chosen = [prompts[i] for i in prompt_order(len(prompts), knobs.batch_size, step, knobs.seed)]
    rollouts, scores, of_answers = scored_answers(step, policy, models.tokenizer, models.scorers, chosen, knobs)
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.tolist(), knobs, step)
    batch, metrics = experience(rollouts, scores, models, models.kl.coef, knobs, first_pass)
    metrics |= of_answers
    if over_budget(knobs.kl, metrics["kl"]):
        return metrics

    critic_alone = step < knobs.value_warmup
    critic = models.critic.head if models.shares_trunk else models.critic

    def apply() -> float:
        if critic_alone:
            policy.zero_grad(set_to_none=True)  # of a shared trunk
        return apply_gradients(models.optimizer, knobs.gradient_clip, policy, critic)

    metrics |= over_minibatches(
        step,
        minibatches,
        lambda pieces: minibatch_backward(models, batch, pieces, knobs, critic_alone=critic_alone),
        apply,
        policy,
        None if critic_alone else models.ptx,
    )
    blend(models.averaged, policy, knobs.average)
    if not critic_alone:
        models.kl.update(metrics["kl"], knobs.batch_size)
    return metrics


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
