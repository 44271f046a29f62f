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

    changes: list[tuple[int, Tensor, Mask | None]]  # (slot, logit bias as float32 [v], mask)
    ranked: list[tuple[int, int]]  # (slot, number of most likely tokens to report)

    @classmethod
    def of(cls, requests: Sequence[Request], masks: Sequence[Mask | None], vocab_size: int) -> Hooks | None:
        """The hooks of a batch; None if it has none. ``masks``: those of its rows that have begun."""
        changes = []
        for slot, (request, mask) in enumerate(zip(requests, masks, strict=True)):
            if mask or request.logit_bias:
                bias = torch.zeros(vocab_size)
                bias[list(request.logit_bias)] = torch.tensor(list(request.logit_bias.values()))
                changes.append((slot, bias, mask))
        ranked = [(slot, request.top_logprobs) for slot, request in enumerate(requests) if request.top_logprobs]
        return cls(changes, ranked) if changes or ranked else None

    def adjust(self, logits: Tensor, ids: Sequence[list[int]]) -> tuple[Tensor, dict[int, Exception]]:
        """Apply biases and masks to logits [b, v], given the ids of each row's sample.

        Returns float32 logits, and the exceptions of masks that failed by slot; their rows are left as they are.
        """
        rows: dict[int, Tensor] = {}
        failed: dict[int, Exception] = {}
        for slot, bias, mask in self.changes:
            try:
                rows[slot] = bias if mask is None else bias + mask_row(mask(ids[slot]), len(bias))
            except Exception as error:
                failed[slot] = error
        if not rows:
            return logits, failed
        added, slots = torch.stack(list(rows.values())), torch.tensor(list(rows))
        return logits.float().index_add(0, slots.to(logits.device), added.to(logits.device)), failed

    def top(self, probs: Tensor) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most likely tokens of probs [b, v] for the slots that ask for them, without those of probability 0."""
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
        row = given.float().cpu()
    else:
        row = torch.full((vocab_size,), -math.inf)
        row[given.cpu()] = 0.0
    if row.shape != (vocab_size,) or not math.isfinite(row.max()):
        wanted = f"a mask must allow at least one token and have a row of {vocab_size} entries"
        raise UsageError(f"{wanted}, but it returned {given.dtype} {list(given.shape)}")
    return row


def prompt_logprobs(model: Decoder, hidden: Tensor, request: Request, first: int = 0) -> tuple[Token, ...]:
    """The tokens after place ``first`` of a prompt, under the model's own distribution; hidden [s, d] predicts them."""
    tokens: list[Token] = []
    for start in range(0, len(hidden), ECHO_POSITIONS):
        logprobs = model.logits(hidden[start : start + ECHO_POSITIONS]).float().log_softmax(1)
        targets = list(request.ids[first + start + 1 : first + start + 1 + len(logprobs)])
        chosen = logprobs.gather(1, torch.tensor(targets, device=logprobs.device)[:, None])[:, 0].tolist()
        best = logprobs.topk(request.top_logprobs)
        tops = [tuple(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        tokens += map(Token, targets, chosen, tops)
    return tuple(tokens)
