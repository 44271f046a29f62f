"""One update of PPO: rollouts, scores, advantages, and clipped steps over minibatches.

Everything that the update reads or changes besides its knobs is in ``Models``; the functions below it are its steps in order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives.ppo import (
    AdaptiveKL,
    FixedKL,
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    kl_per_answer,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from tutelage.records import Prompt
from tutelage.settings import Inputs, ModelPath, Settings, nearest
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import apply_gradients
from tutelage.train.optimizer import Optimizer
from tutelage.train.pretraining_text import Ptx, PtxSettings
from tutelage.train.rollouts import Rollouts, answer_logprobs, sample
from tutelage.train.scorers import Scorer, ScorerSettings, score
from tutelage.train.settings import LoRA, Machine
from tutelage.train.training import Metrics


class KLSettings(Settings):
    """The penalty for leaving the SFT model."""

    controller: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers coef towards target")
    coef: float = Field(0.1, ge=0, description="weight of the KL term per token (its first value, if adaptive)")
    target: float = Field(3.0, gt=0, description="wanted KL, adaptive only [nats per answer, summed over its tokens]")
    horizon: int = Field(10_000, gt=0, description="how slowly coef follows, adaptive only [answers]")
    budget: float = Field(
        0.0, ge=0, description="the run ends when a batch's mean KL is above it; 0: never [nats per answer]"
    )

    @model_validator(mode="after")
    def _steerable(self) -> KLSettings:
        if self.controller == "adaptive" and not self.coef:
            raise ValueError(
                "an adaptive coefficient is multiplied, so it cannot start at 0; give kl.coef or controller fixed"
            )
        return self


class PPOInputs(Inputs):
    """What PPO reads."""

    checkpoint: ModelPath = Field(description="policy to start from and KL reference: the SFT model")
    reward_model: ModelPath = Field(description="reward model; the critic starts from it")
    prompts: Path = Field(description="prompts to answer")
    reward_models: dict[str, ModelPath] = Field({}, description="further reward models to score with, by name")
    world: Path | None = Field(None, description="folder of an embedded world, whose judge is the scorer `gold`")
    text: dict[str, Path] = Field({}, description="sources of pretraining text for PPO-ptx, by name")


class PPOSettings(Settings):
    """Knobs of ``tutelage ppo``. A minibatch is one optimiser step."""

    updates: int = Field(60, gt=0, description="batches of rollouts")
    batch_size: int = Field(128, gt=0, description="answers per update")
    minibatch: int = Field(32, gt=0, description="answers per optimiser step")
    microbatch: int = Field(
        64, ge=0, description="answers per forward pass, of similar lengths; 0: the whole minibatch"
    )
    inner_epochs: int = Field(1, gt=0, description="passes over each batch of rollouts (InstructGPT: 1)")
    max_new_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-probability")
    missing_end_penalty: float = Field(2.0, ge=0, description="taken from the score of an answer that did not end")
    trunk: Literal["separate", "shared"] = Field(
        "separate", description="the critic's network: its own, or the policy's"
    )
    lr: float = Field(5e-5, gt=0, description="policy's learning rate")
    value_lr: float = Field(
        1e-4, gt=0, description="learning rate of the critic; of its head alone, if the trunk is shared"
    )
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss (it matters for a shared trunk)")
    value_warmup: int = Field(0, ge=0, description="first updates that train the critic alone")
    warmup: int = Field(3, ge=0, description="updates of linear learning-rate warm-up")
    floor: float = Field(1.0, ge=0, le=1, description="last learning rate as a share of the peak; 1: constant")
    clip: float = Field(0.2, gt=0, description="PPO's clip of the ratio, and of the values' change")
    gradient_clip: float = Field(
        1.0, ge=0, description="largest gradient norm of policy and critic each; 0: no clipping"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's lambda")
    eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights that are saved (InstructGPT: 0.992); 0: none"
    )
    kl: KLSettings = Field(KLSettings(), description="the penalty for leaving the SFT model")
    ptx: PtxSettings = Field(PtxSettings(), description="pretraining text in the joint gradient; coef above 0: PPO-ptx")
    scorers: dict[str, ScorerSettings] = Field(
        {}, description="terms of the reward by name: reward_model, other reward models of the inputs, functions, gold"
    )
    lora: LoRA = Field(LoRA(), description="adapters instead of all weights, for policy and critic")
    seed: int = Field(0, description="seed of prompts' order, of sampling and of adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _consistent(self) -> PPOSettings:
        if self.kl.controller == "adaptive" and self.batch_size >= 5 * self.kl.horizon:
            raise ValueError(
                f"kl.horizon {self.kl.horizon} is too short for batch_size {self.batch_size}; give more than a fifth of it"
            )
        return self

    def check(self, inputs: Inputs) -> None:
        """Text to mix in must be there, and every scorer must be a function or a reward model of the inputs."""
        assert isinstance(inputs, PPOInputs)
        self.ptx.check_text(inputs.text)
        models = ["reward_model", *inputs.reward_models, *(["gold"] if inputs.world else [])]
        for name, scorer in self.scorers.items():
            if scorer.function is None and name not in models:
                raise RecipeError(
                    f"scorers.{name}: give a function, or a reward model of this name among the inputs{nearest(name, models)}"
                )
            if scorer.function is not None and name in models:
                raise RecipeError(f"scorers.{name}: {name} is a scorer already; give the function another name")


@dataclass(frozen=True)
class Models:
    """The networks of PPO and what goes with them."""

    policy: Decoder
    reference: Decoder
    critic: ScalarModel
    averaged: Decoder
    """The running mean of the policy's weights, which is what gets saved."""
    scorers: Sequence[Scorer]
    optimizer: Optimizer
    kl: FixedKL | AdaptiveKL
    tokenizer: Tokenizer
    ptx: Ptx | None

    @property
    def shares_trunk(self) -> bool:
        """Whether the critic is a head on the policy."""
        return self.critic.decoder is self.policy


