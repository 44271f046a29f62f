"""Rollouts: answers sampled from the policy, their log-probabilities, and the scores of a reward model.

Only this file of training uses the engine. Tensors of answers are [b, a]: one column per answer token, where column j holds token
j, its log-probability, and the value of the state before it. They all share one mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.tokens.batches import cut_by_length, pad_right
from tutelage.generate.engine import Engine, Request
from tutelage.generate.sampler import Sampling
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.model.likelihood import per_token
from tutelage.objectives.language import entropy, token_logprobs
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.settings import Machine


@dataclass(frozen=True)
class Rollouts:
    """b prompts with one sampled answer each."""

    ids: Tensor  # [b, s] prompt and answer, right-padded
    prompt_lengths: Tensor  # [b] tokens before the answer
    answer_ids: Tensor  # [b, a] sampled tokens, including the end-of-turn token
    mask: Tensor  # [b, a] True on sampled tokens
    finished: Tensor  # [b] True if the answer ended with the end-of-turn token
    sampler_logprobs: Tensor  # [b, a] log-probabilities that the engine reported

    @property
    def lengths(self) -> Tensor:
        """[b] length of each answer [tokens]."""
        return self.mask.sum(1)

    @property
    def total_lengths(self) -> Tensor:
        """[b] length of each prompt with its answer [tokens]."""
        return self.prompt_lengths + self.lengths

    def at_answer(self, per_position: Tensor) -> Tensor:
        """[b, s, ...] -> [b, a, ...]: the value at the position *before* each answer token (padding included)."""
        before = self.prompt_lengths[:, None] - 1 + torch.arange(self.mask.shape[1], device=self.ids.device)
        rows = torch.arange(len(self.ids), device=self.ids.device)[:, None]
        return per_position[rows, before.clamp(max=self.ids.shape[1] - 1)]

    def select(self, rows: Tensor) -> Rollouts:
        """Some of the rows, narrowed to the longest of them."""
        answer = int(self.mask[rows].sum(1).max())
        total = int(self.total_lengths[rows].max())
        return Rollouts(
            self.ids[rows, :total],
            self.prompt_lengths[rows],
            self.answer_ids[rows, :answer],
            self.mask[rows, :answer],
            self.finished[rows],
            self.sampler_logprobs[rows, :answer],
        )


@torch.no_grad()
def sample(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    max_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    dtype: str,
) -> Rollouts:
    """One answer to each prompt from the model's full distribution: top-p and top-k would distort the ratios.

    The randomness of row i depends on ``seeds[i]`` alone. In data-parallel training each rank samples its share and gets all rows.
    """
    requests = [
        Request(
            ids=list(ids),
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
            stop_ids=frozenset(tokenizer.end_ids),
        )
        for ids, seed in zip(prompts, seeds, strict=True)
    ]
    mine = parallel.shard(requests)
    engine = Engine(model, max_batch=min(128, max(1, len(mine))), autocast=dtype)
    answers = parallel.interleave(parallel.gather([samples[0] for samples in engine.generate(mine)]))
    device = next(model.parameters()).device
    ids, _ = pad_right([[*p, *a.ids] for p, a in zip(prompts, answers, strict=True)], tokenizer.pad_id)
    answer_ids, mask = pad_right([a.ids for a in answers], tokenizer.pad_id)
    logprobs = torch.zeros(answer_ids.shape)
    for row, answer in enumerate(answers):
        logprobs[row, : len(answer.logprobs)] = torch.tensor(answer.logprobs)
    return Rollouts(
        ids.to(device),
        torch.tensor([len(p) for p in prompts], device=device),
        answer_ids.to(device),
        mask.to(device),
        torch.tensor([a.finish_reason == "stop" for a in answers], device=device),
        logprobs.to(device),
    )


def answer_logprobs(model: Decoder, hidden: Tensor, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [b, a] of the answer tokens, 0 where the mask is False. ``hidden`` is ``model(rollouts.ids)``."""
    return _at_answer(model, hidden, rollouts, lambda logits, ids: token_logprobs(logits, ids, temperature))


@torch.no_grad()
def logprobs_and_entropies(
    model: Decoder, hidden: Tensor, rollouts: Rollouts, temperature: float
) -> tuple[Tensor, Tensor]:
    """``answer_logprobs``, and the entropies of the distributions that the tokens were sampled from [nats]; each [b, a]."""

    def both(logits: Tensor, ids: Tensor) -> Tensor:
        return torch.stack([token_logprobs(logits, ids, temperature), entropy(logits, temperature)], dim=-1)

    logprobs, entropies = _at_answer(model, hidden, rollouts, both).unbind(-1)
    return logprobs, entropies


def _at_answer(
    model: Decoder, hidden: Tensor, rollouts: Rollouts, values: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``values(logits, ids)`` of the answer tokens, [b, a, ...]. The vocabulary projection runs on the counted positions only."""
    mask = rollouts.mask
    found = per_token(model, rollouts.at_answer(hidden)[mask], values, rollouts.answer_ids[mask])
    everywhere = torch.zeros(*mask.shape, *found.shape[1:], device=mask.device)
    everywhere[mask] = found
    return everywhere


@torch.no_grad()
def end_scores(reward_model: ScalarModel, rollouts: Rollouts, machine: Machine, most: int = 32) -> Tensor:
    """[b] the reward model's score at the last real token of each answer; rows of similar length share a forward pass."""
    scores = torch.zeros(len(rollouts.ids), device=rollouts.ids.device)
    pieces = cut_by_length(rollouts.total_lengths.tolist(), most, machine.pass_tokens)
    for rows in filter(len, (parallel.shard(torch.tensor(piece)) for piece in pieces)):
        part = rollouts.select(rows)
        with autocast(rollouts.ids.device, machine.dtype):
            values = reward_model(part.ids)
        scores[rows] = values.float().gather(1, part.total_lengths[:, None] - 1)[:, 0]
    return parallel.add_up(scores)
