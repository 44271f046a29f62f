"""A scalar at every position: the reward model and the value function."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from tutelage.model.decoder import Decoder


class ScalarModel(nn.Module):
    """A decoder trunk with a linear head of one output.

    ``offset`` is a buffer (one number, 0 at first) that is subtracted from every score: centring a reward model sets
    it, and it never changes a ranking. The head is fp32 whatever the trunk is; it is drawn from a normal with std
    1/sqrt(d + 1) (Stiennon et al. 2020, appendix B.1), so that scores start at about unit scale.
    ``ScalarModel(decoder)`` shares the trunk it is given.
    """

    offset: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(decoder.config.hidden_size, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(decoder.config.hidden_size + 1))
        self.head.to(decoder.embed.weight.device)
        self.register_buffer("offset", torch.zeros((), device=decoder.embed.weight.device))

    @classmethod
    def from_decoder(cls, decoder: Decoder) -> ScalarModel:
        """A new head on a copy of ``decoder``, which stays as it is. The copy has no output layer: nothing reads it."""
        trunk = copy.deepcopy(decoder)
        trunk.unembed = None
        return cls(trunk)

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> fp32 scores [b, s]; the caller picks the position that counts (the last real token)."""
        return self.score(self.decoder(ids, positions=positions, attention_mask=attention_mask))

    def score(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> scores [...], in fp32 under autocast too: bf16 would round them to 3 digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() @ self.head.weight.float()[0]) - self.offset.float()