def ppo_update(
    step: int, knobs: PPOSettings, models: Models, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]]
) -> Metrics:
    """One update: sample a batch, score it, estimate advantages, and step over its minibatches. Returns its metrics."""
    chosen = prompt_order(len(prompts), knobs.batch_size, step, knobs.seed)
    rollouts = sample(
        models.policy,
        [prompt_ids[i] for i in chosen],
        models.tokenizer,
        max_new_tokens=knobs.max_new_tokens,
        temperature=knobs.temperature,
        seed=knobs.seed * 1_000_003 + step,
        dtype=knobs.machine.dtype,
    )
    texts = [
        models.tokenizer.decode(row[m].tolist()) for row, m in zip(rollouts.answer_ids, rollouts.mask, strict=True)
    ]
    scores, by_name = score(models.scorers, rollouts, [prompts[i] for i in chosen], texts, knobs.machine.dtype)
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.cpu(), knobs)
    batch, metrics = experience(rollouts, scores, models, models.kl.coef, knobs, first_pass)
    metrics |= answer_metrics(rollouts, scores, texts) | score_metrics(by_name)

    critic_alone = step < knobs.value_warmup
    losses: Metrics = defaultdict(float)
    for number, pieces in enumerate(minibatches):
        stats = minibatch_backward(models, batch, pieces, knobs, critic_alone=critic_alone)
        first_ratio = stats.pop("farthest_ratio")
        if number == 0:
            metrics["first_ratio"] = first_ratio
        for name, value in stats.items():
            losses[name] += value / len(minibatches)
        if models.ptx and not critic_alone:
            ptx_loss = models.ptx.backward(models.policy, step * len(minibatches) + number)
            losses["ptx_loss"] += ptx_loss / len(minibatches)
        critic = models.critic.head if models.shares_trunk else models.critic
        metrics["grad_norm"] = apply_gradients(models.optimizer, knobs.gradient_clip, models.policy, critic)
    blend(models.averaged, models.policy, knobs.average)
    models.kl.update(metrics["kl"], knobs.batch_size)
    return metrics | losses


@dataclass(frozen=True)
class Experience:
    """Rollouts with what the losses need of them, fixed before the first step. All [b, a]."""

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
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and values, each [b, a]; one forward where the critic's trunk is the policy."""
    with autocast(rollouts.ids.device, dtype):
        hidden = policy(rollouts.ids)
        logprobs, entropies = answer_logprobs(policy, hidden, rollouts, temperature)
        values = critic.score(hidden) if critic.decoder is policy else critic(rollouts.ids)
    return logprobs, entropies, rollouts.at_answer(values.float())


@torch.no_grad()
def experience(
    rollouts: Rollouts,
    scores: Tensor,
    models: Models,
    kl_coef: float,
    knobs: PPOSettings,
    pieces: Sequence[Tensor],
) -> tuple[Experience, Metrics]:
    """Old log-probabilities and values, rewards, and advantages whitened over the whole batch.

    The old log-probabilities are recomputed by the training forward rather than taken from the sampler, whose kernels round
    differently, and on ``pieces``, the very rows of each forward of the first pass: so the first ratio is 1 in bf16 too.
    """
    mask, dtype = rollouts.mask, knobs.machine.dtype
    logprobs, entropies, values = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))
    ref_logprobs = torch.zeros(mask.shape, device=mask.device)
    for rows in map(parallel.shard_tensor, pieces):
        if not len(rows):
            continue
        part = rollouts.select(rows)
        a = part.mask.shape[1]
        logprobs[rows, :a], entropies[rows, :a], values[rows, :a] = forward(
            models.policy, models.critic, part, knobs.temperature, dtype
        )
        with autocast(mask.device, dtype):
            hidden = models.reference(part.ids)
            ref_logprobs[rows, :a] = answer_logprobs(models.reference, hidden, part, knobs.temperature)[0]
    for field in (logprobs, entropies, values, ref_logprobs):
        parallel.add_up(field)
    penalised = scores - knobs.missing_end_penalty * (~rollouts.finished).float()
    rewards = token_rewards(penalised, logprobs, ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, knobs.gamma, knobs.lam)
    mismatch = (logprobs - rollouts.sampler_logprobs).abs()
    metrics = {
        "kl": kl_per_answer(kl_k1(logprobs, ref_logprobs), mask).mean().item(),
        "kl_k3": kl_per_answer(kl_k3(logprobs, ref_logprobs), mask).mean().item(),
        "kl_coef": kl_coef,
        "entropy": masked_mean(entropies, mask).item(),
        "explained_variance": explained_variance(values, returns, mask).item(),
        "sampler_mismatch": masked_mean(mismatch, mask).item(),
        "tokens": float(mask.sum()),
    }
    return Experience(rollouts, logprobs, values, whiten(advantages, mask), returns), metrics


