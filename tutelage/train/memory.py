"""What a run will need of memory, said before it starts.

Weights, gradients and optimiser states are counted. Activations are found by running the layers on tensors that have a shape and no
content (torch's fake tensors) and adding up what autograd would keep, so they follow the family, the number type, adapters and
``machine.recompute``. What a backward pass needs for a moment, and what the allocator wastes, is not in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.model.decoder import Decoder, Layer
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.train.optimizer import OptimizerName

WORTH_SAYING = 1 << 28
"""Below this many bytes of weights nobody asks [bytes]."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Estimate:
    """Bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients": self.gradients, "optimiser": self.optimizer}
        parts |= {"activations": self.activations}
        listed = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in parts.items())
        return f"about {self.total / _GIB:.2f} GiB ({listed})"


def say_memory(
    models: Sequence[nn.Module],
    trained: Sequence[Decoder],
    rows: int,
    length: int,
    dtype: str,
    optimizer: OptimizerName,
) -> None:
    """Print the estimate for models that are large enough to ask, and a warning where the device has less than that.

    ``models``: all that are in memory; ``trained``: the decoders whose forward of ``rows`` x ``length`` tokens is kept at one time.
    """
    if weights_of(models) < WORTH_SAYING:
        return
    found = estimate(models, trained, rows, length, dtype, optimizer)
    print(f"memory: {found}")
    free = available(next(trained[0].parameters()).device)
    if free is not None and found.total - found.weights > free:
        print(
            f"memory: {free / _GIB:.2f} GiB are left beside the weights, which may be too little: "
            "lower microbatch or the lengths, set machine.recompute, or train through lora"
        )


def estimate(
    models: Sequence[nn.Module],
    trained: Sequence[Decoder],
    rows: int,
    length: int,
    dtype: str,
    optimizer: OptimizerName,
) -> Estimate:
    """See ``say_memory``. Weights that several models share count once."""
    learning = [p for p in distinct(models) if p.requires_grad]
    gradients = sum(4 * p.numel() for p in learning)  # fp32, whatever the weights are
    masters = sum(4 * p.numel() for p in learning if p.dtype != torch.float32)
    inside = {id(p) for m in models for layer in m.modules() if isinstance(layer, Layer) for p in layer.parameters()}
    once = sum(4 * p.numel() for p in learning if optimizer == "muon" and p.dim() == 2 and id(p) in inside)
    kept = sum(activations(decoder, rows, length, dtype) for decoder in trained)
    return Estimate(weights_of(models), gradients, 2 * gradients - once + masters, kept)


def distinct(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All parameters, each once; those of a language model that a scorer reads are among them."""
    models = list(models)
    read = [m.reader.decoder for m in models if isinstance(m, ScalarModel) and m.reader is not None]
    return list({id(p): p for model in (*models, *read) for p in model.parameters()}.values())


def weights_of(models: Iterable[nn.Module]) -> int:
    """Bytes of the weights, those that models share counted once."""
    return sum(map(_bytes, distinct(models)))


def activations(decoder: Decoder, rows: int, length: int, dtype: str) -> int:
    """Bytes that autograd keeps of a forward of [rows, length] tokens, the loss over the vocabulary included.

    Two layers are run, and one: their difference is what each of the others needs.
    """
    one, two = (_kept_by_layers(decoder, count, rows, length, dtype) for count in (1, 2))
    layers = one + (len(decoder.layers) - 1) * (two - one)
    if decoder.recompute:  # one layer is computed again at a time
        plain = copy.copy(decoder)
        plain.recompute = False
        again = [_kept_by_layers(plain, count, rows, length, dtype) for count in (1, 2)]
        layers += again[1] - again[0]
    scalar = decoder.unembed is None and not decoder.config.tie_embeddings
    logits = 0 if scalar else rows * length * decoder.config.vocab_size
    return layers + logits * 12  # logits, their log-softmax and its gradient, in fp32


def _kept_by_layers(decoder: Decoder, count: int, rows: int, length: int, dtype: str) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    short = copy.copy(decoder)
    short._modules = dict(decoder._modules) | {"layers": nn.ModuleList(list(decoder.layers)[:count])}
    kept: dict[int, tuple[int, Tensor]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {
            id(p): nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad) for p in short.parameters()
        }
        empty = copy.deepcopy(short, fakes)
        own = {p.untyped_storage()._cdata for p in empty.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = (
                    storage.nbytes(),
                    tensor,
                )  # the tensor too: a storage's place is used again once it is gone
            return tensor

        device = decoder.embed.weight.device
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(device, dtype):
            result = empty(torch.zeros(rows, length, dtype=torch.long, device=device))
        del result
    return sum(size for size, _ in kept.values())


def available(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()
