"""Heads on a decoder: a scalar at every position (the reward model and the value function), and classes at one position."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tutelage.model.decoder import Decoder
from tutelage.records import TaskFormat


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


class Classifier(nn.Module):
    """A decoder with a linear head over classes, read at the last token of a row (Radford et al. 2018, equation 3).

    For choices the head has one output, and the softmax is over the choices. The output layer of ``decoder`` is not the head's:
    training uses it for the auxiliary language-model loss, and checkpoints of a classifier leave it out. The head is fp32; like
    GPT-1's it has no bias and is drawn from a normal with std 0.02, so that all classes start about equally likely.
    """

    def __init__(self, decoder: Decoder, format: TaskFormat, labels: Sequence[str]) -> None:
        """``labels``: the names of the classes in the order of the outputs; none for choices."""
        super().__init__()
        self.decoder, self.format, self.labels = decoder, format, tuple(labels)
        size, device = decoder.config.hidden_size, decoder.embed.weight.device
        self.head = nn.Linear(size, 1 if format == "choice" else len(self.labels), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.head.to(device)

    def forward(self, ids: Tensor, last: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows to logits of the classes, and the hidden states [n, s, d] for a language-model loss.

        Args:
            ids: [n, s], padded on the right.
            last: [n] where each row has its last real token.
            sizes: of each example, how many rows in turn are its own; they add up to n.
        Returns: logits fp32 [b, k] for b examples. With choices, k is the largest size, and -inf stands where there is none.
        """
        hidden = self.decoder(ids)
        read = hidden[torch.arange(len(ids), device=ids.device), last]
        if self.training:
            read = F.dropout(read, self.decoder.dropout)
        with torch.autocast(hidden.device.type, enabled=False):
            read, weight = read.float(), self.head.weight.float()
            if self.format == "choice":
                return pad_sequence((read @ weight[0]).split(list(sizes)), True, -torch.inf), hidden
            # The two orders of a similarity are added; other formats have one row per example.
            return torch.stack([rows.sum(0) for rows in read.split(list(sizes))]) @ weight.t(), hidden


Model = Decoder | ScalarModel | Classifier
"""What a checkpoint can hold."""


@torch.no_grad()
def fit_vocabulary(model: Model, size: int) -> int:
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
