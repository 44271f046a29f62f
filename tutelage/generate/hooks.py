"""What a request may do to its logits, and the log-probabilities it may ask for. A batch of plain requests has no hooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.generate.request import Mask, Request, Token
from tutelage.model.decoder import Decoder

ECHO_POSITIONS = 256
"""Positions whose logits are held at once: 32,000 entries take 33 MB in float32."""


@dataclass(frozen=True)
class Hooks:
    """The hooks of a batch's rows; slots are indices of rows."""

    biased: Tensor | None
    """int64 [k]: slots with a logit bias."""
    bias: Tensor
    """float32 [k, v]"""
    masks: list[tuple[int, Mask]]
    """(slot, mask)"""
    ranked: list[tuple[int, int]]
    """(slot, number of most likely tokens to report)"""

    @classmethod
    def of(cls, requests: Sequence[Request], vocab_size: int, device: torch.device) -> Hooks | None:
        """The hooks of a batch; None if it has none."""
        if all(request.plain for request in requests):
            return None
        biased = [slot for slot, request in enumerate(requests) if request.logit_bias]
        bias = torch.zeros(len(biased), vocab_size)
        for row, slot in enumerate(biased):
            given = requests[slot].logit_bias
            bias[row, list(given)] = torch.tensor(list(given.values()), dtype=torch.float32)
        return cls(
            biased=torch.tensor(biased, device=device) if biased else None,
            bias=bias.to(device),
            masks=[(slot, request.mask) for slot, request in enumerate(requests) if request.mask is not None],
            ranked=[(slot, request.top_logprobs) for slot, request in enumerate(requests) if request.top_logprobs],
        )

    def adjust(self, logits: Tensor, ids: Sequence[list[int]]) -> tuple[Tensor, dict[int, Exception]]:
        """Apply biases and masks to logits [b, v], given the ids of each row's sample so far.

        Returns float32 logits, and the exceptions of masks that failed by slot; their rows are left unmasked.
        """
        logits, failed = logits.float(), {}
        if self.biased is not None:
            logits = logits.index_add(0, self.biased, self.bias)
        rows: dict[int, Tensor] = {}
        for slot, mask in self.masks:
            try:
                rows[slot] = mask_row(mask(ids[slot]), logits.shape[1])
            except Exception as error:
                failed[slot] = error
        if rows:
            added = torch.stack(list(rows.values())).to(logits.device)
            logits = logits.index_add(0, torch.tensor(list(rows), device=logits.device), added)
        return logits, failed

    def top(self, probs: Tensor) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most likely tokens of probs [b, v] for the slots that ask for them; those of probability 0 are left out."""
        if not self.ranked:
            return {}
        best = probs[[slot for slot, _ in self.ranked]].topk(max(count for _, count in self.ranked))
        logprobs, ids = best.values.log().tolist(), best.indices.tolist()
        return {
            slot: tuple(pair for pair in zip(ids[row][:count], logprobs[row], strict=False) if pair[1] > -math.inf)
            for row, (slot, count) in enumerate(self.ranked)
        }


def mask_row(returned: Sequence[int] | Tensor, vocab_size: int) -> Tensor:
    """float32 [v]: what a mask's return value adds to the logits. UsageError if that leaves no token."""
    given = returned if isinstance(returned, Tensor) else torch.tensor(list(returned))
    if given.is_floating_point():
        row = given.float()
    else:
        row = torch.full((vocab_size,), -math.inf)
        row[given.cpu()] = 0.0
    if row.shape != (vocab_size,) or not math.isfinite(row.max()):
        raise UsageError(
            f"the mask of logits must allow at least one token and have an entry for each of the {vocab_size}: "
            f"it returned {'nothing' if not given.numel() else f'{given.dtype} {list(given.shape)}'}"
        )
    return row


def prompt_logprobs(model: Decoder, hidden: Tensor, request: Request) -> tuple[Token, ...]:
    """The prompt's tokens from the second on, under the model's own distribution; hidden [s - 1, d] predicts them."""
    tokens: list[Token] = []
    for start in range(0, len(hidden), ECHO_POSITIONS):
        logprobs = model.logits(hidden[start : start + ECHO_POSITIONS]).float().log_softmax(1)
        targets = list(request.ids[start + 1 : start + 1 + len(logprobs)])
        chosen = logprobs.gather(1, torch.tensor(targets, device=logprobs.device)[:, None])[:, 0].tolist()
        best = logprobs.topk(request.top_logprobs)
        tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tokens += [
            Token(token, logprob, tuple(zip(ids, values, strict=True)))
            for token, logprob, (ids, values) in zip(targets, chosen, tops, strict=True)
        ]
    return tuple(tokens)
