"""Language modelling: the negative log-likelihood of tokens, and the log-probabilities and entropy of a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Count = int | float | Tensor
"""Number of counted items in the whole batch: a number, or a scalar tensor (an all-reduced sum)."""


def over_count(total: Tensor, count: Count) -> Tensor:
    """``total / count``, and 0 rather than NaN where nothing counts (then ``total`` is an empty sum, 0)."""
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def filled(x: Tensor, mask: Tensor) -> Tensor:
    """x in float32, 0 where nothing counts. Filled, not multiplied: NaN * 0 is NaN, and so is its gradient."""
    return x.float().masked_fill(~mask, 0.0)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] in nats, for each token.

    Args:
        logits: [n, v], the distribution *for* each target (the caller has shifted, and picked the counted tokens).
        targets: [n] token ids.
    Returns: [n] float32.
    """
    # cross_entropy keeps one [n, v] for the backward pass. logsumexp minus gather keeps none, but its backward took
    # 1.8 times as long (vocabulary 4096, 2048 tokens, one CPU core).
    return F.cross_entropy(logits.float(), targets, reduction="none")


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[id]: the log-probability of each id in the distribution it was sampled from.

    Args:
        logits: [..., v]; ids: [...].
        temperature: the one that the ids were sampled at; old, new and reference log-probabilities all take the same.
    Returns: [...] float32, at most 0.
    """
    scaled = _scaled(logits, temperature)
    return -token_nll(scaled.reshape(-1, scaled.shape[-1]), ids.reshape(-1)).view(ids.shape)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-sum_v p log p of softmax(logits / temperature), in nats; tokens ruled out with -inf add 0.

    Args: logits: [..., v].
    Returns: [...] float32, from 0 to log v.
    """
    logprobs = _scaled(logits, temperature).log_softmax(-1)
    # 0 * -inf is NaN; the largest negative float in its place gives the limit, 0, and a gradient of 0.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(torch.float32).min)).sum(-1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}: greedy decoding has no log-probabilities")
    return logits.float() if temperature == 1.0 else logits.float() / temperature
