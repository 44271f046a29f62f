"""Group-relative policy optimisation (Shao et al. 2024, DeepSeekMath): PPO's clipped ratio without a critic.

Several answers to the same prompt are each other's baseline. Tensors of an answer are [b, s] as in ``ppo.py``, with the ``group``
answers to a prompt in consecutive rows.

A loss over tokens needs to say what weighs the same. Shao et al. average over the tokens of an answer and then over answers, so a
token of a long answer counts less, and a long bad answer is punished less per token: lengths drift up (Liu et al. 2025, Dr. GRPO).
The default here is the mean over all tokens of the batch (DAPO, Yu et al. 2025), as in our PPO; ``answer_weights`` gives the
original. Dr. GRPO's division by a constant length is the same up to a factor on the learning rate, so it is not a choice here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.objectives.language import Count, filled
from tutelage.objectives.ppo import kl_k3, masked_mean, policy_loss


@torch.no_grad()
def group_advantages(scores: Tensor, group: int, *, scale: bool = True) -> Tensor:
    """(r - mean) / (std + 1e-4) within each group (Shao et al. 2024, section 4.1.2); 0 where all are equal.

    The std has Bessel's correction.

    Args:
        scores: [b], b a multiple of ``group``, which is at least 2.
        scale: False leaves the division out, which makes very easy and very hard prompts weigh more (Dr. GRPO).
    Returns: [b] float32, one advantage for all tokens of an answer.
    """
    if group < 2 or len(scores) % group:
        raise ValueError(
            f"{len(scores)} scores do not form groups of {group}: at least 2 answers to each prompt are needed"
        )
    grouped = scores.float().view(-1, group)
    centred = grouped - grouped.mean(1, keepdim=True)
    advantages = centred / (grouped.std(1, keepdim=True) + 1e-4) if scale else centred
    return advantages.masked_fill(equal_groups(scores, group)[:, None], 0.0).flatten()


def equal_groups(scores: Tensor, group: int) -> Tensor:
    """Which groups have equal scores alone, bool [b / group]. Their std is not always 0: the mean of eight times 0.3 is rounded."""
    grouped = scores.view(-1, group)
    return grouped.amax(1) == grouped.amin(1)


def answer_weights(mask: Tensor, answers: Count, tokens: Count) -> Tensor:
    """[b] weights of the tokens of each answer with which a mean over all tokens is the mean over answers of their means.

    Args: mask: [b, s]. answers, tokens: their global numbers.
    """
    return tokens / (answers * mask.sum(1).clamp(min=1))


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    kl_coef: float = 0.04,
    weights: Tensor | None = None,
    count: Count | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate with one advantage per answer, and ``kl_coef`` times the k3 estimate of KL(pi || ref) beside it.

    Shao et al. 2024, equations 3 and 4. In PPO the KL is part of the reward; here it has a gradient of its own.

    Args:
        logprobs, old_logprobs, ref_logprobs, mask: [b, s]; the gradient flows through the first alone.
        advantages: [b].
        weights: [b] of the tokens of each answer, by default all 1 (see ``answer_weights``).
        count: the global number of counted tokens; by default those of the mask.
    Returns: the scalar loss, and detached scalars, sums over ``count``: those of ``ppo.policy_loss``, "policy_loss" and "kl_loss"
        (before ``kl_coef``).
    """
    count = mask.sum() if count is None else count
    weight = torch.ones_like(advantages) if weights is None else weights
    weighted = (weight * advantages)[:, None].expand_as(mask)  # the surrogate is linear in positive factors of A
    surrogate, stats = policy_loss(logprobs, old_logprobs, weighted, mask, clip, count)
    kl = masked_mean(weight[:, None] * kl_k3(filled(logprobs, mask), filled(ref_logprobs.detach(), mask)), mask, count)
    return surrogate + kl_coef * kl, stats | {"policy_loss": surrogate.detach(), "kl_loss": kl.detach()}
