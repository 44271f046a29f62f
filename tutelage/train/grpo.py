"""GRPO: reinforcement learning of answers against a reward, without a critic (Shao et al. 2024).

    tutelage grpo --checkpoint runs/sft/checkpoint --reward_models.main runs/reward/checkpoint --prompts p.jsonl --out runs/grpo

One update samples `group` answers to each of some prompts, scores them, and compares each with the others to its prompt: that
is its advantage, the same for all of its tokens. The KL to the SFT model is a term of the loss, and not of the reward as in PPO.
Everything else is PPO's: rollouts, scorers, minibatches, text in the gradient, KL budget and figures.

The reward needs no network: with verifiers as scorers there need not be a reward model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.model.device import autocast
from tutelage.objectives.grpo import answer_weights, equal_groups, group_advantages, grpo_loss
from tutelage.seeds import derive
from tutelage.settings import Inputs, Rows
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, apply_gradients
from tutelage.train.models import averaged_of, load_scoring, reference_of
from tutelage.train.optimizer import adamw
from tutelage.train.pretraining_text import ptx_of
from tutelage.train.rl import (
    Asked,
    Before,
    Networks,
    Sums,
    before_update,
    blend,
    minibatch_rows,
    over_budget,
    over_minibatches,
    policy_and_prompts,
    prompt_order,
    scored_answers,
    train_policy,
)
from tutelage.train.rl_settings import KLSettings, RLInputs, RLSettings, check_reward
from tutelage.train.rollouts import Rollouts, answer_logprobs
from tutelage.train.scorers import Gold, make_scorers
from tutelage.train.settings import warn_of_warmup


class GRPOSettings(RLSettings):
    """Knobs of ``tutelage grpo``. A minibatch is one optimiser step."""

    prompts_per_update: int = Field(16, gt=0, description="prompts per update")
    group: int = Field(8, gt=1, description="answers per prompt, which are compared with each other")
    scale: bool = Field(True, description="divide advantages by the group's standard deviation (Dr. GRPO: no)")
    mean: Literal["tokens", "answers"] = Field(
        "tokens", description="what weighs the same in the loss: tokens (DAPO) or answers (Shao et al. 2024)"
    )
    kl: KLSettings = Field(KLSettings(coef=0.04), description="the penalty for moving away from the SFT model")

    @model_validator(mode="after")
    def _fits_together(self) -> GRPOSettings:
        self.require_sense(self.prompts_per_update * self.group, "prompts_per_update x group")
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for ptx without text, an unknown scorer, or a reward to which nothing adds."""
        assert isinstance(inputs, RLInputs)
        self.ptx.check_text(inputs.text)
        check_reward(self.scorers, inputs.reward_models, inputs.world)

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An update needs that many different prompts, and the learning rate some updates after its warm-up."""
        assert isinstance(inputs, RLInputs)
        self.check_prompts(inputs, rows, self.prompts_per_update, "prompts_per_update")
        yield from warn_of_warmup(self.updates, self.warmup)


def main(knobs: GRPOSettings, inputs: RLInputs, out: Path, gold: Gold | None = None) -> Path:
    """Run the stage; returns the checkpoint folder. ``gold``: a judge that knows the truth, as one more scorer."""
    with parallel.open_stage(out, "grpo", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        tokenizer = Tokenizer.load(inputs.checkpoint)
        needed = knobs.prompts_per_update
        policy, prompts, left_out = policy_and_prompts("grpo", knobs, inputs, tokenizer, needed, "prompts_per_update")
        windows = derive(knobs.seed, "grpo.windows")
        ptx = ptx_of(knobs.ptx, inputs.text, windows, policy, tokenizer, run, knobs.machine, knobs.on_bad)
        policy.eval()
        scoring = load_scoring(inputs.reward_models, policy, inputs.checkpoint, tokenizer, knobs.machine)
        models = Networks(
            policy=policy,
            reference=reference_of(policy),
            averaged=averaged_of(policy),
            scorers=make_scorers(knobs.scorers, scoring, gold),
            optimizer=adamw([(policy, knobs.lr, 0)], weight_decay=0.0, eps=knobs.eps),
            kl=knobs.kl.make(),
            tokenizer=tokenizer,
            ptx=ptx,
        )

        def update(step: int) -> Metrics:
            return grpo_update(step, knobs, models, prompts)

        train_policy(run, "grpo", knobs, models, None, prompts, left_out, update)
        return run.checkpoint


def grpo_update(step: int, knobs: GRPOSettings, models: Networks, prompts: Asked) -> Metrics:
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
    equal = equal_groups(penalised, knobs.group).float().mean().item()
    metrics |= before.metrics(rollouts) | {"kl_coef": models.kl.coef, "equal_groups": equal}
    if over_budget(knobs.kl, metrics["kl"]):
        return metrics

    metrics |= over_minibatches(
        step,
        minibatches,
        lambda pieces: minibatch_backward(knobs, models, rollouts, before, advantages, pieces),
        lambda: apply_gradients(models.optimizer, knobs.gradient_clip, policy),
        policy,
        models.ptx,
    )
    blend(models.averaged, policy, knobs.average)
    models.kl.update(metrics["kl"], len(chosen))
    return metrics


def minibatch_backward(
    knobs: GRPOSettings,
    models: Networks,
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
