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

from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import DataError
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.runs.folder import RunFolder
from tutelage.seeds import derive
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Schedule, Training, train
from tutelage.train.memory import say_memory
from tutelage.train.models import averaged_of, load_scorer, load_scoring, load_trainable, new_critic, reference_of
from tutelage.train.optimizer import adamw
from tutelage.train.ppo_update import Models, PPOInputs, PPOSettings, ppo_update
from tutelage.train.pretraining_text import Ptx, text_mixture
from tutelage.train.rl import over_budget
from tutelage.train.scorers import Gold, make_scorers
from tutelage.train.settings import rows_of


def main(knobs: PPOSettings, inputs: PPOInputs, out: Path, gold: Gold | None = None) -> Path:
    """Run the stage; returns the checkpoint folder. ``gold``: a judge that knows the truth, as one more scorer."""
    with parallel.open_stage(out, "ppo", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint

        # policy and prompts
        tokenizer = Tokenizer.load(inputs.checkpoint)
        tokenizer.require_same(inputs.reward_model)
        torch.manual_seed(derive(knobs.seed, "ppo.adapters"))
        policy = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, knobs.machine)
        room = policy.config.max_position_embeddings - knobs.max_tokens
        room = min(room, knobs.max_prompt or room)
        prompts, prompt_ids, left_out = fitting_prompts(inputs.prompts, [(tokenizer, room)], knobs.on_bad)
        if len(prompts) < knobs.batch_size:
            problem = f"{len(prompts)} prompts that fit are fewer than batch_size {knobs.batch_size}"
            raise DataError(problem, path=inputs.prompts)

        # the other models
        models = make_models(knobs, inputs, policy, tokenizer, run, gold)
        trained = [policy] if models.shares_trunk else [policy, models.critic.decoder]
        held = [policy, models.reference, models.critic, models.averaged, *(s.model for s in models.scorers if s.model)]
        longest = max(map(len, prompt_ids)) + knobs.max_tokens
        rows = rows_of(longest, knobs.microbatch or knobs.minibatch, knobs.machine.pass_tokens)
        say_memory(held, trained, rows, longest, knobs.machine.dtype, "adamw")

        training = Training(
            modules={"policy": policy, "critic": models.critic, "averaged": models.averaged},
            optimizer=models.optimizer,
            update=lambda step: ppo_update(step, knobs, models, prompts, prompt_ids),
            schedule=Schedule(knobs.updates, knobs.warmup, knobs.floor, derive(knobs.seed, "ppo.dropout")),
            result=(models.averaged, tokenizer),
            state={"kl": models.kl},
            stop_when=lambda metrics: over_budget(knobs.kl, metrics["kl"]),
            show=("reward", "gold", "kl", "length", "finished"),
        )
        outcome = train(run, training, knobs.machine)
        figures = {"updates": outcome.steps - outcome.stopped, "prompts": len(prompts), "left_out": left_out}
        run.finish(figures | {"stopped_by_kl_budget": outcome.stopped})
        return run.checkpoint


def make_models(
    knobs: PPOSettings, inputs: PPOInputs, policy: Decoder, tokenizer: Tokenizer, run: RunFolder, gold: Gold | None
) -> Models:
    """Policy, reference, critic and scorers. Dropout is off in all of them, because it would make the ratios noisy."""
    machine, ptx = knobs.machine, None
    if knobs.ptx.coef:
        windows = derive(knobs.seed, "ppo.windows")
        mixture = text_mixture(
            inputs.text, knobs.ptx.weights, knobs.ptx.sequence, windows, policy, tokenizer, run, knobs.on_bad
        )
        ptx = Ptx(knobs.ptx, mixture, machine)
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
