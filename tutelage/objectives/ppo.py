"""Proximal policy optimisation on answers: KL, rewards, advantages, the two clipped losses, and the KL controllers.

Tensors of an answer are [b, s], aligned so that position t holds the log-probability, the value (of the state *before*
the token) and the reward of the token at t. They share one mask, which is True on the tokens of the answer, including
the end-of-turn token.

PPO-ptx (Ouyang et al. 2022, equation 2) takes one gradient of
``policy_loss + value_coef * value_loss + ptx_coef * next-token loss``, the last on pretraining text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.objectives.language import Count, filled, over_count

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20: exp of much larger values overflows, and inf * 0 is NaN."""


# ---- masked statistics


def masked_mean(x: Tensor, mask: Tensor, count: Count | None = None) -> Tensor:
    """The sum of x where it counts over ``count`` (by default the number of True in the mask), a float32 scalar."""
    return over_count(filled(x, mask).sum(), mask.sum() if count is None else count)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over the counted entries.

    The variance is the biased one (divided by n), as in Ziegler et al. 2019's code: it is defined for a single entry,
    and moments of this kind add up across processes. Whiten the whole batch at once, not a microbatch at a time.

    Args: x: any shape; mask: the same.
    Returns: x's shape, float32, 0 where not counted.
    """
    mean = masked_mean(x, mask)
    centred = filled(x.float() - mean, mask)
    return centred * torch.rsqrt(masked_mean(centred.square(), mask) + 1e-8)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the counted tokens: 1 is a perfect critic, 0 as good as a constant.

    Also 0 if the returns do not vary beyond rounding, because there is nothing to explain then.
    """
    values, returns = filled(values, mask), filled(returns, mask)
    total = _variance(returns, mask)
    varies = total > 1e-10 * masked_mean(returns.square(), mask)
    return torch.where(varies, 1.0 - _variance(returns - values, mask) / torch.where(varies, total, 1.0), 0.0)


# ---- Kullback-Leibler divergence


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log pi(a) - log ref(a), each of [...]: its mean over a ~ pi is KL(pi || ref) in nats; single values may be negative."""
    return logprobs.float() - ref_logprobs.float()


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """ref(a)/pi(a) - 1 - log(ref(a)/pi(a)), each of [...]: the same mean as k1, never negative, and steadier near 0."""
    log_ratio = (ref_logprobs.float() - logprobs.float()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


def kl_per_answer(k1: Tensor, mask: Tensor) -> Tensor:
    """The sum of the per-token estimates [b, s] over each answer, [b] in nats. ``AdaptiveKL`` has a target for its mean."""
    return filled(k1, mask).sum(-1)


# ---- rewards and advantages


@torch.no_grad()
def token_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef (log pi - log ref) at every counted token, plus the score on the last (the end of turn, if it ended).

    Args:
        scores: [b] of the whole answers; that of an answer without counted tokens is dropped.
        logprobs, ref_logprobs: [b, s] of the distribution that was sampled (temperature included).
        mask: [b, s].
    Returns: [b, s] float32, 0 where not counted.
    """
    rewards = filled(-kl_coef * kl_k1(logprobs, ref_logprobs), mask)
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    return rewards + torch.where(last, scores.float()[:, None], 0.0)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16) along the counted tokens of each row.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, where t + 1 is the next *counted* token:
    a gap in the mask (a tool's output, another speaker's turn) is skipped. After the last counted token V and A are 0,
    also if an answer was cut off: the score accounts for a missing end.

    Args: rewards, values, mask: [b, s] in any pattern of the mask.
    Returns: advantages [b, s] and returns [b, s] = advantages + values; float32, 0 where not counted.
    """
    rewards, values = filled(rewards, mask), filled(values, mask)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0]) if values.shape[1] else values.sum(1)
    for t in reversed(range(values.shape[1])):
        counts = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(counts, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
        advantages[:, t] = next_advantage
    advantages = filled(advantages, mask)
    return advantages, advantages + values


# ---- losses


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    count: Count | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate (Schulman et al. 2017, equation 7), negated.

    max(-A rho, -A clamp(rho, 1 - clip, 1 + clip)) with rho = pi(a) / pi_old(a).

    Args:
        logprobs, old_logprobs, advantages, mask: [b, s]; the gradient flows through the first alone.
        count: the global number of counted tokens; by default those of the mask.
    Returns: the scalar loss, and detached scalars that are also sums over ``count``, so those of microbatches add up:
        "ratio"; "clip_fraction", the share of tokens whose clipped term is larger, which get no gradient;
        "approx_kl_k1" and "approx_kl_k3", estimates of KL(pi_old || pi) in nats per token.
    """
    count = mask.sum() if count is None else count
    change = filled(logprobs.float() - old_logprobs.detach().float(), mask)
    ratio = change.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantages = filled(advantages.detach(), mask)
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.maximum(free, clipped), mask, count)
    with torch.no_grad():
        stats = {
            "ratio": masked_mean(ratio, mask, count),
            "clip_fraction": masked_mean((clipped > free).float(), mask, count),
            "approx_kl_k1": masked_mean(kl_k1(old_logprobs, logprobs), mask, count),
            "approx_kl_k3": masked_mean(kl_k3(old_logprobs, logprobs), mask, count),
        }
    return loss, stats


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
    count: Count | None = None,
) -> Tensor:
    """Half the mean of max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2) over the counted tokens.

    Args:
        values, old_values, returns, mask: [b, s]; the gradient flows through the first alone.
        clip: in the unit of the values; None for the plain squared error.
        count: the global number of counted tokens; by default those of the mask.
    """
    values, returns = filled(values, mask), filled(returns.detach(), mask)
    error = (values - returns).square()
    if clip is not None:
        old = filled(old_values.detach(), mask)
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns).square())
    return 0.5 * masked_mean(error, mask, count)


# ---- KL controllers


class FixedKL:
    """A constant KL coefficient; InstructGPT's is 0.02 per token."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, answers: int) -> None:
        """Does nothing; the arguments are those of ``AdaptiveKL.update``."""

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = float(state["coef"])


class AdaptiveKL(FixedKL):
    """A KL coefficient that a proportional controller steers towards a target divergence (Ziegler et al. 2019, 2.2).

    e = clamp(kl / target - 1, -0.2, 0.2) and coef <- coef (1 + e answers / horizon).
    """

    def __init__(self, init: float, target: float, horizon: int) -> None:
        """``target`` in nats per **answer** (the sum over its tokens, not the mean); ``horizon`` in answers."""
        super().__init__(init)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, answers: int) -> None:
        """Follow a batch: ``kl`` is the mean of ``kl_per_answer`` over its ``answers`` answers, fewer than 5 horizons."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * answers / self.horizon


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(filled(x.float() - masked_mean(x, mask), mask).square(), mask)
