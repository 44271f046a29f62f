"""What PPO and GRPO share: drawing and scoring answers, measuring them against the reference, and minibatches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tutelage.data.tokens.batches import cut_by_length, fitting_prompts
from tutelage.errors import DataError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives import ppo
from tutelage.records import Prompt
from tutelage.runs.folder import RunFolder
from tutelage.seeds import derive
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, Schedule, Training, shuffled, train
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable
from tutelage.train.optimizer import Optimizer
from tutelage.train.pretraining_text import Ptx
from tutelage.train.rl_settings import KLSettings, RLInputs, RLSettings
from tutelage.train.rollouts import Rollouts, answer_logprobs, logprobs_and_entropies, sample
from tutelage.train.scorers import Scorer, score
from tutelage.train.settings import Machine, rows_of


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of a run, and what belongs to them. Dropout is off in all, because it would make the ratios noisy."""

    policy: Decoder
    reference: Decoder
    averaged: Decoder  # the running mean of the policy's weights, which is saved
    scorers: Sequence[Scorer]
    optimizer: Optimizer
    kl: ppo.FixedKL
    tokenizer: Tokenizer
    ptx: Ptx | None


Asked = Sequence[tuple[Prompt, list[int]]]
"""Prompts, each with its ids."""


class Drawing(Protocol):
    """The knobs that say how answers are drawn."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def machine(self) -> Machine: ...


def over_budget(kl: KLSettings, measured: float) -> bool:
    """True if the KL per answer of a batch ends the run: the policy that sampled it is the result."""
    return 0 < kl.budget < measured


def prompt_order(total: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The prompts of update ``step``: every pass over the prompts has its own order. Depends on seed and step only."""
    epoch, place = divmod(step, total // batch_size)
    return shuffled(total, derive(seed, "ppo.prompts", epoch))[place * batch_size : (place + 1) * batch_size].tolist()


def scored_answers(
    step: int,
    policy: Decoder,
    tokenizer: Tokenizer,
    scorers: Sequence[Scorer],
    prompts: Asked,
    knobs: Drawing,
) -> tuple[Rollouts, Tensor, Metrics]:
    """An answer to each of the prompts, given with their ids; its reward [b]; and ``answer_metrics``."""
    seeds = [derive(knobs.seed, "ppo.rollout", step, row) for row in range(len(prompts))]
    ids, dtype = [row for _, row in prompts], knobs.machine.dtype
    rollouts = sample(policy, ids, tokenizer, knobs.max_tokens, knobs.temperature, seeds, dtype)
    texts = texts_of(rollouts, tokenizer)
    scores, by_name = score(scorers, rollouts, [prompt for prompt, _ in prompts], texts, knobs.machine)
    return rollouts, scores, answer_metrics(rollouts, scores, by_name, texts, ids)


def texts_of(rollouts: Rollouts, tokenizer: Tokenizer) -> list[str]:
    """The answers as text."""
    tokens = zip(rollouts.answer_ids, rollouts.mask, strict=True)
    return [tokenizer.decode(row[mask].tolist()) for row, mask in tokens]


def answer_metrics(
    rollouts: Rollouts,
    scores: Tensor,
    by_name: dict[str, Tensor],
    texts: Sequence[str],
    prompts: Sequence[Sequence[int]],
) -> Metrics:
    """The proxy reward and signs of reward hacking, and the mean of each scorer; that of a judge is named ``gold``.

    ``duplicates`` is the share of answers that another prompt of the batch got too: among answers to one prompt, as in GRPO's
    groups, some are equal in any case.
    """
    asked_by: dict[str, set[tuple[int, ...]]] = {}
    for text, prompt in zip(texts, prompts, strict=True):
        asked_by.setdefault(text, set()).add(tuple(prompt))
    return {
        "reward": scores.mean().item(),
        "reward_std": scores.std(correction=0).item(),
        "length": rollouts.lengths.float().mean().item(),
        "finished": rollouts.finished.float().mean().item(),
        "duplicates": sum(len(asked_by[text]) > 1 for text in texts) / len(texts),
    } | {name if name == "gold" else f"score_{name}": scores.mean().item() for name, scores in by_name.items()}


def minibatch_rows(lengths: Sequence[int], knobs: RLSettings, step: int) -> tuple[list[list[Tensor]], list[Tensor]]:
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
class Before:
    """What the networks say of the answers before the first step. All tensors are [b, a]."""

    logprobs: Tensor
    entropies: Tensor
    ref_logprobs: Tensor
    values: Tensor  # 0 without a critic

    def metrics(self, rollouts: Rollouts) -> Metrics:
        """KL to the reference per answer, entropy, the mismatch of sampler and training pass, and the number of tokens."""
        mask, mismatch = rollouts.mask, (self.logprobs - rollouts.sampler_logprobs).abs()
        return {
            "kl": ppo.kl_per_answer(ppo.kl_k1(self.logprobs, self.ref_logprobs), mask).mean().item(),
            "kl_k3": ppo.kl_per_answer(ppo.kl_k3(self.logprobs, self.ref_logprobs), mask).mean().item(),
            "entropy": ppo.masked_mean(self.entropies, mask).item(),
            "sampler_mismatch": ppo.masked_mean(mismatch, mask).item(),
            "tokens": float(mask.sum()),
        }


@torch.no_grad()
def before_update(
    rollouts: Rollouts,
    policy: Decoder,
    reference: Decoder,
    pieces: Sequence[Tensor],
    temperature: float,
    machine: Machine,
    values: Callable[[Tensor, Rollouts], Tensor] | None = None,
) -> Before:
    """Log-probabilities under policy and reference, entropies, and a critic's ``values(policy's hidden states, rows)`` [b, s].

    The old log-probabilities do not come from the sampler, whose kernels round differently, but from the training forward pass on
    ``pieces``, the same rows as in the first inner epoch. So the first ratio is 1, also in bf16.
    """
    mask = rollouts.mask
    before = Before(*(torch.zeros(mask.shape, device=mask.device) for _ in range(4)))
    for rows in filter(len, map(parallel.shard, pieces)):
        part = rollouts.select(rows)
        a = part.mask.shape[1]
        with autocast(mask.device, machine.dtype):
            hidden = policy(part.ids)
            found = logprobs_and_entropies(policy, hidden, part, temperature)
            before.logprobs[rows, :a], before.entropies[rows, :a] = found
            if values:
                before.values[rows, :a] = part.at_answer(values(hidden, part).float())
            before.ref_logprobs[rows, :a] = answer_logprobs(reference, reference(part.ids), part, temperature)
    for field in (before.logprobs, before.entropies, before.values, before.ref_logprobs):
        parallel.add_up(field)
    return before


class Sums:
    """Metrics of a minibatch: sums over its forward passes, and the ratio farthest from 1 among its tokens."""

    def __init__(self) -> None:
        self.totals: Metrics = defaultdict(float)
        self.ratios = [1.0]

    def add(self, values: Mapping[str, Tensor], logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> None:
        """Add the scalars of a forward pass."""
        for name, value in values.items():
            self.totals[name] += value.item()
        ratio = (logprobs.detach() - old_logprobs)[mask].exp()
        self.ratios.append(ratio[(ratio - 1).abs().argmax()].item())

    def of_all_ranks(self) -> Metrics:
        """The metrics over all ranks, and "farthest_ratio"."""

        def distance(ratio: float) -> float:
            return abs(ratio - 1)

        ranks = parallel.gather((dict(self.totals), max(self.ratios, key=distance)))
        summed = {name: sum(part.get(name, 0.0) for part, _ in ranks) for part, _ in ranks for name in part}
        return summed | {"farthest_ratio": max((far for _, far in ranks), key=distance)}


@torch.no_grad()
def blend(averaged: Decoder, policy: Decoder, decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) policy."""
    for mean, live in zip(averaged.parameters(), policy.parameters(), strict=True):
        if mean is not live:  # a frozen trunk is shared by both
            mean.lerp_(live.to(mean.dtype), 1.0 - decay)


def policy_and_prompts(
    stage: str, knobs: RLSettings, inputs: RLInputs, tokenizer: Tokenizer, needed: int, name: str
) -> tuple[Decoder, Asked, dict[str, int]]:
    """The model to train, the prompts that fit, and how many were left out by reason.

    DataError for fewer prompts than an update ``needed``, the setting ``name``.
    """
    torch.manual_seed(derive(knobs.seed, f"{stage}.adapters"))
    policy = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, knobs.machine)
    room = policy.config.max_position_embeddings - knobs.max_tokens
    room = min(room, knobs.max_prompt or room)
    prompts, ids, left_out = fitting_prompts(inputs.prompts, [(tokenizer, room)], knobs.on_bad)
    if len(prompts) < needed:
        problem = f"{len(prompts)} prompts that fit are fewer than {name} {needed}"
        raise DataError(problem, path=inputs.prompts)
    return policy, list(zip(prompts, ids, strict=True)), left_out


def train_policy(
    run: RunFolder,
    stage: str,
    knobs: RLSettings,
    models: Networks,
    critic: ScalarModel | None,
    prompts: Asked,
    left_out: dict[str, int],
    update: Callable[[int], Metrics],
) -> None:
    """Do all updates, write the checkpoint, and finish the run."""
    modules: dict[str, nn.Module] = {"policy": models.policy, "averaged": models.averaged}
    trained = [models.policy]
    if critic is not None:
        modules["critic"] = critic
        trained += [critic.decoder] * (critic.decoder is not models.policy)
    held = [*modules.values(), models.reference, *(s.model for s in models.scorers if s.model)]
    longest = max(len(ids) for _, ids in prompts) + knobs.max_tokens
    rows = rows_of(longest, knobs.microbatch or knobs.minibatch, knobs.machine.pass_tokens)
    say_memory(held, trained, rows, longest, knobs.machine.dtype, "adamw")
    training = Training(
        modules=modules,
        optimizer=models.optimizer,
        update=update,
        schedule=Schedule(knobs.updates, knobs.warmup, knobs.floor, derive(knobs.seed, f"{stage}.dropout")),
        result=(models.averaged, models.tokenizer),
        state={"kl": models.kl},
        stop_when=lambda metrics: over_budget(knobs.kl, metrics["kl"]),
        show=("reward", "gold", "kl", "length", "finished"),
    )
    outcome = train(run, training, knobs.machine)
    figures = {"updates": outcome.steps - outcome.stopped, "prompts": len(prompts), "left_out": left_out}
    run.finish(figures | {"stopped_by_kl_budget": outcome.stopped})


def over_minibatches(
    step: int,
    minibatches: Sequence[Sequence[Tensor]],
    backward: Callable[[Sequence[Tensor]], Metrics],
    apply: Callable[[], float],
    policy: Decoder,
    ptx: Ptx | None,
) -> Metrics:
    """An optimiser step for each minibatch: ``backward`` adds its gradient, ``ptx`` that of text, and ``apply`` takes the step.

    Returns the means of what ``backward`` returns, the ratio farthest from 1 in the first minibatch, and the last gradient norm.
    """
    metrics: Metrics = {}
    means: Metrics = defaultdict(float)
    for number, pieces in enumerate(minibatches):
        stats = backward(pieces)
        first_ratio = stats.pop("farthest_ratio")
        if number == 0:
            metrics["first_ratio"] = first_ratio
        if ptx:
            stats["ptx_loss"] = ptx.backward(policy, step * len(minibatches) + number)
        for name, value in stats.items():
            means[name] += value / len(minibatches)
        metrics["grad_norm"] = apply()
    return metrics | means
