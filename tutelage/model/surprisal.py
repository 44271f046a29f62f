"""The surprisal of tokens: how little a language model expected each of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.decoder import Decoder

_POSITIONS = 4096
"""Positions that go through the vocabulary projection at one time: their logits are fp32, whatever the model is."""


class Surprisal:
    """A frozen language model that says how little it expected each token. Copies of what reads it share it."""

    def __init__(self, decoder: Decoder) -> None:
        """``decoder`` is frozen in place."""
        self.decoder = decoder.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Surprisal:
        return self

    @torch.no_grad()
    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> -log p(token | those before it) [b, s] in nats, fp32; 0 for the first, which nothing foretells.

        ``positions`` and ``attention_mask`` as in ``Decoder.forward``. Of several continuations of one prefix each begins
        with what the end of the prefix foretold.
        """
        if ids.shape[1] < 2:
            return torch.zeros(ids.shape, device=ids.device)
        hidden = self.decoder(ids, positions=positions, attention_mask=attention_mask)
        before = hidden.gather(1, parents(ids, positions)[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
        pieces = zip(before.split(_POSITIONS), ids[:, 1:].flatten().split(_POSITIONS), strict=True)
        nats = [F.cross_entropy(self.decoder.logits(h).float(), wanted, reduction="none") for h, wanted in pieces]
        return F.pad(torch.cat(nats).view(len(ids), -1), (1, 0))


def parents(ids: Tensor, positions: Tensor | None) -> Tensor:
    """[b, s - 1] the index of the token before each token but the first.

    That is its left neighbour, or, where ``positions`` [b, s] do not go on from there, the end of the prefix that it continues:
    a prefix stands first in its row, index equal to position.
    """
    left = torch.arange(ids.shape[1] - 1, device=ids.device).expand(len(ids), -1)
    if positions is None:
        return left
    goes_on = positions[:, 1:] == positions[:, :-1] + 1
    return torch.where(goes_on, left, (positions[:, 1:] - 1).clamp(min=0))
