"""A scalar at every position: the reward model and the value function."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from tutelage.model.decoder import Decoder
from tutelage.model.surprisal import Surprisal


class ScalarModel(nn.Module):
    """A decoder trunk with a linear head of one output.

    ``offset`` is a buffer (one number, 0 at first) that is subtracted from every score: centring a reward model sets
    it, and it never changes a ranking. The head is fp32 whatever the trunk is; it is drawn from a normal with std
    1/sqrt(d + 1) (Stiennon et al. 2020, appendix B.1), so that scores start at about unit scale.
    ``ScalarModel(decoder)`` shares the trunk it is given.

    With a ``reader`` the trunk reads, with each token, its surprisal: that number times the learned direction ``surprisal`` [d],
    zeros at first, is added to the token's embedding. What a language model knows of an answer stands in how likely it finds each
    token of it, which its last layer alone can tell; a trunk that is made a scorer throws that layer's output away, and is told
    again so. The reader is frozen and no part of ``state_dict``; copies share it.
    """

    offset: Tensor

    def __init__(self, decoder: Decoder, reader: Surprisal | None = None) -> None:
        super().__init__()
        self.decoder, self.reader = decoder, reader
        self.head = nn.Linear(decoder.config.hidden_size, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(decoder.config.hidden_size + 1))
        self.head.to(decoder.embed.weight.device)
        self.register_buffer("offset", torch.zeros((), device=decoder.embed.weight.device))
        direction = torch.zeros(decoder.config.hidden_size, device=decoder.embed.weight.device)
        self.surprisal = None if reader is None else nn.Parameter(direction)

    @classmethod
    def from_decoder(cls, decoder: Decoder, reader: Surprisal | None = None) -> ScalarModel:
        """A new head on a copy of ``decoder``, which stays as it is. The copy has no output layer: nothing reads it."""
        trunk = copy.deepcopy(decoder)
        trunk.unembed = None
        return cls(trunk, reader)

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> fp32 scores [b, s]; the caller picks the position that counts (the last real token)."""
        added = None
        if self.reader is not None and self.surprisal is not None:
            nats = self.reader(ids, positions=positions, attention_mask=attention_mask)
            added = nats[..., None] * self.surprisal
        return self.score(self.decoder(ids, positions=positions, attention_mask=attention_mask, added=added))

    def score(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> scores [...], in fp32 under autocast too: bf16 would round them to 3 digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() @ self.head.weight.float()[0]) - self.offset.float()
