"""GRPO: reinforcement learning of answers against a reward, without a critic (Shao et al. 2024).

    tutelage grpo --checkpoint runs/sft/checkpoint --reward_models.main runs/reward/checkpoint --prompts p.jsonl --out runs/grpo

One update samples `group` answers to each of some prompts, scores them, and compares each with the others to its prompt: that
is its advantage, the same for all of its tokens. The KL to the SFT model is a term of the loss, and not of the reward as in PPO.
Everything else is PPO's: rollouts, scorers, minibatches, text in the gradient, KL budget and figures.

The reward needs no network: with verifiers as scorers there need not be a reward model.
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
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import DataError, RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.objectives.grpo import answer_weights, group_advantages, grpo_loss
from tutelage.objectives.ppo import FixedKL
from tutelage.records import Prompt
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, train
from tutelage.train.memory import say_memory
from tutelage.train.models import averaged_of, load_scoring, load_trainable, reference_of
from tutelage.train.optimizer import Optimizer, adamw
from tutelage.train.pretraining_text import Ptx, PtxSettings, text_mixture
from tutelage.train.rl import (
    Before,
    KLSettings,
    Sums,
    before_update,
    blend,
    check_reward,
    code_of,
    minibatch_rows,
    over_budget,
    prompt_order,
    scored_answers,
)
from tutelage.train.rollouts import Rollouts, answer_logprobs
from tutelage.train.scorers import Gold, Scorer, ScorerSettings, make_scorers
from tutelage.train.settings import LoRA, Machine, require_microbatch, rows_of, warn_of_warmup


class GRPOInputs(Inputs):
    """What GRPO reads."""

    checkpoint: ModelPath = Field(description="policy to start from and KL reference: the SFT model")
    prompts: Path = Field(description="prompts to answer")
    reward_models: dict[str, RewardModelPath] = Field({}, description="reward models to score with, by name")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge is the scorer `gold`")
    text: dict[str, Path] = Field({}, description="sources of pretraining text to mix in, by name")


class GRPOSettings(Settings):
    """Knobs of ``tutelage grpo``. A minibatch is one optimiser step."""

    updates: int = Field(60, gt=0, description="batches of rollouts")
    prompts_per_update: int = Field(16, gt=0, description="prompts per update")
    group: int = Field(8, gt=1, description="answers per prompt, which are compared with each other")
    minibatch: int = Field(32, gt=0, description="answers per optimiser step")
    microbatch: int = Field(0, ge=0, description="most answers per forward pass; 0: no limit")
    inner_epochs: int = Field(1, gt=0, description="passes over each batch of rollouts")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    max_prompt: int = Field(0, ge=0, description="longest prompt; longer are left out; 0: all that fit [tokens]")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-probability")
    missing_end_penalty: float = Field(2.0, ge=0, description="subtracted from the score of an unfinished answer")
    scale: bool = Field(True, description="divide advantages by the group's standard deviation (Dr. GRPO: no)")
    mean: Literal["tokens", "answers"] = Field(
        "tokens", description="what weighs the same in the loss: tokens (DAPO) or answers (Shao et al. 2024)"
    )
    lr: float = Field(5e-5, gt=0, description="learning rate")
    warmup: int = Field(3, ge=0, description="updates of linear learning-rate warm-up")
    floor: float = Field(1.0, ge=0, le=1, description="last learning rate as a share of the peak; 1: constant")
    clip: float = Field(0.2, gt=0, description="clip of the ratio")
    gradient_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    average: float = Field(0.0, ge=0, lt=1, description="decay of saved mean weights; 0: none")
    kl: KLSettings = Field(KLSettings(coef=0.04), description="the penalty for moving away from the SFT model")
    ptx: PtxSettings = Field(PtxSettings(), description="pretraining text in the joint gradient")
    scorers: dict[str, ScorerSettings] = Field({}, description="terms of the reward: reward models, functions and gold")
    lora: LoRA = Field(LoRA(), description="adapters instead of all weights")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of prompt order, sampling and adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _fits_together(self) -> GRPOSettings:
        if self.minibatch > self.answers:
            raise ValueError(
                f"minibatch {self.minibatch} is larger than the {self.answers} answers of an update, prompts_per_update x group"
            )
        require_microbatch(self.microbatch, self.minibatch, "minibatch")
        self.kl.require_sense(self.answers)
        return self

    @property
    def answers(self) -> int:
        """Answers per update."""
        return self.prompts_per_update * self.group

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for ptx without text, an unknown scorer, or a reward to which nothing adds."""
        assert isinstance(inputs, GRPOInputs)
        self.ptx.check_text(inputs.text)
        check_reward(self.scorers, list(inputs.reward_models), inputs.world)

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An update needs that many different prompts, and the learning rate some updates after its warm-up."""
        assert isinstance(inputs, GRPOInputs)
        needed = self.prompts_per_update
        count = rows("prompts", inputs.prompts, needed)
        if count is not None and count < needed:
            problem = f"{inputs.prompts} has {count} prompts, fewer than the {needed} of an update"
            raise RecipeError(f"{problem}: give more prompts, or set prompts_per_update to at most {count}")
        yield from warn_of_warmup(self.updates, self.warmup)

    def code(self) -> dict[str, Path]:
        """The files of the scorers' functions."""
        return code_of(self.scorers)


