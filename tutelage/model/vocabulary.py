"""A model whose tokenizer has more tokens than it has rows for, as when an import had to add a padding token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel


@torch.no_grad()
def fit_vocabulary(model: Decoder | ScalarModel, size: int) -> int:
    """Append rows to the embedding and the output layer, in place, until there are ``size``; returns how many were appended.

    Each is the mean of the others: a token that nobody has learnt then takes next to no probability from the rest (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"). A vocabulary that is large enough stays as it is. The
    model whose surprisals a scorer reads gets the same rows.
    """
    if isinstance(model, ScalarModel) and model.reader is not None:
        fit_vocabulary(model.reader.decoder, size)
    decoder = model if isinstance(model, Decoder) else model.decoder
    missing = size - decoder.config.vocab_size
    if missing <= 0:
        return 0
    decoder.embed.weight = _longer(decoder.embed.weight, missing)
    decoder.embed.num_embeddings = size
    if decoder.unembed is not None:
        decoder.unembed.weight = _longer(decoder.unembed.weight, missing)
        decoder.unembed.out_features = size
    decoder.config = decoder.config.model_copy(update={"vocab_size": size})
    return missing


def _longer(weight: Tensor, missing: int) -> nn.Parameter:
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return nn.Parameter(torch.cat([weight, mean.expand(missing, -1)]), requires_grad=weight.requires_grad)
