"""Rankings as a reward model reads them: in tokens, in batches, and as one packed row per prompt."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.prepare import text_of
from tutelage.data.tokens.batches import pack_ranking, pad_right, tree_mask
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.records import Ranking
from tutelage.text.chat import render_answers
from tutelage.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class RankingExample:
    """A prompt and its completions in tokens, and how each of its labellers ranked them."""

    prompt: list[int]
    completions: list[list[int]]
    ranks: list[tuple[int, ...]]

    @property
    def size(self) -> int:
        """Tokens of the packed row."""
        return len(self.prompt) + sum(map(len, self.completions))


def encode_rankings(
    rankings: Iterable[Ranking], tokenizer: Tokenizer, max_length: int
) -> tuple[list[RankingExample], dict[str, int]]:
    """Rankings that express a preference and fit, together where several labellers ranked the same completions.

    And how many were left out, by reason. A completion that was cut off gets no end-of-turn token.
    """
    examples: dict[tuple[object, ...], RankingExample] = {}
    reasons: Counter[str] = Counter()
    for ranking in rankings:
        if len(set(ranking.ranks)) < 2:
            reasons["all tied"] += 1
            continue
        same = (text_of(ranking.prompt.messages), *((c.text, c.finished) for c in ranking.completions))
        if same in examples:
            examples[same].ranks.append(ranking.ranks)
            continue
        texts, finished = [c.text for c in ranking.completions], [c.finished for c in ranking.completions]
        prompt, completions = render_answers(tokenizer, ranking.prompt.messages, texts, finished)
        if not all(completions):
            reasons["an empty completion that did not end"] += 1
        elif any(len(prompt) + len(c) > max_length for c in completions):
            reasons["too long"] += 1
        else:
            examples[same] = RankingExample(prompt, completions, [ranking.ranks])
    return list(examples.values()), dict(reasons)


NONCONTEXTUAL = 1 << 30
"""The rank of an answer to another prompt: below every rank that a labeller gives."""


def with_noncontextual(
    example: RankingExample, others: Sequence[RankingExample], count: int, max_length: int, rng: random.Random
) -> RankingExample:
    """The ranking with ``count`` answers to other prompts below its own; fewer where hardly any fits in ``max_length``.

    They teach that an answer is good *to a prompt*. Rankings alone may not: a phrase that is good wherever the policy uses it now
    ("Nobody can know that") looks good everywhere, and PPO will use it everywhere (Liu et al. 2024, RRM, section 3).
    """
    strangers: list[list[int]] = []
    for _ in range(10 * count):
        other = rng.choice(others)
        completion = rng.choice(other.completions)
        fits = len(example.prompt) + len(completion) <= max_length
        if fits and other.prompt != example.prompt and completion not in example.completions:
            strangers.append(completion)
        if len(strangers) == count:
            break
    ranks = [ranks + (NONCONTEXTUAL,) * len(strangers) for ranks in example.ranks]
    return RankingExample(example.prompt, example.completions + strangers, ranks)


def prompt_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """A shuffled pass over ``count`` prompts in batches; a short last batch is kept."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def score_packed(
    model: ScalarModel, examples: Sequence[RankingExample], pad_id: int, dtype: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, ranks and mask, each [r, k], a row for every ranking.

    Every prompt's prefix runs once, all its completions branch from it, and all its rankings read the same scores.
    """
    device = next(model.parameters()).device
    packed = [pack_ranking(example.prompt, example.completions) for example in examples]
    ids, _ = pad_right([p.ids for p in packed], pad_id)
    positions, _ = pad_right([p.positions for p in packed], 0)
    segments, _ = pad_right([p.segments for p in packed], -1)
    last, mask = pad_right([p.last for p in packed], 0, multiple=1)
    ranks, _ = pad_right([list(ranks) for example in examples for ranks in example.ranks], 0, multiple=1)
    owner = torch.tensor([i for i, example in enumerate(examples) for _ in example.ranks])
    with autocast(device, dtype):
        values = model(ids.to(device), positions=positions.to(device), attention_mask=tree_mask(segments.to(device)))
    scores = values.float().gather(1, last.to(device))
    return scores[owner.to(device)], ranks.to(device), mask[owner].to(device)