@dataclass(frozen=True)
class Models:
    """The networks of GRPO, and what belongs to them."""

    policy: Decoder
    reference: Decoder
    averaged: Decoder  # the running mean of the policy's weights, which is saved
    scorers: Sequence[Scorer]
    optimizer: Optimizer
    kl: FixedKL
    tokenizer: Tokenizer
    ptx: Ptx | None


def main(knobs: GRPOSettings, inputs: GRPOInputs, out: Path, gold: Gold | None = None) -> Path:
    """Run the stage; returns the checkpoint folder. ``gold``: a judge that knows the truth, as one more scorer."""
    with parallel.open_stage(out, "grpo", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        machine = knobs.machine

        # policy and prompts
        tokenizer = Tokenizer.load(inputs.checkpoint)
        torch.manual_seed(derive(knobs.seed, "grpo.adapters"))
        policy = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, machine)
        room = policy.config.max_position_embeddings - knobs.max_tokens
        room = min(room, knobs.max_prompt or room)
        prompts, prompt_ids, left_out = fitting_prompts(inputs.prompts, [(tokenizer, room)], knobs.on_bad)
        if len(prompts) < knobs.prompts_per_update:
            problem = f"{len(prompts)} prompts that fit are fewer than the {knobs.prompts_per_update} of an update"
            raise DataError(problem, path=inputs.prompts)

        # the other models; dropout is off in all of them, because it would make the ratios noisy
        ptx = None
        if knobs.ptx.coef:
            weights, sequence, windows = knobs.ptx.weights, knobs.ptx.sequence, derive(knobs.seed, "grpo.windows")
            mixture = text_mixture(inputs.text, weights, sequence, windows, policy, tokenizer, run, knobs.on_bad)
            ptx = Ptx(knobs.ptx, mixture, machine)
        policy.eval()
        scoring = load_scoring(inputs.reward_models, policy, inputs.checkpoint, tokenizer, machine)
        models = Models(
            policy=policy,
            reference=reference_of(policy),
            averaged=averaged_of(policy),
            scorers=make_scorers(knobs.scorers, scoring, gold),
            optimizer=adamw([(policy, knobs.lr, 0)], weight_decay=0.0, eps=knobs.eps),
            kl=knobs.kl.make(),
            tokenizer=tokenizer,
            ptx=ptx,
        )
        held = [policy, models.reference, models.averaged, *(s.model for s in models.scorers if s.model)]
        longest = max(map(len, prompt_ids)) + knobs.max_tokens
        rows = rows_of(longest, knobs.microbatch or knobs.minibatch, machine.pass_tokens)
        say_memory(held, [policy], rows, longest, machine.dtype, "adamw")

        pairs = list(zip(prompts, prompt_ids, strict=True))
        training = Training(
            modules={"policy": policy, "averaged": models.averaged},
            optimizer=models.optimizer,
            update=lambda step: grpo_update(step, knobs, models, pairs),
            schedule=Schedule(knobs.updates, knobs.warmup, knobs.floor, derive(knobs.seed, "grpo.dropout")),
            result=(models.averaged, tokenizer),
            state={"kl": models.kl},
            stop_when=lambda metrics: over_budget(knobs.kl, metrics["kl"]),
            show=("reward", "gold", "kl", "length", "finished"),
        )
        outcome = train(run, training, machine)
        figures = {"updates": outcome.steps - outcome.stopped, "prompts": len(prompts), "left_out": left_out}
        run.finish(figures | {"stopped_by_kl_budget": outcome.stopped})
        return run.checkpoint


