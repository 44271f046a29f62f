"""LoRA (Hu et al. 2021): trainable low-rank adapters on the matrices of a frozen trunk.

A linear layer's product x W' becomes x W' + (alpha / r) x A' B', with A [r, in] and B [out, r]. B starts at 0, so a model
with fresh adapters equals the model without them. Each part of a fused matrix (queries, keys and values; gate and up) has
its own A and B, as in Hugging Face's layout, so adapters convert to and from peft without loss.

Several models can share one trunk: ``copy_on_trunk`` copies what is trainable and shares what is frozen. A policy, its
reference, a reward model and a critic then need the memory of one trunk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.model.decoder import Decoder, cast_once
from tutelage.model.hf_weights import entries

M = TypeVar("M", bound=nn.Module)

TARGETS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
"""The matrices of a layer, by our names."""


class FrozenLinear(nn.Linear):
    """A linear layer that is only read. Under autocast its weight is cast once, where torch would cast it in every forward."""

    @classmethod
    def of(cls, layer: nn.Linear) -> FrozenLinear:
        """A layer with the weights of ``layer``, which are frozen."""
        frozen = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        frozen.weight, frozen.bias = layer.weight.requires_grad_(False), layer.bias
        if frozen.bias is not None:
            frozen.bias.requires_grad_(False)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, cast_once(self.weight), self.bias)


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter for each of its parts."""

    def __init__(self, base: nn.Linear, sizes: tuple[int, ...], r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = FrozenLinear.of(base)
        self.sizes, self.r, self.alpha, self.dropout, self.scale = sizes, r, alpha, dropout, alpha / r
        device = base.weight.device
        self.a = nn.Parameter(torch.empty(len(sizes) * r, base.in_features, device=device))
        self.b = nn.ParameterList(torch.zeros(size, r, device=device) for size in sizes)
        for part in self.a.split(r):
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.base.weight.dtype)
        out = self.base(x)
        inner = F.dropout(x, self.dropout) if self.training and self.dropout else x
        low = F.linear(inner, self.a.to(x.dtype))
        # All parts as one product that adds to the result in place: torch.cat, a scaling and a sum would each pass over the
        # whole result, forward and backward. 2,944 tokens, 576 -> 2 x 1,536, r = 16, both ways: 54 ms instead of 84 (base: 32).
        wide = (torch.block_diag(*self.b) * self.scale).to(x.dtype)
        return out.flatten(0, -2).addmm_(low.flatten(0, -2), wide.t()).view_as(out)

    def delta(self) -> Tensor:
        """(alpha / r) B A of all parts, [out, in]: what merging adds to the weight."""
        parts = [b.detach() @ a for a, b in zip(self.a.detach().split(self.r), self.b, strict=True)]
        return torch.cat(parts) * self.scale


def add_adapters(
    decoder: Decoder, *, r: int, alpha: float, dropout: float = 0.0, targets: tuple[str, ...] = TARGETS
) -> Decoder:
    """Freeze the decoder and add fresh adapters to the ``targets`` of its layers, in place; returns it.

    A: Kaiming-uniform with a = sqrt(5), B: 0, as in peft. Adapters are fp32 for any trunk.
    UsageError for an unknown target.
    """
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        raise UsageError(f"lora.targets: {unknown or 'empty'}; choose among {', '.join(TARGETS)}")
    decoder.requires_grad_(False)
    sizes = {entry.ours: entry.sizes for entry in entries(decoder.config, "causal")}
    for layer in decoder.layers:
        for target in dict.fromkeys(targets):
            owner, _, name = target.rpartition(".")
            parent = layer.get_submodule(owner)
            base = getattr(parent, name)
            parts = sizes[f"layers.0.{target}.weight"] or (base.out_features,)
            adapted = LoRALinear(base, parts, r, alpha, dropout)
            setattr(parent, name, adapted.train(decoder.training))
    return decoder


def adapters(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LoRALinear)}


def copy_on_trunk(model: M) -> M:
    """A copy of ``model`` that shares its frozen weights and owns the others."""
    frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, frozen)


def without_adapters(decoder: Decoder) -> Decoder:
    """A decoder on the same trunk without the adapters: the reference of a policy that trains them."""
    plain = copy_on_trunk(decoder)
    for name, part in adapters(plain).items():
        replace_part(plain, name, part.base)
    return plain.requires_grad_(False)


@torch.no_grad()
def merged(model: M) -> M:
    """A separate model on the CPU with the adapters added to its weights; the original is unchanged."""
    plain = copy.deepcopy(model, {id(w): nn.Parameter(w.detach().to("cpu", copy=True)) for w in model.parameters()})
    for (name, part), copied in zip(adapters(model).items(), adapters(plain).values(), strict=True):
        weight = copied.base.weight
        weight.copy_((part.base.weight.float() + part.delta()).to(weight.dtype))
        replace_part(plain, name, copied.base)
    return plain.cpu()


def own_weights(module: nn.Module) -> dict[str, Tensor]:
    """The tensors outside the frozen trunk, by name: adapters, heads and buffers; all tensors if there are no adapters."""
    parts = adapters(module)
    learning = {id(weight) for part in parts.values() for weight in (part.a, *part.b)}
    trunk = {
        id(weight)
        for decoder in module.modules()
        if parts and isinstance(decoder, Decoder)
        for weight in decoder.parameters()
        if id(weight) not in learning
    }
    tensors = module.state_dict(keep_vars=True).items()
    return {name: tensor.detach() for name, tensor in tensors if id(tensor) not in trunk}


def load_own_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Restore what ``own_weights`` returned. RuntimeError, as in ``load_state_dict``, if names or shapes differ."""
    expected = own_weights(module)
    if expected.keys() != weights.keys():
        raise RuntimeError(f"names of weights differ: {sorted(expected.keys() ^ weights.keys())[:3]}")
    module.load_state_dict(weights, strict=False)


def replace_part(model: nn.Module, name: str, part: nn.Module) -> None:
    """Put ``part`` in the place of the submodule ``name``."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, part)
