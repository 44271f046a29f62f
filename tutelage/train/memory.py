"""An estimate of the memory that a stage needs, printed before it starts.

Weights, gradients and optimiser states are counted. Activations are found by running layers on torch's fake tensors, which have a
shape but no content, and adding up what autograd would keep. They so depend on the model family, the number type, adapters and
``machine.recompute``. What comes on top is measured, not derived: see ``PROGRAM`` and ``WASTE``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder, Layer
from tutelage.model.device import autocast, memory_of
from tutelage.model.likelihood import MOST_LOGITS

WORTH_SAYING = 1 << 28
"""No estimate is printed for models with less than this [bytes of weights]."""
PROGRAM, WASTE = 0.4, 0.5
"""GiB that Python, torch and the data take; and what short-lived buffers, casts of frozen weights and gaps in the heap take, as a
share of the activations. LoRA on SmolLM2-135M, passes of 2,048 and 4,096 tokens: 3.8 and 5.2 GiB where the rest adds up to 2.3 and
3.4."""
_GIB = 1 << 30


class Estimate(NamedTuple):
    """Memory by purpose [bytes]."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    other: int


def say_memory(
    models: Sequence[nn.Module], trained: Sequence[Decoder], rows: int, length: int, dtype: str, optimizer: str
) -> None:
    """Print ``estimate`` for large models, with a warning if the device has less memory left than that.

    RecipeError if it does not even have so much: the system would kill the process in the middle of training.
    """
    if sum(p.nbytes for p in distinct(models)) < WORTH_SAYING:
        return
    found = estimate(models, trained, rows, length, dtype, optimizer)
    parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in found._asdict().items())
    print(f"memory: about {sum(found) / _GIB:.2f} GiB ({parts})")
    free, whole = memory_of(next(trained[0].parameters()).device)
    advice = "lower machine.pass_tokens" if rows > 1 else f"lower the longest row ({length} tokens)"
    advice += ", set machine.recompute, or train through lora"
    if whole is not None and sum(found) - found.other > whole:
        raise RecipeError(
            f"training needs about {sum(found) / _GIB:.2f} GiB ({parts}), and there are {whole / _GIB:.2f}: {advice}"
        )
    if free is not None and sum(found) - found.weights > free:
        print(f"memory: {free / _GIB:.2f} GiB are left beside the weights, which may be too little: {advice}")


def estimate(
    models: Sequence[nn.Module], trained: Sequence[Decoder], rows: int, length: int, dtype: str, optimizer: str
) -> Estimate:
    """The memory that ``models`` and their training need. Weights that several models share count once.

    ``trained``: the decoders whose forward pass of ``rows`` x ``length`` tokens autograd keeps at the same time.
    """
    every = distinct(models)
    learning = [p for p in every if p.requires_grad]
    gradients = sum(4 * p.numel() for p in learning)  # fp32, whatever the weights are
    masters = sum(4 * p.numel() for p in learning if p.dtype != torch.float32)
    inside = {id(p) for m in models for layer in m.modules() if isinstance(layer, Layer) for p in layer.parameters()}
    one_moment = sum(4 * p.numel() for p in learning if optimizer == "muon" and p.dim() == 2 and id(p) in inside)
    kept = sum(activations(decoder, rows, length, dtype) for decoder in trained)
    states, other = 2 * gradients - one_moment + masters, int(PROGRAM * _GIB + WASTE * kept)
    return Estimate(sum(p.nbytes for p in every), gradients, states, kept, other)


def distinct(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All parameters, each once."""
    return list({id(p): p for model in models for p in model.parameters()}.values())


def activations(decoder: Decoder, rows: int, length: int, dtype: str) -> int:
    """Bytes that autograd keeps of a forward pass of [rows, length] tokens, including the loss over the vocabulary.

    One layer is run, and two: the difference is what every further layer needs.
    """
    one, two = (_kept_by_layers(decoder, count, rows, length, dtype) for count in (1, 2))
    layers = one + (len(decoder.layers) - 1) * (two - one)
    if decoder.recompute:  # one layer at a time is computed again
        plain = copy.copy(decoder)
        plain.recompute = False
        again = [_kept_by_layers(plain, count, rows, length, dtype) for count in (1, 2)]
        layers += again[1] - again[0]
    scalar = decoder.unembed is None and not decoder.config.tie_embeddings
    logits = 0 if scalar else min(rows * length * decoder.config.vocab_size, MOST_LOGITS)
    return layers + logits * 12  # logits, their log-softmax and its gradient, in fp32


def _kept_by_layers(decoder: Decoder, count: int, rows: int, length: int, dtype: str) -> int:
    """Bytes that autograd keeps of a forward pass through the first ``count`` layers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    short = copy.copy(decoder)
    short._modules = dict(decoder._modules) | {"layers": nn.ModuleList(list(decoder.layers)[:count])}
    device = decoder.embed.weight.device
    kept: dict[int, Tensor] = {}  # the tensors themselves: the address of a storage that is freed would be used again
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {
            id(p): nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad) for p in short.parameters()
        }
        empty = copy.deepcopy(short, fakes)
        own = {_storage(p) for p in empty.parameters()}

        def note(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in own:
                kept[_storage(tensor)] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(device, dtype):
            result = empty(torch.zeros(rows, length, dtype=torch.long, device=device))
        del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
