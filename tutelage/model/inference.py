"""A decoder's weights as they are multiplied: adapters merged, matrices cast once instead of in every forward."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tutelage.model.cpu import RMSNorm
from tutelage.model.decoder import Decoder
from tutelage.model.lora import adapters, replace_part

_FULL_PRECISION = (nn.Embedding, nn.LayerNorm, RMSNorm)


def inference_copy(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """A decoder for inference under autocast to ``dtype``, whose results equal those of ``decoder`` to the last bit.

    Autocast casts every matrix in every forward. In the copy, matrices and their biases have ``dtype`` already; embeddings,
    norms and RoPE tables are shared with ``decoder``. Later changes of the weights do not reach the copy. Adapters are merged:
    the results are then those of ``lora.merged(decoder)``, which differ from those of ``decoder`` by rounding.

    Decoding gains, on one core of a Xeon with AMX: with 1.3 M parameters 7% at 64 rows and 25% at 1 row, with 4 M 28% and
    53%, with 110 M 74% at 16 rows and 200% at 1 row.
    """
    memo: dict[int, object] = {id(decoder.config): decoder.config, id(decoder._rope): decoder._rope}
    for module in decoder.modules():
        kept = isinstance(module, _FULL_PRECISION)
        for weight in module.parameters(recurse=False):
            cast = weight if kept else nn.Parameter(weight.detach().to(dtype), requires_grad=False)
            memo[id(weight)] = cast
    adapted = adapters(decoder)
    for part in adapted.values():
        merged = part.base.weight.detach().float() + part.delta()
        memo[id(part.base.weight)] = nn.Parameter(merged.to(dtype), requires_grad=False)
    twin = copy.deepcopy(decoder, memo)
    for name, part in adapters(twin).items():
        replace_part(twin, name, part.base)
    if twin.unembed is None and decoder.config.tie_embeddings:  # looked up in its own type, multiplied in dtype
        rows, size = decoder.embed.weight.shape
        twin.unembed = nn.Linear(size, rows, bias=False, device="meta")
        twin.unembed.weight = nn.Parameter(decoder.embed.weight.detach().to(dtype), requires_grad=False)
    for module in twin.modules():
        module.__dict__.pop("forward", None)  # a compiled forward belongs to the original's weights
    return twin
