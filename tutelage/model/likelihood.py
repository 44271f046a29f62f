"""What a language model says about given tokens, with the logits of a large vocabulary in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
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

    size = _tokens_at_once(model)
    if len(hidden) <= size:
        return of_chunk(hidden, *given)
    chunks = zip(*(tensor.split(size) for tensor in (hidden, *given)), strict=True)
    return torch.cat([checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks])


def summed_nll(model: Decoder, hidden: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) [nats] over hidden states [n, d] and targets [n], a scalar that can be trained on once.

    Of a large vocabulary, the gradient is computed along with the loss, chunk by chunk. No logits are kept then, and none are
    computed twice. ``per_token`` cannot do so, since it does not know what each value's gradient will be multiplied with.
    """
    size = _tokens_at_once(model)
    if len(hidden) <= size or not torch.is_grad_enabled():
        return per_token(model, hidden, _nll, targets).sum()
    weight = model.output_weight
    return _SummedNLL.apply(hidden, weight, targets, size, model.compute_dtype(weight))


class _SummedNLL(torch.autograd.Function):
    """Of logits hidden weight', ``size`` tokens at a time; what is kept for the backward pass is the gradient itself."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        # A cast that autocast keeps would have no gradient when it is used again.
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(dtype)
            for start in range(0, len(hidden), size):
                some, wanted = hidden[start : start + size].to(dtype), targets[start : start + size, None]
                logprobs = F.log_softmax(F.linear(some, cast).float(), 1)
                total -= logprobs.gather(1, wanted).sum()
                by_logits = logprobs.exp_().scatter_add_(1, wanted, logprobs.new_full(wanted.shape, -1.0)).to(dtype)
                if by_hidden is not None:
                    by_hidden[start : start + size] = by_logits @ cast
                if by_weight is not None and dtype == torch.float32:
                    by_weight.addmm_(by_logits.t(), some)
                elif by_weight is not None:
                    by_weight += by_logits.t() @ some
        ctx.save_for_backward(by_hidden, by_weight if by_weight is None else by_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_sum: Tensor) -> tuple[Tensor | None, ...]:
        # In place, since the second may be as large as the model; torch refuses a second backward pass for that reason.
        scaled = [gradient if gradient is None else gradient.mul_(by_sum) for gradient in ctx.saved_tensors]
        return *scaled, None, None, None


def _tokens_at_once(model: Decoder) -> int:
    return max(1, MOST_LOGITS // model.config.vocab_size)


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
