"""A scalar at every position: the reward model and the value function."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from tutelage.model.decoder import Decoder


class ScalarModel(nn.Module):
    """A decoder trunk with a linear head of one output. ``ScalarModel(decoder)`` shares the given trunk.

    ``offset`` is a buffer (one number, initially 0) that is subtracted from every score. Centring a reward model sets
    it; rankings do not change. The head is fp32 for any trunk; it is drawn from a normal with std 1/sqrt(d + 1)
    (Stiennon et al. 2020, appendix B.1), so that scores start at about unit scale.
    """

    offset: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        size, device = decoder.config.hidden_size, decoder.embed.weight.device
        self.head = nn.Linear(size, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(size + 1))
        self.head.to(device)
        self.register_buffer("offset", torch.zeros((), device=device))

    @classmethod
    def from_decoder(cls, decoder: Decoder) -> ScalarModel:
        """A new head on a copy of ``decoder`` without its output layer, which a scalar model does not use."""
        trunk = copy.deepcopy(decoder)
        trunk.unembed = None
        return cls(trunk)

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> fp32 scores [b, s]; the caller selects the position that counts (the last real token)."""
        return self.score(self.decoder(ids, positions=positions, attention_mask=attention_mask))

    def score(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> scores [...], in fp32 under autocast too: bf16 would round them to 3 digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() @ self.head.weight.float()[0]) - self.offset.float()


@torch.no_grad()
def fit_vocabulary(model: Decoder | ScalarModel, size: int) -> int:
    """Append rows to the embedding and the output layer, in place, up to ``size``; returns how many were appended.

    Each is the mean of the others, so that an unseen token takes almost no probability from them (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").
    """
    decoder = model if isinstance(model, Decoder) else model.decoder
    missing = size - decoder.config.vocab_size
    if missing <= 0:
        return 0
    decoder.embed.weight = _with_rows(decoder.embed.weight, missing)
    decoder.embed.num_embeddings = size
    if decoder.unembed is not None:
        decoder.unembed.weight = _with_rows(decoder.unembed.weight, missing)
        decoder.unembed.out_features = size
    decoder.config = decoder.config.model_copy(update={"vocab_size": size})
    return missing


def _with_rows(weight: Tensor, missing: int) -> nn.Parameter:
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return nn.Parameter(torch.cat([weight, mean.expand(missing, -1)]), requires_grad=weight.requires_grad)