def minibatch_backward(
    models: Models,
    batch: Experience,
    pieces: Sequence[Tensor],
    knobs: PPOSettings,
    *,
    critic_alone: bool = False,
) -> Metrics:
    """Add the gradient of policy loss and ``value_coef`` times value loss over one minibatch to the models'.

    ``pieces``: its rows, those of one forward each. The losses are means over the minibatch's tokens, however it is cut.
    Returns the losses, the scalars of ``policy_loss``, and "farthest_ratio", the ratio farthest from 1 among its tokens.
    """
    count = batch.rollouts.mask[torch.cat(list(pieces))].sum()
    totals: Metrics = defaultdict(float)
    farthest = 1.0
    for rows in map(parallel.shard_tensor, pieces):
        if not len(rows):
            continue
        part = batch.select(rows)
        mask = part.rollouts.mask
        logprobs, _, values = forward(
            models.policy, models.critic, part.rollouts, knobs.temperature, knobs.machine.dtype
        )
        loss, stats = policy_loss(logprobs, part.logprobs, part.advantages, mask, knobs.clip, count)
        critic_loss = value_loss(values, part.values, part.returns, mask, knobs.clip, count)
        (loss * (not critic_alone) + knobs.value_coef * critic_loss).backward()
        for name, value in (stats | {"policy_loss": loss, "value_loss": critic_loss}).items():
            totals[name] += value.item()
        ratios = (logprobs.detach() - part.logprobs)[mask].exp()
        farthest = max(farthest, ratios[(ratios - 1).abs().argmax()].item(), key=lambda ratio: abs(ratio - 1))
    ranks = parallel.gather((dict(totals), farthest))
    summed = {name: sum(part.get(name, 0.0) for part, _ in ranks) for part, _ in ranks for name in part}
    return summed | {"farthest_ratio": max((far for _, far in ranks), key=lambda ratio: abs(ratio - 1))}


def answer_metrics(rollouts: Rollouts, scores: Tensor, texts: list[str]) -> Metrics:
    """What shows reward hacking early: the proxy reward, length, share that ends, share that repeats another answer."""
    counts = Counter(texts)
    return {
        "reward": scores.mean().item(),
        "reward_std": scores.std(correction=0).item(),
        "length": rollouts.lengths.float().mean().item(),
        "finished": rollouts.finished.float().mean().item(),
        "duplicates": sum(n for n in counts.values() if n > 1) / len(texts),
    }


def score_metrics(by_name: dict[str, Tensor]) -> Metrics:
    """The mean of each scorer by its name; that of a judge is called gold, as everywhere."""
    return {name if name == "gold" else f"score_{name}": scores.mean().item() for name, scores in by_name.items()}


def prompt_order(total: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The prompts of update ``step``: passes over all of them, each in an order of its own; pure in (seed, step)."""
    per_epoch = total // batch_size
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch_size : (place + 1) * batch_size].tolist()


def minibatch_rows(lengths: Tensor, knobs: PPOSettings) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The minibatches of an update, each as the rows of its forwards, and the forwards of the first pass in a row.

    ``inner_epochs`` shuffled passes (the loop has seeded torch by the step). Within a minibatch rows of like ``lengths`` [b]
    share a forward: one long row pads few others, and what a minibatch learns from is the same.
    """
    size = knobs.microbatch or knobs.minibatch
    passes = [torch.randperm(len(lengths)).split(knobs.minibatch) for _ in range(knobs.inner_epochs)]
    cut = [[list(rows[lengths[rows].argsort(stable=True)].split(size)) for rows in order] for order in passes]
    return [pieces for order in cut for pieces in order], [rows for pieces in cut[0] for rows in pieces]


@torch.no_grad()
def blend(averaged: Decoder, policy: Decoder, decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) policy."""
    for mean, live in zip(averaged.parameters(), policy.parameters(), strict=True):
        if mean is not live:  # a frozen trunk is one for both
            mean.lerp_(live.to(mean.dtype), 1.0 - decay)
