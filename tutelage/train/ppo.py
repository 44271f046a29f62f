"""PPO and PPO-ptx: reinforcement learning of answers against a reward model.

    tutelage ppo --checkpoint runs/sft/checkpoint --reward_model runs/reward/checkpoint --prompts prompts.jsonl --out runs/ppo

One update: sample an answer to each of `batch_size` prompts; score it; subtract the KL to the SFT model token by token; estimate
advantages with a critic that began as the reward model; take clipped policy and value steps over minibatches. With `ptx_coef`
above 0 every step adds that multiple of the pretraining loss to the same loss: one joint gradient (InstructGPT, equation 2).

`trunk: separate` gives the critic a network of its own (InstructGPT's); `trunk: shared` puts its head on the policy's. These are
different algorithms, not two speeds of one.

A run that was killed does the update it was in again: its rollouts were nowhere but in memory, and being drawn from (seed, update)
they come out the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import read_prompts
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import DataError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, pick_device
from tutelage.model.heads import ScalarModel
from tutelage.model.hub import resolve_model
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
from tutelage.runs.folder import open_run
from tutelage.settings import Settings
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.checkpointing import save_checkpoint
from tutelage.train.loop import Metrics, apply_gradients, run_steps
from tutelage.train.memory import say_memory
from tutelage.train.models import averaged_of, critic_on, load_scorer, load_trainable, new_critic, reference_of
from tutelage.train.optimizer import adamw
from tutelage.train.pretraining_text import ptx_inputs, ptx_mixture, text_backward, text_windows
from tutelage.train.rollouts import Rollouts, answer_logprobs, end_scores, sample
from tutelage.train.settings import LoRA, Machine, Source

Judge = Callable[[Prompt, str, bool], float]
"""(prompt, answer, whether it finished) -> gold score, where a task has one. Logged, never trained on."""


class KLSettings(Settings):
    """The penalty for leaving the SFT model."""

    controller: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers coef towards target")
    coef: float = Field(0.1, ge=0, description="weight of the KL term a token (its first value, if adaptive)")
    target: float = Field(3.0, gt=0, description="wanted KL, adaptive only [nats an answer, summed over its tokens]")
    horizon: int = Field(10_000, gt=0, description="how slowly coef follows, adaptive only [answers]")
    budget: float = Field(
        0.0, ge=0, description="the run ends when a batch's mean KL is above it; 0: never [nats an answer]"
    )

    @model_validator(mode="after")
    def _steerable(self) -> KLSettings:
        if self.controller == "adaptive" and not self.coef:
            raise ValueError(
                "an adaptive coefficient is multiplied, so it cannot begin at 0; give kl.coef or controller fixed"
            )
        return self


class PPOSettings(Settings):
    """Settings of ``tutelage ppo``. A minibatch is one optimiser step."""

    out: Path = Field(description="run folder to make")
    checkpoint: Path = Field(description="policy to start from and KL reference: the SFT model")
    reward_model: Path = Field(description="reward model; the critic starts from it")
    prompts: Path = Field(description="prompts to answer")
    world: Path | None = Field(
        None, description="folder of an embedded world whose judge scores every rollout, for the log"
    )
    updates: int = Field(60, gt=0, description="batches of rollouts")
    batch_size: int = Field(128, gt=0, description="answers an update")
    minibatch: int = Field(32, gt=0, description="answers an optimiser step")
    microbatch: int = Field(64, ge=0, description="answers a forward pass, of like lengths; 0: the whole minibatch")
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
    gamma: float = Field(1.0, gt=0, le=1, description="discount a token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's lambda")
    eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights that are saved (InstructGPT: 0.992); 0: none"
    )
    kl: KLSettings = Field(KLSettings(), description="the penalty for leaving the SFT model")
    ptx_coef: float = Field(
        0.0, ge=0, description="weight of the pretraining loss in the joint gradient; above 0: PPO-ptx"
    )
    ptx_sources: dict[str, Source] = Field({}, description="name -> path and weight of the pretraining text of PPO-ptx")
    ptx_windows: int = Field(8, gt=0, description="windows of pretraining text an optimiser step")
    ptx_sequence: int = Field(256, gt=1, description="length of such a window [tokens]")
    lora: LoRA = Field(LoRA(), description="adapters in place of all weights, of the policy and of the critic")
    seed: int = Field(0, description="seed of prompts' order, of sampling and of adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _consistent(self) -> PPOSettings:
        if self.ptx_coef and not self.ptx_sources:
            raise ValueError("ptx_coef is above 0 but ptx_sources names no pretraining text")
        if self.kl.controller == "adaptive" and self.batch_size >= 5 * self.kl.horizon:
            raise ValueError(
                f"kl.horizon {self.kl.horizon} is too short for batch_size {self.batch_size}; give more than a fifth of it"
            )
        return self


def main(settings: PPOSettings, judge: Judge | None = None) -> Path:
    """Run the stage; returns the checkpoint folder. ``judge``, if given, scores every rollout for the log."""
    checkpoint, scorer = resolve_model(settings.checkpoint), resolve_model(settings.reward_model)
    inputs = {"checkpoint": checkpoint, "reward_model": scorer, "prompts": settings.prompts}
    inputs |= ptx_inputs(settings)
    with open_run(settings.out, "ppo", settings, inputs) as run:
        if run.finished:
            return run.checkpoint

        # data
        device, dtype = pick_device(settings.machine.device), settings.machine.dtype
        tokenizer = Tokenizer.load(checkpoint)
        tokenizer.require_same(scorer)
        torch.manual_seed(settings.seed)
        policy = load_trainable(checkpoint, tokenizer, settings.lora, settings.machine)
        context = policy.config.max_position_embeddings
        room = context - settings.max_new_tokens
        prompts, prompt_ids, too_long = fitting_prompts(read_prompts(settings.prompts), tokenizer, room)
        if too_long:
            print(f"{settings.prompts}: left out {too_long} x too long for an answer in the model's context")
        if len(prompts) < settings.batch_size:
            raise DataError(
                f"{len(prompts)} prompts that fit are fewer than batch_size {settings.batch_size}",
                path=settings.prompts,
            )
        mixture = ptx_mixture(settings, tokenizer, run, context)

        # models: policy, reference, reward model, critic
        policy.eval()  # no dropout, neither the trunk's nor the adapters': ratios would be noise
        reference = reference_of(policy)
        reward_model = load_scorer(scorer, policy, checkpoint, tokenizer, settings.machine)
        shared = settings.trunk == "shared"
        torch.manual_seed(settings.seed)
        critic = critic_on(policy) if shared else new_critic(reward_model, settings.lora)
        reward_model.requires_grad_(False)
        critic.eval()
        averaged = averaged_of(policy)
        critic_parts = (critic.head, settings.value_lr) if shared else (critic, settings.value_lr)
        optimizer = adamw([(policy, settings.lr), critic_parts], weight_decay=0.0, eps=settings.eps)
        rows, longest = settings.microbatch or settings.minibatch, max(map(len, prompt_ids)) + settings.max_new_tokens
        trained = [policy] if shared else [policy, critic.decoder]
        models = [policy, reference, reward_model, critic, averaged]
        say_memory(models, trained, rows, longest, dtype, "adamw")
        kl = settings.kl
        controller = AdaptiveKL(kl.coef, kl.target, kl.horizon) if kl.controller == "adaptive" else FixedKL(kl.coef)

        def update(step: int) -> Metrics:
            chosen = prompt_order(len(prompts), settings.batch_size, step, settings.seed)
            rollouts = sample(
                policy,
                [prompt_ids[i] for i in chosen],
                tokenizer,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=settings.seed * 1_000_003 + step,
                dtype=dtype,
            )
            texts = [
                tokenizer.decode(row[m].tolist()) for row, m in zip(rollouts.answer_ids, rollouts.mask, strict=True)
            ]
            scores = end_scores(reward_model, rollouts, dtype)
            minibatches, first_pass = minibatch_rows(rollouts.total_lengths.cpu(), settings)
            batch, metrics = experience(
                rollouts, scores, policy, critic, reference, controller.coef, settings, first_pass
            )
            metrics |= answer_metrics(rollouts, scores, texts)
            if judge:
                finished = rollouts.finished.tolist()
                gold = [judge(prompts[i], t, f) for i, t, f in zip(chosen, texts, finished, strict=True)]
                metrics["gold"] = sum(gold) / len(gold)

            losses: dict[str, float] = defaultdict(float)
            for number, pieces in enumerate(minibatches):
                critic_alone = step < settings.value_warmup
                stats = minibatch_backward(policy, critic, batch, pieces, settings, critic_alone=critic_alone)
                first_ratio = stats.pop("farthest_ratio")
                if number == 0:
                    metrics["first_ratio"] = first_ratio
                for name, value in stats.items():
                    losses[name] += value / len(minibatches)
                if mixture and not critic_alone:
                    windows = text_windows(mixture, step * len(minibatches) + number, settings.ptx_windows, device)
                    losses["ptx_loss"] += text_backward(policy, windows, settings.ptx_coef, dtype) / len(minibatches)
                metrics["grad_norm"] = apply_gradients(
                    optimizer, settings.gradient_clip, policy, critic.head if shared else critic
                )
            blend(averaged, policy, settings.average)
            controller.update(metrics["kl"], settings.batch_size)
            return metrics | losses

        done = run_steps(
            run,
            steps=settings.updates,
            modules={"policy": policy, "critic": critic, "averaged": averaged},
            optimizer=optimizer,
            update=update,
            warmup=settings.warmup,
            floor=settings.floor,
            seed=settings.seed,
            extra_state={"kl": controller},
            stop_when=lambda metrics: bool(kl.budget) and metrics["kl"] > kl.budget,
            machine=settings.machine,
            result=(averaged, tokenizer),
            show=("reward", "gold", "kl", "length", "finished"),
        )
        save_checkpoint(run, averaged, tokenizer)
        run.finish(
            {
                "updates": done,
                "prompts": len(prompts),
                "too_long": too_long,
                "stopped_by_kl_budget": done < settings.updates,
            }
        )
        return run.checkpoint


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
    policy: Decoder,
    critic: ScalarModel,
    reference: Decoder,
    kl_coef: float,
    settings: PPOSettings,
    pieces: Sequence[Tensor],
) -> tuple[Experience, Metrics]:
    """Old log-probabilities and values, rewards, and advantages whitened over the whole batch.

    The old log-probabilities are recomputed by the training forward rather than taken from the sampler, whose kernels round
    differently, and on ``pieces``, the very rows of each forward of the first pass: so the first ratio is 1 in bf16 too.
    """
    mask = rollouts.mask
    logprobs, entropies, values = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))
    ref_logprobs = torch.zeros(mask.shape, device=mask.device)
    for rows in pieces:
        part = rollouts.select(rows)
        a = part.mask.shape[1]
        logprobs[rows, :a], entropies[rows, :a], values[rows, :a] = forward(
            policy, critic, part, settings.temperature, settings.machine.dtype
        )
        with autocast(mask.device, settings.machine.dtype):
            ref_logprobs[rows, :a] = answer_logprobs(reference, reference(part.ids), part, settings.temperature)[0]
    penalised = scores - settings.missing_end_penalty * (~rollouts.finished).float()
    rewards = token_rewards(penalised, logprobs, ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, settings.gamma, settings.lam)
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
    policy: Decoder,
    critic: ScalarModel,
    batch: Experience,
    pieces: Sequence[Tensor],
    settings: PPOSettings,
    *,
    critic_alone: bool = False,
) -> Metrics:
    """Add the gradient of policy loss and ``value_coef`` times value loss over one minibatch to the models'.

    ``pieces``: its rows, those of one forward each. The losses are means over the minibatch's tokens, however it is cut.
    Returns the losses, the scalars of ``policy_loss``, and "farthest_ratio", of all its tokens the ratio farthest from 1.
    """
    count = batch.rollouts.mask[torch.cat(list(pieces))].sum()
    totals: Metrics = defaultdict(float)
    farthest = 1.0
    for rows in pieces:
        part = batch.select(rows)
        mask = part.rollouts.mask
        logprobs, _, values = forward(policy, critic, part.rollouts, settings.temperature, settings.machine.dtype)
        loss, stats = policy_loss(logprobs, part.logprobs, part.advantages, mask, settings.clip, count)
        critic_loss = value_loss(values, part.values, part.returns, mask, settings.clip, count)
        (loss * (not critic_alone) + settings.value_coef * critic_loss).backward()
        for name, value in (stats | {"policy_loss": loss, "value_loss": critic_loss}).items():
            totals[name] += value.item()
        ratios = (logprobs.detach() - part.logprobs)[mask].exp()
        farthest = max(farthest, ratios[(ratios - 1).abs().argmax()].item(), key=lambda ratio: abs(ratio - 1))
    return totals | {"farthest_ratio": farthest}


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


def prompt_order(total: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The prompts of update ``step``: passes over all of them, each in an order of its own; pure in (seed, step)."""
    per_epoch = total // batch_size
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch_size : (place + 1) * batch_size].tolist()


def minibatch_rows(lengths: Tensor, settings: PPOSettings) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The minibatches of an update, each as the rows of its forwards, and the forwards of the first pass in a row.

    ``inner_epochs`` shuffled passes (the loop has seeded torch by the step). Within a minibatch rows of like ``lengths`` [b]
    share a forward: one long row pads few others, and what a minibatch learns from is the same.
    """
    size = settings.microbatch or settings.minibatch
    passes = [torch.randperm(len(lengths)).split(settings.minibatch) for _ in range(settings.inner_epochs)]
    cut = [[list(rows[lengths[rows].argsort(stable=True)].split(size)) for rows in order] for order in passes]
    return [pieces for order in cut for pieces in order], [rows for pieces in cut[0] for rows in pieces]


@torch.no_grad()
def blend(averaged: Decoder, policy: Decoder, decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) policy."""
    for mean, live in zip(averaged.parameters(), policy.parameters(), strict=True):
        if mean is not live:  # a frozen trunk is one for both
            mean.lerp_(live.to(mean.dtype), 1.0 - decay)
