"""One update of PPO: rollouts, scores, advantages, and clipped steps over minibatches.

``Models`` holds everything that an update reads or changes besides its knobs. The functions below it are the steps in order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import ON_BAD, OnBad
from tutelage.data.tokens.batches import cut_by_length
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives import ppo
from tutelage.records import Prompt
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath, nearest
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, apply_gradients, shuffled
from tutelage.train.optimizer import Optimizer
from tutelage.train.pretraining_text import Ptx, PtxSettings
from tutelage.train.rollouts import Rollouts, answer_logprobs, logprobs_and_entropies, sample
from tutelage.train.scorers import Scorer, ScorerSettings, file_of, score
from tutelage.train.settings import LoRA, Machine, require_microbatch, warn_of_warmup


class KLSettings(Settings):
    """The penalty for moving away from the SFT model."""

    controller: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers coef towards target")
    coef: float = Field(0.1, ge=0, description="weight of the KL term per token; the initial weight, if adaptive")
    target: float = Field(3.0, gt=0, description="target KL, adaptive only [nats per answer, summed over its tokens]")
    horizon: int = Field(10_000, gt=0, description="how slowly coef follows, adaptive only [answers]")
    budget: float = Field(
        0.0, ge=0, description="end the run before training on a batch of higher KL; 0: never [nats per answer]"
    )


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
        adaptive, size, horizon = self.kl.controller == "adaptive", self.batch_size, self.kl.horizon
        if adaptive and not self.kl.coef:
            raise ValueError("an adaptive kl.coef is multiplied, so it cannot start at 0; give it, or controller fixed")
        if adaptive and size >= 5 * horizon:  # at an error of -0.2 the coefficient would become 0 or negative
            raise ValueError(f"kl.horizon {horizon} is too short for batch_size {size}; give more than a fifth of it")
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
        for name, scorer in self.scorers.items():
            if scorer.function is None and name not in models:
                problem = f"give a function, or a reward model of this name among the inputs{nearest(name, models)}"
                raise RecipeError(f"scorers.{name}: {problem}")
            if scorer.function is not None and name in models:
                raise RecipeError(f"scorers.{name}: {name} is a scorer already; give the function another name")

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
        found = {f"scorers.{name}": file_of(one.function) for name, one in self.scorers.items() if one.function}
        return {name: file for name, file in found.items() if file}


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
    policy, dtype = models.policy, knobs.machine.dtype
    chosen = prompt_order(len(prompts), knobs.batch_size, step, knobs.seed)
    seeds = [derive(knobs.seed, "ppo.rollout", step, row) for row in range(len(chosen))]
    chosen_ids = [prompt_ids[i] for i in chosen]
    rollouts = sample(policy, chosen_ids, models.tokenizer, knobs.max_tokens, knobs.temperature, seeds, dtype)
    tokens = zip(rollouts.answer_ids, rollouts.mask, strict=True)
    texts = [models.tokenizer.decode(row[mask].tolist()) for row, mask in tokens]
    scores, by_name = score(models.scorers, rollouts, [prompts[i] for i in chosen], texts, knobs.machine)
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.tolist(), knobs, step)
    batch, metrics = experience(rollouts, scores, models, models.kl.coef, knobs, first_pass)
    metrics |= answer_metrics(rollouts, scores, by_name, texts)
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


def over_budget(kl: KLSettings, measured: float) -> bool:
    """True if the KL per answer of a batch ends the run: the policy that sampled it is the result."""
    return 0 < kl.budget < measured


def prompt_order(total: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The prompts of update ``step``: every pass over the prompts has its own order. Depends on seed and step only."""
    epoch, place = divmod(step, total // batch_size)
    return shuffled(total, derive(seed, "ppo.prompts", epoch))[place * batch_size : (place + 1) * batch_size].tolist()


def minibatch_rows(lengths: Sequence[int], knobs: PPOSettings, step: int) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The minibatches of an update, each as the rows of its forward passes, and all forward passes of the first inner epoch.

    Each inner epoch has an order of its own. Rows of similar ``lengths`` within a minibatch share a forward pass, which saves
    padding and does not change what the minibatch learns from.
    """

    def passes(rows: Tensor) -> list[Tensor]:
        pieces = cut_by_length([lengths[row] for row in rows], knobs.microbatch, knobs.machine.pass_tokens)
        return [rows[torch.tensor(piece)] for piece in pieces]

    minibatches = [
        passes(rows)
        for epoch in range(knobs.inner_epochs)
        for rows in shuffled(len(lengths), derive(knobs.seed, "ppo.minibatches", step, epoch)).split(knobs.minibatch)
    ]
    first_pass = minibatches[: len(minibatches) // knobs.inner_epochs]
    return minibatches, [rows for pieces in first_pass for rows in pieces]


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
    """Old log-probabilities and values, rewards, and advantages whitened over the whole batch.

    The old log-probabilities do not come from the sampler, whose kernels round differently, but from the training forward pass on
    ``pieces``, the same rows as in the first inner epoch. So the first ratio is 1, also in bf16.
    """
    mask, dtype = rollouts.mask, knobs.machine.dtype
    logprobs, entropies, values, ref_logprobs = (torch.zeros(mask.shape, device=mask.device) for _ in range(4))
    for rows in filter(len, map(parallel.shard, pieces)):
        part = rollouts.select(rows)
        a = part.mask.shape[1]
        with autocast(mask.device, dtype):
            hidden = models.policy(part.ids)
            found = logprobs_and_entropies(models.policy, hidden, part, knobs.temperature)
            logprobs[rows, :a], entropies[rows, :a] = found
            scored = models.critic.score(hidden) if models.shares_trunk else models.critic(part.ids)
            values[rows, :a] = part.at_answer(scored.float())
            hidden = models.reference(part.ids)
            ref_logprobs[rows, :a] = answer_logprobs(models.reference, hidden, part, knobs.temperature)
    for field in (logprobs, entropies, values, ref_logprobs):
        parallel.add_up(field)
    penalised = scores - knobs.missing_end_penalty * (~rollouts.finished).float()
    rewards = ppo.token_rewards(penalised, logprobs, ref_logprobs, mask, kl_coef)
    advantages, returns = ppo.gae(rewards, values, mask, knobs.gamma, knobs.lam)
    metrics = {
        "kl": ppo.kl_per_answer(ppo.kl_k1(logprobs, ref_logprobs), mask).mean().item(),
        "kl_k3": ppo.kl_per_answer(ppo.kl_k3(logprobs, ref_logprobs), mask).mean().item(),
        "kl_coef": kl_coef,
        "entropy": ppo.masked_mean(entropies, mask).item(),
        "explained_variance": ppo.explained_variance(values, returns, mask).item(),
        "sampler_mismatch": ppo.masked_mean((logprobs - rollouts.sampler_logprobs).abs(), mask).item(),
        "tokens": float(mask.sum()),
    }
    return Experience(rollouts, logprobs, values, ppo.whiten(advantages, mask), returns), metrics


def minibatch_backward(
    models: Models, batch: Experience, pieces: Sequence[Tensor], knobs: PPOSettings, *, critic_alone: bool = False
) -> Metrics:
    """Add the gradient of policy loss + ``value_coef`` x value loss over one minibatch to the models' gradients.

    ``pieces``: the rows of each forward pass. The losses are means over all tokens of the minibatch. Returns the losses, the
    scalars of ``ppo.policy_loss``, and "farthest_ratio", the ratio farthest from 1 among the tokens.
    """
    count, dtype = batch.rollouts.mask[torch.cat(list(pieces))].sum(), knobs.machine.dtype
    totals: Metrics = defaultdict(float)
    ratios = [1.0]
    for rows in filter(len, map(parallel.shard, pieces)):
        part = batch.select(rows)
        mask = part.rollouts.mask
        logprobs, values = forward(models.policy, models.critic, part.rollouts, knobs.temperature, dtype)
        policy_loss, stats = ppo.policy_loss(logprobs, part.logprobs, part.advantages, mask, knobs.clip, count)
        value_loss = ppo.value_loss(values, part.values, part.returns, mask, knobs.value_clip or None, count)
        (knobs.value_coef * value_loss if critic_alone else policy_loss + knobs.value_coef * value_loss).backward()
        for name, value in (stats | {"policy_loss": policy_loss, "value_loss": value_loss}).items():
            totals[name] += value.item()
        ratio = (logprobs.detach() - part.logprobs)[mask].exp()
        ratios.append(ratio[(ratio - 1).abs().argmax()].item())
    ranks = parallel.gather((dict(totals), max(ratios, key=lambda ratio: abs(ratio - 1))))
    summed = {name: sum(part.get(name, 0.0) for part, _ in ranks) for part, _ in ranks for name in part}
    return summed | {"farthest_ratio": max((far for _, far in ranks), key=lambda ratio: abs(ratio - 1))}


def answer_metrics(rollouts: Rollouts, scores: Tensor, by_name: dict[str, Tensor], texts: list[str]) -> Metrics:
    """The proxy reward and signs of reward hacking, and the mean of each scorer; that of a judge is named ``gold``."""
    counts = Counter(texts)
    return {
        "reward": scores.mean().item(),
        "reward_std": scores.std(correction=0).item(),
        "length": rollouts.lengths.float().mean().item(),
        "finished": rollouts.finished.float().mean().item(),
        "duplicates": sum(n for n in counts.values() if n > 1) / len(texts),
    } | {name if name == "gold" else f"score_{name}": scores.mean().item() for name, scores in by_name.items()}


@torch.no_grad()
def blend(averaged: Decoder, policy: Decoder, decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) policy."""
    for mean, live in zip(averaged.parameters(), policy.parameters(), strict=True):
        if mean is not live:  # a frozen trunk is shared by both
            mean.lerp_(live.to(mean.dtype), 1.0 - decay)
