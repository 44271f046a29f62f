"""What a language model says about given tokens, with the logits of a large vocabulary in chunks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast

READ_TOKENS = 1 << 14
"""Most tokens of a forward pass without a gradient, unless it is one row; 64 dialogues of 1,500 tokens are six times as many."""
MOST_LOGITS = 1 << 25
"""Logits that exist at the same time: 128 MiB in fp32. More are computed in chunks, and again in the backward pass."""


def per_token(model: Decoder, hidden: Tensor, values: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """``values(logits [n, v], *given [n])`` for hidden states [n, d] of the positions that count; the result is [n, ...].

    ``values`` must treat tokens one by one, because a large vocabulary's logits are computed for a part of them at a time.
    """

    def of_chunk(hidden: Tensor, *given: Tensor) -> Tensor:
        return values(model.logits(hidden), *given)

    size = max(1, MOST_LOGITS // model.config.vocab_size)
    if len(hidden) <= size:
        return of_chunk(hidden, *given)
    chunks = zip(*(tensor.split(size) for tensor in (hidden, *given)), strict=True)
    return torch.cat([checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks])


@torch.no_grad()
def negative_log_likelihood(
    model: Decoder, ids: Tensor, targets: Tensor, dtype: str = "auto", batch_size: int = 32
) -> Tensor:
    """For each row, the sum of -log p(target) over positions with a target other than -1: [b] nats.

    ``ids`` and ``targets`` are [b, s]; ``targets[i, t]`` is the token to predict after ``ids[i, :t + 1]``. A forward pass has at
    most ``batch_size`` rows and READ_TOKENS tokens.
    """
    batch_size = min(batch_size, max(1, READ_TOKENS // ids.shape[1]))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rows = []
    for part, wanted in zip(ids.split(batch_size), targets.split(batch_size), strict=True):
        part, wanted = part.to(device), wanted.to(device)
        counted = wanted >= 0
        with autocast(device, dtype):
            found = per_token(model, model(part)[counted], _nll, wanted[counted])
        nll = torch.zeros(part.shape, device=device)
        nll[counted] = found
        rows.append(nll.double().sum(1))
    model.train(was_training)
    return torch.cat(rows).cpu()


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
