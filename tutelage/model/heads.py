"""A scalar at every position: the reward model and the value function, which may read the surprisal of tokens."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.model.decoder import Decoder

_POSITIONS = 4096
"""Positions per vocabulary projection; their logits are in fp32 for any model."""


class Surprisal:
    """A frozen language model that tells how unexpected each token is. Copies of its readers share it."""

    def __init__(self, decoder: Decoder) -> None:
        """``decoder`` is frozen in place."""
        self.decoder = decoder.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Surprisal:
        return self

    @torch.no_grad()
    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> -log p(token | those before it) [b, s] in nats, fp32; 0 for the first token.

        ``positions`` and ``attention_mask`` as in ``Decoder.forward``. When several continuations share a prefix, the
        first token of each is predicted from the end of the prefix.
        """
        if ids.shape[1] < 2:
            return torch.zeros(ids.shape, device=ids.device)
        hidden = self.decoder(ids, positions=positions, attention_mask=attention_mask)
        before = hidden.gather(1, _parents(ids, positions)[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
        pieces = zip(before.split(_POSITIONS), ids[:, 1:].flatten().split(_POSITIONS), strict=True)
        nats = [F.cross_entropy(self.decoder.logits(h).float(), wanted, reduction="none") for h, wanted in pieces]
        return F.pad(torch.cat(nats).view(len(ids), -1), (1, 0))


def _parents(ids: Tensor, positions: Tensor | None) -> Tensor:
    """[b, s - 1] the index of the token before each token but the first.

    That is the left neighbour, or the end of the shared prefix where ``positions`` [b, s] jump back: the prefix is at
    the start of its row, with indices equal to positions.
    """
    left = torch.arange(ids.shape[1] - 1, device=ids.device).expand(len(ids), -1)
    if positions is None:
        return left
    goes_on = positions[:, 1:] == positions[:, :-1] + 1
    return torch.where(goes_on, left, (positions[:, 1:] - 1).clamp(min=0))


class ScalarModel(nn.Module):
    """A decoder trunk with a linear head of one output. ``ScalarModel(decoder)`` shares the given trunk.

    ``offset`` is a buffer (one number, initially 0) that is subtracted from every score. Centring a reward model sets
    it; rankings do not change. The head is fp32 for any trunk; it is drawn from a normal with std 1/sqrt(d + 1)
    (Stiennon et al. 2020, appendix B.1), so that scores start at about unit scale.

    With a ``reader`` the trunk also sees the surprisal of each token: the surprisal times the learned direction
    ``surprisal`` [d], initially zeros, is added to the token's embedding. How likely each token of an answer is says
    much about its quality, but only the output layer of a language model computes it, and a scalar model drops that
    layer. The reader is frozen and not part of ``state_dict``; copies share it.
    """

    offset: Tensor

    def __init__(self, decoder: Decoder, reader: Surprisal | None = None) -> None:
        super().__init__()
        self.decoder, self.reader = decoder, reader
        size, device = decoder.config.hidden_size, decoder.embed.weight.device
        self.head = nn.Linear(size, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(size + 1))
        self.head.to(device)
        self.register_buffer("offset", torch.zeros((), device=device))
        self.surprisal = None if reader is None else nn.Parameter(torch.zeros(size, device=device))

    @classmethod
    def from_decoder(cls, decoder: Decoder, reader: Surprisal | None = None) -> ScalarModel:
        """A new head on a copy of ``decoder`` without its output layer, which a scalar model does not use."""
        trunk = copy.deepcopy(decoder)
        trunk.unembed = None
        return cls(trunk, reader)

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [b, s] -> fp32 scores [b, s]; the caller selects the position that counts (the last real token)."""
        added = None
        if self.reader is not None and self.surprisal is not None:
            nats = self.reader(ids, positions=positions, attention_mask=attention_mask)
            added = nats[..., None] * self.surprisal
        return self.score(self.decoder(ids, positions=positions, attention_mask=attention_mask, added=added))

    def score(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> scores [...], in fp32 under autocast too: bf16 would round them to 3 digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() @ self.head.weight.float()[0]) - self.offset.float()


@torch.no_grad()
def fit_vocabulary(model: Decoder | ScalarModel, size: int) -> int:
    """Append rows to the embedding and the output layer, in place, up to ``size``; returns how many were appended.

    Each is the mean of the others, so that an unseen token takes almost no probability from them (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"). A scalar model's surprisal reader grows too.
    """
    if isinstance(model, ScalarModel) and model.reader is not None:
        fit_vocabulary(model.reader.decoder, size)
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