def grpo_update(step: int, knobs: GRPOSettings, models: Models, prompts: Sequence[tuple[Prompt, list[int]]]) -> Metrics:
    """Sample and score groups of answers, and take an optimiser step for each minibatch of them. Returns the metrics.

    A batch over the KL budget is measured, and not trained on.
    """
    policy = models.policy
    order = prompt_order(len(prompts), knobs.prompts_per_update, step, knobs.seed)
    chosen = [prompts[i] for i in order for _ in range(knobs.group)]
    rollouts, scores, metrics = scored_answers(step, policy, models.tokenizer, models.scorers, chosen, knobs)
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.tolist(), knobs, step)
    before = before_update(rollouts, policy, models.reference, first_pass, knobs.temperature, knobs.machine)
    penalised = scores - knobs.missing_end_penalty * (~rollouts.finished).float()
    advantages = group_advantages(penalised, knobs.group, scale=knobs.scale)
    equal = (penalised.view(-1, knobs.group).std(1) == 0).float().mean().item()
    metrics |= before.metrics(rollouts) | {"kl_coef": models.kl.coef, "equal_groups": equal}
    if over_budget(knobs.kl, metrics["kl"]):
        return metrics

    losses: Metrics = defaultdict(float)
    for number, pieces in enumerate(minibatches):
        stats = minibatch_backward(knobs, models, rollouts, before, advantages, pieces)
        first_ratio = stats.pop("farthest_ratio")
        if number == 0:
            metrics["first_ratio"] = first_ratio
        if models.ptx:
            stats["ptx_loss"] = models.ptx.backward(policy, step * len(minibatches) + number)
        for name, value in stats.items():
            losses[name] += value / len(minibatches)
        metrics["grad_norm"] = apply_gradients(models.optimizer, knobs.gradient_clip, policy)
    blend(models.averaged, policy, knobs.average)
    models.kl.update(metrics["kl"], knobs.answers)
    return metrics | losses


def minibatch_backward(
    knobs: GRPOSettings,
    models: Models,
    rollouts: Rollouts,
    before: Before,
    advantages: Tensor,
    pieces: Sequence[Tensor],
) -> Metrics:
    """Add the gradient of ``grpo_loss`` over one minibatch to the policy's; its figures, and "farthest_ratio".

    ``pieces``: the rows of each forward pass. Means are over all tokens, or answers, of the minibatch.
    """
    members = torch.cat(list(pieces))
    tokens, sums = rollouts.mask[members].sum(), Sums()
    for rows in filter(len, map(parallel.shard, pieces)):
        part = rollouts.select(rows)
        mask = part.mask
        old, ref = (table[rows, : mask.shape[1]] for table in (before.logprobs, before.ref_logprobs))
        with autocast(mask.device, knobs.machine.dtype):
            logprobs = answer_logprobs(models.policy, models.policy(part.ids), part, knobs.temperature)
        weights = answer_weights(mask, len(members), tokens) if knobs.mean == "answers" else None
        loss, stats = grpo_loss(
            logprobs, old, ref, advantages[rows], mask,
            clip=knobs.clip, kl_coef=models.kl.coef, weights=weights, count=tokens,
        )  # fmt: skip
        loss.backward()
        sums.add(stats, logprobs, old, mask)
    return sums.of_all_ranks()
