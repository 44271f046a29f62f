"""PPO and PPO-ptx: reinforcement learning of answers against a reward.

    tutelage ppo --checkpoint runs/sft/checkpoint --reward_model runs/reward/checkpoint --prompts prompts.jsonl --out runs/ppo

One update samples an answer to each of `batch_size` prompts, scores it, and subtracts the KL to the SFT model token by token. It
estimates advantages with a critic that started as the reward model, and takes clipped policy and value steps over minibatches.
With `ptx.coef` above 0, every step adds that multiple of the pretraining loss: one joint gradient (InstructGPT, equation 2).

`trunk: separate` gives the critic a network of its own (InstructGPT's); `trunk: shared` puts its head on the policy's. These are
different algorithms, not two speeds of one.

Rollouts are not saved: a killed run repeats the update it was in, and draws the same rollouts from (seed, update).
"""

from __future__ import annotations

from pathlib import Path

import torch

from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.runs.folder import RunFolder
from tutelage.seeds import derive
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics
from tutelage.train.models import averaged_of, load_scorer, load_scoring, new_critic, reference_of
from tutelage.train.optimizer import adamw
from tutelage.train.ppo_update import Models, PPOInputs, PPOSettings, ppo_update
from tutelage.train.pretraining_text import ptx_of
from tutelage.train.rl import policy_and_prompts, train_policy
from tutelage.train.scorers import Gold, make_scorers


def main(knobs: PPOSettings, inputs: PPOInputs, out: Path, gold: Gold | None = None) -> Path:
    """Run the stage; returns the checkpoint folder. ``gold``: a judge that knows the truth, as one more scorer."""
    with parallel.open_stage(out, "ppo", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        tokenizer = Tokenizer.load(inputs.checkpoint)
        tokenizer.require_same(inputs.reward_model)
        needed = knobs.batch_size
        policy, prompts, left_out = policy_and_prompts("ppo", knobs, inputs, tokenizer, needed, "batch_size")
        models = make_models(knobs, inputs, policy, tokenizer, run, gold)

        def update(step: int) -> Metrics:
            return ppo_update(step, knobs, models, prompts)

        train_policy(run, "ppo", knobs, models, models.critic, prompts, left_out, update)
        return run.checkpoint


def make_models(
    knobs: PPOSettings, inputs: PPOInputs, policy: Decoder, tokenizer: Tokenizer, run: RunFolder, gold: Gold | None
) -> Models:
    """Policy, reference, critic and scorers."""
    machine, windows = knobs.machine, derive(knobs.seed, "ppo.windows")
    ptx = ptx_of(knobs.ptx, inputs.text, windows, policy, tokenizer, run, machine, knobs.on_bad)
    policy.eval()
    reference = reference_of(policy)
    reward_model = load_scorer(inputs.reward_model, policy, inputs.checkpoint, tokenizer, machine)
    shared = knobs.trunk == "shared"
    torch.manual_seed(derive(knobs.seed, "ppo.critic"))
    critic = (ScalarModel(policy) if shared else new_critic(reward_model, knobs.lora)).eval()
    reward_models = {"reward_model": reward_model.requires_grad_(False)}
    reward_models |= load_scoring(inputs.reward_models, policy, inputs.checkpoint, tokenizer, machine)
    learning = [(policy, knobs.lr, knobs.value_warmup), (critic.head if shared else critic, knobs.value_lr, 0)]
    return Models(
        policy=policy,
        reference=reference,
        critic=critic,
        averaged=averaged_of(policy),
        scorers=make_scorers(knobs.scorers, reward_models, gold),
        optimizer=adamw(learning, weight_decay=0.0, eps=knobs.eps),
        kl=knobs.kl.make(),
        tokenizer=tokenizer,
        ptx=ptx,
    )
