"""What PPO and GRPO share: drawing and scoring answers, measuring them against the reference, and cutting them into minibatches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from tutelage.data.tokens.batches import cut_by_length
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.objectives import ppo
from tutelage.records import Prompt
from tutelage.seeds import derive
from tutelage.settings import Settings, nearest
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, shuffled
from tutelage.train.rollouts import Rollouts, answer_logprobs, logprobs_and_entropies, sample
from tutelage.train.scorers import Scorer, ScorerSettings, file_of, score
from tutelage.train.settings import Machine


class KLSettings(Settings):
    """The penalty for moving away from the SFT model."""

    controller: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers coef towards target")
    coef: float = Field(0.1, ge=0, description="weight of the KL term per token; the initial weight, if adaptive")
    target: float = Field(3.0, gt=0, description="target KL, adaptive only [nats per answer, summed over its tokens]")
    horizon: int = Field(10_000, gt=0, description="how slowly coef follows, adaptive only [answers]")
    budget: float = Field(
        0.0, ge=0, description="end the run before training on a batch of higher KL; 0: never [nats per answer]"
    )

    def require_sense(self, answers: int) -> None:
        """Raise ValueError for an adaptive controller that would stay at 0, or reach it, with so many answers per update."""
        adaptive = self.controller == "adaptive"
        if adaptive and not self.coef:
            raise ValueError("an adaptive kl.coef is multiplied, so it cannot start at 0; give it, or controller fixed")
        if adaptive and answers >= 5 * self.horizon:  # at an error of -0.2 the coefficient would become 0 or negative
            raise ValueError(
                f"kl.horizon {self.horizon} is too short for batch_size {answers}; give more than a fifth of it"
            )

    def make(self) -> ppo.FixedKL:
        """The controller."""
        adaptive = self.controller == "adaptive"
        return ppo.AdaptiveKL(self.coef, self.target, self.horizon) if adaptive else ppo.FixedKL(self.coef)


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


class Knobs(Drawing, Protocol):
    """And how an update cuts them into minibatches."""

    @property
    def minibatch(self) -> int: ...
    @property
    def microbatch(self) -> int: ...
    @property
    def inner_epochs(self) -> int: ...


def over_budget(kl: KLSettings, measured: float) -> bool:
    """True if the KL per answer of a batch ends the run: the policy that sampled it is the result."""
    return 0 < kl.budget < measured


def check_scorers(scorers: Mapping[str, ScorerSettings], models: Sequence[str]) -> None:
    """Raise RecipeError for a scorer that is neither a function nor one of the ``models`` that score."""
    for name, scorer in scorers.items():
        if scorer.function is None and name not in models:
            problem = f"give a function, or a reward model of this name among the inputs{nearest(name, models)}"
            raise RecipeError(f"scorers.{name}: {problem}")
        if scorer.function is not None and name in models:
            raise RecipeError(f"scorers.{name}: {name} is a scorer already; give the function another name")


def check_reward(scorers: Mapping[str, ScorerSettings], models: Sequence[str], world: Path | None) -> None:
    """Raise RecipeError for an unknown scorer, or a reward to which nothing adds; ``models``: names of the reward models."""
    if world and "gold" in models:
        raise RecipeError("reward_models.gold: gold is a scorer already; give this reward model another name")
    check_scorers(scorers, [*models, *(["gold"] if world else [])])
    if not {*models, *scorers} - {name for name, scorer in scorers.items() if not scorer.weight}:
        raise RecipeError("nothing adds to the reward: give reward_models, or scorers with a weight other than 0")


def code_of(scorers: Mapping[str, ScorerSettings]) -> dict[str, Path]:
    """The files of the scorers' functions."""
    found = {f"scorers.{name}": file_of(one.function) for name, one in scorers.items() if one.function}
    return {name: file for name, file in found.items() if file}


def prompt_order(total: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The prompts of update ``step``: every pass over the prompts has its own order. Depends on seed and step only."""
    epoch, place = divmod(step, total // batch_size)
    return shuffled(total, derive(seed, "ppo.prompts", epoch))[place * batch_size : (place + 1) * batch_size].tolist()


def scored_answers(
    step: int,
    policy: Decoder,
    tokenizer: Tokenizer,
    scorers: Sequence[Scorer],
    prompts: Sequence[tuple[Prompt, list[int]]],
    knobs: Drawing,
) -> tuple[Rollouts, Tensor, Metrics]:
    """An answer to each of the prompts, given with their ids; its reward [b]; and ``answer_metrics``."""
    seeds = [derive(knobs.seed, "ppo.rollout", step, row) for row in range(len(prompts))]
    ids, dtype = [row for _, row in prompts], knobs.machine.dtype
    rollouts = sample(policy, ids, tokenizer, knobs.max_tokens, knobs.temperature, seeds, dtype)
    texts = texts_of(rollouts, tokenizer)
    scores, by_name = score(scorers, rollouts, [prompt for prompt, _ in prompts], texts, knobs.machine)
    return rollouts, scores, answer_metrics(rollouts, scores, by_name, texts)


def texts_of(rollouts: Rollouts, tokenizer: Tokenizer) -> list[str]:
    """The answers as text."""
    tokens = zip(rollouts.answer_ids, rollouts.mask, strict=True)
    return [tokenizer.decode(row[mask].tolist()) for row, mask in tokens]


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


def minibatch_rows(lengths: Sequence[int], knobs: Knobs, step: int) -> tuple[list[list[Tensor]], list[Tensor]]:
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
