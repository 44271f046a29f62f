"""The K-wise ranking loss of InstructGPT (Ouyang et al. 2022, equation 1), and the accuracy of scores on rankings.

A prompt has up to k completions with a score and a rank each. Rank 1 is best and equal ranks are a tie. Pairs are
derived here and never stored, so all pairs of a prompt are in one loss term.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives.language import Count, over_count

Tie = Literal["skip", "half"]


def kwise_losses(scores: Tensor, ranks: Tensor, mask: Tensor, *, tie: Tie = "skip") -> tuple[Tensor, Tensor]:
    """For each prompt, the mean of -log sigmoid(r_w - r_l) over its pairs, and the number of pairs.

    With K untied completions these are all K(K-1)/2 pairs, each weighing 2 / (K(K-1)): every prompt weighs the same
    however many completions it has.

    Args:
        scores: [p, k] scalar rewards r.
        ranks: [p, k] integers, 1 is best.
        mask: [p, k] True where there is a completion.
        tie: what a pair of equal ranks gives. "skip": nothing; it does not count as a pair. "half": half a win for
            either, -1/2 log sigmoid(d) - 1/2 log sigmoid(-d); it counts as one pair, and draws its scores together.
    Returns: losses [p] in nats (0 for a prompt without pairs) and pairs [p] float32.
    """
    weights = _pair_weights(ranks, mask, tie)
    difference = _differences(scores, mask)
    pairs = weights.sum((1, 2))
    return -(weights * F.logsigmoid(difference)).sum((1, 2)) / pairs.clamp(min=1), pairs


def kwise_loss(scores: Tensor, ranks: Tensor, mask: Tensor, *, tie: Tie = "skip", count: Count | None = None) -> Tensor:
    """The mean of ``kwise_losses`` over the prompts that have a pair.

    Args: those of ``kwise_losses``, and
        count: the global number of prompts with a pair; by default those given here.
    Returns: a scalar in nats per pair; ln 2 = 0.693 for uninformative scores.
    """
    losses, pairs = kwise_losses(scores, ranks, mask, tie=tie)
    return over_count(losses.sum(), (pairs > 0).sum() if count is None else count)


def pairwise_accuracy(scores: Tensor, ranks: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a prompt's pairs that the scores put in the ranked order.

    Equal scores count half; equal ranks do not form a pair.

    Args: scores, ranks, mask: [p, k].
    Returns: accuracy [p] (0 for a prompt without pairs: weigh or select by the second) and pairs [p], both float32.
    """
    better = better_pairs(ranks, mask)
    difference = _differences(scores.detach(), mask)
    right = (better & (difference > 0)).sum((1, 2)) + 0.5 * (better & (difference == 0)).sum((1, 2))
    pairs = better.sum((1, 2)).float()
    return right / pairs.clamp(min=1), pairs


def better_pairs(ranks: Tensor, mask: Tensor) -> Tensor:
    """The pairs of each prompt: [p, i, j] True where both completions exist and i is ranked before j.

    Args: ranks, mask: [p, k].
    """
    return (ranks[:, :, None] < ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def centring_offset(scores: Tensor) -> Tensor:
    """What to subtract from every score so that the demonstrations, with these ``scores`` [n], score 0 on average.

    The loss depends on differences only, so the zero is arbitrary; InstructGPT sets it like this before PPO.
    """
    if scores.numel() == 0:
        raise ValueError("scores can be centred on one demonstration or more, found none")
    return scores.float().mean()


def _differences(scores: Tensor, mask: Tensor) -> Tensor:
    """r_i - r_j, [p, k, k]. Absent completions are filled first, because a NaN there would reach the gradient."""
    scores = scores.float().masked_fill(~mask, 0.0)
    return scores[:, :, None] - scores[:, None, :]


def _pair_weights(ranks: Tensor, mask: Tensor, tie: Tie) -> Tensor:
    """How much -log sigmoid(r_i - r_j) counts, [p, i, j]: 1 where i is better, and 1/2 both ways where a tie counts."""
    weights = better_pairs(ranks, mask).float()
    if tie == "half":
        both = mask[:, :, None] & mask[:, None, :]
        other = ~torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
        weights = weights + 0.5 * (both & other & (ranks[:, :, None] == ranks[:, None, :])).float()
    elif tie != "skip":
        raise ValueError(f"tie is 'skip' or 'half', found {tie!r}")
    return weights
